"""What each stage of a life changes, over several seeds of world and model.

    python -m figures.experiments.life_seeds --out runs/life-seeds.json --lives runs/a,runs/b,runs/c

Reads the exams that finished lives of one preset left. Differences between a stage and the one before are paired, by
question or by message; standard errors are clustered by person, and the seeds' people are independent.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from steel.evaluation.results import compare, share

from . import command
from .ledger import Ledger

STAGES = ("pretrain", "sft", "dpo", "grpo")
WAYS = ("text", "generate", "written", "bind", "letter")


def of_people(exam: dict) -> dict:
    """The result with only the questions about people: those of the subjects that its group `people` holds."""
    answers, at, kept = exam["answers"], 0, []
    for name, row in exam["subjects"].items():
        kept += range(at, at + row["n"]) if not name.startswith("arith") else ()
        at += row["n"]
    return {"answers": {key: [values[i] for i in kept] for key, values in answers.items()}}


def scores(found: dict) -> dict:
    """Accuracy of each way on people, cloze, bits per byte (mean, by domain), the conversation by kinds.

    errors: way -> [plain, clustered by person], standard errors of its accuracy. unparsed: share of replies about
    people that name no option.
    """
    people, answers = found["exam"]["groups"]["people"], of_people(found["exam"])["answers"]
    talk = found["conversation"]
    row = {way: round(people[way], 4) for way in WAYS if way in people}
    row["errors"] = {
        way: [round(share(right, c)["se"], 4) for c in (None, answers["clusters"])]
        for way in WAYS
        if way in answers
        for right in [[a == key for a, key in zip(answers[way], answers["key"], strict=True)]]
    }
    row["unparsed"] = round(answers["generate"].count("-") / people["n"], 4)
    row |= {"n": people["n"], "cloze": round(found["cloze"]["accuracy"], 4)}
    read = found["perplexity"]
    row["bits_per_byte"] = round(read["geometric_mean"]["bpb"], 4)
    row["bits"] = {name: round(domain["bpb"], 4) for name, domain in read["domains"].items()}
    row["conversation"] = round(talk["accuracy"], 4)
    row["kinds"] = {
        kind: [round(k["accuracy"] * k["n"]), k["n"]] for kind, k in talk["kinds"].items()
    }
    return row | {"fragments": talk["fragments"], "endless": talk["endless"]}


def changes(before: dict, after: dict) -> dict[str, list[float]]:
    """way -> [difference, its standard error], of a stage against the one before."""
    old, new = of_people(before["exam"]), of_people(after["exam"])
    found = {way: compare(old, new, way) for way in WAYS if way in new["answers"]}
    row = {way: [round(c["difference"], 4), round(c["se"], 4)] for way, c in found.items()}
    old, new = ([a["right"] for a in e["conversation"]["answers"]] for e in (before, after))
    moved = share([b - a for a, b in zip(old, new, strict=True)])
    return row | {"conversation": [round(moved["accuracy"], 4), round(moved["se"], 4)]}


def pooled(rows: list[dict], stage: str) -> dict[str, list[float]]:
    """way -> [mean difference over seeds, standard error of that mean]."""
    each = [row["changes"] for row in rows if row["stage"] == stage]
    found = {}
    for way in each[0]:
        mean = sum(c[way][0] for c in each) / len(each)
        error = math.sqrt(sum(c[way][1] ** 2 for c in each)) / len(each)
        found[way] = [round(mean, 4), round(error, 4)]
    return found


def main(out: Path, lives: str) -> None:
    """Scores of each seed and stage, and what each stage changes: OUT."""
    folders = [Path(life) for life in lives.split(",")]
    configs = [json.loads((f / "state.json").read_text(encoding="utf-8")) for f in folders]
    preset = configs[0]["run"]["preset"]
    ledger = Ledger(out, "life seeds", {"preset": preset, "stages": list(STAGES)}, fresh=True)
    for folder, state in zip(folders, configs, strict=True):
        exams = {
            stage: json.loads((folder / "exams" / f"{stage}.json").read_text(encoding="utf-8"))
            for stage in STAGES
        }
        for at, stage in enumerate(STAGES):
            row = {"seed": state["run"]["seed"], "stage": stage, **scores(exams[stage])}
            if at:
                row["changes"] = changes(exams[STAGES[at - 1]], exams[stage])
            ledger.add(row)
    ledger.content["pooled"] = {stage: pooled(ledger.rows, stage) for stage in STAGES[1:]}
    ledger.write()
    print(json.dumps(ledger.content["pooled"], indent=1))


if __name__ == "__main__":
    command(main)
