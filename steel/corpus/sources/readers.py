"""Raw containers, read as streams: JSON lines, JSON arrays, Parquet, tar; plain, .gz, .zst.

`records(path)` yields (number, record). What cannot be read becomes a `Bad` with its reason and
size, so that the caller counts it and goes on: damage costs the record that it touched, and whatever
else had to be skipped is counted in bytes. A new container is a function and an entry of `READERS`.
"""

import codecs
import itertools
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import orjson

from ...config import first_line
from ...documents import CHUNK, LARGEST, BrokenFile, decompressed, read_chunks, split_lines
from .text_files import TEXT_SUFFIXES, Bad, plain_suffix, read_text_file

_BOM = b"\xef\xbb\xbf"
_HEAD = 1 << 16  # bytes that decide whether a file is JSON lines
_GAP = re.compile(r"[ \t\r\n,\[\]]*")  # what may stand between the records of an array
_BRACKET = re.compile(r"[{\]]")
_DECODER = json.JSONDecoder()


def records(path: Path | str) -> Iterator[tuple[int, Any]]:
    """(number from 0, record or Bad) for every record of a JSON, Parquet, tar or text file."""
    yield from enumerate(_records(Path(path)))


def _records(path: Path) -> Iterator[Any]:
    try:
        yield from READERS.get(plain_suffix(path), _json)(path)
    except BrokenFile as error:
        yield Bad(error.reason, error.left)


# -- JSON --------------------------------------------------------------------------------------


def _json(path: Path) -> Iterator[Any]:
    return json_records(read_chunks(path))


def json_records(chunks: Iterable[bytes]) -> Iterator[Any]:
    """The records of a JSON file, given as bytes in chunks of any size: JSON lines or an array.

    It is JSON lines when most of its first lines are objects; one byte, which may be damaged, does
    not decide. A BrokenFile of `chunks` is raised after the last record that could be read.
    """
    broken, end = None, b""

    def sound() -> Iterator[bytes]:
        nonlocal broken, end
        try:
            for chunk in chunks:
                end = chunk[-100:].strip() or end
                yield chunk
        except BrokenFile as error:
            broken = error

    rest, head = sound(), b""
    while len(head) < _HEAD and (chunk := next(rest, b"")):
        head += chunk
    head = head.removeprefix(_BOM)
    whole, known = itertools.chain([head], rest), _usual_keys(head)
    lines = [line for line in head.split(b"\n")[:20] if line.strip()]
    objects = sum(isinstance(_parse(line), dict) for line in lines)
    if lines and 2 * objects >= len(lines):
        yield from _lines(whole, known)
    else:
        yield from _objects(whole, known)
        if head.lstrip().startswith(b"[") and not end.endswith(b"]"):
            yield Bad("array is cut off")
    if broken:
        raise broken


def _usual_keys(head: bytes) -> set[str]:
    """The keys that most of the text in `head` stands under: a record's, not its parts'."""
    sizes: Counter[frozenset] = Counter()
    for record in _objects([head], set()):
        if isinstance(record, dict):
            sizes[frozenset(record)] += len(str(record))
    return set(max(sizes, key=sizes.get, default=()))


def _alike(record: Any, known: set[str]) -> bool:
    """Whether an object found behind damage is a record, not a part of the damaged one."""
    return isinstance(record, dict) and 2 * len(record.keys() & known) > len(record)


def _parse(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            return Bad("invalid utf-8", len(data))
        return Bad("invalid json", len(data))


def _lines(chunks: Iterable[bytes], known: set[str]) -> Iterator[Any]:
    """One record a line; a damaged one may still hold whole objects (a newline is lost)."""
    for line in split_lines(chunks):
        if line and not line.isspace():
            record = _parse(line)
            found = list(_objects([line], set(known))) if isinstance(record, Bad) else []
            yield from found if any(_alike(piece, known) for piece in found) else [record]


def _objects(chunks: Iterable[bytes], known: set[str]) -> Iterator[Any]:
    """The objects of a JSON array or of a mere sequence of objects, wherever the chunks end.

    What stands between two objects and is no separator is damage, or no object: it is skipped up to
    the next object whose keys are mostly `known` (any, when that is empty), and counted in bytes.
    `known` learns from every object that stands where a record stands.
    """
    skipped = 0
    for data, is_object in _pieces(chunks):
        record = _parse(data) if is_object else None
        if not is_object or (skipped and known and not _alike(record, known)):
            skipped += len(data)
            continue
        if skipped:
            yield Bad("damaged or not an object", skipped)
            skipped = 0
        elif known and isinstance(record, dict):
            known |= record.keys()
        yield record
    if skipped:
        yield Bad("damaged or not an object", skipped)


def _pieces(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """(bytes, whether they are a JSON object): all but the separators, from bracket to bracket.

    Bytes that are not UTF-8 are lone surrogates in between.
    """
    texts = codecs.iterdecode(chunks, "utf-8", "surrogateescape")
    text, at, more = "", 0, True
    while more or at < len(text):
        at = _GAP.match(text, at).end()
        end = _end_of_object(text, at)
        if end < 0 and more and len(text) - at < LARGEST:
            more = next(texts, "")
            while len(more) < len(text) - at and (another := next(texts, "")):
                more += another
            text, at = text[at:] + more, 0
            continue
        is_object = end > at
        if not is_object:
            bracket = _BRACKET.search(text, at + 1)
            end = bracket.start() if bracket else len(text)
        if end > at:
            yield text[at:end].encode("utf-8", "surrogateescape"), is_object
        at = end


def _end_of_object(text: str, at: int) -> int:
    """Where the JSON object at `at` ends: 0 for a damaged one or none, -1 if the text ends before.

    The json module stops at the first thing that cannot be, so that damage is found within the
    object and not at the end of the file.
    """
    if at == len(text):
        return -1
    try:
        return _DECODER.raw_decode(text, at)[1] if text[at] == "{" else 0
    except json.JSONDecodeError as error:
        too_short = error.pos > len(text) - 16 or error.msg.startswith("Unterminated")
        return -1 if too_short else 0
    except (ValueError, RecursionError):  # a number of 5,000 digits; 1,000 open brackets
        return 0


# -- other containers --------------------------------------------------------------------------


def _parquet(path: Path) -> Iterator[Any]:
    """The rows, one row group after another: a damaged one costs itself."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    problems = (pa.ArrowException, OSError, ValueError)
    try:
        file = pq.ParquetFile(path)
    except problems as error:
        yield Bad(f"unreadable parquet: {first_line(error)[:80]}", path.stat().st_size)
        return
    with file:
        for group in range(file.num_row_groups):
            try:
                for batch in file.iter_batches(batch_size=1024, row_groups=[group]):
                    yield from _rows(batch)
            except problems:
                size = file.metadata.row_group(group).total_byte_size
                yield Bad("damaged parquet row group", size)


def opened_records(file: IO[bytes], name: str) -> Iterator[Any]:
    """Like `records` for an open JSON or Parquet file, far away perhaps: no more is read than asked."""
    if plain_suffix(name) == ".parquet":
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(file).iter_batches(batch_size=64):
            yield from _rows(batch)
    else:
        yield from json_records(decompressed(file, name.lower()))


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
    chunks, unread, ended = read_chunks(path), 0, False

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, block, encoding, errors):
            nonlocal unread, ended
            try:
                return super().frombuf(block, encoding, errors)
            except tarfile.EOFHeaderError:
                ended = True
                raise
            except tarfile.HeaderError:
                unread += len(block)
                raise

    stream = SimpleNamespace(read=lambda size: next(chunks, b""))
    try:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=Header, ignore_zeros=True) as found:
            for member in found:
                suffix = Path(member.name).suffix.lower()
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    yield Bad("archive member outside its folder", member.size)
                elif suffix in JSON_SUFFIXES and member.isfile():
                    yield from json_records(_member(path, found.extractfile(member)))
                elif member.isfile():
                    reason = f"unread member of a tar file: {suffix or 'no suffix'}"
                    yield Bad(reason, member.size)
    except tarfile.TarError:
        yield Bad("damaged tar file", path.stat().st_size)
    if unread:
        yield Bad("damaged tar file", unread)
    if not ended:
        raise BrokenFile(path, "tar file is cut off")


def _member(path: Path, stream: IO[bytes]) -> Iterator[bytes]:
    try:
        yield from iter(lambda: stream.read(CHUNK), b"")
    except tarfile.ReadError:
        raise BrokenFile(path, "tar file is cut off") from None


JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
READERS = {
    **dict.fromkeys(JSON_SUFFIXES, _json),
    **dict.fromkeys(TEXT_SUFFIXES, read_text_file),
    ".parquet": _parquet,
    ".tar": _tar,
    ".tgz": _tar,
}
