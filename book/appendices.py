"""The appendix pages that are made from other pages, so that they cannot differ from them.

python book/appendices.py       writes book/failures.md from the chapters' failure galleries, and book/data_cards.md
                                from the catalogue of sources; book/sync.py does it too, and a test compares
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"

SENTENCE = re.compile(r"(?<=[.?])\s+(?=[^a-z(])")
LONG_ENOUGH = 90  # characters of a beginning that says something
FAILURES = """# Failure gallery

What went wrong, for whom, and what stands against it: the galleries of all chapters on one page, each row in its first
words. A dot: the box calls the mistake its own, this book's or its package's. The page is written from the chapters, by
`book/appendices.py`.

"""
CARDS = """# Data cards

The sources that `steel data` knows, as `steel data cards` prints them: what a source is, under which licence, how to
get it, and what the original did with it. Real data keeps its own licence. The page is written from the package's
catalogue, by `book/appendices.py`.

"""


def failures() -> str:
    """One table of all boxes of class `failure`, in the order of the chapters."""
    lines = ["| | what | ours | how it happened | here |", "|---|---|---|---|---|"]
    for path in sorted(BOOK.glob("[0-9][0-9]_*.md")):
        text = path.read_text(encoding="utf-8")
        link = f"../notebooks/{path.stem}.ipynb#failure-gallery"
        for title, body in re.findall(
            r"^```\{admonition\} ([^\n]+)\n:class: failure\n(.*?)\n```$", text, re.S | re.M
        ):
            ours, happened, here = parts(" ".join(body.split()))
            row = [path.stem[:2], f"[{title}]({link})", "●" if ours else "", happened, here]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return FAILURES + "\n".join(lines) + "\n"


def parts(body: str) -> tuple[bool, str, str]:
    """(does the box call it its own, how it begins, what stands against it if the box says so)."""
    body = re.sub(r"\]\((?=\d\d_)", "](../notebooks/", body).replace("](../book/", "](")
    story, _, here = body.partition("**Here:**")
    ours = re.match(r"(?:\*\*)?Ours?\b[^.:]*[.:](?:\*\*)?\s*", story)
    told = story[ours.end() :] if ours else story
    begin = ""
    for sentence in SENTENCE.split(told.strip()):
        begin = f"{begin} {sentence}".strip()
        if len(begin) >= LONG_ENOUGH:
            break
    return bool(ours), begin[:1].upper() + begin[1:] if ours else begin, first(here)


def first(text: str) -> str:
    """A text's first sentence, with a capital."""
    sentence = SENTENCE.split(text.strip())[0]
    return sentence[:1].upper() + sentence[1:]


def data_cards() -> str:
    """A card for every source of the catalogue."""
    from steel.corpus.sources import SOURCES

    return CARDS + "\n".join(card.card() + "\n" for card in SOURCES.values())


def pages() -> dict[str, str]:
    """File name in book/ → its text."""
    return {"failures.md": failures(), "data_cards.md": data_cards()}


def write() -> None:
    """Write the pages that have changed."""
    for name, text in pages().items():
        path = BOOK / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"book/{name}: written")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    write()
