"""Numbers and names as the report card writes them; a dash stands where there is no number."""

from __future__ import annotations

TITLES = {
    "init": "untrained",
    "pretrain": "pretraining",
    "sft": "SFT",
    "reward": "reward model",
    "dpo": "DPO",
    "grpo": "GRPO",
    "docs": "documents",
    "world": "closed world",
}


def title(name: str) -> str:
    """A stage's name as words: "exam:sft" becomes "exam after SFT"."""
    kind, _, stage = name.partition(":")
    return f"{kind} {when(stage)}" if stage else TITLES.get(name, name)


def when(stage: str) -> str:
    """Moment of an exam, for the middle of a sentence."""
    return "before training" if stage == "init" else f"after {TITLES.get(stage, stage)}"


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals."""
    return f"{value:,.{digits}f}" if _is_number(value) else "–"


def percent(share: float | None) -> str:
    """A share as per cent with one decimal; its space does not break."""
    return f"{100 * share:.1f}\u00a0%" if _is_number(share) else "–"


def duration(seconds: float | None) -> str:
    """Seconds in the unit a reader would choose."""
    if not _is_number(seconds):
        return "–"
    for limit, unit, divisor in ((90, "s", 1), (5400, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / divisor:.1f} {unit}"
    return f"{seconds / 86400:.1f} d"


def size(num_bytes: float | None) -> str:
    """Bytes in MiB or GiB; nobody uses none, so 0 counts as not measured."""
    if not _is_number(num_bytes) or not num_bytes:
        return "–"
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"


def count(n: float | None) -> str:
    """1234567 as 1.23 M."""
    if not _is_number(n):
        return "–"
    for limit, unit, divisor in (
        (1e12, " T", 1e12),
        (1e9, " B", 1e9),
        (1e6, " M", 1e6),
        (1e4, " k", 1e3),
    ):
        if abs(n) >= limit:
            return f"{n / divisor:.3g}{unit}"
    return f"{n:,.0f}" if float(n).is_integer() or abs(n) >= 100 else f"{n:.3g}"


def _is_number(value) -> bool:
    return isinstance(value, (int, float))
