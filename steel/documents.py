"""The document: what every source becomes before any operator sees it, and its file format.

A file of documents is zstd-compressed JSON lines (`*.jsonl.zst`), keys in the order of the dataclass, so the same
documents always give the same bytes. Dialogue keeps its turns in `meta["messages"]` and an empty `text`; the chat
template renders them when they become tokens, so nothing on the way can tear a template.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .config import UserError

LEVEL = 3  # zstd: level 3 compresses Chinese text about 2.4 times at several hundred MB/s
_CJK = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_LATIN_WORD = re.compile(r"[A-Za-z]+")


@dataclass(slots=True)
class Document:
    """One text or one dialogue.

    id: stable name, source and a hash of where the record stands. text: the text, empty for a dialogue.
    source: key of `steel.corpus.sources.SOURCES`. lang: "zh", "en", "code" or "und".
    meta: anything else; `messages` is a list of {"role", "content"} and makes the document a dialogue.
    """

    id: str
    text: str
    source: str
    lang: str = "und"
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns of a dialogue, or an empty list."""
        return self.meta.get("messages") or []

    def readable(self) -> str:
        """The whole text as a reader sees it: turns joined by newlines, without any template."""
        messages = self.messages
        return "\n".join(turn["content"] for turn in messages) if messages else self.text


def document_id(source: str, file: str, record: int) -> str:
    """A name that stays the same when other files join the source: 64-bit hash of source, file and record number."""
    key = f"{source}\0{file}\0{record}".encode("utf-8", "surrogatepass")
    return f"{source}-{hashlib.blake2b(key, digest_size=8).hexdigest()}"


def guess_language(text: str) -> str:
    """ "zh" or "en" by counting Chinese characters against Latin words in the first 1,000 characters, else "und"."""
    head = text[:1000]
    chinese, latin = len(_CJK.findall(head)), len(_LATIN_WORD.findall(head))
    if chinese == latin == 0:
        return "und"
    return "zh" if chinese >= latin else "en"


def encode(document: Document) -> bytes:
    """One JSON line with its newline. Raises TypeError when `meta` holds what JSON cannot."""
    import orjson

    return orjson.dumps(
        {
            "id": document.id,
            "text": document.text,
            "source": document.source,
            "lang": document.lang,
            "meta": document.meta,
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


class DocumentWriter:
    """Writes documents to a temporary sibling; the file appears under its name, whole, when the block ends well."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.count = 0

    def __enter__(self) -> DocumentWriter:
        import zstandard

        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, self._temporary = tempfile.mkstemp(
            dir=self.path.parent, prefix=f".{self.path.name}."
        )
        self._file = os.fdopen(handle, "wb")
        self._stream = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).stream_writer(
            self._file, closefd=False
        )
        return self

    def write(self, document: Document) -> None:
        self.write_line(encode(document))

    def write_line(self, line: bytes) -> None:
        """A line made by `encode`, for copying documents without parsing them again."""
        self._stream.write(line)
        self.count += 1

    def __exit__(self, kind, value, trace) -> None:
        try:
            if kind is None:
                self._stream.close()
                self._file.flush()
                os.fsync(self._file.fileno())
                os.chmod(self._temporary, 0o644)
        finally:
            self._file.close()
        if kind is None:
            os.replace(self._temporary, self.path)
        else:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)


def write_documents(path: Path | str, documents: Iterable[Document]) -> int:
    """Write a `.jsonl.zst` file atomically; the same documents give the same bytes. Returns their number."""
    with DocumentWriter(path) as writer:
        for document in documents:
            writer.write(document)
    return writer.count


def read_lines(path: Path | str) -> Iterator[bytes]:
    """The raw JSON lines of a document file, streamed. UserError when the file is cut off or no document file."""
    from .corpus.sources.readers import Bad, lines

    for _, line in lines(Path(path)):
        if isinstance(line, Bad):
            raise UserError(f"{path}: {line.reason}; write the file again (steel data prepare)")
        yield line


def decode(line: bytes, where: str = "") -> Document:
    """The document of one line. UserError names the place when the line is not a document."""
    import orjson

    try:
        record = orjson.loads(line)
        return Document(
            id=record["id"],
            text=record["text"],
            source=record["source"],
            lang=record.get("lang", "und"),
            meta=record.get("meta") or {},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{where or 'line'}: not a document ({error}); documents have id, text, source, lang, meta "
            "and are made by `steel data convert`"
        ) from None


def read_documents(path: Path | str) -> Iterator[Document]:
    """Stream the documents of one file, or of all `*.jsonl.zst` files of a folder in the order of their names."""
    path = Path(path)
    if not path.exists():
        raise UserError(
            f"{path}: no such file or folder; make documents with `steel data prepare RAW OUT`"
        )
    for file in sorted(path.glob("*.jsonl.zst")) if path.is_dir() else [path]:
        for number, line in enumerate(read_lines(file), start=1):
            yield decode(line, f"{file}:{number}")
