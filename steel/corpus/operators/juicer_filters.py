"""The filters and the deduplicator of the original's two recipes, as Data-Juicer 1.6.1 has them: see
`juicer.py`, which holds the mappers."""

import functools
import re
import sys

import numpy as np

from ...config import needs
from . import Idle, Reject, operator, within
from . import characters as chars

_ANY = sys.maxsize


@operator("filter")
def alphanumeric_filter(
    text: str,
    tokenization: bool = False,
    min_ratio: float = 0.25,
    max_ratio: float = _ANY,
    tokenizer: str | None = None,
) -> Reject | None:
    """Share of letters and digits in the characters; tokenization: letters per token.

    tokenizer: a tokenizer.json, needed for tokens; the original's is EleutherAI/pythia-6.9b-deduped.
    """
    if not tokenization:
        letters = np.count_nonzero(chars.alnum_table()[chars.code_points(text)])
        return within("alphanumeric", letters / max(len(text), 1), min_ratio, max_ratio)
    if tokenizer is None:
        raise Idle("counts tokens; give tokenizer: a tokenizer.json")
    tokens = len(_tokenizer(tokenizer).encode(text, add_special_tokens=False).tokens)
    letters = sum(map(str.isalpha, text))
    return within("letters per token", letters / max(tokens, 1), min_ratio, max_ratio)


@functools.cache
def _tokenizer(path: str):
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(path)
    except Exception as error:  # the library's own, untyped
        raise ValueError(f"{path}: no tokenizer.json ({error})") from None


@operator("filter")
def average_line_length_filter(text: str, min_len: int = 10, max_len: int = _ANY) -> Reject | None:
    """Characters per line. A Chinese paragraph is one line, longer than 150 characters."""
    lines = len(text.splitlines())
    return within("characters per line", len(text) / lines if lines else 0.0, min_len, max_len)


@operator("filter")
def maximum_line_length_filter(text: str, min_len: int = 10, max_len: int = _ANY) -> Reject | None:
    """Characters of the longest line."""
    return within("longest line", max(map(len, text.splitlines()), default=0), min_len, max_len)


@operator("filter")
def text_length_filter(text: str, min_len: int = 10, max_len: int = _ANY) -> Reject | None:
    """Characters of the text."""
    return within("characters", len(text), min_len, max_len)


@operator("filter")
def special_characters_filter(
    text: str, min_ratio: float = 0.0, max_ratio: float = 0.25
) -> Reject | None:
    """Share of special characters: digits, spaces and Chinese marks count, and 一, 上, 士."""
    special = np.count_nonzero(chars.special_table()[chars.code_points(text)])
    return within("special characters", special / max(len(text), 1), min_ratio, max_ratio)


def _no_pieces(tokenization: bool) -> None:
    if tokenization:
        raise Idle("counts SentencePiece words, which no recipe of the original does")


@operator("filter")
def words_num_filter(
    text: str, lang: str = "en", tokenization: bool = False, min_num: int = 10, max_num: int = _ANY
) -> Reject | None:
    """Words between white space, in Chinese (lang), too, where that is the number of lines."""
    _no_pieces(tokenization)
    return within("words", len(_words(text.lower())[0]), min_num, max_num)


@functools.lru_cache(maxsize=1)  # both filters of words look at the same text
def _words(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of the words between white space, less special characters at their ends."""
    codes = chars.code_points(text)
    gap = (codes == 0x20) | (codes == 0x0A) | (codes == 0x09)
    return chars.words(gap, ~chars.special_table()[codes])


@operator("filter")
def word_repetition_filter(
    text: str,
    lang: str = "en",
    tokenization: bool = False,
    rep_len: int = 10,
    min_ratio: float = 0.0,
    max_ratio: float = 0.5,
) -> Reject | None:
    """Share of the n-grams of words that occur more than once."""
    _no_pieces(tokenization)
    if len(text.split()) < rep_len:  # no n-gram, as in most Chinese texts
        return within("repeated words", 0.0, min_ratio, max_ratio)
    lower = text.lower()
    words = chars.span_hashes(chars.code_points(lower), *_words(lower))
    hashes = np.sort(chars.ngram_hashes(words, rep_len))
    same = np.concatenate([[False], hashes[1:] == hashes[:-1], [False]])
    repeated = np.count_nonzero(same[1:] | same[:-1]) if len(hashes) else 0
    return within("repeated words", repeated / max(len(hashes), 1), min_ratio, max_ratio)


@operator("filter")
def character_repetition_filter(
    text: str, rep_len: int = 10, min_ratio: float = 0.0, max_ratio: float = 0.5
) -> Reject | None:
    """Share of the most frequent n-grams, as many as the square root of their number.

    A sentence written a hundred times has few n-grams, all frequent, and passes.
    """
    hashes = chars.sorted_ngrams(text, rep_len)
    new = hashes[1:] != hashes[:-1]
    if new.all():  # also where there is none
        return within("repetition", 0.0, min_ratio, max_ratio)
    if min_ratio <= 0 and 2 * (len(new) - np.count_nonzero(new)) <= max_ratio * len(hashes):
        return None  # what occurs n > 1 times counts n, and n - 1 of it are not new
    sizes = np.diff(np.flatnonzero(new), prepend=-1, append=len(hashes) - 1)
    top = min(int(np.sqrt(len(sizes))), np.count_nonzero(sizes > 1))
    repeated = int(np.sort(sizes)[len(sizes) - top :].sum())
    return within("repetition", repeated / len(hashes), min_ratio, max_ratio)


@operator("filter")
def perplexity_filter(
    text: str,
    lang: str = "en",
    min_ppl: float = 0.0,
    max_ppl: float = 1500.0,
    model: str | None = None,
    pieces: str | None = None,
) -> Reject | None:
    """Perplexity of an n-gram model (KenLM).

    model: an ARPA or binary file of KenLM; pieces: the SentencePiece model that splits texts as the
    n-gram model's were; without it, every character is a token. The original's are zh.arpa.bin and
    zh.sp.model of edugp/kenlm (lang zh). Perplexity is 10^(-log10 P / (tokens + lines)).
    """
    if model is None:
        raise Idle("needs a language model; give model: an ARPA or binary file of KenLM")
    scorer = _kenlm(model)
    split = _pieces(pieces)(text) if pieces else "".join(text.split())
    lines = " ".join(split).splitlines()
    scored = sum(scorer.score(line) for line in lines)
    tokens = sum(len(line.split()) + 1 for line in lines)
    perplexity = round(10.0 ** (-scored / tokens), 1) if tokens else 0.0
    return within("perplexity", perplexity, min_ppl, max_ppl)


@functools.cache
def _kenlm(path: str):
    with needs("perplexity_filter", "kenlm", 'pip install "steel-book[lm]"'):
        import kenlm
    try:
        return kenlm.Model(path)
    except OSError as error:
        raise ValueError(f"{path}: no model of KenLM ({error})") from None


@functools.cache
def _pieces(path: str):
    with needs("perplexity_filter with pieces", "sentencepiece", 'pip install "steel-book[lm]"'):
        import sentencepiece
    try:
        return sentencepiece.SentencePieceProcessor(model_file=path).encode_as_pieces
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path}: no model of SentencePiece ({error})") from None


# -- deduplicator ------------------------------------------------------------------------------

_SPLITS = ("space", "punctuation", "character")


@operator("deduplicator")
def document_simhash_deduplicator(
    text: str,
    tokenization: str = "space",
    window_size: int = 6,
    lowercase: bool = True,
    ignore_pattern: str | None = None,
    num_blocks: int = 6,
    hamming_distance: int = 4,
) -> int:
    """SimHash over windows of words or characters; texts within hamming_distance bits are copies.

    Fewer words than a window give 0, so all such texts are copies of one another: with `space`,
    Chinese pages. Use `character`. Copies chain, as in the original.
    """
    if tokenization not in _SPLITS:
        raise ValueError(f"no tokenization {tokenization!r}; use {', '.join(_SPLITS)}")
    if not 0 < hamming_distance < num_blocks <= 16:
        raise ValueError("needs 0 < hamming_distance < num_blocks <= 16")
    text = text.lower() if lowercase else text
    if ignore_pattern and ignore_pattern != r"\p{P}":  # a property that `re` does not know
        text = re.sub(ignore_pattern, "", text, flags=re.DOTALL)
    if tokenization == "space" and text.count(" ") + 1 < window_size:
        return 0
    codes = chars.code_points(text)
    if ignore_pattern == r"\p{P}":
        codes = codes[~chars.punctuation_table()[codes]]
    if tokenization != "character":
        gap = codes == 0x20 if tokenization == "space" else chars.punctuation_table()[codes]
        codes = chars.span_hashes(codes, *chars.runs(~gap))
    return chars.simhash(chars.ngram_hashes(codes, window_size))
