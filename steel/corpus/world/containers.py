"""Raw records, and the original containers of every source: equal records give equal bytes."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...runlog import atomic_write
from .people import table

LABELS = tuple(table("sources")["labels"])  # keys of records that hold no text


@dataclass(eq=False)
class Record:
    """One raw record. `payload` is a dict, or the bytes of a line that is not JSON; a plant names its
    kind and origin."""

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


def text_of(record: object, without: tuple[str, ...] = ()) -> str:
    """All strings of a record that are not empty, a line each, but those under the keys in `without`."""
    return "\n".join(text for key, text in leaves(record) if text and key not in without)


def _parquet(payloads: list[dict], source: str) -> bytes:
    """One parquet file with the source's columns; a missing key becomes null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # C++ stores its stars as floats, as the original does; the first record may lack a field.
    types = {"max_stars_count": pa.float64() if source.endswith("cpp") else pa.int64()}
    names = dict.fromkeys(key for row in payloads for key in row)
    schema = pa.schema([(name, types.get(name, pa.string())) for name in names])
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(payloads, schema), buffer)
    return buffer.getvalue()


def _compressed(data: bytes, container: str) -> bytes:
    if container == "jsonl.gz":
        buffer = io.BytesIO()  # gzip.compress would write the platform into the header
        with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as file:
            file.write(data)
        return buffer.getvalue()
    if container == "jsonl.zst":
        import zstandard

        return zstandard.ZstdCompressor(level=10).compress(data)
    return data


def write_file(raw: Path, file: RawFile) -> None:
    """Writes one raw file (or, for `text`, one file per record) under raw/<source>/."""
    folder, payloads = raw / file.source, [r.payload for r in file.records]
    if file.container == "text":
        for note in payloads:
            atomic_write(folder / note["name"], note["text"])
    elif file.container == "parquet":
        atomic_write(folder / file.name, _parquet(payloads, file.source))
    elif file.container == "json":
        page = json.dumps(payloads, ensure_ascii=False, indent=2) + "\n"
        atomic_write(folder / file.name, page)
    else:
        lines = [p if isinstance(p, bytes) else dumps(p).encode() for p in payloads]
        data = b"".join(line + b"\n" for line in lines)
        atomic_write(folder / file.name, _compressed(data, file.container))
