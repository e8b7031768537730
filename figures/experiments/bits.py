"""What "the same run" means: a small run in the closed world, and the same with one thing changed (chapter 19).

    python -m figures.experiments.bits --out runs/bits        bits.json; a minute or two a row on a quiet core

Every row is a run in a process of its own beside the unchanged one under the same seed. The losses of all steps are
compared, and, every EVERY steps, all weights: a loss is one float32 number, and two models that differ may agree in it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from steel.config import Config, from_dict, load
from steel.runlog import read_log
from steel.train.pretrain import pretrain

from . import command
from .ledger import Ledger
from .processes import finish, free_port, last_words, start

SHAPE = ["data.sequence_length=64", "tokenizer.vocab_size=512", "model.vocab_size=512", "model.hidden_size=64",
         "model.intermediate_size=192", "model.num_hidden_layers=2", "model.num_attention_heads=2",
         "model.num_key_value_heads=2", "train.batch_size=8", "train.micro_batch_size=8", "train.log_every=1",
         "train.checkpoint_every=0", "train.keep_at_decay=false"]  # fmt: skip
STEPS, EVERY = 400, 10
OLD = {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
OPTIMIZERS = ("adamw", "muon")


@dataclass(frozen=True)
class Change:
    """What is different in one run."""

    words: str = ""
    overrides: tuple[str, ...] = ()
    threads: int = 1
    reverse: bool = False
    """The rows of every batch the other way round: the same sums in another order."""
    bit: int | None = None
    """This weight of the first matrix goes to the next number above, before the first step."""
    ranks: int = 1
    die_after: int | None = None
    """kill -9 once this step's batch was read; the same command then goes on from its checkpoint."""
    environment: dict[str, str] = field(default_factory=dict)
    """Set before torch is loaded."""


CHANGES = {
    "again": Change("another process"),
    "killed": Change("kill -9, and the same command again", ("train.checkpoint_every=40",), die_after=STEPS // 2),
    "older": Change("instructions of an older processor", environment=OLD),
    "threads": Change("two threads", threads=2, environment={"OMP_WAIT_POLICY": "PASSIVE"}),
    "reversed": Change("the rows of each batch reversed", reverse=True),
    "micro": Change("two micro-batches", ("train.micro_batch_size=4",)),
    "ranks": Change("two ranks", ranks=2),
    "compiled": Change("compiled blocks", ("train.compile=true",)),
    **{f"bit {k}": Change("one bit of one weight", bit=k) for k in (7, 1111, 2222, 3333)},
    "bf16": Change("bf16 instead of float32", ("train.precision=bf16",)),
}  # fmt: skip


@dataclass
class Course:
    """What a run left: losses of all steps, held-out losses and weights at every evaluation."""

    losses: np.ndarray  # (steps,) [nats/token]
    held_out: np.ndarray  # (E,) [nats/token], E evaluations, the first before step 1
    weights_EP: np.ndarray  # (E, P) float32


def settings(
    steps: int = STEPS, optimizer: str = "adamw", seed: int = 1, change: Change = Change()
) -> Config:
    """The run: two layers, 64 wide, 512 tokens a step."""
    own = [f"train.steps={steps}", f"train.optimizer={optimizer}", f"seed={seed}"]
    return load("cpu", [*SHAPE, f"train.eval_every={EVERY}", *own, *change.overrides])


def run(cfg: Config, shards: Path | str, folder: Path, change: Change = Change()) -> Course:
    """Train `cfg` with a change into `folder`, in this process, or as this process's rank; what it left."""
    before = torch.get_num_threads()
    torch.set_num_threads(change.threads)

    def on_batch(step: int, batch) -> None:
        if change.reverse:
            vars(batch).update(vars(batch.select(range(len(batch) - 1, -1, -1))))
        if step == change.die_after and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def measure(model, step: int) -> dict:
        if step == 0 and change.bit is not None:
            move_one_bit(model, change.bit)
        whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
        if int(os.environ.get("RANK", 0)) == 0:
            folder.mkdir(parents=True, exist_ok=True)
            flat = torch.cat([p.detach().flatten() for p in whole]).float().numpy()
            np.save(folder / f"weights-{step:06}.npy", flat)
        return {}

    try:
        pretrain(cfg, shards, folder, on_batch=on_batch, measure=measure)
    finally:
        torch.set_num_threads(before)
    return read(folder)


@torch.no_grad()
def move_one_bit(model, index: int) -> None:
    """Number `index` of the first matrix behind the embedding becomes the next float32 above it."""
    weights = [p for p in model.parameters() if p.ndim > 1][1].view(-1)
    weights[index] = torch.nextafter(weights[index], torch.tensor(torch.inf))


def read(folder: Path) -> Course:
    """What the run in `folder` left."""
    steps = [r["loss"] for r in read_log(folder / "log.jsonl", "step")]
    evals = [r["loss"] for r in read_log(folder / "log.jsonl", "eval") if "loss" in r]
    weights = [np.load(path) for path in sorted(folder.glob("weights-*.npy"))]
    return Course(np.array(steps), np.array(evals), np.stack(weights))


def gap(course: Course, base: Course) -> dict:
    """How far a course is from the unchanged one: in loss [nats/token], in weights [share of their norm], in bits."""
    losses = np.abs(course.losses - base.losses)
    apart = course.weights_EP.astype(np.float64) - base.weights_EP
    size = np.linalg.norm(base.weights_EP.astype(np.float64), axis=1)
    return {
        "loss": losses.tolist(),
        "weights": (np.linalg.norm(apart, axis=1) / size).tolist(),
        "steps_equal": int((losses == 0).sum()),
        "equal": bool((losses == 0).all() and (course.weights_EP == base.weights_EP).all()),
    }


# -- the log -----------------------------------------------------------------------------------------------------------


def fresh(cfg: Config, shards: Path, folder: Path, change: Change = Change()) -> Course:
    """`run` in processes of its own, one a rank; RuntimeError with a process's last words when it fails."""
    how = "spawn" if change.environment else "forkserver"
    for life in range(2):
        port, errors = free_port(), folder.with_suffix(".err")
        with environment(change.environment):
            ranks = [start(_child, cfg.to_dict(), str(shards), str(folder), asdict(change), rank, port,
                           errors=errors, method=how, threads=None) for rank in range(change.ranks)]  # fmt: skip
        codes = [process.exitcode for process in finish(ranks)]
        if codes == [0] * change.ranks:
            return read(folder)
        if not (life == 0 and change.die_after is not None and codes == [-signal.SIGKILL]):
            raise RuntimeError(f"{folder.name}: exit codes {codes}: {last_words(errors)}")
    raise RuntimeError(f"{folder.name}: died twice")


def _child(values: dict, shards: str, folder: str, change: dict, rank: int, port: int) -> None:
    if (world := change["ranks"]) > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world),
                          LOCAL_WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))  # fmt: skip
    run(from_dict(values), shards, Path(folder), Change(**change))


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Variables for the processes that start inside the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def main(out: Path, seeds: int = 6, steps: int = STEPS) -> None:
    """Every change under two optimizers beside the unchanged run, and other seeds as a yardstick: OUT/bits.json.

    seeds: runs of the yardstick. steps: length of a run.
    """
    from .runs import town_shards

    cfg = settings(steps)
    shards = town_shards(cfg, out / "town")
    same = {"steps": steps, "every": EVERY, "config_hash": cfg.hash(), "config": cfg.to_dict()}
    ledger = Ledger(out / "bits.json", "one thing changed", same)
    for optimizer in OPTIMIZERS:
        base_folder = out / f"{optimizer}-base"
        plain = settings(steps, optimizer)
        base = (
            read(base_folder)
            if (base_folder / "hf").exists()
            else fresh(plain, shards, base_folder)
        )
        for name, seed in [
            *((name, 1) for name in CHANGES),
            *(("seed", s) for s in range(2, seeds + 1)),
        ]:
            key = {"optimizer": optimizer, "change": name, "seed": seed}
            if ledger.find(**key):
                continue
            change = CHANGES.get(name, Change("another seed"))
            own = settings(steps, optimizer, seed, change)
            if change.die_after is not None:
                change = replace(change, die_after=steps // 2)
            folder = out / f"{optimizer}-{name}-{seed}".replace(" ", "-")
            shutil.rmtree(folder, ignore_errors=True)
            course = fresh(own, shards, folder, change)
            found = gap(course, base)
            found["loss"] = [float(f"{v:.2e}") for v in found["loss"][EVERY - 1 :: EVERY]]
            found["weights"] = [float(f"{v:.2e}") for v in found["weights"]]
            ends = {"held_out": float(course.held_out[-1]), "unchanged": float(base.held_out[-1])}
            ledger.add(key | {"words": change.words, **ends, **found})
            print(*key.values(), f"{found['weights'][-1]:.1e}", found["equal"], flush=True)
            shutil.rmtree(folder)


if __name__ == "__main__":
    from figures.experiments import bits  # the processes must find `_child` under its own name

    command(bits.main)
