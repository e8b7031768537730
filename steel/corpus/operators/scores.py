"""Scorers: text -> numbers for `meta["scores"]`. They remove nothing; a mixture, a sampler or a chart
may use them. All are counts of characters: no model, nothing to download, and no more than that."""

import functools
import re
from pathlib import Path

import numpy as np
import yaml

from . import characters as chars
from . import operator

_LATIN = re.compile(r"[A-Za-z]+")
_ENDS = re.compile(r"[。！？；…!?;]+|\.(?=\s|\Z)")


@functools.cache
def _tables() -> dict:
    data = yaml.safe_load((Path(__file__).parent / "scores.yaml").read_text(encoding="utf-8"))
    data["zh"] = np.zeros(0x110000, bool)
    data["zh"][list(map(ord, data["function"]["zh"]))] = True
    data["en"] = frozenset(data["function"]["en"].split())
    return data


@operator("scorer")
def language_scores(text: str) -> dict[str, float]:
    """zh and en: Chinese characters and Latin words as shares of the two together; 0 for neither."""
    chinese, latin = int(chars.class_counts(text)[chars.CJK]), len(_LATIN.findall(text))
    units = max(chinese + latin, 1)
    return {"zh": round(chinese / units, 3), "en": round(latin / units, 3)}


@operator("scorer")
def quality_scores(text: str) -> dict[str, float]:
    """quality: share of six rules of ordinary prose that a text keeps, and the measures behind it.

    function: share of function characters among the Hanzi (or words among the Latin words) of the
    text's main script. The others: see scores.yaml. A rule of thumb that tells prose from menus,
    tables and noise; it knows nothing about truth or style.
    """
    tables, counts = _tables(), chars.class_counts(text)
    visible = max(len(text) - int(counts[chars.SPACE]), 1)
    words = _LATIN.findall(text)
    main = "zh" if counts[chars.CJK] >= len(words) else "en"
    codes = chars.code_points(text)
    if main == "zh":
        function = int(tables["zh"][codes].sum()) / max(int(counts[chars.CJK]), 1)
    else:
        function = sum(word.lower() in tables["en"] for word in words) / len(words)
    hashes = np.sort(chars.ngram_hashes(codes, 10))
    measures = {
        "function": function,
        "sentence": visible / max(len(_ENDS.findall(text)), 1),
        "repetition": int((hashes[1:] == hashes[:-1]).sum()) / max(len(hashes), 1),
        "symbols": int(counts[chars.SYMBOL] + counts[chars.OTHER]) / visible,
        "digits": int(counts[chars.DIGIT]) / visible,
        "marks": int(counts[chars.PUNCTUATION]) / visible,
    }
    rules = {**tables["rules"], "function": tables["rules"]["function"][main]}
    kept = [rules[name][0] <= value <= rules[name][1] for name, value in measures.items()]
    return {"quality": round(sum(kept) / len(kept), 3)} | {
        name: round(value, 3) for name, value in measures.items()
    }
