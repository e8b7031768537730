"""Chapter 14: how much text to read while learning to talk.

    python -m figures.experiments.replay --out runs/replay --lives runs/a,runs/b,runs/c

Each finished life of preset laptop is fine-tuned again from its own base: without text, with four rows at weight 0.3 as
the preset once had, and with its own eight at 0.5. Every arm sits the whole exam of the life; differences are
to the base, paired, clustered by person.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from steel.align.stage import run as train_stage
from steel.config import from_dict
from steel.life import ALIGNMENT, Life

from . import command
from .ledger import Ledger
from .life_seeds import changes, pooled, scores

ARMS = {
    "no text": {"replay_rows": 0},
    "4 rows at 0.3": {"replay_rows": 4, "replay_weight": 0.3},
    "8 rows at 0.5": {"replay_rows": 8, "replay_weight": 0.5},
}
"""Name -> settings of `sft`; the rest is the life's own."""


def main(out: Path, lives: str) -> None:
    """All arms on each life: OUT/replay.json. A killed run goes on with the same call."""
    ledger = Ledger(out / "replay.json", "replay", {"arms": ARMS})
    for life in map(Path, lives.split(",")):
        state = json.loads((life / "state.json").read_text(encoding="utf-8"))
        before = json.loads((life / "exams" / "pretrain.json").read_text(encoding="utf-8"))
        cfg = from_dict(state["asked"]["config"])
        for arm, settings in ARMS.items():
            if ledger.find(seed=cfg.seed, stage=arm) is not None:
                continue
            own, home = replace(cfg, sft=replace(cfg.sft, **settings)), out / f"seed-{cfg.seed}"
            name = arm.replace(" ", "-")
            rows = [life / "world" / "post" / file for file in ALIGNMENT["sft"]]
            text = life / "shards" if settings["replay_rows"] else None
            train_stage("sft", own, life / "pretrain" / "hf", rows, home / name, replay=text)
            found = examined(own, life, home, name)
            row = {"seed": cfg.seed, "stage": arm, **scores(found)}
            print(ledger.add(row | {"changes": changes(before, found)}), flush=True)
    ledger.content["pooled"] = {arm: pooled(ledger.rows, arm) for arm in ARMS}
    ledger.write()


def examined(cfg, life: Path, home: Path, name: str) -> dict:
    """What the life's own judges say of the model in HOME/NAME."""
    for part in ("world", "shards", "tokenizer"):
        if not (home / part).exists():
            (home / part).symlink_to((life / part).resolve())
    Life(cfg, home).examine(name)
    return json.loads((home / "exams" / f"{name}.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    command(main)
