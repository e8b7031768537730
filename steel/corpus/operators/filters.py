"""Filters: text -> None to keep it, or the reason for removal."""

import re

import numpy as np

from ...config import UserError
from . import characters as chars
from . import operator
from .mappers import is_gbk_mojibake


def _bounds(name: str, low: float, high: float) -> None:
    if low > high:
        raise UserError(f"operator {name}: the minimum {low} is above the maximum {high}")


@operator("filter")
def text_length(text: str, min_chars: int = 10, max_chars: int = 100_000) -> str | None:
    """Keep texts of min_chars to max_chars characters."""
    _bounds("text_length", min_chars, max_chars)
    return None if min_chars <= len(text) <= max_chars else f"{len(text)} characters"


def _visible_share(text: str, *classes: int) -> float:
    """The share of these character classes in what is not space."""
    counts = chars.class_counts(text)
    visible = len(text) - int(counts[chars.SPACE])
    return int(counts[list(classes)].sum()) / visible if visible else 0.0


@operator("filter")
def letter_ratio(text: str, min_ratio: float = 0.5, max_ratio: float = 1.0) -> str | None:
    """Keep texts in which letters, Hanzi and digits make up this share of the visible."""
    _bounds("letter_ratio", min_ratio, max_ratio)
    ratio = _visible_share(text, chars.LETTER, chars.CJK, chars.DIGIT)
    return None if min_ratio <= ratio <= max_ratio else f"letters {ratio:.2f}"


@operator("filter")
def symbol_ratio(text: str, max_ratio: float = 0.25) -> str | None:
    """Remove texts with too many symbols: no letters, digits, spaces, ordinary marks."""
    counts = chars.class_counts(text)
    ratio = int(counts[chars.SYMBOL] + counts[chars.OTHER]) / len(text) if text else 0.0
    return None if ratio <= max_ratio else f"symbols {ratio:.2f}"


@operator("filter")
def digit_ratio(text: str, max_ratio: float = 0.5) -> str | None:
    """Remove texts that are mostly digits: number tables, telephone lists, hexadecimal dumps."""
    ratio = _visible_share(text, chars.DIGIT)
    return None if ratio <= max_ratio else f"digits {ratio:.2f}"


@operator("filter")
def char_repetition(text: str, n: int = 10, max_ratio: float = 0.4) -> str | None:
    """Remove texts that repeat themselves: the share of n-grams that stood there before."""
    if n < 1:
        raise UserError(f"operator char_repetition: n is {n}; it must be 1 or more")
    if len(text) <= n:
        return None
    hashes = chars.ngram_hashes(chars.code_points(text), n)
    ratio = 1 - len(np.unique(hashes)) / len(hashes)
    return None if ratio <= max_ratio else f"repetition {ratio:.2f}"


@operator("filter")
def mojibake(text: str, max_ratio: float = 0.2) -> str | None:
    """Remove texts with more than max_ratio decoded wrongly beyond repair: UTF-8 read as GBK."""
    bad = sum(len(line) for line in text.split("\n") if is_gbk_mojibake(line))
    bad += text.count("\ufffd") + 3 * text.count("锟斤拷")
    return f"wrongly decoded {bad / len(text):.2f}" if bad > max_ratio * len(text) else None


@operator("filter")
def max_line(text: str, max_chars: int = 20_000) -> str | None:
    """Remove texts with a line longer than max_chars: minified code, data in one line."""
    if len(text) <= max_chars:
        return None
    longest = max(map(len, text.split("\n")))
    return None if longest <= max_chars else f"line of {longest} characters"


@operator("filter")
def max_token(text: str, max_chars: int = 200) -> str | None:
    """Remove texts with a run of ASCII letters and digits over max_chars: base64, hashes."""
    if len(text) <= max_chars:
        return None
    found = re.search(rf"[A-Za-z0-9+/=_-]{{{max_chars + 1}}}", text)
    return f"run over {max_chars} characters" if found else None


@operator("filter")
def contains(text: str, phrases: list[str], min_hits: int = 1) -> str | None:
    """Remove texts in which min_hits or more different phrases of a list occur (boilerplate)."""
    if not phrases:
        raise UserError("operator contains: give at least one phrase")
    hits = sum(phrase in text for phrase in phrases)
    return f"{hits} listed phrases" if hits >= min_hits else None
