"""Raw records, the original containers of every source, and planted defects with a ground truth:
exact and near duplicates, and junk of many kinds. Equal records give equal bytes.

The truth names every plant by (source, file, record), where `record` counts from 0 in the file as
written (lines of JSON lines, elements of a JSON array, rows of parquet; 0 for a plain file).
"""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...config import WorldConfig
from ...runlog import atomic_write
from .people import World, shuffled, stream, table

LABELS = tuple(table("sources")["labels"])  # keys of records that hold no text
MIN_NEAR_CHARACTERS = 48  # of the texts that get a near duplicate


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


# -- plants ----------------------------------------------------------------------------------------


def main_text(payload: dict) -> tuple[str, str]:
    """(top-level key, text) of the longest text of a record."""
    found = [(top, *leaf) for top, inner in payload.items() for leaf in leaves(inner, top)]
    texts = [(top, text) for top, key, text in found if key not in LABELS]
    return max(texts, key=lambda pair: len(pair[1]))


def replace_text(payload: dict, old: str, new: str) -> dict:
    """A copy of a record with every string equal to `old` replaced."""
    return json.loads(dumps(payload).replace(dumps(old), dumps(new)))


def perturb(text: str, rng: random.Random, code: bool) -> str:
    """Changes a few characters outside names and values: one mark, sometimes a short tail."""
    words = table("sources")["near_duplicate"]
    tails, swap = words["tails"], words["marks"]
    if code:
        return f"{text}{'#' if 'def ' in text else '//'} {rng.choice(tails['code'])}\n"
    lang = "zh" if any("\u4e00" <= c <= "\u9fff" for c in text) else "en"
    marks = [i for i, c in enumerate(text) if c in swap]
    tail = rng.choice(tails[lang])
    if not marks:
        return text + (tail or tails[lang][0])
    i = rng.choice(marks)
    changed = text[:i] + swap[text[i]] + text[i + 1 :]
    return changed if len(text) < 80 else changed + tail  # a short text would change too much


def junk(kind: str, payload: dict, rng: random.Random) -> dict | bytes:
    """A spoiled copy of a record; bytes where it is no longer a JSON line."""
    top, text = main_text(payload)
    line, words = dumps(payload), table("sources")["junk"]
    if kind == "broken_json":
        return line[: rng.randrange(len(line) // 2, len(line) - 2)].encode()
    if kind == "bad_utf8":
        data = line.encode()
        return data[: len(data) // 2] + b"\xff\xfe\x80" + data[len(data) // 2 :]
    if kind == "missing_field":
        return {k: v for k, v in payload.items() if k != top}
    if kind == "wrong_type":
        return payload | {top: rng.choice((None, 12345, {"text": text}, [text]))}
    if kind == "bad_role_order":
        return payload | {"conversations": payload["conversations"][::-1]}
    if kind == "mojibake":
        new = text.encode().decode("gbk", "ignore")
        new = new if new != text else text.replace(" ", "â€™ ")
    elif kind == "html":
        new = words["html"].format(text=text)
    elif kind == "too_short":
        new = rng.choice(words["too_short"])
    elif kind == "symbols":
        new = "".join(rng.choices(words["symbols"], k=rng.randrange(40, 120)))
    else:  # repetition
        new = text[:30] * rng.randrange(12, 30)
    return replace_text(payload, text, new)


def plant(files: list[RawFile], settings: WorldConfig, world: World) -> None:
    """Adds the plants to every file and shuffles its records (plain files keep their order)."""
    for file in files:
        rng = stream(world.seed, "plants", file.source, file.name)
        if file.records:
            (_plant_notes if file.container == "text" else _plant_records)(file, settings, rng)
    _plant_across(files, settings, stream(world.seed, "plants", "across"))
    for file in files:
        if file.container != "text":
            rng = stream(world.seed, "shuffle", file.source, file.name)
            file.records = shuffled(file.records, rng)


def _plant_records(file: RawFile, settings: WorldConfig, rng: random.Random) -> None:
    originals, code = list(file.records), file.source.startswith("starcoder")
    for record in rng.sample(originals, round(len(originals) * settings.duplicate_share)):
        file.records.append(Record(record.payload, "exact_duplicate", record))
    long = [r for r in originals if len(main_text(r.payload)[1]) >= MIN_NEAR_CHARACTERS]
    count = min(len(long), round(len(originals) * settings.near_duplicate_share))
    for record in rng.sample(long, count):
        text = main_text(record.payload)[1]
        changed = replace_text(record.payload, text, perturb(text, rng, code))
        file.records.append(Record(changed, "near_duplicate", record))
    if settings.junk_share:
        kinds = list(table("sources")["junk_kinds"][file.container.split(".")[0]])
        if file.source == "belle_3_5m":
            kinds.append("bad_role_order")
        count = max(len(kinds), round(len(originals) * settings.junk_share))
        for i, record in enumerate(rng.sample(originals, min(count, len(originals)))):
            kind = kinds[i % len(kinds)]
            file.records.append(Record(junk(kind, record.payload, rng), kind, record))


def _plant_notes(file: RawFile, settings: WorldConfig, rng: random.Random) -> None:
    """One copied note and one empty note in the personal folder."""
    record = rng.choice(file.records)
    stem, _, suffix = record.payload["name"].rpartition(".")
    copied = {"name": f"{stem}-copy.{suffix}", "text": record.payload["text"]}
    file.records.append(Record(copied, "exact_duplicate", record))
    file.records.append(Record({"name": "empty.txt", "text": ""}, "too_short"))


def _plant_across(files: list[RawFile], settings: WorldConfig, rng: random.Random) -> None:
    """Exact duplicates of SkyPile texts inside WanJuan: what only a cross-source pass finds."""
    web = [r for f in files if f.source == "skypile" for r in f.records if not r.plant]
    target = next(f for f in files if f.source == "wanjuan")
    for record in rng.sample(web, round(len(web) * settings.duplicate_share / 3)):
        identity = "".join(rng.choices("abcdefghijkmnpqrstuvwxyz0123456789", k=16))
        payload = {"id": identity, "content": record.payload["text"]}
        target.records.append(Record(payload, "exact_duplicate", record, "across sources"))


def truth_rows(files: list[RawFile]) -> list[dict]:
    """Every plant as {source, file, record, kind, of, detail}; `of` is where its original stands."""
    place: dict[Record, dict] = {}
    for file in files:
        for i, record in enumerate(file.records):
            place[record] = {"source": file.source, "file": file.name, "record": i}
            if file.container == "text":
                place[record] |= {"file": record.payload["name"], "record": 0}
    return [
        {**where, "kind": r.plant, "of": place[r.of] if r.of else None, "detail": r.detail}
        for r, where in place.items()
        if r.plant
    ]
