"""Several lives of one preset in the book's words: names of what is measured, means over lives with their errors."""

from __future__ import annotations

from math import sqrt
from statistics import mean, stdev

WAYS = {
    "text": "likeliest option",
    "generate": "option said",
    "written": "letter written",
    "bind": "letter behind the right option",
    "letter": "letter at once",
}
"""Name of each way in which the town's exam is scored (steel/evaluation/exam.py), the same in every chapter."""


def moved(rows: list[dict], stage: str, way: str) -> tuple[float, float]:
    """Mean change over lives and its standard error [points of 100].

    rows: of life-seeds.json or replay.json. The error is the larger of two: by the spread of the lives' changes, and by
    the people asked in each. Of three lives the first alone may be small by luck; the second leaves out what another
    life would change.
    """
    found = [row["changes"][way] for row in rows if row["stage"] == stage]
    lives = stdev(change for change, _ in found) / sqrt(len(found))
    people = sqrt(sum(error**2 for _, error in found)) / len(found)
    return 100 * mean(change for change, _ in found), 100 * max(lives, people)


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, as prose prints it: +3.1, −0.5, 0.0."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text[1:] if not float(text[1:]) else text


def each(rows: list[dict], stage: str, way: str, digits: int = 1) -> str:
    """The change of each life [points of 100], in the order of rows."""
    changes = (100 * row["changes"][way][0] for row in rows if row["stage"] == stage)
    return " · ".join(signed(change, digits) for change in changes)
