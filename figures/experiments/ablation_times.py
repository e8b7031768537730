"""What a training step of each layer takes on this machine, beside the dense one. A minute.

    python -m figures.experiments.ablation_times --out figures/runs/soft-moe-times.json

Every round runs one step of each variant, one after another, so that a neighbour's load falls on all of them; what
counts is the ratio to dense within a round. CPU seconds of this process, forward, backward and AdamW.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

from steel.config import load
from steel.model import build

from . import command
from .ablation import REFERENCE, hold_slots_empty, variant_model
from .ledger import Ledger

VARIANTS = ("dense", "none", "one expert", "causal", "placebo", "top-2", "two gates",
            "v1 one gate", "v2 one gate", "v3 one gate")  # fmt: skip


def stepper(cfg, name: str):
    """A function that takes one training step of variant `name` on random tokens."""
    model = build(variant_model(cfg.model, name), seed=cfg.seed).train()
    if name == "placebo":
        hold_slots_empty(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    shape = (cfg.train.batch_size, cfg.data.sequence_length)
    ids_BT = torch.randint(cfg.model.vocab_size, shape, generator=torch.Generator().manual_seed(0))

    def step() -> None:
        optimizer.zero_grad()
        model(input_ids=ids_BT, labels=ids_BT).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def main(
    out: Path = Path("figures/runs/soft-moe-times.json"),
    overrides: list[str] = (),
    preset: str = "ablation",
    rounds: int = 30,
) -> None:
    """Time a step of each variant against dense, alternated; write medians, ratios and their quartiles.

    out: JSON file, written anew. rounds: steps of each variant, after three that do not count.
    """
    cfg = load(preset, overrides)
    torch.set_num_threads(1)
    steps = {name: stepper(cfg, name) for name in VARIANTS}
    taken = {name: [] for name in VARIANTS}
    for round_ in range(rounds + 3):
        for name, step in steps.items():
            begin = time.process_time()
            step()
            if round_ >= 3:
                taken[name].append(time.process_time() - begin)
    ledger = Ledger(out, "step-times", {"config": cfg.to_dict(), "rounds": rounds}, fresh=True)
    for name in VARIANTS:
        ratios = sorted(a / b for a, b in zip(taken[name], taken[REFERENCE], strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4)
        ledger.rows.append({"variant": name, "cpu_seconds": statistics.median(taken[name]),
                            "relative": middle, "quartiles": [low, high]})  # fmt: skip
        print(
            f"{name:<12} {ledger.rows[-1]['cpu_seconds']:.3f} s   {middle:.2f} ({low:.2f} to {high:.2f})"
        )
    ledger.write(relative={row["variant"]: row["relative"] for row in ledger.rows})


if __name__ == "__main__":
    command(main)
