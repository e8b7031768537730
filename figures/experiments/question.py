"""Does a causal mixture earn its place? Five arms at a size where it counts, on one GPU, in starts of nine minutes.

    python -m figures.experiments.question --prepare-from docs --data carry     on a CPU: tokenizer, shards, their size
    python -m figures.experiments.question --data carry --out question.json     on the GPU; again after a time limit
    python -m figures.experiments.question --out question.json --read           the verdict, anywhere

Arms, of equal parameters but for the second: *dense*; *one expert* of the six, what the shared expert alone is;
*causal* (one shared, five slot experts); its *placebo*, with the same weights and FLOPs and slots that hold no token;
*top-2*. Each gets the best of the rates on a sixth of the tokens; then five seeds.

Declared before the first run. Primary, at equal GPU seconds, Holm over the two: causal - placebo (what the slots'
content buys) and causal - one expert (what the mixture must beat). The mixture earns its place if causal - one expert
is established and at most -0.01 nats, and causal - top-2 is at most +0.005; otherwise dense or top-2. Control: in the
first C positions of a row no segment is complete, so there causal and placebo must not differ.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from steel.config import Config, UserError, load
from steel.data import pack
from steel.data.shards import ShardSet
from steel.tokenizer import bpe

from . import ablation, command, numbers
from .trainer_check import load_like, trainer_check
from .verdicts import Paired, holm, paired

ARMS = ("dense", "one expert", "causal", "placebo", "top-2")
PRIMARY = {
    "what content buys": ("causal", "placebo"),
    "what it must beat": ("causal", "one expert"),
}
GAIN, BEHIND = -0.01, 0.005
"""At most so much loss against one expert, and against top-2, for the mixture to earn its place [nats/token]."""
CARRY = 64 * 2**20
"""What may travel to a GPU box [bytes]."""


def prepare(docs: Path, out: Path, cfg: Config) -> int:
    """Tokenizer and packed shards of `docs` in `out`; returns their bytes. UserError above `CARRY`."""
    from steel.tokenizer.texts import document_texts  # needs the document readers

    bpe.save(bpe.train(document_texts(docs), cfg.tokenizer.vocab_size), out / "tokenizer")
    pack(docs, out / "shards", out / "tokenizer", hold_out=cfg.data.validation_fraction)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    if size > CARRY:
        raise UserError(
            f"{out} has {size / 2**20:.0f} MiB, more than can be carried; give fewer documents"
        )
    return size


def passes(cfg: Config, data: Path) -> float:
    """How often a row of dense reads the training text."""
    tokens = ShardSet.open(data).tokens
    return cfg.train.steps * cfg.train.batch_size * cfg.data.sequence_length / tokens


def self_check(cfg: Config, data: Path, folder: Path) -> None:
    """`trainer_check` of every arm, with a resume of causal. Raises UserError that names the arm."""

    def empty(model, step: int) -> dict:
        if step == 0:
            ablation.hold_slots_empty(model)
        return {}

    for arm in ARMS:
        row = ablation.row_config(cfg, arm, cfg.seed)
        own = {"resume": arm == "causal", "measure": empty if arm == "placebo" else None}
        trainer_check(row, data, folder, arm, **own)


# -- reading -----------------------------------------------------------------------------------------------------------


def budgets(report: dict, names: tuple[str, ...] = ARMS) -> dict[str, dict[str, float]]:
    """For tokens, seconds and FLOPs: where each arm's curve is read, in tokens.

    Each budget is the largest that every row has: seconds by the median speed of an arm's rows.
    """
    arms = {arm: [r for r in report["rows"] if r["variant"] == arm] for arm in names}
    arms = {arm: rows for arm, rows in arms.items() if rows}
    price = {
        "tokens": dict.fromkeys(arms, 1.0),
        "seconds": {
            a: 1 / statistics.median(r["tokens_per_s"] for r in rows) for a, rows in arms.items()
        },
        "flops": {a: rows[0]["flops_per_token"] for a, rows in arms.items()},
    }
    found = {}
    for name, per_token in price.items():
        budget = min(min(r["tokens"] for r in rows) * per_token[a] for a, rows in arms.items())
        found[name] = {a: budget / per_token[a] for a in arms}
    return found


def losses_at(report: dict, arm: str, tokens: float) -> list[float]:
    """Held-out loss of each seed after so many tokens, on the straight line between two evaluations."""
    rows = sorted((r for r in report["rows"] if r["variant"] == arm), key=lambda r: r["seed"])
    return [float(np.interp(tokens, *np.array(row["curve"]).T)) for row in rows]


def differences(
    report: dict, kind: str, names: tuple[str, ...] = ARMS
) -> dict[tuple[str, str], Paired]:
    """Every arm minus every later one, at equal `kind`, over the seeds that both have."""
    at = budgets(report, names)[kind]
    found = {a: losses_at(report, a, at[a]) for a in at}
    names = list(found)
    return {
        (a, b): paired(found[a][:n], found[b][:n])
        for a in names
        for b in names
        if a != b and (n := min(len(found[a]), len(found[b]))) > 1
    }


def verdict(report: dict) -> str:
    """The declared reading, in one paragraph."""
    at = differences(report, "seconds")
    family = {name: at[pair] for name, pair in PRIMARY.items()}
    held = holm(family)
    lines = [f"{a} - {b} ({name}): {at[a, b]} nats at equal seconds, "
             f"{'established' if held[name] else 'not established'}" for name, (a, b) in PRIMARY.items()]  # fmt: skip
    beats = held["what it must beat"] and at["causal", "one expert"].mean <= GAIN
    earns = beats and at["causal", "top-2"].mean <= BEHIND
    lines.append(f"causal - top-2: {at['causal', 'top-2']}")
    lines.append(
        "The mixture earns its place." if earns else "The mixture does not earn its place."
    )
    return "\n".join(lines)


def render(report: dict) -> str:
    """A line per arm, its losses at the three budgets, then the verdict."""
    at = budgets(report)
    lines = [f"{'arm':<12}" + "".join(f"{'equal ' + kind:>16}" for kind in at)]
    for arm in at["tokens"]:
        means = [statistics.fmean(losses_at(report, arm, at[kind][arm])) for kind in at]
        lines.append(f"{arm:<12}" + "".join(f"{mean:>16.4f}" for mean in means))
    return "\n".join([*lines, "", verdict(report)])


def main(
    overrides: list[str],
    data: Path = Path("carry"),
    out: Path = Path("question.json"),
    prepare_from: Path = Path(),
    preset: str = "question",
    seeds: int = 5,
    rates: str = "2.5e-4,5e-4,1e-3,2e-3,4e-3",
    minutes: float = 9.0,
    read: bool = False,
) -> int:
    """Train the five arms and read the verdict; the same command goes on where it stopped.

    data: what --prepare-from wrote. out: JSON file, written after each row. prepare_from: documents to pack into data,
    on a machine without a GPU. minutes: after which it stops, to be started again. read: only read what out holds.
    """
    cfg = load(preset, overrides)
    if read:
        print(render(json.loads(out.read_text(encoding="utf-8"))))
        return 0
    if prepare_from != Path():
        size = prepare(prepare_from, data, cfg)
        print(
            f"{data}: {size / 2**20:.1f} MiB to carry, {passes(cfg, data / 'shards'):.1f} passes of a dense row"
        )
        return 0
    shards, deadline = data / "shards", time.monotonic() + 60 * minutes
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    print(f"{device}: {passes(cfg, shards):.1f} passes over the text in a row of dense", flush=True)
    work = Path(f"{out}.check")
    if not out.with_name(f"{out.stem}-rates{out.suffix}").exists():
        self_check(cfg, shards, work)
        print("self-check: every arm as it will run agrees with the plain one", flush=True)
    short = load_like(cfg, steps=max(1, cfg.train.steps // 6))
    beside = out.with_name(f"{out.stem}-rates{out.suffix}")
    try:
        best = ablation.tune_rates(
            short, shards, beside, ARMS, numbers("rates", rates, float), deadline=deadline
        )
        report = ablation.run_ablation(
            cfg,
            shards,
            out,
            variants=ARMS,
            seeds=seeds,
            budget="flops",
            rates=best,
            deadline=deadline,
        )
    except ablation.OutOfTime as stop:
        print(f"{stop}; the same command goes on from here")
        return 75
    print(render(report))
    return 0


if __name__ == "__main__":
    command(main)
