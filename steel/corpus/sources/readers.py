"""Raw containers, read as streams: JSON lines, JSON arrays, Parquet, tar, text; plain, .gz, .zst.

`records(path)` yields (number, record). What cannot be read becomes a `Bad` with its reason and
size, so that the caller counts it and goes on: damage costs the record that it touched, and whatever
else had to be skipped is counted in bytes.
"""

from __future__ import annotations

import codecs
import itertools
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from ...documents import CHUNK, LARGEST, BrokenFile, read_chunks, split_lines

JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
RECORD_SUFFIXES = (*JSON_SUFFIXES, ".parquet", ".tar", ".tgz")
TEXT_SUFFIXES = (".txt", ".md", ".markdown", ".pdf")
_BOM = b"\xef\xbb\xbf"
_SPACE = " \t\r\n"
_HEAD = 1 << 16  # bytes that decide whether a file is JSON lines
_BRACKET = re.compile(r"[{\]]")
_DECODER = json.JSONDecoder()


class Bad(NamedTuple):
    """What could not be read: the reason that the report counts, and how many bytes it is."""

    reason: str
    bytes: int = 0


def plain_suffix(path: Path | str) -> str:
    """The suffix below compression: ".jsonl" for a.jsonl.zst, ".tar" for a.tar.gz, also ".tgz"."""
    name = str(path).lower()
    for compression in (".gz", ".zst", ".zstd"):
        name = name.removesuffix(compression)
    return Path(name).suffix


def records(path: Path | str) -> Iterator[tuple[int, Any]]:
    """(number from 0, record or Bad) for every record of a JSON, Parquet, tar or text file."""
    yield from enumerate(_records(Path(path)))


def _records(path: Path) -> Iterator[Any]:
    suffix = plain_suffix(path)
    try:
        if suffix == ".parquet":
            yield from _parquet(path)
        elif suffix in (".tar", ".tgz"):
            yield from _tar(path)
        elif suffix == ".pdf":
            yield _pdf(path)
        elif suffix in TEXT_SUFFIXES:
            yield _text(path)
        else:
            yield from json_records(read_chunks(path))
    except BrokenFile as error:
        yield Bad(error.reason, error.left)


# -- JSON --------------------------------------------------------------------------------------


def json_records(chunks: Iterable[bytes]) -> Iterator[Any]:
    """The records of a JSON file, given as bytes in chunks of any size: JSON lines or an array.

    It is JSON lines when most of its first lines are objects; one byte, which may be damaged, does
    not decide.
    """
    chunks, head = iter(chunks), b""
    for chunk in chunks:
        head += chunk
        if len(head) >= _HEAD:
            break
    head = head.removeprefix(_BOM)
    chunks, kinds = itertools.chain([head], chunks), _usual_kind(head)
    lines = [line for line in head.split(b"\n")[:20] if line.strip()]
    alone = sum(isinstance(_parse(line), dict) for line in lines)
    return _lines(chunks, kinds) if lines and 2 * alone >= len(lines) else _objects(chunks, kinds)


def _usual_kind(head: bytes) -> set[frozenset]:
    """The keys that most of the text in `head` stands under: a record's, not its parts'."""
    sizes: Counter = Counter()
    for record in _objects([head], set()):
        if isinstance(record, dict):
            sizes[frozenset(record)] += len(str(record))
    return {kind for kind, _ in sizes.most_common(1)}


def _alike(record: dict, kinds: set[frozenset]) -> bool:
    """Whether an object found behind damage is a record, not a part of the damaged one."""
    keys = record.keys()
    return not kinds or any(2 * len(k & keys) >= max(len(k), len(keys)) for k in kinds)


def _parse(data: bytes) -> Any:
    import orjson

    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            return Bad("invalid utf-8", len(data))
        return Bad("invalid json", len(data))


def _lines(chunks: Iterable[bytes], kinds: set[frozenset]) -> Iterator[Any]:
    """One record a line; a damaged one may still hold whole objects (a newline is lost)."""
    for line in split_lines(chunks):
        if line and not line.isspace():
            record = _parse(line)
            found = list(_objects([line], set(kinds))) if isinstance(record, Bad) else []
            whole = any(isinstance(piece, dict) and _alike(piece, kinds) for piece in found)
            yield from found if whole else [record]


def _objects(chunks: Iterable[bytes], kinds: set[frozenset]) -> Iterator[Any]:
    """The objects of a JSON array or of a mere sequence of objects, wherever the chunks end.

    What stands between two objects and is no separator is damage, or no object: it is skipped up to
    the next object with keys like those of `kinds` (all, when it is empty), and counted in bytes.
    """
    text, skipped, closed = _Text(chunks), 0, True
    if text.skip(_SPACE) and text.starts_with("["):
        text.at += 1
        closed = False
    while text.skip(_SPACE + ","):
        if text.starts_with("]"):
            text.at += 1
            closed = not text.skip(_SPACE)
            skipped += not closed  # a bracket too many, since something follows
            continue
        data = text.object()
        record = _parse(data) if data else None
        nested = skipped and isinstance(record, dict) and not _alike(record, kinds)
        if record is None or nested:
            skipped += len(data) or text.drop()
            continue
        if skipped:
            yield Bad("damaged or not an object", skipped)
            skipped = 0
        elif kinds and isinstance(record, dict) and len(kinds) < 64:
            kinds.add(frozenset(record))  # it stands where a record stands, so it is one
        yield record
    if text.broken:
        raise text.broken
    if not closed:
        yield Bad("array is cut off", skipped)
    elif skipped:
        yield Bad("damaged or not an object", skipped)


class _Text:
    """The text of a stream of bytes from the place `at` on; it grows on demand.

    Bytes that are not UTF-8 become lone surrogates, and bytes again on the way out.
    """

    def __init__(self, chunks: Iterable[bytes]):
        self.text, self.at = "", 0
        self.broken: BrokenFile | None = None
        self._chunks = iter(chunks)
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def starts_with(self, character: str) -> bool:
        return self.text.startswith(character, self.at)

    def skip(self, characters: str) -> bool:
        """Step over any of these characters; whether something else follows."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in characters:
                self.at += 1
            if self.at < len(self.text):
                return True
            if not self._grow():
                return False

    def object(self) -> bytes:
        """Step over the JSON object that begins here and return it; empty when it is damaged.

        The json module stops at the first thing that cannot be, so that damage is found within the
        object and not at the end of the file.
        """
        while self.starts_with("{"):
            try:
                _, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                at_the_end = error.pos > len(self.text) - 16 or error.msg.startswith("Unterminated")
                held = len(self.text) - self.at
                if at_the_end and held < LARGEST and self._grow():
                    continue
                break
            except (ValueError, RecursionError):  # a number of 5,000 digits; 1,000 open brackets
                break
            data, self.at = self._bytes(end), end
            return data
        return b""

    def drop(self) -> int:
        """Step on to the next bracket that may begin a record or end the array; bytes skipped."""
        found = _BRACKET.search(self.text, self.at + 1)
        end = found.start() if found else len(self.text)
        size, self.at = len(self._bytes(end)), end
        return size

    def _bytes(self, end: int) -> bytes:
        return self.text[self.at : end].encode("utf-8", "surrogateescape")

    def _grow(self) -> bool:
        """Forget what stands before `at` and read on, as much again; False at the end."""
        held, more, size = self.text[self.at :], "", 0
        try:
            while not more or size < len(held):
                chunk = next(self._chunks, None)
                more += self._decoder.decode(chunk or b"", final=chunk is None)
                if chunk is None:
                    break
                size += len(chunk)
        except BrokenFile as error:
            self.broken = error
        self.text, self.at = held + more, 0
        return bool(more)


# -- other containers --------------------------------------------------------------------------


def _parquet(path: Path) -> Iterator[Any]:
    """The rows, one row group after another: a damaged one costs itself."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    problems = (pa.ArrowException, OSError, ValueError)
    try:
        file = pq.ParquetFile(path)
    except problems as error:
        first_line = str(error).partition("\n")[0]
        yield Bad(f"unreadable parquet: {first_line[:80]}", path.stat().st_size)
        return
    with file:
        for group in range(file.num_row_groups):
            try:
                for batch in file.iter_batches(batch_size=1024, row_groups=[group]):
                    yield from _rows(batch)
            except problems:
                size = file.metadata.row_group(group).total_byte_size
                yield Bad("damaged parquet row group", size)


def _rows(batch) -> list[Any]:
    """The rows of a record batch, each a dict; one whose text is not UTF-8 costs itself."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [Bad("invalid utf-8", batch.nbytes)]
        return [row for i in range(batch.num_rows) for row in _rows(batch.slice(i, 1))]


def _tar(path: Path) -> Iterator[Any]:
    """The JSON members of a tar file, one after another; other members are counted as bad.

    Behind a damaged header the next sound one is looked for (tarfile's `ignore_zeros`).
    """

    class Header(tarfile.TarInfo):
        unread, ended = 0, False

        @classmethod
        def frombuf(cls, block, encoding, errors):
            try:
                return super().frombuf(block, encoding, errors)
            except tarfile.EOFHeaderError:
                Header.ended = True
                raise
            except tarfile.HeaderError:
                Header.unread += len(block)
                raise

    class Stream:
        chunks = read_chunks(path)

        def read(self, size: int) -> bytes:
            return next(self.chunks, b"")

    try:
        with tarfile.open(fileobj=Stream(), mode="r|", tarinfo=Header, ignore_zeros=True) as found:
            for member in found:
                suffix = Path(member.name).suffix.lower()
                if suffix in JSON_SUFFIXES and member.isfile():
                    yield from json_records(_member(path, found.extractfile(member)))
                elif member.isfile():
                    reason = f"unread member of a tar file: {suffix or 'no suffix'}"
                    yield Bad(reason, member.size)
    except tarfile.TarError:
        yield Bad("damaged tar file", path.stat().st_size)
    if Header.unread:
        yield Bad("damaged tar file", Header.unread)
    if not Header.ended:
        raise BrokenFile(path, "tar file is cut off")


def _member(path: Path, stream: IO[bytes]) -> Iterator[bytes]:
    try:
        yield from iter(lambda: stream.read(CHUNK), b"")
    except tarfile.ReadError:
        raise BrokenFile(path, "tar file is cut off") from None


def _text(path: Path) -> dict | Bad:
    """{"text": …} of a text or Markdown file."""
    data = b"".join(read_chunks(path)).removeprefix(_BOM)
    for encoding in ("utf-8", "gb18030"):
        try:
            return {"text": data.decode(encoding)}
        except UnicodeDecodeError:
            continue
    return Bad("text encoding is neither UTF-8 nor GB18030", len(data))


def _pdf(path: Path) -> dict | Bad:
    try:
        import pypdf
    except ImportError:
        return Bad("pdf needs pypdf (pip install pypdf)", path.stat().st_size)
    try:
        return {"text": "\n".join(page.extract_text() for page in pypdf.PdfReader(path).pages)}
    except Exception as error:  # pypdf raises many kinds; one bad file must not end the run
        return Bad(f"unreadable pdf: {type(error).__name__}", path.stat().st_size)
