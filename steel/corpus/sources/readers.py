"""Raw containers, read as streams: JSON lines, JSON arrays, Parquet, tar, text, each plain or .gz or .zst.

`records(path)` yields (number, record); a record that cannot be read is a `Bad` with its reason, so that the caller
counts it and goes on. Only what is needed for one record is in memory: an array of any length is cut at its
top-level commas while it is read.
"""

from __future__ import annotations

import itertools
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

CHUNK = 1 << 18  # bytes per read
LARGEST = 64 << 20  # bytes of one record; beyond this the line or element is counted as bad
RECORD_SUFFIXES = (".jsonl", ".json", ".ndjson", ".parquet", ".tar", ".tgz")
TEXT_SUFFIXES = (".txt", ".md", ".markdown", ".pdf")
# A whole string, a string that the buffer cuts off, a quote that nothing closes on its line, or structure.
_TOKEN = re.compile(rb'"(?:[^"\\\n]++|\\.)*+(?:"|(\\?\Z))|"|[{}\[\],]', re.DOTALL)
_SPACE = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"


class Bad(NamedTuple):
    """A record, or the rest of a file, that could not be read; `reason` is what the report counts it under."""

    reason: str


def plain_suffix(path: Path | str) -> str:
    """The suffix below compression: ".jsonl" for a.jsonl.zst, ".tar" for a.tar.gz, ".tgz" as it is."""
    name = str(path).lower()
    for compression in (".gz", ".zst", ".zstd"):
        name = name.removesuffix(compression)
    return Path(name).suffix


def records(path: Path | str) -> Iterator[tuple[int, Any]]:
    """(number from 0, record or Bad) for every record of a JSON, Parquet, tar or text file."""
    path = Path(path)
    suffix = plain_suffix(path)
    if suffix == ".parquet":
        yield from _parquet(path)
    elif suffix in TEXT_SUFFIXES:
        yield 0, _text(path, suffix)
    elif suffix in (".tar", ".tgz"):
        yield from _tar(path)
    else:
        yield from _json(_chunks(path))


def lines(path: Path | str) -> Iterator[tuple[int, bytes | Bad]]:
    """(number, line without its newline) of a plain or compressed file; empty lines are skipped."""
    yield from _lines(_chunks(Path(path)))


def _chunks(path: Path) -> Iterator[bytes | Bad]:
    try:
        with open(path, "rb") as file:
            name = path.name.lower()
            if name.endswith(".gz"):
                yield from _decompressed(file, lambda: zlib.decompressobj(wbits=31))
            elif name.endswith((".zst", ".zstd")):
                import zstandard

                yield from _decompressed(file, lambda: zstandard.ZstdDecompressor().decompressobj())
            else:
                while chunk := file.read(CHUNK):
                    yield chunk
    except OSError as error:
        yield Bad(f"unreadable file: {error.strerror or error}")


def _decompressed(file: IO[bytes], new) -> Iterator[bytes | Bad]:
    """Bytes of a compressed file of one or more members or frames; a cut or damaged end becomes a Bad."""
    import zstandard

    stream, fresh = new(), True
    while chunk := file.read(CHUNK):
        while chunk:
            try:
                data = stream.decompress(chunk)
            except (zlib.error, zstandard.ZstdError):
                yield Bad("damaged compressed file")
                return
            if data:
                yield data
            fresh, chunk = False, b""
            if stream.eof:
                chunk, stream, fresh = stream.unused_data, new(), True
    if not fresh:
        yield Bad("compressed file is cut off")


def _lines(chunks: Iterable[bytes | Bad]) -> Iterator[tuple[int, bytes | Bad]]:
    """A cut file yields its whole lines, then the Bad; the torn last line belongs to the Bad."""
    number, pieces, held = 0, [], 0
    for chunk in chunks:
        if isinstance(chunk, Bad):
            yield number, chunk
            return
        parts = chunk.split(b"\n")
        held += len(parts[0])
        pieces = [*pieces, parts[0]] if held <= LARGEST else []
        if len(parts) == 1:
            continue
        first = b"".join(pieces) if held <= LARGEST else Bad("line over 64 MiB")
        for line in (first, *parts[1:-1]):
            if isinstance(line, Bad) or (line and not line.isspace()):
                yield number, line
                number += 1
        pieces, held = [parts[-1]], len(parts[-1])
    if held > LARGEST:
        yield number, Bad("line over 64 MiB")
    elif (last := b"".join(pieces)) and not last.isspace():
        yield number, last


def _json(chunks: Iterable[bytes | Bad]) -> Iterator[tuple[int, Any]]:
    """One JSON array when the first character is a bracket, else JSON lines."""
    chunks = iter(chunks)
    head: bytes | Bad = b""
    for chunk in chunks:
        head = chunk if isinstance(chunk, Bad) else (head + chunk).removeprefix(_BOM)
        if isinstance(head, Bad) or not head.isspace():
            break
    chunks = itertools.chain([head], chunks)
    if isinstance(head, bytes) and head.lstrip(_SPACE).startswith(b"["):
        yield from _array(chunks)
        return
    for number, line in _lines(chunks):
        yield number, line if isinstance(line, Bad) else _parse(line)


def _parse(data: bytes) -> Any:
    import orjson

    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            return Bad("invalid utf-8")
        return Bad("invalid json")


def _array(chunks: Iterable[bytes | Bad]) -> Iterator[tuple[int, Any]]:
    """Elements of one JSON array, cut where the nesting depth is one.

    A string cannot hold a raw newline in JSON, so a missing quote damages its own line and no more, and a missing
    bracket hides the rest of the array, which is reported as cut off.
    """
    chunks, buffer, cut = iter(chunks), b"", _Cutter()
    number, grow = 0, 1
    while not cut.ended:
        more = list(itertools.islice(chunks, grow))
        problem = next((c for c in more if isinstance(c, Bad)), None)
        final = not more or problem is not None
        buffer += b"".join(c for c in more if not isinstance(c, Bad))
        before = number
        for element in cut.elements(buffer, final):
            yield number, _parse(element)
            number += 1
        buffer = cut.rest(buffer)
        if cut.ended:
            rest = buffer + b"".join(c for c in chunks if isinstance(c, bytes))
            if rest.strip(_SPACE):
                yield number, Bad("data after the end of the array")
        elif final or len(buffer) > LARGEST:
            yield (
                number,
                problem or Bad("array is cut off" if final else "array element over 64 MiB"),
            )
            return
        grow = (
            1 if number > before else min(grow * 2, 64)
        )  # a huge element is not scanned once per chunk


class _Cutter:
    """Finds the top-level commas of an array in a buffer that grows at its end and shrinks at its start."""

    def __init__(self):
        self.depth, self.start, self.scanned, self.ended = 0, 0, 0, False

    def elements(self, buffer: bytes, final: bool) -> Iterator[bytes]:
        """The complete elements of `buffer`; `final` says that nothing follows it."""
        for match in _TOKEN.finditer(buffer, self.scanned):
            token = match.group()
            if token[:1] == b'"':
                if match.group(1) is not None and not final:
                    return  # the string goes on in the next chunk
            elif token in b"{[":
                self.depth += 1
                if self.depth == 1:
                    self.start = match.end()
            else:
                self.depth -= token in b"}]"
                if self.depth == (1 if token == b"," else 0):
                    element = buffer[self.start : match.start()].strip(_SPACE)
                    self.start, self.ended = match.end(), token != b","
                    if element or token == b",":
                        yield element
                    if self.ended:
                        return
            self.scanned = match.end()

    def rest(self, buffer: bytes) -> bytes:
        """What is left of `buffer` behind the last complete element."""
        rest, self.scanned, self.start = buffer[self.start :], max(self.scanned - self.start, 0), 0
        return rest


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    yield number, row
                    number += 1
    except (pa.ArrowException, OSError, ValueError) as error:
        yield number, Bad(f"unreadable parquet: {str(error).splitlines()[0][:80]}")


def _tar(path: Path) -> Iterator[tuple[int, Any]]:
    """The JSON members of a tar file, one after another; other members are counted as bad."""
    number = 0
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                if plain_suffix(member.name) not in (
                    ".jsonl",
                    ".json",
                    ".ndjson",
                ) or member.name.endswith("gz"):
                    yield (
                        number,
                        Bad(
                            f"unread member of a tar file: {Path(member.name).suffix or 'no suffix'}"
                        ),
                    )
                    number += 1
                    continue
                stream = archive.extractfile(member)
                for _, record in _json(iter(lambda: stream.read(CHUNK), b"")):  # noqa: B023
                    yield number, record
                    number += 1
    except (tarfile.TarError, OSError, EOFError, zlib.error):
        yield number, Bad("damaged tar file")


def _text(path: Path, suffix: str) -> dict | Bad:
    """{"text": …} of a text, Markdown or PDF file."""
    if suffix == ".pdf":
        return _pdf(path)
    pieces = []
    for chunk in _chunks(path):
        if isinstance(chunk, Bad):
            return chunk
        pieces.append(chunk)
    data = b"".join(pieces).removeprefix(_BOM)
    for encoding in ("utf-8", "gb18030"):
        try:
            return {"text": data.decode(encoding)}
        except UnicodeDecodeError:
            continue
    return Bad("text encoding is neither UTF-8 nor GB18030")


def _pdf(path: Path) -> dict | Bad:
    try:
        import pypdf
    except ImportError:
        return Bad("pdf needs pypdf (pip install pypdf)")
    try:
        return {"text": "\n".join(page.extract_text() for page in pypdf.PdfReader(path).pages)}
    except (
        Exception
    ) as error:  # pypdf raises many kinds on damaged files; one bad file must not end the run
        return Bad(f"unreadable pdf: {type(error).__name__}")
