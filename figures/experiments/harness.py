"""Chapter 17: one model, one exam, several ways of asking: what each is worth on models that know the answers.

    python -m figures.experiments.harness --out figures/runs/harness.json --lives runs/a,runs/b,runs/c

Each finished life of preset laptop sits its own town's exam, the questions about people whom no question of training
has named, at the end of fine-tuning, asked in every way that the command offers: whose words, in chat turns or as a
text to continue, with the separator of documents before it or not, with worked examples or not.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from steel.cli_common import hf_folder
from steel.evaluation.exam import bound, run_exam, the_questions
from steel.evaluation.prompts import Prompter
from steel.evaluation.results import compare
from steel.evaluation.scoring import context_length
from steel.model.folder import open_model

from . import command
from .ledger import Ledger
from .life_seeds import of_people

ARMS: dict[str, dict] = {
    "chat": {"chat": True},
    "chat, separator first": {"chat": True, "bos": True},
    "text": {"chat": False},
    "text, separator first": {"chat": False, "bos": True},
    "text, lm-eval's words": {"chat": False, "style": "lm-eval"},
    "text, two examples": {"chat": False, "shots": 2},
    "chat, two examples": {"chat": True, "shots": 2},
    "chat, letters before": {"chat": True, "letters": "before"},
}
"""How a question is put; the words are this project's unless an arm says otherwise."""
WAYS = ("letter", "text", "generate", "bind")


def endings(model: Path, exam: Path) -> dict[str, float]:
    """Share of letters right behind the right option [1] when options end alike: the town's English ones, changed."""
    opened, tok = open_model(hf_folder(model), device="cpu")
    prompter = Prompter(tok, True, context_length(opened), style="steel", suite="world")
    prompter.letters = "after"
    changes = {
        "home towns": ("city_en", lambda text: text),
        "home towns, University behind": ("city_en", lambda text: f"{text} University"),
        "home towns, University before": ("city_en", lambda text: f"University {text}"),
        "universities": ("university_en", lambda text: text),
        "universities, University behind": ("university_en", lambda text: f"{text.split()[-1]} University"),
    }  # fmt: skip
    found = {}
    for name, (subject, change) in changes.items():
        asked = the_questions(exam, "world", subjects=[subject])[2]
        changed = [replace(q, options=type(q.options)(map(change, q.options))) for q in asked]
        said = bound(opened, prompter, changed)
        found[name] = round(sum(a == q.answer for a, q in zip(said, asked)) / len(asked), 4)
    return found


def sat(model: Path, exam: Path, how: dict) -> dict:
    """{way: share right, "n", "unparsed", "answers"} of the questions about people, and "subjects"."""
    result = run_exam(
        *open_model(hf_folder(model), device="cpu"), exam, suite="world", scoring=WAYS, **how
    )
    people = of_people(result)
    row = {"unparsed": round(result["scoring"]["generate"]["unparsed"], 4)}
    for way in (*WAYS, "written"):
        if way in people["answers"]:
            right = result["groups"]["people"][way]
            row[way] = round(right, 4)
    subjects = {
        name: {way: round(row[way], 4) for way in (*WAYS, "written") if way in row}
        for name, row in result["subjects"].items()
    }
    row |= {"n": result["groups"]["people"]["n"], "subjects": subjects}
    return row | {"answers": people["answers"]}


def harness(out: Path, lives: str, stage: str = "sft") -> None:
    """Every life in every arm, and each arm's paired difference from chat turns: OUT."""
    folders = [Path(life) for life in lives.split(",")]
    ledger = Ledger(out, "harness", {"stage": stage, "preset": "laptop"})
    for folder in folders:
        seed = json.loads((folder / "state.json").read_text(encoding="utf-8"))["run"]["seed"]
        if ledger.find(seed=seed, arm=list(ARMS)[-1]):
            continue
        rows = {
            arm: sat(folder / stage, folder / "world" / "exam", how) for arm, how in ARMS.items()
        }
        first = {"answers": rows["chat"]["answers"]}
        rows["chat"]["endings"] = endings(folder / stage, folder / "world" / "exam")
        for arm, row in rows.items():
            answers = {"answers": row.pop("answers")}
            row["against_chat"] = {
                way: [round(found[k], 4) for k in ("difference", "se")]
                for way in (*WAYS, "written")
                if way in answers["answers"]
                for found in [compare(first, answers, way)]
            }
            ledger.add({"seed": seed, "arm": arm, **row})
            print(seed, f"{arm:<24}", {w: row[w] for w in (*WAYS, "written") if w in row})


if __name__ == "__main__":
    command(harness)
