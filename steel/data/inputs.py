"""Reading document files for packing: finding them, cutting them into slices, telling them apart by content."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..config import UserError

READ_BYTES = 1 << 20
SUFFIXES = (".jsonl.zst", ".jsonl")


@dataclass(frozen=True)
class Input:
    """One file of documents. `name` is its path below the documents folder."""

    path: Path
    name: str
    source: str
    index: int  # among the files of its source


@dataclass
class Slice:
    """Lines [first, first + count) of an input (1-based line `first`)."""

    first: int
    count: int
    bytes: int
    hash: str


@dataclass
class Survey:
    """What one look through an input found."""

    slices: list[Slice] = field(default_factory=list)
    records: int = 0
    bytes: int = 0
    hash: str = ""


def find_inputs(docs: Path | str | list) -> list[Input]:
    """<source>.jsonl[.zst] files, or <source>/*.jsonl[.zst], of a folder, less what `steel data
    prepare` tells about them in report/; or the given files, named by themselves."""
    if isinstance(docs, (list, tuple)):
        files = [(Path(p), Path(p).name) for p in docs]
    elif Path(docs).is_file():
        files = [(Path(docs), Path(docs).name)]
    elif Path(docs).is_dir():
        root = Path(docs)
        files = [(p, p.relative_to(root).as_posix()) for p in root.rglob("*") if p.is_file()]
    else:
        raise UserError(f"no documents at {docs}; give the folder that 'steel data prepare' wrote")
    found: list[Input] = []
    count: Counter[str] = Counter()
    for path, name in sorted(files, key=lambda f: f[1]):
        suffix = next((s for s in SUFFIXES if name.endswith(s)), None)
        hidden = any(part.startswith(".") for part in name.split("/"))
        if suffix is None or hidden or name.startswith("report/"):
            continue
        if not path.is_file():
            raise UserError(f"no documents at {path}")
        source = name.split("/")[0] if "/" in name else name.removesuffix(suffix)
        found.append(Input(path, name, source, count[source]))
        count[source] += 1
    if not found:
        raise UserError(
            f"no *.jsonl.zst in {docs}; 'steel data prepare' or 'steel data convert' writes them"
        )
    return found


def _blocks(path: Path) -> Iterator[bytes]:
    """Decompressed bytes of a file. UserError naming the file when it is cut off or damaged."""
    with open(path, "rb") as file:
        if not path.name.endswith(".zst"):
            while block := file.read(READ_BYTES):
                yield block
            return
        try:
            import zstandard
        except ImportError:
            raise UserError(
                "reading .zst needs the package zstandard: pip install zstandard"
            ) from None
        decompressor, pending = None, b""
        try:
            while data := (pending or file.read(READ_BYTES)):
                decompressor = decompressor or zstandard.ZstdDecompressor().decompressobj()
                if block := decompressor.decompress(data):
                    yield block
                pending = b""
                if decompressor.eof:  # files may be several frames, one after the other
                    pending, decompressor = decompressor.unused_data, None
        except zstandard.ZstdError as error:
            raise UserError(f"{path} is not a sound zstd file ({error}); write it again") from None
        if decompressor is not None:
            raise UserError(f"{path} is cut off in the middle of a zstd frame; write it again")


def read_slices(path: Path, size: int) -> Iterator[list[bytes]]:
    """The lines of a file in slices of at least `size` bytes (the last may be smaller); line breaks are removed."""
    lines: list[bytes] = []
    held, rest = 0, []
    for block in _blocks(path):
        parts = block.split(b"\n")
        if len(parts) == 1:
            rest.append(block)
            continue
        parts[0] = b"".join((*rest, parts[0]))
        rest = [parts.pop()]
        for line in parts:
            lines.append(line)
            held += len(line) + 1
            if held >= size:
                yield lines
                lines, held = [], 0
    if last := b"".join(rest):
        lines.append(last)
    if lines:
        yield lines


def hash_lines(lines: list[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for line in lines:
        digest.update(line)
        digest.update(b"\n")
    return digest.hexdigest()


def survey(path: Path, size: int) -> Survey:
    """Cut a file into slices and hash each: the plan of its tasks, and what tells two inputs apart."""
    found = Survey()
    whole = hashlib.blake2b(digest_size=16)
    for lines in read_slices(path, size):
        length = sum(map(len, lines)) + len(lines)
        for line in lines:
            whole.update(line)
            whole.update(b"\n")
        found.slices.append(Slice(found.records + 1, len(lines), length, hash_lines(lines)))
        found.records += len(lines)
        found.bytes += length
    found.hash = whole.hexdigest()
    return found
