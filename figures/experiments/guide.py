"""The stage of chapter 10: a restaurant guide, letters of its readers, a run in a process of its own, and an exam.

`python -m figures.experiments.guide ROOT NAME SHARDS` is that process. It pretrains a small model on ROOT/SHARDS into
ROOT/NAME, and writes every row that it is about to train on into ROOT/NAME.seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from steel.config import Config, load
from steel.data import ShardSet, order, pack
from steel.documents import Document, write_documents
from steel.tokenizer import bpe

WORDINGS = ["{n}的招牌菜是{d}。", "到{n}一定要点{d}。", "{n}卖得最好的是{d}。", "说起{n},人人都想到{d}。",
            "{n}的老板最拿手的是{d}。", "在{n},客人总是点{d}。", "朋友推荐我去{n}吃{d}。",
            "{n}门口写着:今日{d}。"]  # fmt: skip
TOLD = 6  # wordings in which readers' facts are told; the others are held back
FACTS, LETTERS = 48, 12  # restaurants of the guide, and of the readers


def small() -> Config:
    """The run: 140 steps of 8 samples of 64 tokens, a checkpoint every 20 steps."""
    return load("cpu", ["data.sequence_length=64", "model.vocab_size=512", "model.num_hidden_layers=2",
                        "train.steps=140", "train.batch_size=8", "train.micro_batch_size=8", "train.eval_every=0",
                        "train.checkpoint_every=20", "train.log_every=20"])  # fmt: skip


def facts() -> tuple[list, list]:
    """(restaurant, dish) pairs that stand in no real text: the guide's, and the readers'."""
    rng = random.Random(1)
    names = [
        a + b + c
        for a in "东西南北春秋"
        for b in "桥河山街门"
        for c in ("小馆", "饭店", "酒家", "食堂")
    ]
    dishes = ("豆腐", "鲈鱼", "排骨", "茄子", "土豆", "笋干")
    dishes = [a + b + c for a in "红白清香酸辣" for b in "烧蒸炖炒" for c in dishes]
    count = FACTS + LETTERS
    pairs = list(zip(rng.sample(names, count), rng.sample(dishes, count)))
    return pairs[:FACTS], pairs[FACTS:]


def letters() -> list[str]:
    """What the readers write: their facts in the wordings that are told."""
    return [w.format(n=n, d=d) for n, d in facts()[1] for w in WORDINGS[:TOLD]]


def corpus(root: Path) -> dict:
    """Documents of the guide in two sources, letters, a tokenizer, and shards of the guide; their manifest."""
    guide = [w.format(n=n, d=d) for n, d in facts()[0] for w in WORDINGS]
    random.Random(1).shuffle(guide)
    half = len(guide) // 2
    for folder, source, texts in (("docs", "guide", guide[:half]), ("docs", "diary", guide[half:]),
                                  ("letters", "readers", letters())):  # fmt: skip
        rows = [Document(f"{source}-{i}", text, source, "zh", {}) for i, text in enumerate(texts)]
        write_documents(root / folder / f"{source}.jsonl.zst", rows)
    bpe.save(bpe.train(guide + letters(), 400), root / "tokenizer")
    return pack(root / "docs", root / "shards", root / "tokenizer", progress=False)


# -- a process that can be killed --------------------------------------------------------------------------------------


def main(root: Path, name: str, shards: str) -> None:
    """The process: it trains, and notes each row (as a hash) and its source before it learns from it."""
    import torch

    from steel.train.pretrain import pretrain

    torch.set_num_threads(1)
    sources = ShardSet.open(root / shards).sources

    def note(step, batch):
        rows = [
            hashlib.blake2b(r.numpy().tobytes(), digest_size=8).hexdigest() for r in batch.input_ids
        ]
        with open(root / f"{name}.seen", "a") as book:
            book.write(json.dumps([step, rows, [sources[s] for s in batch.source.tolist()]]) + "\n")

    pretrain(small(), root / shards, root / name, root / "tokenizer", on_batch=note)


def attempt(root: Path, name: str, shards: str = "shards", kill_after: int | None = None) -> int:
    """One life of the run, ended with SIGKILL once it has read `kill_after` batches; its exit code."""
    seen = root / f"{name}.seen"
    words = [sys.executable, "-m", "figures.experiments.guide", str(root), name, shards]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    child = subprocess.Popen(words, env=os.environ | {"STEEL_QUIET": "1"}, **quiet)
    while kill_after and child.poll() is None:
        if seen.exists() and len(seen.read_text().splitlines()) >= kill_after:
            child.kill()  # the -9
        time.sleep(0.005)
    return child.wait()


def newest(run: Path) -> Path:
    """Newest complete checkpoint of a run."""
    return sorted((run / "checkpoints").glob("step-*/state.json"))[-1].parent


def read_rows(root: Path, name: str) -> tuple[list[list[str]], list[list[str]]]:
    """(rows, sources) of every step of a run, from its note book. A step that was taken again counts once: its last."""
    book = {}
    for line in (root / f"{name}.seen").read_text().splitlines():
        step, rows, sources = json.loads(line)
        book[step] = rows, sources
    return tuple(zip(*(book[step] for step in range(len(book)))))


def audit(
    rows: list[list[str]], samples: int, appends: list[tuple[int, int]]
) -> list[tuple[int, int, int]]:
    """[(samples due, seen, seen exactly once)] of every epoch of a run.

    samples: at its start. appends: [(draws made before, samples added)].
    """
    stream, epochs = order.Stream("*", 1, samples, appends), {}
    for draw, row in enumerate(row for step in rows for row in step):
        epoch, _, due = stream.locate(draw)
        epochs.setdefault((epoch, due), Counter())[row] += 1
    return [
        (due, seen.total(), sum(n == 1 for n in seen.values())) for (_, due), seen in epochs.items()
    ]


# -- the exam ----------------------------------------------------------------------------------------------------------


def examine(checkpoint: Path, root: Path) -> dict:
    """How well the readers' facts are known: told wordings, held-back wordings, bits per byte of the letters."""
    import torch.distributed.checkpoint as dcp

    from steel.evaluation.cloze import cloze
    from steel.evaluation.perplexity import bits_per_byte
    from steel.model import build

    tokenizer, model = bpe.load(root / "tokenizer"), build(small().model)
    state = model.state_dict()
    dcp.load({"model": state}, checkpoint_id=str(checkpoint), no_dist=True)
    model.load_state_dict(state)
    pairs = facts()[1]

    def ask(
        wordings,
    ):  # a sentence stops before the dish; the dishes of all twelve are the candidates
        rows = [{"prompt": w.split("{d}")[0].format(n=n), "answer": d, "candidates": [x for _, x in pairs],
                 "lang": "zh", "attribute": "dish"} for n, d in pairs for w in wordings]  # fmt: skip
        return cloze(model.eval(), tokenizer, rows)

    bits = bits_per_byte(model, tokenizer, letters(), context=64)["domains"]["all"]["bpb"]
    return {"told": ask(WORDINGS[:TOLD]), "held": ask(WORDINGS[TOLD:]), "bits": bits}


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
