"""Filters, text -> None to keep it, or a Reject; and scorers, text -> numbers for `meta["scores"]`.

Scorers remove nothing; a mixture, a sampler or a chart may use them. All are counts of characters:
no model, nothing to download, and no more than that.
"""

import functools
import re
from pathlib import Path

import numpy as np

from ...config import read_yaml
from . import Reject, operator, within
from . import characters as chars
from .mappers import GBK_SIGN, is_gbk_mojibake

_LATIN = re.compile(r"[A-Za-z]+")
_ENDS = re.compile(r"[。！？；…!?;]+|\.(?=\s|\Z)")


def _visible_share(text: str, *classes: int) -> float:
    """The share of these character classes in what is not space."""
    counts = chars.class_counts(text)
    visible = len(text) - int(counts[chars.SPACE])
    return int(counts[list(classes)].sum()) / visible if visible else 0.0


def _repeated_share(text: str, n: int) -> float:
    """The share of n-grams that stood there before."""
    hashes = chars.sorted_ngrams(text, n)
    return int((hashes[1:] == hashes[:-1]).sum()) / max(len(hashes), 1)


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
def char_repetition(
    text: str, n: int = 10, max_ratio: float = 0.4, spaces: bool = True
) -> Reject | None:
    """Remove texts that repeat themselves: the share of n-grams that stood there before.

    spaces=False leaves white space out, the indents of code.
    """
    text = text if spaces else "".join(text.split())
    return within("repetition", _repeated_share(text, n), high=max_ratio)


@operator("filter")
def mojibake(text: str, max_ratio: float = 0.2) -> Reject | None:
    """Remove texts with more than max_ratio decoded wrongly beyond repair: UTF-8 read as GBK."""
    lines = text.split("\n") if GBK_SIGN.search(text) else []
    bad = sum(len(line) for line in lines if is_gbk_mojibake(line))
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


@operator("scorer")
def language_scores(text: str) -> dict[str, float]:
    """zh and en: Chinese characters and Latin words as shares of the two together; 0 for neither."""
    chinese, latin = int(chars.class_counts(text)[chars.CJK]), len(_LATIN.findall(text))
    units = max(chinese + latin, 1)
    return {"zh": round(chinese / units, 3), "en": round(latin / units, 3)}


@functools.cache
def _tables() -> dict:
    data = read_yaml(Path(__file__).with_name("scores.yaml"))
    data["zh"] = np.zeros(0x110000, bool)
    data["zh"][list(map(ord, data["function"]["zh"]))] = True
    data["en"] = frozenset(data["function"]["en"].split())
    return data


@operator("scorer")
def quality_scores(text: str) -> dict[str, float]:
    """quality: share of six rules of ordinary prose that a text keeps, and the measures behind it.

    function: share of function characters among the Hanzi (or words among the Latin words) of the
    text's main script. The others: see scores.yaml. A rule of thumb that tells prose from menus,
    tables and noise; it knows nothing about truth or style.
    """
    tables, counts, words = _tables(), chars.class_counts(text), _LATIN.findall(text)
    main = "zh" if counts[chars.CJK] >= len(words) else "en"
    if main == "zh":
        function = int(tables["zh"][chars.code_points(text)].sum()) / max(int(counts[chars.CJK]), 1)
    else:
        function = sum(word.lower() in tables["en"] for word in words) / len(words)
    visible = max(len(text) - int(counts[chars.SPACE]), 1)
    measures = {
        "function": function,
        "sentence": visible / max(len(_ENDS.findall(text)), 1),
        "repetition": _repeated_share(text, 10),
        "symbols": _visible_share(text, chars.SYMBOL, chars.OTHER),
        "digits": _visible_share(text, chars.DIGIT),
        "marks": _visible_share(text, chars.PUNCTUATION),
    }
    rules = {**tables["rules"], "function": tables["rules"]["function"][main]}
    kept = [rules[name][0] <= value <= rules[name][1] for name, value in measures.items()]
    scores = {"quality": sum(kept) / len(kept), **measures}
    return {name: round(value, 3) for name, value in scores.items()}
