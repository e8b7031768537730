"""The check of the rendered book sees what a reader would."""

import pytest

from book.check_html import check


@pytest.mark.parametrize(
    ("text", "seen"), [("If a<b and c>d", True), ("<code>a<b and c>d</code>, <b>bold</b>", False)]
)
def test_a_less_than_sign_that_became_a_tag_is_seen(tmp_path, text, seen):
    (tmp_path / "page.html").write_text(f"<html><body><p>{text}</p></body></html>")
    assert any("a less-than sign" in problem for problem in check(tmp_path)) is seen
