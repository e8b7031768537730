"""What a comparison of layers says at equal tokens, equal FLOPs and equal seconds: each difference with its verdict.

    python -m figures.experiments.reading --files a.json,b.json --out figures/runs/soft-moe-tuned.json
        one log of several that were filled side by side, with the rates beside them
    python -m figures.experiments.reading --out figures/runs/soft-moe-tuned.json
        the table, as chapter 08 prints it

Differences are paired by seed. Holm's correction runs over what is asked at one budget, for a reader has one budget.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from steel.config import UserError

from . import command, question
from .ledger import Ledger
from .verdicts import Paired, holm

ARMS = ("dense", "one expert", "causal", "placebo", "top-2", "two gates")
ASKED = {  # what is asked of every log: (a, b) is the loss of a minus that of b
    ("causal", "placebo"): "what the slots hold",
    ("causal", "one expert"): "slots, or no slots",
    ("causal", "dense"): "slots, or plain width",
    ("top-2", "dense"): "a router, or plain width",
    ("two gates", "dense"): "a second gate, or plain width",
}
BUDGETS = {"tokens": "tokens", "flops": "FLOPs", "seconds": "seconds"}


@dataclass(frozen=True)
class Found:
    """One difference at one budget, and whether it stays established among all that are asked there."""

    difference: Paired
    established: bool

    @property
    def sign(self) -> int:
        """-1 when the first arm is better, 1 when it is worse, 0 when the seeds do not tell."""
        return 0 if not self.established else -1 if self.difference.mean < 0 else 1

    @property
    def word(self) -> str:
        """Where the first arm lies beside the second."""
        return {-1: "ahead", 0: "not told apart", 1: "behind"}[self.sign]

    def __str__(self) -> str:
        return f"**{self.difference}**" if self.established else str(self.difference)


def differences(report: dict, seconds: dict | None = None, asked=tuple(ASKED)) -> dict:
    """budget -> (a, b) -> Paired, for every pair that has two seeds in common.

    seconds: per token and arm, in any unit; by default what the rows took.
    """
    names = tuple(dict.fromkeys(name for pair in asked for name in pair))
    rows = [dict(row) for row in report["rows"] if row["variant"] in names]
    for row in rows:
        own = row.get("tokens_per_s") or row["tokens"] / row["cpu_seconds"]
        row["tokens_per_s"] = 1 / seconds[row["variant"]] if seconds else own
    found = {budget: question.differences({"rows": rows}, budget, names) for budget in BUDGETS}
    return {k: {pair: d[pair] for pair in asked if pair in d} for k, d in found.items()}


def judge(found: dict) -> dict:
    """budget -> (a, b) -> Found: Holm's correction over the differences of each budget."""
    verdicts = {budget: holm(family) for budget, family in found.items()}
    return {
        budget: {pair: Found(d, verdicts[budget][pair]) for pair, d in family.items()}
        for budget, family in found.items()
    }


def read(report: dict, seconds: dict | None = None, asked=tuple(ASKED)) -> dict:
    """`differences`, judged."""
    return judge(differences(report, seconds, asked))


def table(found: dict, asked=ASKED) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the differences: bold where established."""
    header = ["difference of held-out loss (nats/token)", "asks", "seeds"]
    rows = []
    for (a, b), what in asked.items():
        if (a, b) in found["tokens"]:
            seeds = found["tokens"][a, b].difference.seeds
            cells = [str(found[budget][a, b]) for budget in BUDGETS]
            rows.append([f"{a} minus {b}", what, seeds, *cells])
    return [*header, *(f"equal {name}" for name in BUDGETS.values())], rows


def merge(files: list[Path], out: Path, kind: str = "ablation", drop: tuple[str, ...] = ()) -> dict:
    """Rows of several logs of one configuration in `out`, ordered by seed and then as the logs have them.

    drop: fields that the rows lose. Raises UserError for logs of another configuration and for a row that two hold.
    """
    logs = [json.loads(Path(file).read_text(encoding="utf-8")) for file in files]
    same = {key: logs[0][key] for key in ("budget", "config_hash", "config") if key in logs[0]}
    ledger = Ledger(out, kind, same, fresh=True)
    mine = ("variant", "seed", "rate")
    for file, log in zip(files, logs, strict=True):
        if log["kind"] != kind or any(log.get(key) != value for key, value in same.items()):
            raise UserError(f"{file} is no log of the configuration of {files[0]}")
        for row in log["rows"]:
            if ledger.find(**{key: row[key] for key in mine if key in row}):
                raise UserError(f"{file} holds a row again: {row['variant']}")
            ledger.rows.append({key: value for key, value in row.items() if key not in drop})
    ledger.rows.sort(key=lambda row: row.get("seed", 0))
    ledger.write(**{key: logs[0][key] for key in ("commit", "packages", "hardware")})
    return ledger.content


def main(
    out: Path,
    files: str = "",
    drop: str = "",
    times: Path = Path("figures/runs/soft-moe-times.json"),
) -> None:
    """Put the logs in `files` (with commas) into `out`, if there are any; then print what `out` says.

    drop: fields, with commas, that rows lose on the way. times: what a step of each arm takes, by
    figures.experiments.ablation_times; without it the rows' own speeds count.
    """
    if files:
        paths = [Path(name.strip()) for name in files.split(",")]
        merge(paths, out, drop=tuple(drop.split(",")))
        beside = [path.with_name(f"{path.stem}-rates{path.suffix}") for path in paths]
        if all(path.exists() for path in beside):
            merge(beside, out.with_name(f"{out.stem}-rates{out.suffix}"), "ablation-rates")
    seconds = None
    if times.exists():
        seconds = json.loads(times.read_text(encoding="utf-8"))["relative"]
    report = json.loads(out.read_text(encoding="utf-8"))
    header, rows = table(read(report, seconds))
    for line in [header, *rows]:
        print(" | ".join(map(str, line)))


if __name__ == "__main__":
    command(main)
