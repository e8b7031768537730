"""What a vocabulary is worth: how far it shortens text, source by source, and which Hanzi it holds.

The two kinds of measure are HammerLLM's. Compression says what a token costs: bytes per token, and
the number of tokens beside that of a reference tokenizer. Coverage says what a reader may see: a
Hanzi that is no token of its own is spelled in bytes, and a model that stops between two of them
writes a replacement character.
"""

import re
from collections import Counter
from functools import cache
from pathlib import Path

from transformers import PreTrainedTokenizerBase as Tokenizer

from ..config import UserError, read_yaml
from ..documents import document_files
from .bpe import encode_texts
from .texts import sample_texts

_HANZI = re.compile(r"[\u4e00-\u9fff]+")
_WORD = re.compile(r"(?<![A-Za-z])[A-Za-z]+(?![A-Za-z])")


@cache
def hanzi() -> dict[str, str]:
    """The national table's characters by level: FCC 3,500 common, SCC 3,000 more, TCC 1,605 rare."""
    levels = read_yaml(Path(__file__).with_name("hanzi.yaml"))
    return {name: "".join(lines.split()) for name, lines in levels.items()}


def coverage(tokenizer: Tokenizer) -> dict[str, float]:
    """Share of each level's Hanzi that are one token (as vocab-coverage, which HammerLLM used)."""
    found = {}
    for level, characters in hanzi().items():
        spelled = encode_texts(tokenizer, list(characters))
        whole = sum(_is_whole(tokenizer, *pair) for pair in zip(characters, spelled, strict=True))
        found[level] = whole / len(characters)
    return found


def _is_whole(tokenizer: Tokenizer, character: str, ids: list[int]) -> bool:
    """Whether ids spell a character by one token that decodes to it, and not by the unknown one."""
    if len(ids) == 2 and not tokenizer.decode(ids[:1]).strip():
        ids = ids[1:]  # SentencePiece's space before a word
    return len(ids) == 1 and tokenizer.decode(ids).strip() == character


def report(
    tokenizer: Tokenizer,
    docs: Path | str,
    most_bytes: int = 2_000_000,
    reference: Tokenizer | None = None,
) -> dict:
    """Measure a tokenizer on about `most_bytes` of UTF-8 of each source in a folder of documents.

    Returns {"entries": of the vocabulary, "coverage": see `coverage`, "sources": {name: measures},
    "all": measures of all samples together}. Measures:

    documents, bytes, characters, tokens; bytes_per_token; compared: tokens over those of
    `reference` (None without one); per_hanzi: tokens per Hanzi in runs of Hanzi, per_word: tokens
    per English word behind a space (None where there is none); fragments: share of tokens that are
    no whole characters; torn: documents that do not decode to themselves; used: share of the
    vocabulary that occurs.
    """
    sources, everything = {}, []
    for file in document_files(docs):
        texts = sample_texts(file, most_bytes)
        if texts:
            sources[file.name.removesuffix(".jsonl.zst")] = measure(tokenizer, texts, reference)
            everything += texts
    if not everything:
        raise UserError(f"no text in the documents of {docs}")
    return {
        "entries": len(tokenizer),
        "coverage": coverage(tokenizer),
        "sources": sources,
        "all": measure(tokenizer, everything, reference),
    }


def measure(tokenizer: Tokenizer, texts: list[str], reference: Tokenizer | None = None) -> dict:
    """The measures of `report` on some texts."""
    counts, seen, runs, words = Counter(), Counter(), Counter(), Counter()
    for text, ids in zip(texts, encode_texts(tokenizer, texts), strict=True):
        seen.update(ids)
        counts["documents"] += 1
        counts["bytes"] += len(text.encode("utf-8", "ignore"))
        counts["characters"] += len(text)
        counts["tokens"] += len(ids)
        counts["torn"] += tokenizer.decode(ids, clean_up_tokenization_spaces=False) != text
        runs.update(_HANZI.findall(text))
        words.update(_WORD.findall(text))
    if reference is not None:
        counts["reference"] = sum(map(len, encode_texts(reference, texts)))
    fragments = sum(n for i, n in seen.items() if "\ufffd" in tokenizer.decode([i]))

    def tokens_of(pieces: Counter, before: str = "") -> int:
        encoded = encode_texts(tokenizer, [before + piece for piece in pieces])
        return sum(n * len(ids) for n, ids in zip(pieces.values(), encoded, strict=True))

    hanzi_seen = sum(n * len(run) for run, n in runs.items())
    return {
        **{key: counts[key] for key in ("documents", "bytes", "characters", "tokens", "torn")},
        "bytes_per_token": _share(counts["bytes"], counts["tokens"]),
        "compared": _share(counts["tokens"], counts["reference"]),
        "per_hanzi": _share(tokens_of(runs), hanzi_seen),
        "per_word": _share(tokens_of(words, " "), words.total()),
        "fragments": _share(fragments, counts["tokens"]),
        "used": len(seen) / len(tokenizer),
    }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
