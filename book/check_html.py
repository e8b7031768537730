"""Check the rendered book: every internal link and anchor exists, no page fetches anything from elsewhere, every
image has alternative text, nothing is left unrendered, no word in angle brackets was taken for a tag.

    python book/check_html.py _build/html
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Pages name this address for a button that the book does not show; nothing is fetched until it is pressed.
ON_DEMAND = ("https://unpkg.com/thebe",)


class Page(HTMLParser):
    """Links, anchors, fetched resources and images without alt text of one HTML file."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.no_alt: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        a = dict(attrs)
        self.anchors.update(a[key] for key in ("id", "name") if a.get(key))
        if tag == "a" and a.get("href"):
            self.links.append(a["href"])
        if tag in ("script", "img", "iframe", "source") and a.get("src"):
            self.fetched.append(a["src"])
        if (
            tag == "link"
            and a.get("href")
            and (a.get("rel") or "") not in ("canonical", "author", "prev", "next")
        ):
            self.fetched.append(a["href"])
        if tag == "img" and not (a.get("alt") or "").strip():
            self.no_alt.append((a.get("src") or "")[:60])


def check(root: Path) -> list[str]:
    """All problems of the HTML tree ``root``, one line each."""
    pages = {
        path: Page(path) for path in sorted(root.rglob("*.html")) if "_static" not in path.parts
    }
    problems = []
    for path, page in pages.items():
        name = path.relative_to(root)
        problems += [f"{name}: image without alt text: {src}" for src in page.no_alt]
        for address in page.fetched:
            if re.match(r"(?:https?:)?//", address) and not address.startswith(ON_DEMAND):
                problems.append(f"{name}: fetches {address}")
            elif (
                not re.match(r"data:|(?:https?:)?//", address) and not _file(path, address).exists()
            ):
                problems.append(f"{name}: {address} does not exist")
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("#!"):
                continue
            target = _file(path, parts.path) if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                problems.append(f"{name}: link to {link}, which does not exist")
            elif (
                parts.fragment
                and target in pages
                and unquote(parts.fragment) not in pages[target].anchors
            ):
                problems.append(f"{name}: link to {link}, an anchor that does not exist")
        body = re.sub(
            r"<(pre|script|code)\b.*?</\1>", "", path.read_text(encoding="utf-8"), flags=re.S
        )
        for tag in ("b", "i", "s", "u", "em", "strong"):
            opened, closed = (len(re.findall(rf"<{end}{tag}(?=[\s>])", body)) for end in ("", "/"))
            if opened != closed:
                problems.append(
                    f"{name}: {opened} <{tag}>, {closed} closed: a less-than sign in text?"
                )
        if left := re.search(r"\{(?:glue|cite|ref|numref)[:\w]*\}`", body):
            problems.append(f"{name}: left unrendered: {left[0]}")
    if not pages:
        problems.append(f"{root} holds no pages: build the book first (make book)")
    return problems


def _file(page: Path, address: str) -> Path:
    return (page.parent / unquote(urlsplit(address).path)).resolve()


if __name__ == "__main__":
    found = check(Path(sys.argv[1] if len(sys.argv) > 1 else "_build/html"))
    print("\n".join(found) or "the rendered book: links, offline, alt text: all right")
    sys.exit(1 if found else 0)
