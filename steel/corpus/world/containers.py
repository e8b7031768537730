"""The original containers of every source, written byte-identically: JSON lines (plain, gzip, zstd), JSON array,
parquet, plain files."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...runlog import atomic_write


@dataclass(eq=False)
class Record:
    """One raw record. `payload` is a dict, or bytes for a line that is not JSON; a plant names its kind and origin."""

    payload: dict | bytes
    plant: str = ""
    of: Record | None = None
    detail: str = ""


@dataclass
class RawFile:
    """One file of a source: `container` is jsonl, jsonl.gz, jsonl.zst, json, parquet or text."""

    source: str
    name: str
    container: str
    records: list[Record] = field(default_factory=list)

    def add(self, payload: dict) -> Record:
        record = Record(payload)
        self.records.append(record)
        return record


def dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def leaves(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """(innermost key, text) of every string inside a JSON value."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, key)


def lines(records: list[Record]) -> bytes:
    """JSON lines; byte payloads go out as they are."""
    parts = [
        r.payload if isinstance(r.payload, bytes) else dumps(r.payload).encode("utf-8")
        for r in records
    ]
    return b"".join(part + b"\n" for part in parts)


def gzip_bytes(data: bytes) -> bytes:
    """gzip without a time stamp or file name, so that equal input gives equal bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as file:
        file.write(data)
    return buffer.getvalue()


def parquet_bytes(records: list[Record], source: str) -> bytes:
    """One parquet file with the source's columns; a missing key becomes null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = list(
        dict.fromkeys(c for r in records for c in r.payload)
    )  # the first record may lack a field
    stars = pa.float64() if source.endswith("cpp") else pa.int64()
    types = {"max_stars_count": stars}
    table = pa.table(
        {
            c: pa.array([r.payload.get(c) for r in records], type=types.get(c, pa.string()))
            for c in columns
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="snappy")
    return buffer.getvalue()


def write_file(raw: Path, file: RawFile) -> None:
    """Writes one raw file (or, for `text`, one file per record) under raw/<source>/.

    Raises ModuleNotFoundError when pyarrow or zstandard is missing.
    """
    folder = raw / file.source
    if file.container == "text":
        for record in file.records:
            atomic_write(folder / record.payload["name"], record.payload["text"])
        return
    if file.container == "parquet":
        data = parquet_bytes(file.records, file.source)
    elif file.container == "json":
        data = (
            json.dumps([r.payload for r in file.records], ensure_ascii=False, indent=2) + "\n"
        ).encode("utf-8")
    else:
        data = lines(file.records)
        if file.container == "jsonl.gz":
            data = gzip_bytes(data)
        elif file.container == "jsonl.zst":
            import zstandard

            data = zstandard.ZstdCompressor(level=10).compress(data)
    atomic_write(folder / file.name, data)


def write_rows(path: Path, rows: list[dict]) -> None:
    """JSON lines of the world's own (clean) tables."""
    atomic_write(path, "".join(dumps(row) + "\n" for row in rows))
