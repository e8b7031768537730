"""Numbers and names as the report card writes them; a dash stands where there is no number."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path

import yaml

WORDS = yaml.safe_load((Path(__file__).parent / "words.yaml").read_text(encoding="utf-8"))
FILTERS = "title when number percent duration size count date language one_text".split()


def title(name: str) -> str:
    """A stage's name as words: "exam:sft" becomes "exam after SFT"."""
    kind, _, stage = name.partition(":")
    return f"{kind} {when(stage)}" if stage else WORDS["stages"].get(name, name)


def when(stage: str) -> str:
    """Moment of an exam, for the middle of a sentence."""
    return "before training" if stage == "init" else f"after {title(stage)}"


def _or_dash(write: Callable[..., str]) -> Callable[..., str]:
    @wraps(write)
    def written(value, *args) -> str:
        return write(value, *args) if isinstance(value, (int, float)) else "–"

    return written


@_or_dash
def number(value: float, digits: int = 3) -> str:
    """A number with so many decimals."""
    return f"{value:,.{digits}f}"


@_or_dash
def percent(share: float) -> str:
    """A share as per cent with one decimal; its space does not break."""
    return f"{100 * share:.1f}\u00a0%"


@_or_dash
def duration(seconds: float) -> str:
    """Seconds in the unit a reader would choose."""
    for limit, unit, divisor in ((90, "s", 1), (5400, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / divisor:.1f} {unit}"
    return f"{seconds / 86400:.1f} d"


@_or_dash
def size(num_bytes: float) -> str:
    """Bytes in MiB or GiB; nobody uses none, so 0 counts as not measured."""
    if num_bytes >= 2**30:
        return f"{num_bytes / 2**30:.2f} GiB"
    return f"{num_bytes / 2**20:.0f} MiB" if num_bytes else "–"


@_or_dash
def count(n: float) -> str:
    """1234567 as 1.23 M."""
    units = (1e12, "T", 1e12), (1e9, "B", 1e9), (1e6, "M", 1e6), (1e4, "k", 1e3)
    for limit, unit, divisor in units:
        if abs(n) >= limit:
            return f"{n / divisor:.3g} {unit}"
    return f"{n:,.0f}" if float(n).is_integer() or abs(n) >= 100 else f"{n:.3g}"


def date(moment: float) -> str:
    """A Unix time as date and minute."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")


def language(text: str) -> str:
    """The value of an HTML `lang` attribute: Chinese if there is a Hanzi."""
    return "zh-Hans" if any("\u4e00" <= c <= "\u9fff" for c in text) else "en"


def one_text(prompt: str | list[dict]) -> str:
    """A prompt as one string; the turns of a dialogue are marked with their roles."""
    if not isinstance(prompt, list):
        return str(prompt)
    if len(prompt) == 1:
        return prompt[0].get("content", "")
    return "\n".join(f"{turn.get('role', '?')}: {turn.get('content', '')}" for turn in prompt)
