"""Text as numbers: code points and character classes in NumPy, shared by the filters."""

import functools
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...config import read_yaml

LETTER, CJK, DIGIT, SPACE, PUNCTUATION, SYMBOL, OTHER = range(7)
# Marks that ordinary Chinese and English prose is made of. Rarer punctuation counts as a symbol.
ORDINARY = "，。！？；：、“”‘’「」『』《》〈〉（）【】〔〕—…·～,.!?;:'\"()[]{}<>-_/\\%&*+=#@$~`|^"


@functools.cache
def classes() -> np.ndarray:
    """uint8 class of every code point (1.1 MB)."""
    table = np.full(sys.maxunicode + 1, OTHER, dtype=np.uint8)
    groups = {"L": LETTER, "M": LETTER, "N": DIGIT, "Z": SPACE, "P": SYMBOL, "S": SYMBOL}
    for code in (*range(0x30000), *range(0xE0000, 0xE0200)):
        table[code] = groups.get(unicodedata.category(chr(code))[0], OTHER)
    for low, high in ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)):
        table[low : high + 1] = CJK
    kana = table[0x3040:0x3100]
    kana[kana == LETTER] = CJK
    table[0x3007] = CJK  # 〇
    for character in "\t\n\r":
        table[ord(character)] = SPACE
    for character in ORDINARY:
        table[ord(character)] = PUNCTUATION
        if 0x21 <= ord(character) <= 0x7E:
            table[ord(character) + 0xFEE0] = PUNCTUATION  # the full-width twin
    return table


@functools.cache
def word_table() -> np.ndarray:
    """bool by code point: letters, Chinese characters and digits."""
    return np.isin(classes(), (LETTER, CJK, DIGIT))


@functools.cache
def special_table() -> np.ndarray:
    """bool by code point: what Data-Juicer calls special; see special.yaml."""
    table = np.zeros(sys.maxunicode + 1, dtype=bool)
    for span in read_yaml(Path(__file__).with_name("special.yaml"))["special"].split():
        low, _, high = span.partition("-")
        table[int(low, 16) : int(high or low, 16) + 1] = True
    return table


@functools.cache
def alnum_table() -> np.ndarray:
    """bool by code point: what `str.isalnum` says."""
    return _table(str.isalnum)


@functools.cache
def punctuation_table() -> np.ndarray:
    """bool by code point: Unicode's punctuation, \\p{P}."""
    return _table(lambda character: unicodedata.category(character)[0] == "P")


def _table(test: Callable[[str], bool]) -> np.ndarray:
    table = np.zeros(sys.maxunicode + 1, dtype=bool)
    table[:0x33480] = [test(chr(code)) for code in range(0x33480)]  # beyond: tags, private use
    return table


@functools.lru_cache(maxsize=2)  # filters in a row look at the same text
def code_points(text: str) -> np.ndarray:
    """uint32 code points of a text, (characters,). Do not write to it."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


@functools.lru_cache(maxsize=1)  # filters in a row look at the same text
def class_counts(text: str) -> np.ndarray:
    """int64 (7,): how many characters of each class the text has."""
    return np.bincount(classes()[code_points(text)], minlength=7)


_BASE, _PIECE = 0x9E3779B97F4A7C15, 1 << 16  # values a pass: what fits a cache


@functools.cache
def _powers(sign: int) -> np.ndarray:
    """uint64 (2 _PIECE,): powers 0, 1, 2 … of the base or of its inverse, modulo 2^64."""
    factors = np.full(2 * _PIECE, _BASE if sign > 0 else pow(_BASE, -1, 1 << 64), np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """Polynomials modulo 2^64 with their bits stirred, in place."""
    hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(32)
    return hashes


def ngram_hashes(codes: np.ndarray, n: int) -> np.ndarray:
    """uint64 hash of every window of n values, (len - n + 1,): a polynomial with a final mix.

    A window is the difference of two prefix sums, divided by the power where it starts: the work
    does not grow with n (Rabin and Karp, with a base that has an inverse). ValueError for other n
    than 1 to 1000.
    """
    if not 1 <= n <= 1000:
        raise ValueError(f"windows of {n}: they must be 1 to 1000")
    count = len(codes) - n + 1
    hashes = np.empty(max(count, 0), dtype=np.uint64)
    for start in range(0, count, _PIECE):
        size = min(_PIECE, count - start)
        piece = codes[start : start + size + n - 1] * _powers(1)[: size + n - 1]
        sums = np.cumsum(piece, out=piece)
        part = hashes[start : start + size]
        part[:] = sums[n - 1 :]
        part[1:] -= sums[: size - 1]
        part *= _powers(-1)[:size]
    return _mixed(hashes)


def sorted_ngrams(text: str, n: int) -> np.ndarray:
    """uint32 hash of every n-gram of characters, sorted, to count equal ones.

    Two different n-grams share one once in 2^32: of texts with 10,000, one in ninety has such a pair.
    Sorting twice the bits takes nearly twice the time, most of what counting costs.
    """
    hashes = (ngram_hashes(code_points(text), n) >> np.uint64(32)).astype(np.uint32)
    hashes.sort()
    return hashes


def span_hashes(codes: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """uint64 hash of each span codes[start:end], none empty, none before the end of another."""
    if not len(starts):
        return np.empty(0, np.uint64)
    sizes = ends - starts
    firsts = np.cumsum(sizes) - sizes
    within = np.arange(firsts[-1] + sizes[-1]) - np.repeat(firsts, sizes)
    values = codes[np.repeat(starts, sizes) + within].astype(np.uint64) + np.uint64(1)
    return _mixed(np.add.reduceat(values * _powers(1)[within % (2 * _PIECE)], firsts))


def runs(solid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of every run of True, (runs,)."""
    edges = np.flatnonzero(np.diff(solid, prepend=False, append=False))
    return edges[::2], edges[1::2]


def words(gap: np.ndarray, solid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of every word, (words,): between gaps, from its first solid character to its
    last; a word without one is none. gap, solid: bool by character."""
    seen = np.flatnonzero(solid)
    word = np.cumsum(gap)[seen]
    new = np.flatnonzero(word[1:] != word[:-1])
    firsts = np.concatenate([np.arange(min(len(seen), 1)), new + 1])
    lasts = np.append(firsts[1:], len(seen))[: len(firsts)] - 1
    return seen[firsts], seen[lasts] + 1


def simhash(hashes: np.ndarray) -> int:
    """64-bit SimHash of hashed features: each bit is what most of them have there (Charikar 2002).

    No features give 0, as in the original.
    """
    bits = np.unpackbits(hashes.view(np.uint8)).reshape(-1, 64)
    ones = sum(  # in steps in which a byte can count
        bits[start : start + 255].sum(axis=0, dtype=np.uint8).astype(np.int64)
        for start in range(0, len(bits), 255)
    )
    majority = np.packbits(np.broadcast_to(2 * ones > len(bits), 64))
    return int(majority.view(np.uint64)[0])
