"""Which exam a folder holds, and which groups a subject counts in (`suites.yaml`)."""

from __future__ import annotations

import functools
from collections.abc import Collection
from pathlib import Path

import yaml

from ..config import UserError

NAMES = ("cmmlu", "ceval", "mmlu", "world")


@functools.cache
def _published() -> dict[str, dict]:
    """{suite: {"split", "groups": {group: subjects}}} of the exams whose authors define groups."""
    path = Path(__file__).with_name("suites.yaml")
    suites = yaml.safe_load(path.read_text(encoding="utf-8"))
    for suite in suites.values():
        suite["groups"] = {name: words.split() for name, words in suite["groups"].items()}
    return suites


def _strangers(subjects: Collection[str], suite: str) -> list[str]:
    """Subjects that the suite does not have."""
    if suite == "world":
        return sorted(s for s in subjects if not s.endswith(("_zh", "_en")))
    return sorted(set(subjects).difference(*_published()[suite]["groups"].values()))


def suite_of(subjects: Collection[str]) -> str:
    """Name of the first exam that has all these subjects, or ""."""
    return next((name for name in NAMES if subjects and not _strangers(subjects, name)), "")


def check_suite(suite: str, subjects: Collection[str] = (), folder: Path | str = "") -> None:
    """Raise UserError for an unknown suite, or when `folder` with these subjects holds another."""
    if suite not in NAMES:
        raise UserError(f"suite '{suite}' is not one of {', '.join(NAMES)}")
    if strangers := _strangers(subjects, suite):
        found = suite_of(subjects)
        hint = f"; it looks like {found}" if found else ""
        raise UserError(
            f"{folder} does not hold {suite}: it has the subject {strangers[0]}, which {suite} "
            f"does not have{hint}"
        )


def split_of(suite: str) -> str:
    """The split whose questions have public answers: C-Eval withholds those of test."""
    return _published().get(suite, {}).get("split", "test")


def groups_of(subject: str, suite: str) -> list[str]:
    """Groups that a subject counts in.

    In the closed world: two-hop or else its language, and "people" with both; arithmetic alone, it
    asks about nobody.
    """
    if suite == "world":
        kind, _, language = subject.rpartition("_")
        return ["arith"] if kind == "arith" else ["people", "hop2" if kind == "hop2" else language]
    groups = _published().get(suite, {}).get("groups", {})
    return [group for group, names in groups.items() if subject in names]
