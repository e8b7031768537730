"""SteelTown, the closed world: fictional people whose facts fill every raw source format, and an exam.

`write_world(out, cfg.world, seed)` writes the whole world from one seed, byte-identically, and checks
it for leaks. Its words are data: town.yaml (names, values), zh.yaml and en.yaml (sentences),
sources.yaml (raw formats, routes) and code.yaml (source files).
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from ...config import UserError, WorldConfig
from ...documents import write_rows
from ...runlog import atomic_write
from . import exam, post, raw
from .containers import labels, text_of, write_file
from .leakage import LeakageError, check
from .people import Person, World, build_world, check_settings, stream
from .plants import plant, truth_rows

_HAN, _LATIN = re.compile("[\u4e00-\u9fff]"), re.compile("[A-Za-z]")
_ROOMS = ("raw", "post", "exam", "heldout")
_FILES = ("truth.json", "leakage.json", "summary.json")

__all__ = ["LeakageError", "Person", "World", "build_world", "check", "write_world"]


def write_world(out: Path | str, cfg: WorldConfig, seed: int) -> dict:
    """Writes raw/, post/, exam/, heldout/, truth.json, leakage.json and summary.json under `out`.

    Returns the summary (counts, bytes, shares). The folder appears whole or not at all: it is written
    beside `out` and renamed; an older world at `out` goes when the new one stands in its place.

    Raises UserError for a configuration that cannot be built or an `out` that holds something else,
    LeakageError when training text knows the exam.
    """
    out = Path(out)
    check_settings(cfg)
    if out.exists() and not _replaceable(out):
        raise UserError(f"{out} exists and is not a world: choose an empty or new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        summary = _write(work, cfg, seed)
        work.chmod(0o755)
        _put(work, out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return summary


def _replaceable(out: Path) -> bool:
    """An empty folder, or a whole world with nothing of anybody else beside it."""
    names = {entry.name for entry in out.iterdir()} if out.is_dir() else {""}
    return not names or names == {*_ROOMS, *_FILES}


def _put(work: Path, out: Path) -> None:
    """Gives `work` the name `out`; an older world goes only when the new one stands in its place."""
    old = Path(f"{work}.old")
    if out.exists():
        out.rename(old)
    try:
        work.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write(root: Path, cfg: WorldConfig, seed: int) -> dict:
    """Writes the world under `root`; returns its summary."""
    world, shelf = build_world(cfg, seed), raw.Shelf(stream(seed, "shelf"))
    raw.write_statements(world, cfg, shelf)
    raw.write_code(world, shelf)
    raw.write_questions(world, cfg, shelf)
    rows = {
        "sft": post.sft(world, shelf),
        "multi_turn": post.multi_turn(world, shelf),
        "self_cognition": post.self_cognition(world, cfg),
        "preference": post.preference(world),
        "rl": post.reinforcement(world),
    }
    plant(shelf.files, cfg, world)
    for file in shelf.files:
        write_file(root / "raw", file)
    records = [r.payload for f in shelf.files for r in f.records if isinstance(r.payload, dict)]
    records += [row for table in rows.values() for row in table]
    heldout = exam.heldout(world, shelf, "\n\x00".join(map(text_of, records)))
    for room, tables in (("post", rows), ("heldout", heldout)):
        for name, table in tables.items():
            write_rows(root / room / f"{name}.jsonl", table)
    questions = {}
    for split in ("dev", "test"):
        for subject, table in exam.subjects(world, split).items():
            atomic_write(root / "exam" / split / f"{subject}.csv", exam.csv_text(table))
            questions[f"{split}/{subject}"] = len(table)
    write_rows(root / "exam" / "cloze.jsonl", exam.cloze(world))
    plants = truth_rows(shelf.files)
    _write_json(root / "truth.json", _truth(world, plants))
    report = check(root, world)
    _write_json(root / "leakage.json", report)
    if leaks := report["leaks"]:
        first = f"{leaks[0]['what']}: {leaks[0]['text'][:80]!r}"
        raise LeakageError(f"{len(leaks)} leaks; the first: {first}")
    summary = _summary(world, shelf)
    summary["post"] = {name: len(table) for name, table in rows.items()}
    summary["heldout"] = {name: len(table) for name, table in heldout.items()}
    summary["exam"] = questions
    summary["plants"] = dict(sorted(Counter(p["kind"] for p in plants).items()))
    _write_json(root / "summary.json", summary)
    return summary


def _write_json(path: Path, value: dict) -> None:
    atomic_write(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def _truth(world: World, plants: list[dict]) -> dict:
    people = []
    for p in world.people:
        values = {a: {k: world.value(p, a, k) for k in ("zh", "en")} for a in world.attributes}
        people.append({"zh": p.zh, "en": p.en, "split": p.split, "values": values})
    cities = world.pools["city"]["zh"] if world.cities else []
    products = dict(zip(cities, world.pools["specialty"]["zh"]))
    truth = {"seed": world.seed, "people": people, "product_of": products}
    return truth | {"arithmetic_pairs": world.pairs, "plants": plants}


def _summary(world: World, shelf: raw.Shelf) -> dict:
    """Records and characters per source, and the shares of UTF-8 bytes, before plants, to aim at."""
    sources: dict[str, dict[str, int]] = {}
    for file in shelf.files:
        entry = sources.setdefault(file.source, {"records": 0, "plants": 0})
        entry["records"] += len(file.records)
        entry["plants"] += sum(bool(r.plant) for r in file.records)
    text = "".join(
        text_of(record.payload, labels())
        for file in shelf.files
        if not file.source.startswith("starcoder")
        for record in file.records
        if not record.plant
    )
    han, latin = len(_HAN.findall(text)), len(_LATIN.findall(text))
    total = sum(shelf.bytes.values())
    return {
        "seed": world.seed,
        "people": {s: len(world.split(s)) for s in ("train", "dev", "test")},
        "facts": len(world.people) * len(world.attributes),
        "sources": sources,
        "raw_bytes": total,
        "chinese_share_of_bytes": round(3 * han / (3 * han + latin), 4),
        "chinese_share_of_characters": round(han / (han + latin), 4),
        "question_share": round(shelf.bytes["questions"] / total, 4),
    }
