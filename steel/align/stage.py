"""What the four stages share: `run` opens a `Job`, refuses what cannot work, and trains the `Stage`
that the stage's own file makes of it.
"""

import dataclasses
import importlib
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ..config import Config, TrainConfig, UserError
from ..data.order import Stream
from ..machine import progress
from ..model.build import require_causal
from ..model.folder import open_model, stop_ids
from ..runlog import read_log
from ..train import checkpoint
from ..train.build import prepare
from ..train.loop import Stage, fit
from ..train.lora import add_lora
from ..train.parallel import World, check_batch, join_world
from ..train.run_folder import RunFolder
from .rows import Check, check_dialogue, check_preference, check_verifiable, read_rows

STAGES: dict[str, tuple[str, str, Check]] = {
    "sft": ("SFT", "dialogues", check_dialogue),
    "reward": ("reward training", "preference pairs", check_preference),
    "dpo": ("DPO", "preference pairs", check_preference),
    "grpo": ("GRPO", "RL prompts", check_verifiable),
}
"""Title of each stage, what its rows are, and what is asked of them. Its file is `align/NAME.py`."""


@dataclass
class Job:
    """One stage to be done: its settings, rows, model, and where it runs."""

    name: str
    cfg: Config
    source: Path
    """The model folder to start from."""
    rows: list[dict]
    facts: dict
    """What `read_rows` says of them, for the log's header."""
    model: nn.Module
    """The causal LM in it, on this rank's device."""
    tokenizer: Any
    run: RunFolder
    world: World
    replay: Path | None = None
    """Token shards whose text SFT mixes in."""
    long: Counter = field(default_factory=Counter)
    """Rows that were cut or left out because of their length, by reason."""

    def __post_init__(self):
        self.settings: TrainConfig = getattr(self.cfg, self.name)
        self.pad_id = stop_ids(self.tokenizer)[-1]

    def encode(self, encode: Callable[[dict], tuple[Any, str]], remedy: str) -> list:
        """What `encode` makes of the rows: (item, "") or (item or None, why it is cut or left out).

        Raises UserError with the remedy when nothing is left.
        """
        kept, what = [], STAGES[self.name][1]
        with progress(len(self.rows), f"encoding {what}", "rows") as bar:
            for row in self.rows:
                item, reason = encode(row)
                kept += [] if item is None else [item]
                self.long.update([reason] if reason else [])
                bar.advance(1)
        if not kept:
            raise UserError(f"all {what} are too long; raise {self.name}.{remedy}")
        return kept

    def set_steps(self, items: int) -> None:
        """Fill in `steps` from `epochs` over `items`, unless the user has set it."""
        if self.settings.steps <= 0:
            steps = math.ceil(self.settings.epochs * items / self.settings.batch_size)
            self.settings = dataclasses.replace(self.settings, steps=max(1, steps))

    def draws(self, step: int) -> list[range]:
        """This rank's places in an endless stream at a step, a range for each micro-batch."""
        size, rows = self.settings.batch_size, self.settings.micro_batch_size
        return split(range(step * size + self.world.rank, (step + 1) * size, self.world.size), rows)

    def take(self, stream: Stream, step: int) -> list[list[int]]:
        """This rank's items at a step, a list for each micro-batch."""
        return [stream.samples(draws).tolist() for draws in self.draws(step)]

    def stage(
        self, batch_fn, loss_fn, length: int, counts: dict, packed: bool = False, **more
    ) -> Stage:
        """The model made ready, with these functions, as a `Stage`.

        length: of the longest row [tokens]. counts: of items, for the log's header. packed: whether
        a row holds several documents. more: further fields of `Stage`.
        """
        if rank := self.settings.lora_rank:
            add_lora(self.model, rank, self.settings.lora_alpha, self.cfg.seed)
        prepare(self.model, self.settings, self.world, length, packed)
        work = (STAGES[self.name][0], self.settings, self.model, batch_fn, loss_fn)
        data = {**self.facts, "long": self.long, **counts}
        header = {"config_hash": self.cfg.hash(), "data": data}
        about = {"seed": self.cfg.seed, "tokenizer": self.tokenizer, "config": self.cfg.to_dict()}
        return Stage(*work, **about, header=header, **more)


def run(
    name: str, cfg: Config, model: Path | str, data, run: Path | str, replay: Path | None = None
) -> Path:
    """Train stage `name` of `STAGES` on the model folder `model`; returns the new model's folder.

    data: one jsonl file of rows or a list of them. run: the folder for log.jsonl, checkpoints/ and
    hf/. replay: token shards for `cfg.sft.replay_rows`. Settings are the section of `cfg` with the
    stage's name. Raises UserError for a batch that does not divide by the ranks, files without
    usable rows, a `run` folder that was started on others, a model that mixes the tokens of a row
    (padding and packed neighbours would enter its loss) and a tokenizer without the chat template's
    tokens.
    """
    title, what, check = STAGES[name]
    folder, world = RunFolder(run), join_world()
    check_batch(getattr(cfg, name), world)
    rows, facts = read_rows(data, check, what)
    _refuse_other_data(folder, facts["sha256"])
    lm, tokenizer = open_model(model, device=world.device)
    require_causal(lm, title)
    stop_ids(tokenizer, chat=True)
    job = Job(name, cfg, Path(model), rows, facts, lm, tokenizer, folder, world, replay)
    fit(importlib.import_module(f".{name}", __package__).stage(job), folder, world)
    return folder.hf


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


def split(items, size: int) -> list:
    """Consecutive pieces, of at most `size` items, of a list or a range."""
    return [items[i : i + size] for i in range(0, len(items), size)]
