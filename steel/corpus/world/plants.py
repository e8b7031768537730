"""Planted defects with a ground truth: exact and near duplicates, and junk of many kinds.

The truth names every plant by (source, file, record), where `record` counts from 0 in the file as written (lines of
JSON lines, elements of a JSON array, rows of parquet; 0 for a plain file).
"""

from __future__ import annotations

import copy
import random

from ...config import WorldConfig
from .containers import RawFile, Record, dumps, leaves
from .people import World, stream

# keys that hold identifiers and labels, not text
LABELS = {
    "METADATA",
    "SOURCE",
    "id",
    "qid",
    "category",
    "kind",
    "from",
    "name",
    "max_stars_repo_path",
    "max_stars_repo_name",
}
DUPLICATES = ("exact_duplicate", "near_duplicate")
_JUNK = ("mojibake", "html", "too_short", "symbols", "repetition", "missing_field", "wrong_type")
_LINE_JUNK = ("broken_json", "bad_utf8")
MIN_NEAR_CHARACTERS = 48


def main_key(payload: dict) -> tuple[str, str]:
    """(top-level key, text) of the longest text of a record."""
    found = [
        (top, text)
        for top, inner in payload.items()
        for key, text in leaves({top: inner})
        if key not in LABELS
    ]
    return max(found, key=lambda pair: len(pair[1]))


def replace_text(value, old: str, new: str):
    """The same JSON value with every string equal to `old` replaced."""
    if isinstance(value, str):
        return new if value == old else value
    if isinstance(value, dict):
        return {k: replace_text(v, old, new) for k, v in value.items()}
    if isinstance(value, list):
        return [replace_text(v, old, new) for v in value]
    return value


def perturb(text: str, rng: random.Random, code: bool = False) -> str:
    """Changes a few characters outside names and values: one punctuation mark, sometimes a short tail."""
    if code:
        comment = "#" if "def " in text else "//"
        return f"{text}{comment} {rng.choice(('end', 'eof', 'mirror', 'v2'))}\n"
    chinese = any("\u4e00" <= c <= "\u9fff" for c in text)
    swap = {"。": "！", "，": "、", "？": "！", ".": "!", ",": ";", "?": "!", "：": "——"}
    marks = [i for i, c in enumerate(text) if c in swap]
    tail = rng.choice(("（完）", "（转）", "") if chinese else (" (end)", " (reprint)", ""))
    if len(text) < 80 and marks:
        tail = ""  # in a short text a tail would be more than a few characters' worth of change
    if not marks:
        return text + (tail or ("（完）" if chinese else " (end)"))
    i = rng.choice(marks)
    return text[:i] + swap[text[i]] + text[i + 1 :] + tail


def _junk_payload(kind: str, record: Record, rng: random.Random) -> dict | bytes:
    payload = copy.deepcopy(record.payload)
    top, text = main_key(payload)
    if kind == "broken_json":
        line = dumps(payload)
        return line[: rng.randrange(len(line) // 2, len(line) - 2)].encode("utf-8")
    if kind == "bad_utf8":
        line = dumps(payload).encode("utf-8")
        middle = len(line) // 2
        return line[:middle] + b"\xff\xfe\x80" + line[middle:]
    if kind == "missing_field":
        del payload[top]
        return payload
    if kind == "wrong_type":
        payload[top] = rng.choice((None, 12345, {"text": text}, [text]))
        return payload
    if kind == "mojibake":
        new = text.encode("utf-8").decode("gbk", "ignore")
        new = new if new != text else text.replace(" ", "â€™ ")
    elif kind == "html":
        new = f'<div class="main"><p>{text}</p>&nbsp;&nbsp;<br/><a href="/next">下一页</a></div><script>var a=1;</script>'  # noqa: E501
    elif kind == "too_short":
        new = rng.choice(("", "好。", "略", "ok", "……"))
    elif kind == "symbols":
        new = "".join(rng.choices("★◆●■▲※→←↑↓┃━│═╋☆◇○□△@#%^&*~", k=rng.randrange(40, 120)))
    else:
        new = text[:30] * rng.randrange(12, 30)
    return replace_text(payload, text, new)


def _junk_kinds(file: RawFile) -> tuple[str, ...]:
    if file.container == "parquet":
        return tuple(k for k in _JUNK if k != "wrong_type")
    if file.container == "json":
        return _JUNK
    return _JUNK + _LINE_JUNK + (("bad_role_order",) if file.source == "belle_3_5m" else ())


def _swap_roles(record: Record) -> dict:
    payload = copy.deepcopy(record.payload)
    payload["conversations"] = payload["conversations"][::-1]
    return payload


def plant(files: list[RawFile], settings: WorldConfig, world: World) -> None:
    """Adds the plants to every file and shuffles its records (plain files keep their order)."""
    for file in files:
        rng = stream(world.seed, "plants", file.source, file.name)
        originals = list(file.records)
        if file.container == "text":
            _plant_files(file, rng)
            continue
        count = round(len(originals) * settings.duplicate_share)
        for record in rng.sample(originals, count):
            copied = copy.deepcopy(record.payload)
            file.records.append(Record(copied, "exact_duplicate", record))
        long = [r for r in originals if len(main_key(r.payload)[1]) >= MIN_NEAR_CHARACTERS]
        count = min(len(long), round(len(originals) * settings.near_duplicate_share))
        for record in rng.sample(long, count):
            text = main_key(record.payload)[1]
            changed = replace_text(
                copy.deepcopy(record.payload),
                text,
                perturb(text, rng, file.source.startswith("starcoder")),
            )
            file.records.append(Record(changed, "near_duplicate", record))
        if settings.junk_share:
            kinds = _junk_kinds(file)
            count = max(len(kinds), round(len(originals) * settings.junk_share))
            for i, record in enumerate(rng.sample(originals, min(count, len(originals)))):
                kind = kinds[i % len(kinds)]
                payload = (
                    _swap_roles(record)
                    if kind == "bad_role_order"
                    else _junk_payload(kind, record, rng)
                )
                file.records.append(Record(payload, kind, record))
    _plant_across(files, settings, world)
    for file in files:
        if file.container != "text":
            stream(world.seed, "shuffle", file.source, file.name).shuffle(file.records)


def _plant_across(files: list[RawFile], settings: WorldConfig, world: World) -> None:
    """Exact duplicates of SkyPile texts inside WanJuan: what only a cross-source pass finds."""
    rng = stream(world.seed, "plants", "across")
    web = [r for f in files if f.source == "skypile" for r in f.records if not r.plant]
    target = next(f for f in files if f.source == "wanjuan")
    for record in rng.sample(web, round(len(web) * settings.duplicate_share / 3)):
        identity = "".join(rng.choices("abcdefghijkmnpqrstuvwxyz0123456789", k=16))
        payload = {"id": identity, "content": record.payload["text"]}
        target.records.append(Record(payload, "exact_duplicate", record, "across sources"))


def _plant_files(file: RawFile, rng: random.Random) -> None:
    """One copied note and one empty note in the personal folder."""
    if not file.records:
        return
    record = rng.choice(file.records)
    stem, _, suffix = record.payload["name"].rpartition(".")
    copied = {"name": f"{stem}-copy.{suffix}", "text": record.payload["text"]}
    file.records.append(Record(copied, "exact_duplicate", record))
    file.records.append(Record({"name": "empty.txt", "text": ""}, "too_short"))


def truth_rows(files: list[RawFile]) -> list[dict]:
    """Every plant as {source, file, record, kind, of, detail}; `of` is the place of the original, or null."""
    place: dict[int, dict] = {}
    for file in files:
        for index, record in enumerate(file.records):
            if file.container == "text":
                place[id(record)] = {
                    "source": file.source,
                    "file": record.payload["name"],
                    "record": 0,
                }
            else:
                place[id(record)] = {"source": file.source, "file": file.name, "record": index}
    rows = []
    for file in files:
        for record in file.records:
            if record.plant:
                of = place[id(record.of)] if record.of else None
                rows.append(
                    {**place[id(record)], "kind": record.plant, "of": of, "detail": record.detail}
                )
    return rows
