"""Chapter 14: does a model that answers one message answer the fourth?

    python -m figures.experiments.in_a_row --out figures/runs/in-a-row.json --lives runs/a,runs/b

Finished lives of one preset, with `sft.joined` or without. Every message of the first conversation that stands alone is
sent again behind one, two and three others of the same language, which the model answers first. The others are drawn
by one seed for all lives, so lives of one town are asked the same.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

from steel.config import from_dict
from steel.evaluation.conversation import Message, converse, messages
from steel.model.folder import open_model

from . import command
from .ledger import Ledger
from .life_seeds import scores

DEPTHS, STAGES = (0, 1, 2, 3), ("sft", "grpo")


def behind(asked: list[Message], depth: int) -> list[Message]:
    """The messages, each behind `depth` others of its language."""
    rng, alone = random.Random(f"in a row/{depth}"), [m for m in asked if len(m.turns) == 1]
    rows = []
    for message in alone:
        others = [m.turns[0] for m in alone if m.lang == message.lang and m is not message]
        rows.append(replace(message, turns=(*rng.sample(others, depth), *message.turns)))
    return rows


def main(out: Path, lives: str) -> None:
    """A row for each life, stage and number of messages before; the life's exam beside it."""
    ledger = Ledger(out, "in a row", {"depths": list(DEPTHS), "stages": list(STAGES)})
    for life in map(Path, lives.split(",")):
        state = json.loads((life / "state.json").read_text(encoding="utf-8"))
        cfg = from_dict(state["asked"]["config"])
        for stage in STAGES:
            key = {"seed": cfg.seed, "joined": cfg.sft.joined, "stage": stage}
            if ledger.find(**key) is not None:
                continue
            model, tokenizer = open_model(life / stage / "hf")
            right, kinds = [], {}
            for depth in DEPTHS:
                found = converse(model, tokenizer, behind(messages(life / "world"), depth))
                right.append(sum(answer["right"] for answer in found["answers"]))
                kinds[depth] = {k: round(v["accuracy"], 3) for k, v in found["kinds"].items()}
            exam = json.loads((life / "exams" / f"{stage}.json").read_text(encoding="utf-8"))
            row = key | {"n": found["n"], "right": right, "kinds": kinds, "exam": scores(exam)}
            print(ledger.add(row)["right"], flush=True)
    ledger.write()


if __name__ == "__main__":
    command(main)
