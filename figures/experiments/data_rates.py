"""What a CPU core turns into documents and into shards per second, on samples of real sources:

    python -m figures.experiments.data_rates --raw RAW --tokenizer TOKENIZER --out figures/runs/data-rates.json

CPU seconds, so a busy machine disturbs them little; one process.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from . import command
from .ledger import Ledger


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def timed(function, *arguments, **options) -> float:
    """CPU seconds of a call, its child processes included."""
    began = os.times()
    function(*arguments, **options)
    return sum(os.times()[:4]) - sum(began[:4])


def main(raw: Path, tokenizer: Path, out: Path = None) -> int:
    """Prepare and pack the files of a folder, and write megabytes per CPU second of each."""
    from steel.corpus.pipeline import prepare
    from steel.data import ShardSet, pack
    from steel.tokenizer.texts import document_texts

    with tempfile.TemporaryDirectory() as name:
        docs, shards = Path(name) / "docs", Path(name) / "shards"
        preparing = timed(prepare, raw, docs)
        packing = timed(pack, docs, shards, tokenizer)
        text = sum(len(document.encode()) for document in document_texts(docs))
        tokens = sum(piece.tokens for piece in ShardSet.open(shards).pieces)
    ledger = Ledger(
        out, "data-rates", {"sources": sorted(p.name for p in raw.iterdir())}, fresh=True
    )
    for step, given, seconds in (("prepare", size(raw), preparing), ("pack", text, packing)):
        rate = round(given / seconds / 1e6, 2)
        ledger.add(
            {
                "step": step,
                "megabytes": round(given / 1e6, 2),
                "cpu_seconds": round(seconds, 2),
                "megabytes_per_cpu_second": rate,
            }
        )
    ledger.write(text_bytes=text, tokens=tokens, bytes_per_token=round(text / tokens, 2))
    print(*ledger.rows, sep="\n")
    return 0


if __name__ == "__main__":
    command(main)
