"""A chapter is read in one sitting: its prose has 2,000 to 2,900 words."""

import pytest

from book.sync import chapters
from figures.claims import words


@pytest.mark.parametrize("chapter", chapters())
def test_a_chapter_has_no_more_words_than_a_sitting(chapter):
    assert 2000 <= words(chapter) <= 2900
