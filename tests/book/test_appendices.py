"""The appendices that are made from other pages are what those pages say today."""

import pytest

from book import appendices


@pytest.mark.parametrize("name", ["failures.md", "data_cards.md"])
def test_a_made_page_is_up_to_date(name):
    there = (appendices.BOOK / name).read_text(encoding="utf-8")
    assert there == appendices.pages()[name], "run: python book/appendices.py"


def test_every_box_of_a_gallery_is_a_row():
    boxes = sum(
        path.read_text(encoding="utf-8").count("\n:class: failure\n")
        for path in appendices.BOOK.glob("[0-9][0-9]_*.md")
    )
    assert appendices.failures().count(".ipynb#failure-gallery)") == boxes > 50


def test_a_box_is_told_in_its_first_words():
    box = "Our own, found by X. It broke. Then more, and [more](07_soft_moe.ipynb). **Here:** a test. And so on."
    assert appendices.parts(box) == (
        True,
        "It broke. Then more, and [more](../notebooks/07_soft_moe.ipynb).",
        "A test.",
    )
    long = "The original did what nobody had noticed in a year, and wrote it down as if it had been intended. No more."
    assert appendices.parts(long) == (False, long.removesuffix(" No more."), "")
