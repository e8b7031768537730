"""A model too small to know anything sits the real CMMLU: every way of scoring must say chance.

    steel run --preset smoke --run runs/smoke
    python -m figures.experiments.cmmlu --model runs/smoke --exam CMMLU --out figures/runs/cmmlu-tiny.json

CMMLU is the folder with its dev/ and test/ (`steel eval fetch cmmlu CMMLU`). Each arm is one way of
asking the same questions; what differs between arms is what the harness is worth on a model that knows
nothing. A score passes if it lies within two standard errors of what its own letters would get: a model
that answers C whatever is asked gets the share of C, not a quarter.

Options are not alike before anybody knows anything: the longest of four is right more often than one time in four,
and whoever prefers the likelier text prefers some options to others. So the first arm scores texts once more, each
subject's questions moved on by one: what is left of a score behind somebody else's question is not knowledge. Both are
compared question by question.
"""

from __future__ import annotations

import csv
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

from steel.cli_common import hf_folder
from steel.evaluation.exam import run_exam
from steel.evaluation.results import compare
from steel.machine import commit
from steel.model.folder import open_model

from . import command

ARMS = {
    "steel, chat": {"style": "steel", "chat": True},
    "official, text": {"style": "official", "chat": False},
    "lm-eval, text": {"style": "lm-eval", "chat": False},
    "lm-eval, text, separator first": {"style": "lm-eval", "chat": False, "bos": True},
}


def blind(key: str, letters: str) -> float:
    """Accuracy expected of these letters if they had nothing to do with the questions [1].

    Σ over letters of share said · share right; a question that was not answered is wrong.
    """
    said, right = Counter(letters), Counter(key)
    return sum(said[letter] * right[letter] for letter in right) / len(key) ** 2


def read(result: dict) -> dict[str, dict]:
    """{way: {"accuracy", "se", "macro", "unparsed", "blind", "deviation" [standard errors], "letters"}}."""
    found = {}
    for way, score in result["scoring"].items():
        expected = blind(result["answers"]["key"], result["answers"][way])
        kept = {key: score[key] for key in ("accuracy", "se", "macro", "letters")}
        off = (score["accuracy"] - expected) / score["se"] if score["se"] else 0.0
        kept |= {"unparsed": score.get("unparsed", 0.0), "blind": expected, "deviation": off}
        found[way] = {k: round(v, 5) if isinstance(v, float) else v for k, v in kept.items()}
    return found


def moved_on(exam: Path, out: Path) -> Path:
    """The exam with each subject's questions moved on by one row, options and answers left in place; returns OUT."""
    for file in sorted((exam / "test").glob("*.csv")):
        with open(file, encoding="utf-8-sig", newline="") as stream:
            header, *rows = csv.reader(stream)
        at = [name.lower() for name in header].index("question")
        questions = [row[at] for row in rows]
        for row, other in zip(rows, questions[-1:] + questions[:-1]):
            row[at] = other
        (out / "test").mkdir(parents=True, exist_ok=True)
        with open(out / "test" / file.name, "w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([header, *rows])
    return out


def without_question(model, tok, exam: Path, result: dict, **asked) -> dict:
    """Text scoring behind other questions, and what the right ones add to it: paired, with its standard error [1]."""
    with tempfile.TemporaryDirectory() as folder:
        other = run_exam(model, tok, moved_on(exam, Path(folder)), scoring=["text"], **asked)
    score, added = other["scoring"]["text"], compare(other, result, "text")
    found = {"accuracy": score["accuracy"], "se": score["se"]}
    found |= {"question_adds": added["difference"], "question_adds_se": added["se"]}
    return {key: round(value, 5) for key, value in found.items()}


def cmmlu(model: Path, exam: Path, out: Path, limit: int = 0, arms: str = "") -> None:
    """Let a small model sit CMMLU in every arm (or those whose numbers are given, from 0)."""
    opened = open_model(hf_folder(model))
    size = sum(p.numel() for p in opened[0].parameters())
    page = {"parameters": size, "commit": commit(), "limit": limit, "arms": {}}
    for i, (name, how) in enumerate(ARMS.items()):
        if arms and str(i) not in arms.split(","):
            continue
        cpu = time.process_time()
        result = run_exam(*opened, exam, suite="cmmlu", limit=limit, **how)
        seconds = {"cpu_seconds": round(time.process_time() - cpu, 1), "seconds": result["seconds"]}
        about = {key: result[key] for key in ("n", "clusters", "baselines", "truncated")}
        page["arms"][name] = about | seconds | {"scoring": read(result)}
        if i == 0:
            asked = {"suite": "cmmlu", "limit": limit, **how}
            page["arms"][name]["moved_on"] = without_question(*opened, exam, result, **asked)
            print(f"texts behind other questions: {page['arms'][name]['moved_on']}")
        out.write_text(json.dumps(page, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        for way, r in page["arms"][name]["scoring"].items():
            print(
                f"{name:<32} {way:<9} {r['accuracy']:.2%} ± {r['se']:.2%}  off {r['deviation']:+.2f}"
            )


if __name__ == "__main__":
    command(cmmlu)
