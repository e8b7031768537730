"""What a vocabulary of each size does to text it has not seen: chapter 05's figures.

    python -m figures.experiments.compression --docs DOCS --qwen QWEN --out figures/runs/compression.json

BPE is nested: the first merges of a large vocabulary are a small one. So one vocabulary is trained and cut. Rows: cuts
of it, cuts of it with every Hanzi of the training text as an entry, and a tokenizer of others. Measures are those of
`steel.tokenizer.measure`, by source, on held-out documents; `hanzi_whole` is the share of running Hanzi that are an
entry of their own.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from steel.config import UserError
from steel.data.tasks import held_out
from steel.documents import document_files
from steel.tokenizer import bpe, measure
from steel.tokenizer.merge import merge
from steel.tokenizer.texts import sample_texts

from . import command
from .ledger import Ledger

HELD_OUT = 0.1
SIZES = (1024, 2048, 4096, 8192, 16384, 32768)
WITH_HANZI = (2048, 8192, 32768)
_HANZI = re.compile(r"[\u4e00-\u9fff]")


def cut(tokenizer, entries: int) -> PreTrainedTokenizerFast:
    """The first `entries` entries of a trained byte-level BPE, which is what training would have given at that size."""
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = {piece: i for piece, i in core["model"]["vocab"].items() if i < entries}
    merges = []
    for left, right in core["model"]["merges"]:
        if left + right not in vocabulary:
            break
        merges.append([left, right])
    core["model"] |= {"vocab": vocabulary, "merges": merges}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(core)), clean_up_tokenization_spaces=False
    )


def split(docs: Path, most_bytes: int, without: str) -> tuple[list[str], dict[str, list[str]]]:
    """Training texts of all sources together, and held-out texts by source."""
    train, held = [], {}
    for file in document_files(docs):
        name = file.name.removesuffix(".jsonl.zst")
        if name in without.split(","):
            continue
        held[name] = []
        for text in sample_texts(file, most_bytes):
            (held[name] if held_out(text.encode(), HELD_OUT) else train).append(text)
    held = {name: part for name, part in held.items() if part}
    if not train or not held:
        raise UserError(f"{docs} has too few documents to hold a tenth of them out")
    return train, held


def measured(tokenizer, held: dict[str, list[str]]) -> dict:
    """The row of a tokenizer: measures by source and of all, coverage, and the share of Hanzi that are one entry."""
    texts = [text for source in held.values() for text in source]
    seen = Counter(character for text in texts for character in _HANZI.findall(text))
    spelled = bpe.encode_texts(tokenizer, list(seen))
    whole = sum(n for n, ids in zip(seen.values(), spelled, strict=True) if len(ids) == 1)
    return {
        "entries": len(tokenizer),
        "coverage": measure.coverage(tokenizer),
        "hanzi_whole": whole / seen.total(),
        "sources": {name: measure.measure(tokenizer, part) for name, part in held.items()},
        "all": measure.measure(tokenizer, texts),
    }


def main(
    docs: Path,
    out: Path = Path("compression.json"),
    qwen: Path = Path(),
    most_bytes: int = 2_000_000,
    largest: int = SIZES[-1],
    without: str = "chinese_poetry",
) -> None:
    """Train on nine tenths of a sample of each source, and measure cuts of the vocabulary on the rest.

    docs: a folder of documents. most_bytes: of each source. qwen: a tokenizer of others. without: sources left out.
    """
    train, held = split(docs, most_bytes, without)
    sizes = {name: sum(len(t.encode()) for t in part) for name, part in held.items()}
    same = {"train_bytes": sum(len(t.encode()) for t in train), "held_out_bytes": sizes}
    ledger = Ledger(out, "compression", same | {"largest": largest})
    whole = bpe.train(train, largest)
    hanzi = Counter(character for text in train for character in _HANZI.findall(text))
    for size in (s for s in SIZES if s <= largest):
        if ledger.find(name="steel", size=size) is None:
            ledger.add({"name": "steel", "size": size, **measured(cut(whole, size), held)})
        if size in WITH_HANZI and ledger.find(name="with Hanzi", size=size) is None:
            with tempfile.TemporaryDirectory() as folder:
                characters = "".join(hanzi)
                joined, _ = merge(cut(whole, size), Path(folder) / "joined", characters=characters)
            ledger.add({"name": "with Hanzi", "size": size, **measured(joined, held)})
    if qwen != Path() and ledger.find(name="Qwen1.5") is None:
        ledger.add({"name": "Qwen1.5", "size": 151_936, **measured(bpe.load(qwen), held)})
    for row in ledger.rows:
        print(row["name"], row["entries"], round(row["all"]["bytes_per_token"], 3))


if __name__ == "__main__":
    command(main)
