"""How fast a packing task encodes: `tokenizers` alone, and with gigatoken beside it.

    python -m figures.experiments.encoding --docs DOCS --out figures/runs/encoding.json

Documents of every source, in the batches of a task, with vocabularies trained on a seventh of them. A task reads a text
once, and gigatoken remembers the pieces that it has seen: so each pass is a fresh encoder's first. CPU seconds of this
process, the median of three passes, the libraries in turn; ids are compared one by one, and a difference ends the run.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import numpy as np

from steel.config import UserError
from steel.data.tasks import BATCH
from steel.tokenizer import bpe, encode
from steel.tokenizer.texts import document_texts

from . import command
from .ledger import Ledger

SIZES = (4096, 32768)
PASSES = 3


def timed(make, core, batches: list[list[str]]) -> tuple[float, np.ndarray]:
    """CPU seconds of a fresh encoder's first pass over the batches, and all ids in a row, an end after each text.

    As in a task, the lists of a batch become arrays and are gone before the next one: kept, they slow both libraries.
    """
    work, took, kept = make(core), 0.0, []
    for some in batches:
        began = time.process_time()
        found = work(some)
        took += time.process_time() - began
        kept += [np.array([*ids, -1], dtype=np.int32) for ids in found]
    return took, np.concatenate(kept)


def main(docs: Path, out: Path, most_bytes: int = 20_000_000) -> None:
    """A row for each library and vocabulary: OUT."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as in a packing process
    texts, held = [], 0
    for text in document_texts(docs):
        if held < most_bytes:
            texts.append(text)
            held += len(text.encode())
    batches = [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]
    ledger = Ledger(out, "encoding", {"texts": len(texts), "bytes": held}, fresh=True)
    for entries in SIZES:
        core = bpe.train(texts[::7], entries).backend_tokenizer
        took = {"gigatoken": [], "tokenizers": []}
        for _ in range(PASSES):
            fast, found = timed(encode.encoder, core, batches)
            slow, expected = timed(encode.plain, core, batches)
            took["gigatoken"].append(fast)
            took["tokenizers"].append(slow)
            if not np.array_equal(found, expected):
                raise UserError("the two libraries give other ids")
        for name, passes in took.items():
            seconds = statistics.median(passes)
            row = {"entries": entries, "library": name, "tokens": int((expected >= 0).sum())}
            row |= {"cpu_seconds": round(seconds, 3), "bytes_per_cpu_second": round(held / seconds)}
            print(ledger.add(row))


if __name__ == "__main__":
    command(main)
