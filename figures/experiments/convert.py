"""What two conversions keep of raw files, and what each mechanism of loss costs:

    python -m figures.experiments.convert --raw RAW --tokenizer TOKENIZER --out figures/runs/convert-compare.json

The first columns are those of `steel data compare RAW`. Counts only: no text of the files goes into the log.
"""

from __future__ import annotations

import tempfile
import unicodedata
from collections import Counter
from pathlib import Path

from . import command
from .ledger import Ledger


def changed_by_nfkc(text: str) -> int:
    """Characters that are another character, or several, after NFKC."""
    return sum(n for c, n in Counter(text).items() if unicodedata.normalize("NFKC", c) != c)


def bytes_of(files: list[Path]) -> int:
    """Bytes of the files as they lie on the disk."""
    return sum(path.stat().st_size for path in files)


def documents(name: str, files: list[Path], raw: Path, rules: str):
    """The documents of a source by one recipe, and the tally with the reasons."""
    from steel.corpus.convert import convert_source
    from steel.corpus.recipe import load_recipe
    from steel.corpus.report import Tally

    tally = Tally("rejected")
    made = [doc for doc, _ in convert_source(name, files, raw, load_recipe(rules), tally)]
    return made, tally


def look(name: str, files: list[Path], raw: Path) -> dict:
    """What `compare` does not say of one source: reasons, notes, and how much is text."""
    old, was = documents(name, files, raw, "original")
    new, now = documents(name, files, raw, "steel")
    text = "".join(doc.readable() for doc in new)
    return {
        "raw_bytes": bytes_of(files),
        "text_bytes": len(text.encode()),
        "changed_by_nfkc": changed_by_nfkc(text),
        "original_rejected": dict(was.gone),
        "steel_rejected": dict(now.gone),
        "notes": dict(now.more["notes"]),
    } | _MORE.get(name, lambda *_: {})(files, old, new)


def _baike(files: list[Path], old: list, new: list) -> dict:
    records = _records(files)
    empty = [r for r in records if not (r.get("summary") or "").strip()]
    with_text = [r for r in empty if any((s.get("content") or "").strip() for s in r["sections"])]
    return {"empty_summary": len(empty), "of_these_with_text": len(with_text)}


def _zhihu(files: list[Path], old: list, new: list) -> dict:
    from steel.corpus.sources.steel_rules import parse_upvotes

    written = [str(_metadata(r).get("upvotes")) for r in _records(files)]
    return {
        "upvotes": [parse_upvotes(w) for w in written],
        "in_ten_thousands": [i for i, w in enumerate(written) if "万" in w],
    }


def _metadata(record: dict) -> dict:
    import json

    found = record.get("METADATA")
    return json.loads(found) if isinstance(found, str) else found or {}


def _belle(files: list[Path], old: list, new: list) -> dict:
    """Conversations whose last answer does not end as it was written."""
    ends = {doc.meta["record"]: doc.messages[-1]["content"] for doc in new}
    damaged = 0
    for doc in old:
        last = unicodedata.normalize("NFKC", ends.get(doc.meta["record"], "")).rstrip()
        damaged += not doc.text.rstrip().endswith(last[-20:])
    return {"ends_damaged": damaged}


def _records(files: list[Path]) -> list[dict]:
    from steel.corpus.sources.readers import records

    return [r for path in files for _, r in records(path) if isinstance(r, dict)]


_MORE = {"baidu_baike": _baike, "zhihu_kol": _zhihu, "belle_3_5m": _belle}


def main(raw: Path, tokenizer: Path = None, out: Path = None) -> int:
    """Convert the files of a folder by both recipes, and write what is kept, by source."""
    from steel.corpus.convert import compare
    from steel.corpus.pipeline import prepare
    from steel.corpus.sources import survey

    found, _ = survey(raw)
    ledger = Ledger(out, "convert-compare", {"sources": list(found)}, fresh=True)
    with tempfile.TemporaryDirectory() as folder:
        prepare(raw, folder, steps=("convert",))
        lines = {n: bytes_of([Path(folder) / f"{n}.jsonl.zst"]) for n in found}
        tokens = _tokens(tokenizer, Path(folder)) if tokenizer else {}
    for name, row in compare(raw).items():
        more = look(name, found[name], raw) | {"document_bytes": lines[name]}
        ledger.add({"source": name, **row, **more, **tokens.get(name, {})})
        print(name, row)
    return 0


def _tokens(tokenizer: Path, docs: Path) -> dict[str, dict]:
    """Bytes per token of each source, all of its documents (two CPU minutes)."""
    from steel.tokenizer import bpe, measure

    found = measure.report(bpe.load(tokenizer), docs, 1 << 30)["sources"]
    return {name: {"bytes_per_token": round(row["bytes_per_token"], 3)} for name, row in found.items()}  # fmt: skip


if __name__ == "__main__":
    command(main)
