"""Which exam a folder holds, and which groups a subject counts in (`suites.yaml`)."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

import yaml

from ..config import UserError

_SUITES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
_DEFAULTS = {"split": "test", "letters": "before", "groups": {}, "names": {}, "one_id": None}


def about(suite: str) -> dict:
    """What `suites.yaml` says of an exam, and for an unknown one the defaults.

    split: the one whose answers are public. letters: whether options have theirs before or after
    them. groups: patterns of the subjects in each. names: what official prompts call subjects.
    one_id: pattern of the subjects that ask about one person by one id.
    """
    return _DEFAULTS | _SUITES.get(suite, {})


def groups_of(subject: str, suite: str) -> list[str]:
    """Groups that a subject counts in; none for an unknown suite."""
    groups = about(suite)["groups"].items()
    return [g for g, patterns in groups if any(re.fullmatch(p, subject) for p in patterns.split())]


def clusters_of(questions: Sequence, suite: str) -> list[int]:
    """The number of each question's cluster: what questions share moves their answers together.

    One cluster have the questions on one person of the closed world, and those of a subject that
    begin with the same 80 characters: a passage with several questions, or a copy.
    """
    people = about(suite)["one_id"]
    numbers: dict[tuple, int] = {}

    def key(q) -> tuple:
        if people and re.fullmatch(people, q.subject):
            return ("id", q.id)
        return (q.subject, q.question[:80])

    return [numbers.setdefault(key(q), len(numbers)) for q in questions]


def suite_of(subjects: Collection[str]) -> str:
    """Name of the first exam that has all these subjects, or ""."""
    return next((s for s in _SUITES if subjects and all(groups_of(x, s) for x in subjects)), "")


def check_suite(suite: str, subjects: Collection[str] = (), folder: Path | str = "") -> None:
    """Raise UserError for an unknown suite, or when `folder` with these subjects holds another."""
    if suite not in _SUITES:
        raise UserError(f"suite '{suite}' is not one of {', '.join(_SUITES)}")
    if strangers := sorted(s for s in subjects if not groups_of(s, suite)):
        hint = f"; it looks like {found}" if (found := suite_of(subjects)) else ""
        odd = f"it has the subject {strangers[0]}, which {suite} does not have"
        raise UserError(f"{folder} does not hold {suite}: {odd}{hint}")
