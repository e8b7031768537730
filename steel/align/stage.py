"""What the four stages share: open a model folder, spread the model, turn epochs into steps, start the loop."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from pathlib import Path

import torch

from ..config import Config, TrainConfig, UserError
from ..model.build import require_causal
from ..model.folder import open_model, stop_ids
from ..runlog import read_log
from ..train import checkpoint
from ..train.loop import Stage, fit
from ..train.parallel import World
from ..train.run_folder import RunFolder


def open_student(folder: Path | str, what: str):
    """(model on the CPU, tokenizer) to train on rows that are packed or padded.

    `what` is the stage's name. Raises UserError for a folder without a model, a model that mixes
    the tokens of a row, and a tokenizer without the tokens of the chat template.
    """
    model, tokenizer = open_model(folder, device="cpu")
    require_causal(model, what)
    stop_ids(tokenizer, chat=True)
    return model, tokenizer


def digest_of(folder: Path | str, *more: object) -> str:
    """sha256 over the weights and tokenizer of a model folder and the repr of anything else: a cache key."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).iterdir()):
        if path.suffix in (".safetensors", ".json", ".bin"):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                while block := file.read(1 << 24):
                    digest.update(block)
    for item in more:
        digest.update(repr(item).encode())
    return digest.hexdigest()


def with_steps(stage: TrainConfig, items: int) -> TrainConfig:
    """The stage with `steps` filled in from `epochs` over `items`, unless the user has set it."""
    if stage.steps > 0:
        return stage
    if stage.epochs <= 0:
        raise UserError("epochs must be above 0 (or set steps)")
    return dataclasses.replace(
        stage, steps=max(1, math.ceil(stage.epochs * items / stage.batch_size))
    )


def split(items: list, size: int) -> list[list]:
    """Consecutive pieces of at most `size` items."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def train(cfg: Config, stage: Stage, run: RunFolder, world: World, data: dict, resume: str) -> Path:
    """Run the loop and return the Hugging Face folder. `data` (counts of rows) goes into the log's header."""
    _refuse_other_data(run, data["sha256"])
    stage.seed, stage.config = cfg.seed, cfg.to_dict()
    stage.header = {"config_hash": cfg.hash(), "data": data}
    fit(stage, run, world, resume)
    return run.hf


def _refuse_other_data(run: RunFolder, sha256: str) -> None:
    """A run that resumes on other rows would no longer be the run that it says it is."""
    if not run.log.path.is_file() or not checkpoint.complete(run.checkpoints):
        return
    before = {record.get("data", {}).get("sha256") for record in read_log(run.log.path, "header")}
    if other := before - {None, sha256}:
        raise UserError(
            f"{run.path} was started on other data (sha256 {other.pop()[:12]}, now {sha256[:12]}); "
            "use another run folder, or the same files in the same order"
        )


def device_of(model) -> torch.device:
    """Where the model computes."""
    return next(model.parameters()).device


class Shuffled:
    """An endless stream over range(n), each epoch in a new order; item i is a pure function of (n, seed, i)."""

    def __init__(self, n: int, seed: int, salt: int = 0):
        assert n > 0
        self.n, self.seed, self.salt, self._order = n, seed, salt, {}

    def __getitem__(self, i: int) -> int:
        import numpy as np

        epoch = i // self.n
        if epoch not in self._order:
            rng = np.random.default_rng([self.seed, epoch, self.salt])
            self._order = {
                k: v for k, v in self._order.items() if k == epoch - 1
            }  # a batch may straddle two
            self._order[epoch] = rng.permutation(self.n).tolist()
        return self._order[epoch][i % self.n]

    def take(self, step: int, batch: int, rank: int = 0, world: int = 1) -> list[int]:
        """This rank's items of step `step` when each step takes `batch` items."""
        return [self[i] for i in range(step * batch + rank, (step + 1) * batch, world)]
