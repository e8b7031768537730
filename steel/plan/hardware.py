"""GPUs with prices: the tables of hardware.yaml beside this file."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from ..config import UserError

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
