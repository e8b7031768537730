"""Which exam a folder holds, and which groups a subject counts in (`suites.yaml`)."""

import functools
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import yaml

from ..config import UserError


@functools.cache
def _suites() -> dict[str, dict]:
    """{suite: {"split", "groups": {group: patterns of its subjects}}}."""
    path = Path(__file__).with_name("suites.yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def suite_named(name: str) -> dict:
    """What `suites.yaml` says of an exam. Raises UserError for an unknown one."""
    check_suite(name)
    return _suites()[name]


def groups_of(subject: str, suite: str) -> list[str]:
    """Groups that a subject counts in; none for an unknown suite."""
    groups = _suites().get(suite, {}).get("groups", {})
    return [
        group
        for group, patterns in groups.items()
        if any(re.fullmatch(pattern, subject) for pattern in patterns.split())
    ]


def split_of(suite: str) -> str:
    """The split whose questions have public answers: C-Eval withholds those of test."""
    return _suites().get(suite, {}).get("split", "test")


def letters_of(suite: str) -> str:
    """Where a suite's options have their letters: before them, or after them."""
    return _suites().get(suite, {}).get("letters", "before")


def subject_name(subject: str, suite: str) -> str:
    """What the official prompts call a subject."""
    return _suites().get(suite, {}).get("names", {}).get(subject) or subject.replace("_", " ")


def clusters_of(questions: Sequence, suite: str) -> list[int]:
    """The number of each question's cluster: what questions share moves their answers together.

    One cluster have the questions on one person of the closed world, and those of a subject that
    begin with the same 80 characters: a passage with several questions, or a copy.
    """
    people = _suites().get(suite, {}).get("one_id")
    numbers: dict[tuple, int] = {}

    def key(q) -> tuple:
        if people and re.fullmatch(people, q.subject):
            return ("id", q.id)
        return (q.subject, q.question[:80])

    return [numbers.setdefault(key(q), len(numbers)) for q in questions]


def suite_of(subjects: Collection[str]) -> str:
    """Name of the first exam that has all these subjects, or ""."""
    return next((s for s in _suites() if subjects and all(groups_of(x, s) for x in subjects)), "")


def check_suite(suite: str, subjects: Collection[str] = (), folder: Path | str = "") -> None:
    """Raise UserError for an unknown suite, or when `folder` with these subjects holds another."""
    if suite not in _suites():
        raise UserError(f"suite '{suite}' is not one of {', '.join(_suites())}")
    if strangers := sorted(s for s in subjects if not groups_of(s, suite)):
        hint = f"; it looks like {found}" if (found := suite_of(subjects)) else ""
        raise UserError(
            f"{folder} does not hold {suite}: it has the subject {strangers[0]}, which {suite} "
            f"does not have{hint}"
        )
