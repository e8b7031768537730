"""The text of documents as a tokenizer sees it: all of it, or a sample that is fair to sources; and the
lines of a choice question, laid out so that a value is the same tokens everywhere."""

import hashlib
import heapq
import string
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..documents import Document, decode, document_files, read_documents, read_lines
from . import chat


def option_line(value: str, letter: str) -> str:
    """`value LETTER`, an English value behind a dash.

    The dash puts a space before the word, as inside a sentence: there it is the same token.
    """
    return f"{'- ' if value[0].isascii() and value[0].isalpha() else ''}{value} {letter}"


def option_lines(options: Sequence[str]) -> str:
    """One line per option."""
    return "\n".join(map(option_line, options, string.ascii_uppercase))


def document_text(document: Document) -> str:
    """What training reads of a document: its text or its turns; "" where packing rejects it."""
    try:
        text = document.text or chat.render(document.messages)
    except ValueError:  # no turns, or turns that no chat has
        return ""
    return text if text.strip() else ""


def said(document: Document) -> str:
    """What a tokenizer is trained on and measured by: of a dialogue what is said, for the template's
    markers are entries already; "" where packing rejects it."""
    return document.readable() if document_text(document) else ""


def document_texts(docs: Path) -> Iterator[str]:
    """What every document in a folder says that says something."""
    return filter(None, map(said, read_documents(docs)))


def sample_texts(docs: Path | str, most_bytes: int) -> list[str]:
    """Texts of about `most_bytes` of UTF-8 in all, from everywhere in a folder or file of documents.

    Every document has the same chance, so sources keep their shares. Those with the smallest hashes
    are drawn: the same documents give the same sample, in whatever files they lie. All files are
    read; only what is drawn is parsed and held in memory.
    """
    drawn: list[tuple[int, int, bytes]] = []  # a heap; the largest hash, negative, stands first
    held = 0
    files = [docs] if Path(docs).is_file() else document_files(docs)
    places = ((file, *line) for file in files for line in read_lines(file))
    for place, (file, number, line) in enumerate(places):
        rank = -int.from_bytes(hashlib.blake2b(line, digest_size=8).digest())
        if held >= most_bytes and rank < drawn[0][0]:
            continue
        text = said(decode(line, f"{file}:{number}")).encode("utf-8", "ignore")
        if not text:
            continue
        heapq.heappush(drawn, (rank, place, text))
        held += len(text)
        while held - len(drawn[0][2]) >= most_bytes:
            held -= len(heapq.heappop(drawn)[2])
    return [text.decode() for _, text in sorted((place, text) for _, place, text in drawn)]
