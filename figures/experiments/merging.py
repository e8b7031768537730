"""A trained model gets a larger vocabulary: how the new rows begin, and how long that matters. For chapter 05.

    python -m figures.experiments.merging --run runs/merging --out figures/runs/merging.json

A small model reads SteelTown with a vocabulary trained on its English and code, so that Hanzi are spelled in bytes.
Then the entries of a Chinese vocabulary are merged in and the model goes on with the longer table, its new rows begun
in several ways; beside it one that keeps the old vocabulary. All read the same text; held-out Chinese is judged in bits
per byte.
"""

from __future__ import annotations

import copy
import random
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from steel.config import ModelConfig, load
from steel.data.tasks import held_out
from steel.documents import document_files, read_documents
from steel.evaluation.perplexity import bits_per_byte
from steel.life import Life
from steel.model import build
from steel.tokenizer import bpe
from steel.tokenizer.merge import extend_embeddings, merge
from steel.tokenizer.texts import document_text

from . import command
from .ledger import Ledger

ENGLISH, CHINESE = 512, 1024
ROWS, LENGTH, RATE = 8, 128, 3e-3
BEFORE, LOOKS = 400_000, (0, 10_000, 30_000, 100_000, 200_000)
"""Bytes of text before the merge, and after it at each look."""
BEGINNINGS = ("mean", "random", "kept")
SHAPE = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "head_dim": 16}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4, "feed_forward": "dense"}


def town(run: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Training texts of the town by language, and held-out Chinese ones."""
    life = Life(load("cpu"), run)
    life.open()
    for name in ("world", "documents"):
        life.stage(name, getattr(life, f"make_{name}"))
    train, held = {"zh": [], "other": []}, []
    for file in document_files(run / "docs"):
        for document in read_documents(file):
            text, chinese = document_text(document), document.lang == "zh"
            if text and held_out(text.encode(), 0.05):
                held += [text] * chinese
            elif text:
                train["zh" if chinese else "other"].append(text)
    return train, held[:100]


class Reader:
    """Rows of tokens of the texts, in their order, over and over. per_step: bytes of text in a step."""

    def __init__(self, tokenizer, texts: list[str]):
        ids = [i for one in bpe.encode_texts(tokenizer, texts) for i in (*one, 0)]
        self.ids = torch.tensor(ids)
        self.per_step = sum(len(t.encode()) for t in texts) / len(ids) * ROWS * LENGTH
        self.at = 0

    def step(self):
        """Inputs and targets (ROWS, LENGTH)."""
        span = self.ids[torch.arange(self.at, self.at + ROWS * LENGTH + 1) % len(self.ids)]
        self.at += ROWS * LENGTH
        return span[:-1].view(ROWS, LENGTH), span[1:].view(ROWS, LENGTH)


def adamw(model) -> torch.optim.AdamW:
    """The optimizer of these small models."""
    return torch.optim.AdamW(model.parameters(), RATE, (0.9, 0.95), weight_decay=0.0)


def read(model, reader: Reader, amount: float, optimizer=None) -> None:
    """Train on `amount` bytes of text. optimizer: one that goes on; by default a fresh one."""
    optimizer = optimizer or adamw(model)
    for _ in range(round(amount / reader.per_step)):
        inputs_BT, targets_BT = reader.step()
        logits_BTV = model(input_ids=inputs_BT).logits
        F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def beginning(model, how: str, spelled: list[list[int]], entries: int, seed: int):
    """A copy of the model with rows for the merged vocabulary, begun in one of BEGINNINGS."""
    grown = copy.deepcopy(model)
    if how == "kept":
        return grown
    extend_embeddings(grown, spelled, entries)
    if how == "random":  # as a newborn table is drawn
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for table in (grown.get_input_embeddings(), grown.get_output_embeddings()):
                new_VD = table.weight[entries - len(spelled) :]
                new_VD.copy_(torch.randn(new_VD.shape, generator=draw) * 0.02)
    return grown


def main(run: Path, out: Path = Path("merging.json"), seeds: int = 3) -> None:
    """Train, merge, and look at held-out Chinese after each amount of further text."""
    torch.set_num_threads(1)
    train, held = town(run)
    texts = [text for pair in zip(*_even(train["zh"], train["other"])) for text in pair]
    base, other = bpe.train(train["other"], ENGLISH), bpe.train(train["zh"], CHINESE)
    with tempfile.TemporaryDirectory() as folder:
        merged, spelled = merge(base, Path(folder) / "merged", other)
    size = sum(len(text.encode()) for text in held)
    counts = {
        name: sum(map(len, bpe.encode_texts(tokenizer, held)))
        for name, tokenizer in (("base", base), ("merged", merged))
    }
    same = {"entries": {"base": len(base), "merged": len(merged)}, "held_out_bytes": size}
    ledger = Ledger(out, "merging", same | {"held_out_tokens": counts, "before_bytes": BEFORE})
    for seed in range(1, seeds + 1):
        if all(ledger.find(seed=seed, begun=how) for how in BEGINNINGS):
            continue
        shape = ModelConfig(vocab_size=len(base), tie_word_embeddings=False, **SHAPE, **HEADS)
        model = build(shape, seed=seed)
        order = random.Random(seed).sample(texts, len(texts))
        later = random.Random(-seed).sample(texts, len(texts))
        read(model, Reader(base, order), BEFORE)
        for how in BEGINNINGS:
            tokenizer = base if how == "kept" else merged
            grown = beginning(model, how, spelled, len(merged), seed)
            on, bits = Reader(tokenizer, later), []
            for before, look in zip((0, *LOOKS), LOOKS):
                read(grown, on, look - before)
                bits.append(
                    bits_per_byte(grown, tokenizer, held, context=LENGTH)["domains"]["all"]["bpb"]
                )
            row = {"seed": seed, "begun": how, "bytes": list(LOOKS), "bits_per_byte": bits}
            print(row, flush=True)
            ledger.add(row)


def _even(zh: list[str], other: list[str]) -> tuple[list[str], list[str]]:
    """Both lists at the length of the longer one, the shorter repeated."""
    longest = max(len(zh), len(other))
    return tuple([part[i % len(part)] for i in range(longest)] for part in (zh, other))


if __name__ == "__main__":
    command(main)
