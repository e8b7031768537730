"""Filters: str -> None to keep, or the reason for removal."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from ...config import UserError
from . import operator
from .characters import (
    CJK,
    DIGIT,
    LETTER,
    OTHER,
    SPACE,
    SYMBOL,
    class_counts,
    code_points,
    ngram_hashes,
)
from .mappers import is_gbk_mojibake

Filter = Callable[[str], str | None]


def _bounds(name: str, low: float, high: float) -> None:
    if low > high:
        raise UserError(f"operator {name}: the minimum {low} is above the maximum {high}")


@operator("text_length", "filter")
def text_length(min_chars: int = 10, max_chars: int = 100_000) -> Filter:
    """Keep texts of min_chars to max_chars characters."""
    _bounds("text_length", min_chars, max_chars)

    def check(text: str) -> str | None:
        size = len(text)
        return None if min_chars <= size <= max_chars else f"{size} characters"

    return check


@operator("letter_ratio", "filter")
def letter_ratio(min_ratio: float = 0.5, max_ratio: float = 1.0) -> Filter:
    """Keep texts in which letters, Chinese characters and digits make up this share of what is not space."""
    _bounds("letter_ratio", min_ratio, max_ratio)

    def check(text: str) -> str | None:
        counts = class_counts(text)
        visible = len(text) - int(counts[SPACE])
        ratio = int(counts[LETTER] + counts[CJK] + counts[DIGIT]) / visible if visible else 0.0
        return None if min_ratio <= ratio <= max_ratio else f"letters {ratio:.2f}"

    return check


@operator("symbol_ratio", "filter")
def symbol_ratio(max_ratio: float = 0.25) -> Filter:
    """Remove texts with too many symbols. Letters, digits, spaces and ordinary Chinese and ASCII marks are none."""

    def check(text: str) -> str | None:
        counts = class_counts(text)
        ratio = int(counts[SYMBOL] + counts[OTHER]) / len(text) if text else 0.0
        return None if ratio <= max_ratio else f"symbols {ratio:.2f}"

    return check


@operator("digit_ratio", "filter")
def digit_ratio(max_ratio: float = 0.5) -> Filter:
    """Remove texts that are mostly digits: number tables, telephone lists, hexadecimal dumps."""

    def check(text: str) -> str | None:
        counts = class_counts(text)
        visible = len(text) - int(counts[SPACE])
        ratio = int(counts[DIGIT]) / visible if visible else 0.0
        return None if ratio <= max_ratio else f"digits {ratio:.2f}"

    return check


@operator("char_repetition", "filter")
def char_repetition(n: int = 10, max_ratio: float = 0.4) -> Filter:
    """Remove texts that repeat themselves: the share of character n-grams that stand earlier in the text already."""
    if n < 1:
        raise UserError(f"operator char_repetition: n is {n}; it must be 1 or more")

    def check(text: str) -> str | None:
        if len(text) <= n:
            return None
        hashes = ngram_hashes(code_points(text), n)
        ratio = 1 - len(np.unique(hashes)) / len(hashes)
        return None if ratio <= max_ratio else f"repetition {ratio:.2f}"

    return check


@operator("mojibake", "filter")
def mojibake(max_ratio: float = 0.2) -> Filter:
    """Remove texts of which more than max_ratio was decoded wrongly beyond repair: UTF-8 read as GBK, lost marks."""

    def check(text: str) -> str | None:
        bad = sum(len(line) for line in text.split("\n") if is_gbk_mojibake(line))
        bad += text.count("\ufffd") + 3 * text.count("锟斤拷")
        return f"wrongly decoded {bad / len(text):.2f}" if bad > max_ratio * len(text) else None

    return check


@operator("max_line", "filter")
def max_line(max_chars: int = 20_000) -> Filter:
    """Remove texts with a line longer than max_chars: minified code, data in one line."""

    def check(text: str) -> str | None:
        if len(text) <= max_chars:
            return None
        longest = max(map(len, text.split("\n")))
        return None if longest <= max_chars else f"line of {longest} characters"

    return check


@operator("max_token", "filter")
def max_token(max_chars: int = 200) -> Filter:
    """Remove texts with a run of ASCII letters and digits longer than max_chars: base64, hashes, encoded images."""
    pattern = re.compile(rf"[A-Za-z0-9+/=_-]{{{max_chars + 1}}}")

    def check(text: str) -> str | None:
        return (
            f"run over {max_chars} characters"
            if len(text) > max_chars and pattern.search(text)
            else None
        )

    return check


@operator("contains", "filter")
def contains(phrases: list[str], min_hits: int = 1) -> Filter:
    """Remove texts in which min_hits or more different phrases of a list occur (boilerplate, advertising)."""
    if not phrases:
        raise UserError("operator contains: give at least one phrase")

    def check(text: str) -> str | None:
        hits = sum(phrase in text for phrase in phrases)
        return f"{hits} listed phrases" if hits >= min_hits else None

    return check
