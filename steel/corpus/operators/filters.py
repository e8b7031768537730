"""Filters: text -> None to keep it, or a Reject."""

import re

import numpy as np

from . import Reject, operator, within
from . import characters as chars
from .mappers import is_gbk_mojibake


def _visible_share(text: str, *classes: int) -> float:
    """The share of these character classes in what is not space."""
    counts = chars.class_counts(text)
    visible = len(text) - int(counts[chars.SPACE])
    return int(counts[list(classes)].sum()) / visible if visible else 0.0


@operator("filter")
def letter_ratio(text: str, min_ratio: float = 0.5, max_ratio: float = 1.0) -> Reject | None:
    """Keep texts in which letters, Hanzi and digits make up this share of the visible."""
    ratio = _visible_share(text, chars.LETTER, chars.CJK, chars.DIGIT)
    return within("letters", ratio, min_ratio, max_ratio)


@operator("filter")
def symbol_ratio(text: str, max_ratio: float = 0.25) -> Reject | None:
    """Remove texts with too many symbols: no letters, digits, spaces, ordinary marks."""
    counts = chars.class_counts(text)
    ratio = int(counts[chars.SYMBOL] + counts[chars.OTHER]) / len(text) if text else 0.0
    return within("symbols", ratio, high=max_ratio)


@operator("filter")
def digit_ratio(text: str, max_ratio: float = 0.5) -> Reject | None:
    """Remove texts that are mostly digits: number tables, telephone lists, hexadecimal dumps."""
    return within("digits", _visible_share(text, chars.DIGIT), high=max_ratio)


@operator("filter")
def char_repetition(text: str, n: int = 10, max_ratio: float = 0.4) -> Reject | None:
    """Remove texts that repeat themselves: the share of n-grams that stood there before."""
    hashes = np.sort(chars.ngram_hashes(chars.code_points(text), n))
    repeated = int((hashes[1:] == hashes[:-1]).sum())
    return within("repetition", repeated / max(len(hashes), 1), high=max_ratio)


@operator("filter")
def mojibake(text: str, max_ratio: float = 0.2) -> Reject | None:
    """Remove texts with more than max_ratio decoded wrongly beyond repair: UTF-8 read as GBK."""
    bad = sum(len(line) for line in text.split("\n") if is_gbk_mojibake(line))
    bad += text.count("\ufffd") + 3 * text.count("锟斤拷")
    return within("wrongly decoded", bad / max(len(text), 1), high=max_ratio)


@operator("filter")
def max_token(text: str, max_chars: int = 200) -> Reject | None:
    """Remove texts with a run of ASCII letters and digits over max_chars: base64, hashes."""
    found = re.search(rf"[A-Za-z0-9+/=_-]{{{max_chars + 1},}}", text)
    return within("run of characters", len(found[0]), high=max_chars) if found else None


@operator("filter")
def contains(text: str, phrases: list[str], min_hits: int = 1) -> Reject | None:
    """Remove texts in which min_hits or more different phrases of a list occur (boilerplate)."""
    if not phrases:
        raise ValueError("give at least one phrase")
    return within("listed phrases", sum(phrase in text for phrase in phrases), high=min_hits - 1)
