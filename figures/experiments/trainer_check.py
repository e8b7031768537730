"""Does the trainer train on this machine? Asked before anything is measured.

    python -m figures.experiments.trainer_check --out trainer.json

Two steps as the run will take them and two plain ones, a validation after each, a checkpoint after each, and the second
step once more from the first one's checkpoint. On a GPU in bf16, with what its preset compiles and fuses.
"""

from __future__ import annotations

import json
import random
import shutil
import string
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from steel.config import Config, UserError, from_dict, load
from steel.data import pack
from steel.machine import commit, packages
from steel.runlog import atomic_write
from steel.tokenizer import bpe
from steel.train.device import describe

from . import command
from .runs import train_run

PLAIN = 0.01
"""At most so much may a loss differ from that of the plain model [1]: bf16 rounds both, and differently."""
RESUMED = 1e-3
"""And after a resume, on a GPU [1]: its attention adds gradients in any order. On a CPU the bits are the same."""
SMALL = {
    "steps": 2,
    "log_every": 1,
    "eval_every": 1,
    "checkpoint_every": 1,
    "keep_checkpoints": 2,
    "warmup_steps": 0,
    "batch_size": 4,
    "micro_batch_size": 4,
}


def load_like(cfg: Config, **train) -> Config:
    """`cfg` with other training settings."""
    values = cfg.to_dict()
    values["train"] |= train
    return from_dict(values)


def trainer_check(
    cfg: Config,
    data: Path,
    folder: Path,
    name: str,
    *,
    resume: bool = True,
    measure: Callable | None = None,
) -> None:
    """Two steps of `cfg` on the shards in `data`, as it will run and plain, and a resume; else UserError with `name`.

    Works in `folder`, which is gone afterwards. measure: see `steel.train.pretrain`.
    """

    def losses(run: Path, **train) -> list[float]:
        done = train_run(load_like(cfg, **SMALL, **train), data, run, measure=measure)
        return [row["loss"] for row in (*done.steps, *done.evals)]

    shutil.rmtree(folder, ignore_errors=True)
    own = losses(folder / "own")
    plain = losses(folder / "plain", kernels={"all": "reference"}, compile=False)
    if _apart(own, plain) > PLAIN:
        raise UserError(
            f"{name}: losses {own} as it will run, {plain} plain; nothing would be worth ranking"
        )
    if resume:
        shutil.rmtree(max((folder / "own" / "checkpoints").glob("step-*")))
        shutil.rmtree(folder / "own" / "hf")
        again = losses(folder / "own")
        if _apart(own, again) > (RESUMED if torch.cuda.is_available() else 0.0):
            raise UserError(f"{name}: losses {again} after a resume, {own} without")
    shutil.rmtree(folder)


def _apart(a: list[float], b: list[float]) -> float:
    """The largest ratio of two losses, less one; infinite where one is missing or no number."""
    if len(a) != len(b) or not all(x == x and y == y for x, y in zip(a, b, strict=True)):
        return float("inf")
    return max(abs(x / y - 1) for x, y in zip(a, b, strict=True))


def letters(folder: Path) -> Path:
    """Shards of random letters with a held-out part: made here, so that nothing has to be carried."""
    rng = random.Random(0)
    texts = ["".join(rng.choices(string.ascii_lowercase + " ", k=500)) for _ in range(300)]
    docs = folder / "docs"
    docs.mkdir(parents=True)
    with (docs / "letters.jsonl").open("w", encoding="utf-8") as file:
        for i, text in enumerate(texts):
            row = {"id": str(i), "text": text, "source": "letters", "lang": "en", "meta": {}}
            file.write(json.dumps(row) + "\n")
    bpe.save(bpe.train(texts, 300), folder / "tokenizer")
    pack(docs, folder / "shards", folder / "tokenizer", hold_out=0.2, progress=False)
    return folder / "shards"


def main(out: Path, overrides: list[str], preset: str = "") -> int:
    """Check the trainer here with two layers of a preset; 0 when it trains, saves and goes on.

    out: JSON file; a check that it says has passed, of the same preset and commit, is not repeated. preset:
    steel-1b-causal by default, without a GPU cpu in bf16.
    """
    cuda = torch.cuda.is_available()
    preset = preset or ("steel-1b-causal" if cuda else "cpu")
    small = ["model.num_hidden_layers=2", "train.precision=bf16"]
    if (
        preset != "cpu"
    ):  # nothing but the head's size depends on the vocabulary; kernels.json has it whole
        small.append("model.vocab_size=8192")
    same = {"kind": "trainer", "preset": preset, "overrides": list(overrides), "commit": commit()}
    if out.exists():
        found = json.loads(out.read_text(encoding="utf-8"))
        if found.get("passed") and all(found.get(key) == value for key, value in same.items()):
            print(f"trainer: checked before, see {out}")
            return 0
    began, said = time.monotonic(), ""
    device = torch.device("cuda" if cuda else "cpu")
    with tempfile.TemporaryDirectory() as work:
        try:
            cfg = load(preset, [*small, *overrides])
            trainer_check(cfg, letters(Path(work)), Path(work) / "runs", preset)
        except Exception as error:  # noqa: BLE001 - whatever it is, the file says it
            said = f"{type(error).__name__}: {str(error).splitlines()[0][:400]}"
    report = same | {
        "passed": not said,
        "note": said,
        "seconds": round(time.monotonic() - began, 1),
        "tolerance": {"plain": PLAIN, "resumed": RESUMED if cuda else 0.0},
        "device": describe(device),
        "packages": packages(),
    }
    atomic_write(out, json.dumps(report, indent=1) + "\n")
    print(f"trainer: {said or 'trains, validates, saves and goes on'}, {report['seconds']:.0f} s")
    return int(bool(said))


if __name__ == "__main__":
    command(main)
