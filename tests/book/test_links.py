"""Links inside the book lead somewhere; links out of it are https; cited works exist; the contents are complete."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "book").glob("*.md"))


def text_of(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^(`{3,})(?:\{code-cell\}|\w*\n).*?^\1\s*$", "", text, flags=re.S | re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"(?<!!)\]\(([^)\s]+)\)", text_of(page)):
        if re.match(r"[a-z]+:", target):
            assert target.startswith(("https://", "mailto:")), target
        elif not target.startswith("#"):
            name = target.split("#")[0]
            # a chapter's page is its notebook, so links to chapters are written relative to notebooks/
            places = [page.parent / name, ROOT / "notebooks" / name]
            assert any(place.exists() for place in places), f"{page.name}: {target} does not exist"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_cited_works_are_in_the_bibliography(page):
    keys = set(
        re.findall(
            r"^@\w+\{([^,]+),", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"), re.M
        )
    )
    for group in re.findall(r"\{cite:[a-z:]+\}`([^`]+)`", page.read_text(encoding="utf-8")):
        for key in re.split(r"[,;]\s*", group):
            assert key.strip() in keys, (
                f"{page.name} cites {key}, which references.bib does not hold"
            )


def test_the_bibliography_closes_what_it_opens():
    """One missing brace, and no page is built."""
    text = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    for entry in re.split(r"(?m)^(?=@)", text):
        assert entry.count("{") == entry.count("}"), entry.partition(",")[0]


def test_every_chapter_is_in_the_table_of_contents():
    listed = {chapter["file"] for part in yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"]
              for chapter in part["chapters"]}  # fmt: skip
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"notebooks/{path.stem}" in listed, f"add notebooks/{path.stem} to _toc.yml"
    for entry in listed:
        assert list(ROOT.glob(entry + ".*")), f"_toc.yml lists {entry}, which does not exist"


def test_front_page_links_every_written_chapter_and_no_other():
    index = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\d\d) \| (.+?) \|", index, re.M))
    assert sorted(rows) == [f"{number:02d}" for number in range(20)]
    written = {path.stem[:2]: path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    for number, row in rows.items():
        if number in written:
            assert f"../notebooks/{written[number]}.ipynb" in row, (
                f"chapter {number} is written: link it in index.md"
            )
        else:
            assert "](" not in row, (
                f"chapter {number} is linked in index.md, but there is no such notebook"
            )
