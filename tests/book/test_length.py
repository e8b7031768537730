"""A chapter is read in one sitting: its prose has 2,000 to 2,900 words, and it shows little code at a time."""

import jupytext
import pytest

from book.sync import ROOT, chapters
from figures.claims import words

FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}


@pytest.mark.parametrize("chapter", chapters())
def test_a_chapter_has_no_more_words_than_a_sitting(chapter):
    assert 2000 <= words(chapter) <= 2900


@pytest.mark.parametrize("chapter", chapters())
def test_a_chapter_shows_little_code_and_no_long_cell(chapter):
    cells = jupytext.read(ROOT / "book" / f"{chapter}.md").cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    shown = [cell for cell in code if not FOLDED & set(cell.metadata.get("tags", []))]
    assert len(code) <= 28 and len(shown) <= 18
    assert [cell.source for cell in shown if len(cell.source.splitlines()) > 15] == []
