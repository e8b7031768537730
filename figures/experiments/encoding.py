"""How fast a packing task encodes: `tokenizers` alone, and with gigatoken beside it.

    python -m figures.experiments.encoding --docs DOCS --out figures/runs/encoding.json

Documents of every source, in the batches of a task, with vocabularies trained on a seventh of them. CPU seconds of this
process, the best of three; ids are compared one by one, and a difference ends the run.
"""

from __future__ import annotations

import time
from pathlib import Path

from steel.config import UserError
from steel.data.tasks import BATCH
from steel.tokenizer import bpe, encode
from steel.tokenizer.texts import document_texts

from . import command
from .ledger import Ledger

SIZES = (4096, 32768)


def timed(work, batches: list[list[str]]) -> tuple[float, list[list[int]]]:
    """CPU seconds, best of three, and the ids."""
    took = []
    for _ in range(3):
        began = time.process_time()
        ids = [found for some in batches for found in work(some)]
        took.append(time.process_time() - began)
    return min(took), ids


def main(docs: Path, out: Path, most_bytes: int = 20_000_000) -> None:
    """A row for each library and vocabulary: OUT."""
    texts, held = [], 0
    for text in document_texts(docs):
        if held < most_bytes:
            texts.append(text)
            held += len(text.encode())
    batches = [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]
    ledger = Ledger(out, "encoding", {"texts": len(texts), "bytes": held}, fresh=True)
    for entries in SIZES:
        core = bpe.train(texts[::7], entries).backend_tokenizer
        works = {"gigatoken": encode.encoder(core), "tokenizers": encode.plain(core)}
        found = {name: timed(work, batches) for name, work in works.items()}
        if found["gigatoken"][1] != found["tokenizers"][1]:
            raise UserError("the two libraries give other ids")
        for name, (seconds, ids) in found.items():
            row = {"entries": entries, "library": name, "tokens": sum(map(len, ids))}
            row |= {"cpu_seconds": round(seconds, 3), "bytes_per_cpu_second": round(held / seconds)}
            print(ledger.add(row))


if __name__ == "__main__":
    command(main)
