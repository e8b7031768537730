"""Every figure says in words what it shows."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "book").glob("*.md"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_images_of_a_page_have_alt_text(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"!\[\s*\]\(", text), "a Markdown image without text"
    for directive in re.finditer(r"^(`{3,}|:{3,})\{(?:figure|image)\}.*?^\1", text, re.S | re.M):
        assert re.search(r"^:alt:\s*\S", directive[0], re.M), f"no :alt: in {directive[0][:80]}"
    for image in re.findall(r"<img\b[^>]*>", text):
        assert re.search(r'\balt="[^"]{10,}"', image), image


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_figures_of_a_notebook_have_alt_text_and_are_small(path):
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            assert "image/png" not in data, "a bitmap: draw it with figures.style.show"
            for image in re.findall(r"<img\b[^>]*>", data.get("text/html", "")):
                alt = re.search(r'\balt="([^"]*)"', image)
                assert alt and len(alt[1]) >= 20, f"alt text too short: {alt and alt[1]}"
                assert len(image) < 110_000, "more than 80 kB of SVG"
