"""Models and runs that others published, as configurations: enough to check a plan against (known_runs.yaml)."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from steel.config import Config, ModelConfig, load
from steel.plan.hardware import SECONDS_PER_DAY

_TABLES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def published(name: str) -> Config:
    """A preset, or one of the `shapes` (qwen-1.8b, tinyllama)."""
    preset, *changes = _TABLES["shapes"].get(name, name).split()
    return load(preset, changes)


@dataclass(frozen=True)
class Run:
    """What somebody published about a training run: enough to check a plan against."""

    name: str
    model: ModelConfig
    sequence_length: int
    gpu: str
    num_gpus: int
    tokens_per_second: float
    """Per GPU, as published or as days and tokens imply [tokens/s]."""
    tokens: float
    """Tokens of the whole run, 0 where only a speed was published [tokens]."""
    source: str

    @property
    def days(self) -> float:
        """Length of the whole run [days]; 0 where only a speed was published."""
        return self.tokens / (self.tokens_per_second * self.num_gpus * SECONDS_PER_DAY)


def _run(shape: str, days: float = 1, tokens_per_second: float = 0, **facts) -> Run:
    """A line of `runs`, with what its preset knows."""
    cfg = published(shape)
    length = cfg.data.sequence_length
    facts = {"tokens": cfg.train.steps * cfg.train.batch_size * length} | facts
    speed = tokens_per_second or facts["tokens"] / (days * SECONDS_PER_DAY * facts["num_gpus"])
    return Run(model=cfg.model, sequence_length=length, tokens_per_second=speed, **facts)


RUNS = tuple(_run(**facts) for facts in _TABLES["runs"])
