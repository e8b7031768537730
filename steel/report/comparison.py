"""Runs side by side: the scores of every stage, and how each run differs from the first.

Where two runs answered the same questions (or read the same documents) the difference is paired,
which takes out how hard they are; elsewhere its standard error is √(se₁² + se₂²).
"""

import filecmp
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from ..config import UserError
from ..evaluation import perplexity, results
from .card import LIFE
from .words import WORDS


def compare_runs(runs: Sequence[dict], folders: Sequence[Path | str]) -> dict:
    """Compare what `collect` says of runs with what it says of the first one.

    Returns {"runs": [{"name", "preset", "seed", …}], "rows": [{"stage", "what", "less": whether less
    is better, "scores": [{"value", "se", "n"} or None per run], "differences": [{"difference", "se",
    "paired", "words"} or None per run after the first]}]}.
    """
    same = [same_exam(folders[0], folder) for folder in folders[1:]]
    found = [{exam["stage"]: exam for exam in run["exams"]} for run in runs]
    rows = []
    for stage in [name for name in LIFE if any(name in exams for exams in found)]:
        exams = [each.get(stage, {}) for each in found]
        pairs = list(zip(exams[1:], same))
        for way in [*WORDS["ways"], "conversation"]:
            scores = [_share(exam, way) for exam in exams]
            if any(scores):
                apart = [_accuracy_apart(exams[0], other, way, ok) for other, ok in pairs]
                rows.append(_row(stage, way, scores, apart, less=False))
        domains = dict.fromkeys(name for exam in exams for name in _domains(exam))
        for name in domains:
            scores = [_bits(exam, name) for exam in exams]
            apart = [_bits_apart(exams[0], other, name) for other, _ in pairs]
            rows.append(_row(stage, name, scores, apart, less=True))
    about = [_about(run) for run in runs]
    if len({run["name"] for run in about}) < len(about):  # lives of one name in several places
        for run, folder in zip(about, folders):
            run["name"] = str(folder)
    return {"runs": about, "rows": rows}


def same_exam(one: Path | str, two: Path | str) -> bool:
    """Whether two RUN folders do not hold different exam files; letters alone could agree by chance."""
    tests = [Path(folder) / "world" / "exam" / "test" for folder in (one, two)]
    names = [sorted(file.name for file in test.glob("*.csv")) for test in tests]
    if not all(names):
        return True  # an exam from elsewhere: its key has to do
    return names[0] == names[1] and not any(filecmp.cmpfiles(*tests, names[0], shallow=False)[1:])


def verdict(difference: float, se: float | None, less: bool) -> str:
    """What a difference means, in words, at two standard errors."""
    if not difference:
        return "no difference"
    if not se:
        return "no standard error"
    if abs(difference) <= 2 * se:
        return "within two standard errors"
    return "better" if (difference < 0) == less else "worse"


def _row(stage: str, what: str, scores: list, apart: list, less: bool) -> dict:
    """A row; where two scores have no pair, the difference is that of independent ones."""
    differences = []
    for score, pair in zip(scores[1:], apart):
        if not scores[0] or not score:
            differences.append(None)
            continue
        errors = (scores[0]["se"], score["se"])
        loose = {
            "difference": score["value"] - scores[0]["value"],
            "se": math.hypot(*errors) if None not in errors else None,
        }
        found = {k: (pair or loose)[k] for k in ("difference", "se")} | {"paired": bool(pair)}
        differences.append(found | {"words": verdict(found["difference"], found["se"], less)})
    return {
        "stage": stage, "what": what, "less": less, "scores": scores, "differences": differences
    }  # fmt: skip


def _share(exam: dict, way: str) -> dict | None:
    """{"value", "se", "n"} of one way of scoring."""
    inside = exam.get("exam", {}).get("scoring", {})
    found = exam.get(way) if way in ("cloze", "conversation") else inside.get(way)
    return {"value": found["accuracy"], "se": found["se"], "n": found["n"]} if found else None


def _domains(exam: dict) -> dict:
    return (exam.get("perplexity") or {}).get("domains") or {}


def _bits(exam: dict, name: str) -> dict | None:
    found = _domains(exam).get(name, {})
    known = found.get("bpb") is not None
    return {"value": found["bpb"], "se": None, "n": found["documents"]} if known else None


def _or_none(compare: Callable[[], dict]) -> dict | None:
    """A paired difference, or None where the two did not answer or read the same."""
    try:
        return compare()
    except (UserError, KeyError, TypeError):
        return None


def _accuracy_apart(one: dict, two: dict, way: str, same: bool) -> dict | None:
    if way == "conversation":
        talks = [((e.get(way) or {}).get("answers") or []) for e in (one, two)]
        asked = [[answer["said"] for answer in talk] for talk in talks]
        if asked[0] != asked[1] or not asked[0]:
            return None
        one, two = ({"answers": {"key": "1" * len(t), way: _digits(t)}} for t in talks)
        return results.compare(one, two, way)
    if not same or one.get("exam", {}).get("suite") != two.get("exam", {}).get("suite"):
        return None
    return _or_none(lambda: results.compare(one["exam"], two["exam"], way))


def _digits(talk: list[dict]) -> str:
    return "".join("1" if answer["right"] else "0" for answer in talk)


def _bits_apart(one: dict, two: dict, name: str) -> dict | None:
    sides = [{"domains": {k: v for k, v in _domains(e).items() if k == name}} for e in (one, two)]
    return _or_none(lambda: perplexity.compare(*sides)[name])


def _about(run: dict) -> dict:
    """What tells a run from another."""
    about = {
        key: run["run"].get(key) for key in ("name", "preset", "seed", "commit", "config_hash")
    }
    ended = [s["name"] for s in run["stages"] if s.get("status") not in ("done", "skipped")]
    tokens = sum(s.get("tokens") or 0 for s in run["stages"])
    more = {"tokens": tokens, "seconds": run["cost"].get("seconds"), "unfinished": ended}
    return about | {"parameters": run["model"].get("parameters")} | more
