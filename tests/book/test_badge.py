"""What a chapter has cost on the machine that executed it stays within the book's budget."""

import re
from pathlib import Path

import pytest

from figures.claims import outputs

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 240  # CPU time: two minutes on two cores


@pytest.mark.parametrize(
    "chapter", sorted(path.stem for path in (ROOT / "book").glob("[0-9][0-9]_*.md"))
)
def test_chapter_shows_its_cost_and_keeps_the_budget(chapter):
    shown = re.findall(r"(\d+(?:\.\d+)?) s of CPU time", outputs(chapter))
    assert shown, "end the chapter with figures.style.badge()"
    assert float(shown[-1]) <= SECONDS
