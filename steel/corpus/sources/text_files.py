"""Files that are one document each: plain text, Markdown, HTML, .docx, .epub, .pdf.

A reader yields {"text": …}, and a `Bad` for what it had to leave out. Archives are read in memory,
by the names that their own tables give: nothing is written to disk, and what unpacks to more than
`LARGEST` bytes is not read.
"""

import posixpath
import re
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote
from xml.etree import ElementTree

from ...documents import LARGEST, read_chunks


class Bad(NamedTuple):
    """What could not be read: the reason that the report counts, and how many bytes it is."""

    reason: str
    bytes: int = 0


def plain_suffix(path: Path | str) -> str:
    """The suffix below compression: ".jsonl" for a.jsonl.zst, ".tar" for a.tar.gz, also ".tgz"."""
    return Path(re.sub(r"(\.(gz|zstd?))+$", "", str(path).lower())).suffix


def read_text_file(path: Path) -> Iterator[Any]:
    """The document in a text file, or why there is none. Raises BrokenFile for damaged .gz, .zst."""
    kind, size = plain_suffix(path), path.stat().st_size
    if size > LARGEST:
        yield Bad("larger than 64 MiB, too much for one document", size)
        return
    try:
        yield from _READERS.get(kind, _text)(path)
    except _Unread as error:
        yield Bad(str(error), size)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, KeyError) as error:
        what = "encrypted" if "encrypted" in str(error) else "damaged"
        yield Bad(f"unreadable {kind}: {what}", size)
    except ElementTree.ParseError:
        yield Bad(f"unreadable {kind}: not XML", size)


class _Unread(Exception):
    """The file gives no document. The message is the reason."""


# -- text --------------------------------------------------------------------------------------

_BOMS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
# First bytes of the UTF-16 units that Chinese and English texts are made of.
_HIGH_BYTES = bytes([0x00, 0x20, 0x30, *range(0x4E, 0xA0), 0xFF])


def decode_text(data: bytes) -> str | None:
    """Text in UTF-8, UTF-16 with or without a mark, or GB18030, whichever its bytes are; or None."""
    for bom, encoding in _BOMS.items():
        if data.startswith(bom):
            return _decoded(data[len(bom) :], encoding)
    high = {"utf-16-le": data[1::2], "utf-16-be": data[0::2]}
    wide = [encoding for encoding in high if _is_wide(high[encoding])]
    wide.sort(key=lambda encoding: -high[encoding].count(0))  # Latin letters pass on either side
    if b"\0" in data:  # English in UTF-16 is UTF-8, too, with a NUL behind every letter
        return _decoded(data, *wide)
    return _decoded(data, "utf-8", *wide, "gb18030")


def _decoded(data: bytes, *encodings: str) -> str | None:
    for encoding in encodings:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return None


def _is_wide(high: bytes) -> bool:
    """Whether nearly every byte can be the first of a UTF-16 unit; in other encodings few can."""
    return bool(high) and len(high.translate(None, _HIGH_BYTES)) * 10 <= len(high)


def _text(path: Path) -> Iterator[Any]:
    yield {"text": _read(path)}


def _read(path: Path) -> str:
    data = bytearray()
    for chunk in read_chunks(path):
        data += chunk
        if len(data) > LARGEST:
            raise _Unread("larger than 64 MiB, too much for one document")
    text = decode_text(bytes(data))
    if text is None:
        raise _Unread("text encoding is neither UTF-8 nor UTF-16 nor GB18030")
    return text


# -- HTML --------------------------------------------------------------------------------------

_BLOCKS = frozenset(
    """address article aside blockquote body br caption dd div dl dt fieldset figcaption figure footer
    form h1 h2 h3 h4 h5 h6 header hr li main nav ol p pre section table title tr ul""".split()
)
_HIDDEN = frozenset("script style noscript template svg nav head".split())


class _Html(HTMLParser):
    """Collects the text that a reader of the page sees, a line for each block."""

    def __init__(self):
        super().__init__()
        self.parts: list[str] = []
        self._hidden = self._pre = 0

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self._hidden += tag in _HIDDEN
        self._pre += tag == "pre"
        self.parts.append("\n" if tag in _BLOCKS else " " if tag in ("td", "th") else "")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = max(0, self._hidden - (tag in _HIDDEN))
        self._pre = max(0, self._pre - (tag == "pre"))
        self.parts.append("\n" if tag in _BLOCKS else "")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data if self._pre else re.sub(r"[ \t\r\n\f]+", " ", data))


def html_text(page: str) -> str:
    """The text of a page, without its markup, scripts and navigation."""
    parser = _Html()
    parser.feed(page)
    parser.close()
    lines = "".join(parser.parts).split("\n")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.strip(" ") for line in lines)).strip("\n")


def _html(path: Path) -> Iterator[Any]:
    yield {"text": html_text(_read(path))}


# -- archives ----------------------------------------------------------------------------------


class _Archive(zipfile.ZipFile):
    """A zip file whose members together unpack to at most LARGEST bytes."""

    left = LARGEST

    def member(self, name: str) -> bytes:
        with self.open(name) as file:
            data = file.read(self.left + 1)  # not the size that the header claims
        self.left -= len(data)
        if self.left < 0:
            raise _Unread("unpacks to more than 64 MiB, too much for one document")
        return data


def _docx(path: Path) -> Iterator[Any]:
    """The paragraphs of a Word document, cells of tables among them, in their order."""
    with _Archive(path) as archive:
        root = ElementTree.fromstring(archive.member("word/document.xml"))
    word = root.tag.partition("}")[0] + "}"
    marks = {f"{word}tab": "\t", f"{word}br": "\n", f"{word}cr": "\n"}
    paragraphs = (
        "".join(e.text or "" if e.tag == f"{word}t" else marks.get(e.tag, "") for e in p.iter())
        for p in root.iter(f"{word}p")
    )
    yield {"text": "\n".join(paragraphs)}


def _epub(path: Path) -> Iterator[Any]:
    """The chapters of a book in the order of its spine."""
    with _Archive(path) as archive:
        container = ElementTree.fromstring(archive.member("META-INF/container.xml"))
        package = next((e.get("full-path") for e in container.iter() if e.get("full-path")), "")
        root, names = ElementTree.fromstring(archive.member(package)), set(archive.namelist())
        hrefs = {e.get("id"): e.get("href") or "" for e in root.findall(".//{*}item")}
        chapters = []
        for reference in root.findall(".//{*}itemref"):
            href = unquote(hrefs.get(reference.get("idref"), ""))
            name = posixpath.normpath(posixpath.join(posixpath.dirname(package), href))
            if name.startswith(("..", "/")):
                yield Bad("archive member outside its folder")
            elif name not in names:
                yield Bad("chapter missing in .epub")
            else:
                chapters.append(html_text(decode_text(archive.member(name)) or ""))
    yield {"text": "\n\n".join(filter(None, chapters))}


# -- PDF ---------------------------------------------------------------------------------------


def _pdf(path: Path) -> Iterator[Any]:
    try:
        import pypdf
    except ImportError:
        raise _Unread("pdf needs pypdf (pip install pypdf)") from None
    try:
        pages = [page.extract_text() for page in pypdf.PdfReader(path).pages]
    except Exception as error:  # pypdf raises many kinds; one bad file must not end the run
        raise _Unread(f"unreadable pdf: {type(error).__name__}") from None
    if not any(page.strip() for page in pages):
        raise _Unread("pdf without text: a scan?")
    yield {"text": "\n".join(pages)}


_READERS = {".html": _html, ".htm": _html, ".docx": _docx, ".epub": _epub, ".pdf": _pdf}
TEXT_SUFFIXES = (".txt", ".md", ".markdown", *_READERS)
