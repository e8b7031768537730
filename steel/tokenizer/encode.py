"""How text is cut into pieces before the merges, and the ids of many texts: by gigatoken where it is
installed (extra `fast`), else by `tokenizers`, the same ids either way.

gigatoken knows the common pre-tokenisers, Qwen2's for one, and not ours. A merge that was learned
inside our pieces seldom crosses their edges, so a coarser cut of the text mostly gives the same ids.
The exceptions are known. Qwen2's cut is finer where a mark is followed by line ends with other space
between them: there the text is divided beforehand. It is finer, too, at combining marks and numerals
of the Han script such as 〇; libraries know different editions of Unicode; and a token can lie across
an edge of ours: one that our own cut divides, such as 'r of 're, or one with bytes of two characters
and not the whole of both. Lines that show one of these go to `tokenizers`: in both cuts no piece goes
on after the last line end in a run of space.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Encode = Callable[[list[str]], list[np.ndarray]]  # ids of each text: uint32, (tokens,)

# Runs of Hanzi, words of other scripts with their leading space, single digits, punctuation, line
# ends, spaces. A comma never sticks to the word after it: a name has one spelling everywhere.
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{Han}+| ?(?:(?!\p{Han})[\p{L}\p{M}])+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# What Qwen2 cuts at (its tokenizer.json).
QWEN2_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Characters of which every edition of Unicode and `re` say the same, without marks and Han numerals:
# Latin, Greek, Cyrillic, punctuation, signs, kana, Hanzi, Hangul, full-width forms, emoji.
_COMMON = (
    "\x00-\x1b\x20-\x84\x86-\u02ff\u0391-\u03a1\u03a3-\u03ff\u0400-\u0481\u048a-\u052f\u2010-\u2027\u2030-\u205e"
    "\u20a0-\u20b5\u2100-\u2184\u2190-\u23f3\u2460-\u26ff\u3000-\u3006\u3008-\u3020\u3030-\u3037"
    "\u3041-\u3096\u309b-\u30ff\u3200-\u321e\u3220-\u3243\u3280-\u32fe\u3300-\u33ff\u3400-\u4db5"
    "\u4e00-\u9fa5\uac00-\ud7a3\uff01-\uff5e\uffe0-\uffe6\U0001f300-\U0001f64f\U0001f680-\U0001f6c5"
)
_RARE = re.compile(f"[^{_COMMON}]")
_GAP = r"[\r\n]+[^\S\r\n]+[\r\n]"
_HAS_GAP = re.compile(_GAP)  # much faster than to look for the place before it
_BEFORE_GAP = re.compile(rf"(?<=\S)(?={_GAP})")
_LINE = re.compile("(?<=\n)(?=[ \t]*[!-~\u4e00-\u9fa5])")


def encoder(core: Tokenizer) -> Encode:
    """The function from texts to their ids; special tokens inside a text are text, for `core` too."""
    content, by_tokenizers = json.loads(core.to_str()), plain(core)
    if (fast := _gigatoken(content)) is None:
        return by_tokenizers
    from tokenizers import decoders  # only here: a packing process starts without it

    reader, entries = decoders.ByteLevel(), content["model"]["vocab"]
    read = {i: reader.decode([entry]) for entry, i in entries.items()}
    cut = core.pre_tokenizer.pre_tokenize_str
    across = np.zeros(max(read, default=0) + 1, dtype=bool)
    across[[i for i, t in read.items() if len(t) > 1 and ("\ufffd" in t or len(cut(t)) > 1)]] = True

    def mend(texts: list[str], found: Iterator[np.ndarray]) -> np.ndarray:
        ids = []
        for text, its in zip(texts, found, strict=False):
            if _RARE.search(text) or across[its].any():
                lines = _LINE.split(text)
                its = mend(lines, iter(fast(lines))) if len(lines) > 1 else by_tokenizers(lines)[0]
            ids.append(its)
        return np.concatenate(ids) if len(ids) > 1 else ids[0]

    def encode(texts: list[str]) -> list[np.ndarray]:
        cut = [_BEFORE_GAP.split(text) if _HAS_GAP.search(text) else [text] for text in texts]
        found = iter(fast([*chain.from_iterable(cut)]))
        return [mend(parts, found) for parts in cut]

    return encode


def plain(core: Tokenizer) -> Encode:
    """The same by `tokenizers` alone."""
    core.encode_special_tokens = True

    def encode(texts: list[str]) -> list[np.ndarray]:
        found = core.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in found]

    return encode


def _gigatoken(content: dict) -> Encode | None:
    """gigatoken's encoder for one of our own vocabularies; None for another, or without gigatoken."""
    cut = (content.get("pre_tokenizer") or {}).get("pretokenizers") or [{}]
    special = all(token["special"] for token in content["added_tokens"])
    ours = cut[0].get("pattern") == {"Regex": PIECES} and not content.get("normalizer") and special
    if not ours or find_spec("gigatoken") is None:
        return None
    import gigatoken

    cut[0]["pattern"] = {"Regex": QWEN2_PIECES}
    core = gigatoken.Tokenizer.from_json(json.dumps(content | {"added_tokens": []}))

    def encode(texts: list[str]) -> list[np.ndarray]:
        if not texts:
            return []
        rows = core.encode_batch(texts).layout
        return np.split(rows.content.data, rows.offsets.data[1:-1])

    return encode
