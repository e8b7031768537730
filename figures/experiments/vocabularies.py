"""Vocabularies judged by what they are for: bits per byte of a small model trained through them: chapters 05, 13.

    python -m figures.experiments.vocabularies --run runs/vocabularies --out figures/runs/vocabularies.json

SteelTown is read by one small shape through several vocabularies, once with the same bytes of text for all and once
with the same CPU seconds. A larger vocabulary makes a step's text longer and its head dearer, so the two budgets may
rank them differently; perplexity per token ranks them by their number of tokens. A run has one optimizer, from its
first step to its last.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import torch

from steel.config import ModelConfig, load
from steel.data.tasks import held_out
from steel.documents import document_files, read_documents
from steel.evaluation.perplexity import bits_per_byte
from steel.life import Life
from steel.model import build
from steel.tokenizer import bpe
from steel.tokenizer.texts import document_text

from . import command
from .ledger import Ledger
from .merging import HEADS, LENGTH, SHAPE, Reader, adamw, read

BYTES_ONLY = 259
"""Entries of a vocabulary without any merge: 256 bytes and three control tokens."""
ENTRIES = (BYTES_ONLY, 512, 1024)
BUDGET_BYTES, BUDGET_SECONDS, SLICE = 600_000, 30.0, 20_000
HELD_OUT = 0.2
DOMAINS = {"zh": "Chinese", "en": "English", "code": "code"}


def town(run: Path) -> tuple[list[str], dict[str, list]]:
    """Training texts of SteelTown, and held-out documents by domain; a dialogue is a list of its turns."""
    life = Life(load("cpu"), run)
    life.open()
    for name in ("world", "documents"):
        life.stage(name, getattr(life, f"make_{name}"))
    train, held = [], {name: [] for name in ("Chinese", "English", "dialogue", "code")}
    for file in document_files(run / "docs"):
        for document in read_documents(file):
            if not (text := document_text(document)):
                continue
            name = "dialogue" if document.messages else DOMAINS[document.lang]
            if held_out(text.encode(), HELD_OUT):
                held[name].append(document.messages or text)
            else:
                train.append(text)
    return train, held


def write_domains(held: dict[str, list], folder: Path) -> list[str]:
    """FOLDER/<domain>.jsonl as `steel eval perplexity` reads them; the files' names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, documents in held.items():
        rows = [{"text" if isinstance(d, str) else "messages": d} for d in documents]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return sorted(map(str, folder.glob("*.jsonl")))


def newborn(texts: list[str], entries: int, seed: int):
    """(model, tokenizer, reader): a vocabulary trained on the texts, a model for it, and the texts in a drawn order."""
    tokenizer = bpe.train(texts, entries)
    shape = ModelConfig(vocab_size=len(tokenizer), tie_word_embeddings=False, **SHAPE, **HEADS)
    reader = Reader(tokenizer, random.Random(seed).sample(texts, len(texts)))
    return build(shape, seed=seed), tokenizer, reader


def trained(texts: list[str], entries: int, amount: float, seed: int = 1):
    """(model, tokenizer) after `amount` bytes of text."""
    model, tokenizer, reader = newborn(texts, entries, seed)
    read(model, reader, amount)
    return model.eval(), tokenizer


def main(run: Path, out: Path = Path("vocabularies.json"), seeds: int = 3) -> None:
    """Each vocabulary and seed under both budgets; a row as soon as it is there."""
    torch.set_num_threads(1)
    train, held = town(run)
    sizes = {name: len(part) for name, part in held.items()}
    same = {"entries": ENTRIES, "bytes": BUDGET_BYTES, "seconds": BUDGET_SECONDS}
    same |= {"train_bytes": sum(len(text.encode()) for text in train), "held_out_documents": sizes}
    ledger = Ledger(out, "vocabularies", same)

    def work(key: dict) -> dict:
        model, tokenizer, reader = newborn(train, key["entries"], key["seed"])
        optimizer, began, done = adamw(model), time.process_time(), 0
        if key["budget"] == "bytes":
            read(model, reader, done := BUDGET_BYTES, optimizer)
        while key["budget"] == "seconds" and time.process_time() - began < BUDGET_SECONDS:
            read(model, reader, SLICE, optimizer)
            done += SLICE
        seconds = time.process_time() - began
        found = bits_per_byte(model, tokenizer, held, context=LENGTH)
        domains = {
            name: {"bpb": d["bpb"], "ppl": d["ppl"], "tokens": d["tokens"]}
            for name, d in found["domains"].items()
        }
        parameters = sum(p.numel() for p in model.parameters())
        return {"bytes": done, "seconds": seconds, "parameters": parameters, "domains": domains}

    keys = [
        {"budget": budget, "entries": entries, "seed": seed}
        for seed in range(1, seeds + 1)
        for budget in ("bytes", "seconds")
        for entries in ENTRIES
    ]
    ledger.fill(keys, work, say=print)


if __name__ == "__main__":
    command(main)
