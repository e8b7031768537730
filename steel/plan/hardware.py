"""GPUs with prices, published models and runs: the tables of hardware.yaml beside this file."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from ..config import Config, ModelConfig, UserError, load

_TABLES = yaml.safe_load(Path(__file__).with_name("hardware.yaml").read_text(encoding="utf-8"))
PRICE_DATE, CNY_PER_USD = _TABLES["price_date"], _TABLES["cny_per_usd"]
GIB = 2**30
SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class GPU:
    """One accelerator, or two CPU cores."""

    name: str
    peak: float
    """Dense bf16 peak [FLOP/s]; fp32 for CPU."""
    memory: float
    """Memory [bytes]."""
    usd_per_hour: float
    """Rent per GPU and hour [USD], an assumption as of PRICE_DATE."""
    mfu: float
    """Assumed share of the peak that training reaches, executed causal FLOPs [1]."""
    mfu_source: str


GPUS = {
    name: GPU(name, peak, gib * GIB, *other)
    for name, (peak, gib, *other) in _TABLES["gpus"].items()
}


def gpu(name: str) -> GPU:
    """The table's entry, by a name that ignores case. UserError for a GPU that is not in it."""
    for known, entry in GPUS.items():
        if known.lower() == name.lower():
            return entry
    raise UserError(f"unknown GPU '{name}'; known: {', '.join(GPUS)} (plan/hardware.yaml)")


def published(name: str) -> Config:
    """A preset, or one of hardware.yaml's `shapes` (qwen-1.8b, tinyllama)."""
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
