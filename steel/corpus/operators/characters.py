"""Text as numbers: code points and character classes in NumPy, shared by the filters."""

import functools
import sys
import unicodedata

import numpy as np

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


def code_points(text: str) -> np.ndarray:
    """uint32 code points of a text, (characters,)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


@functools.lru_cache(maxsize=1)  # filters in a row look at the same text
def class_counts(text: str) -> np.ndarray:
    """int64 (7,): how many characters of each class the text has."""
    return np.bincount(classes()[code_points(text)], minlength=7)


def ngram_hashes(codes: np.ndarray, n: int) -> np.ndarray:
    """uint64 hash of every window of n values, (len - n + 1,): a polynomial with a final mix."""
    count = len(codes) - n + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    values = codes.astype(np.uint64)
    hashes = np.zeros(count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for offset in range(n):
            hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + values[offset : offset + count]
        hashes ^= hashes >> np.uint64(29)
        hashes *= np.uint64(0xBF58476D1CE4E5B9)
        hashes ^= hashes >> np.uint64(32)
    return hashes
