"""What the four stages share: a `Job` opens what a stage needs, refuses what cannot work, trains."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..config import Config, TrainConfig, UserError
from ..data.order import Stream
from ..model.build import require_causal
from ..model.folder import open_model, stop_ids
from ..runlog import read_log
from ..train import checkpoint
from ..train.build import prepare
from ..train.loop import Stage, fit
from ..train.parallel import World, check_batch, join_world
from ..train.run_folder import RunFolder
from .rows import Check, Rows, check_dialogue, check_preference, check_verifiable, read_rows

STAGES: dict[str, tuple[str, str, Check]] = {
    "sft": ("SFT", "dialogues", check_dialogue),
    "reward": ("reward training", "preference pairs", check_preference),
    "dpo": ("DPO", "preference pairs", check_preference),
    "grpo": ("GRPO", "RL prompts", check_verifiable),
}
"""Title of each stage, what its rows are, and what is asked of them."""


@dataclass
class Job:
    """One stage to be done: its settings, rows, model, and where it runs."""

    title: str
    cfg: Config
    settings: TrainConfig
    """The section of `cfg` that is this stage's."""
    rows: Rows
    model: nn.Module
    """The causal LM to start from, on this rank's device."""
    tokenizer: Any
    run: RunFolder
    world: World

    @classmethod
    def open(cls, cfg: Config, name: str, model: Path | str, data, run: Path | str) -> Job:
        """Read the rows of `data` (one jsonl file or a list of them) and open the folder `model`.

        Raises UserError for a batch that does not divide by the ranks, files without usable rows, a
        `run` folder that was started on others, a model that mixes the tokens of a row (padding and
        packed neighbours would enter its loss) and a tokenizer without the chat template's tokens.
        """
        title, what, check = STAGES[name]
        settings, folder, world = getattr(cfg, name), RunFolder(run), join_world()
        check_batch(settings, world)
        rows = read_rows(data, check, what)
        _refuse_other_data(folder, rows.digest)
        lm, tokenizer = open_model(model, device=world.device)
        require_causal(lm, title)
        stop_ids(tokenizer, chat=True)
        return cls(title, cfg, settings, rows, lm, tokenizer, folder, world)

    @property
    def pad_id(self) -> int:
        """The token that fills rows up."""
        return stop_ids(self.tokenizer)[-1]

    def set_steps(self, items: int) -> None:
        """Fill in `steps` from `epochs` over `items`, unless the user has set it."""
        if self.settings.steps <= 0:
            steps = math.ceil(self.settings.epochs * items / self.settings.batch_size)
            self.settings = dataclasses.replace(self.settings, steps=max(1, steps))

    def take(self, stream: Stream, step: int) -> list[int]:
        """This rank's items of step `step`, of a stream that gives `batch_size` items to each."""
        size = self.settings.batch_size
        draws = np.arange(step * size + self.world.rank, (step + 1) * size, self.world.size)
        return stream.samples(draws)[0].tolist()

    def train(
        self, batch_fn, loss_fn, counts: dict, length: int, packed: bool = False, **stage
    ) -> Path:
        """Run the loop; returns the Hugging Face folder.

        counts: of rows, for the log's header. length: of the longest row [tokens]. packed: whether
        a row holds several documents. stage: more fields of `Stage`, and `resume`.
        """
        resume, model = stage.pop("resume"), stage.pop("model", self.model)
        prepare(model, self.settings, self.world, length, packed)
        data = {**self.rows.report(), **counts}
        whole = Stage(
            self.title,
            self.settings,
            model,
            batch_fn,
            loss_fn,
            seed=self.cfg.seed,
            tokenizer=self.tokenizer,
            config=self.cfg.to_dict(),
            header={"config_hash": self.cfg.hash(), "data": data},
            **stage,
        )
        fit(whole, self.run, self.world, resume)
        return self.run.hf


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


def split(items: list, size: int) -> list[list]:
    """Consecutive pieces of at most `size` items."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def device_of(model: nn.Module) -> torch.device:
    """Where the model computes."""
    return next(model.parameters()).device
