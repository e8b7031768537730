"""The document, and the one reader and writer of JSON lines: files of documents and of rows.

A document is what every source becomes before any operator sees it. A file of documents is
zstd-compressed JSON lines (`*.jsonl.zst`), keys in the order of the dataclass, so the same
documents always give the same bytes. Dialogue keeps its turns in `meta["messages"]` and an empty
`text`; the chat template renders them when they become tokens: nothing on the way can tear one.

Files are streamed. One that is cut off or damaged raises `BrokenFile` where its sound part ends.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from json import dumps
from pathlib import Path
from typing import IO, Any

from .config import UserError, needs
from .runlog import atomic_file, atomic_write

try:
    from orjson import loads
except ImportError:  # three times slower; a training machine may have no more
    from json import loads

CHUNK = 1 << 18  # bytes per read of a plain file
PIECE = 1 << 14  # bytes per read of a compressed one: at most so much before a damage is lost
LARGEST = 64 << 20  # bytes of one line in memory


@dataclass(slots=True)
class Document:
    """One text or one dialogue.

    id: stable name, source and a hash of where the record stands. text: empty for a dialogue.
    source: key of `steel.corpus.sources.SOURCES`. lang: "zh", "en", "code" or "und".
    meta: anything else; `messages`, a list of {"role", "content"}, makes it a dialogue.
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
    """A name that stays when other files join the source: 64-bit hash of the record's place."""
    key = f"{source}\0{file}\0{record}".encode("utf-8", "surrogatepass")
    return f"{source}-{hashlib.blake2b(key, digest_size=8).hexdigest()}"


def guess_language(text: str) -> str:
    """ "zh" or "en" by Chinese characters against Latin words in the first 1,000, else "und"."""
    head = text[:1000]
    chinese = len(re.findall(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]", head))
    latin = len(re.findall(r"[A-Za-z]+", head))
    if chinese == latin == 0:
        return "und"
    return "zh" if chinese >= latin else "en"


# -- reading -----------------------------------------------------------------------------------


class BrokenFile(UserError):
    """A file that cannot be read to its end. `reason`: why; `left`: bytes on disk not read."""

    def __init__(self, path: Path, reason: str, left: int = 0):
        super().__init__(f"{path}: {reason}; write or fetch the file again")
        self.reason, self.left = reason, left
        self.given = (path, reason, left)

    def __reduce__(self):  # an error of a worker process has to reach its parent
        return BrokenFile, self.given


def read_chunks(path: Path | str) -> Iterator[bytes]:
    """The bytes of a file, decompressed when it is a .gz, .tgz or .zst. Raises BrokenFile."""
    path, left = Path(path), 0
    try:
        with open(path, "rb") as file:
            left = size = path.stat().st_size
            for chunk in decompressed(file, path.name.lower()):
                left = size - file.tell()
                yield chunk
    except EOFError:
        raise BrokenFile(path, "compressed file is cut off", left) from None
    except (zlib.error, gzip.BadGzipFile):
        raise BrokenFile(path, "damaged compressed file", left) from None
    except OSError as error:
        raise BrokenFile(path, f"unreadable file: {error.strerror or error}", left) from None


def decompressed(file: IO[bytes], name: str) -> Iterator[bytes]:
    """The bytes of an open file, unpacked as its name says. Raises EOFError or zlib.error."""
    if name.endswith((".gz", ".tgz")):
        stream = gzip.GzipFile(fileobj=file)
        yield from iter(lambda: stream.read1(PIECE), b"")
    elif name.endswith((".zst", ".zstd")):
        yield from _zstd_frames(file)
    else:
        yield from iter(lambda: file.read(CHUNK), b"")


def _zstd_frames(file: IO[bytes]) -> Iterator[bytes]:
    """One or more zstd frames. Like gzip: EOFError when the last is cut off, zlib.error for damage."""
    with needs("reading .zst", "zstandard"):
        import zstandard
    frame = None
    while data := file.read(PIECE):
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            try:
                chunk = frame.decompress(data)
            except zstandard.ZstdError as error:
                raise zlib.error(str(error)) from None
            data = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
            if chunk:
                yield chunk
    if frame is not None:
        raise EOFError


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their newline; one of more than 64 MiB comes in pieces, to bound memory."""
    pieces: list[bytes] = []
    held = 0
    for chunk in chunks:
        *whole, last = chunk.split(b"\n")
        if whole:
            yield b"".join((*pieces, whole[0]))
            yield from whole[1:]
            pieces, held = [], 0
        pieces.append(last)
        held += len(last)
        if held > LARGEST:
            yield b"".join(pieces)
            pieces, held = [], 0
    if rest := b"".join(pieces):
        yield rest


def read_lines(path: Path | str) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line) of every line that is not blank. Raises BrokenFile."""
    for number, line in enumerate(split_lines(read_chunks(path)), start=1):
        if line and not line.isspace():
            yield number, line


def read_rows(
    path: Path | str, refuse: Callable[[int, str], None] | None = None
) -> Iterator[tuple[int, dict]]:
    """(line number from 1, row) of a file of JSON objects, one a line, streamed.

    refuse: called with (line number, reason) for a line that is not a JSON object, which is then
    left out; without it such a line raises UserError. A broken file raises BrokenFile either way.
    """
    for number, line in read_lines(path):
        try:
            row = loads(line)
            reason = "" if isinstance(row, dict) else "not an object"
        except (ValueError, RecursionError):
            reason = "not json"
        if not reason:
            yield number, row
        elif refuse is not None:
            refuse(number, reason)
        else:
            raise UserError(f"{path}:{number}: {reason}; every line must be a JSON object")


def decode(line: bytes, where: str = "line") -> Document:
    """The document of one line. UserError names the place when the line is not a document."""
    try:
        record = loads(line)
        lang, meta = record.get("lang", "und"), record.get("meta") or {}
        return Document(record["id"], record["text"], record["source"], lang, meta)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = "documents have id, text, source, lang, meta and are made by `steel data convert`"
        raise UserError(f"{where}: not a document ({error}); {what}") from None


def document_files(folder: Path | str) -> list[Path]:
    """The `*.jsonl.zst` files of a folder, one a source, by name. UserError when there is none."""
    files = sorted(Path(folder).glob("*.jsonl.zst"))
    if not files:
        raise UserError(f"{folder}: no *.jsonl.zst files; `steel data prepare RAW OUT` makes them")
    return files


def read_documents(path: Path | str) -> Iterator[Document]:
    """Stream the documents of one file, or of all `*.jsonl.zst` files of a folder by name."""
    for file in document_files(path) if Path(path).is_dir() else [path]:
        for number, line in read_lines(file):
            yield decode(line, f"{file}:{number}")


# -- writing -----------------------------------------------------------------------------------


def encode(document: Document) -> bytes:
    """One JSON line with its newline. Raises TypeError when `meta` holds what JSON cannot."""
    import orjson

    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


class DocumentWriter(contextlib.ExitStack):
    """Writes documents to a file that takes its name when the block ends well (see `atomic_file`)."""

    def __init__(self, path: Path | str):
        super().__init__()
        self.path, self.count = path, 0

    def __enter__(self) -> DocumentWriter:
        import zstandard

        file = self.enter_context(atomic_file(self.path))
        compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
        self._stream = self.enter_context(compressor.stream_writer(file, closefd=False))
        return self

    def write(self, document: Document) -> None:
        self.write_line(encode(document))

    def write_line(self, line: bytes) -> None:
        """A line made by `encode`, for copying documents without parsing them again."""
        self._stream.write(line)
        self.count += 1


def write_documents(path: Path | str, documents: Iterable[Document]) -> int:
    """Write a `.jsonl.zst` file atomically, the same bytes for the same documents; their number."""
    with DocumentWriter(path) as writer:
        for document in documents:
            writer.write(document)
    return writer.count


def write_rows(path: Path | str, rows: Iterable[dict]) -> None:
    """Write plain JSON lines atomically."""
    atomic_write(path, "".join(dumps(row, ensure_ascii=False) + "\n" for row in rows))
