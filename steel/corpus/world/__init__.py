"""SteelTown, the closed world: fictional people whose facts fill every raw source format, with a held-out exam.

`write_world(out, cfg.world, seed)` writes the whole world from one seed, byte-identically, and checks it for leaks.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path

from ...config import UserError, WorldConfig
from ...runlog import atomic_write
from . import exam, post, raw
from .containers import leaves, write_file, write_rows
from .leakage import LeakageError, check, read_raw
from .people import Person, World, build_world, check_settings, stream
from .plants import LABELS, plant, truth_rows

_HAN, _LATIN = re.compile("[\u4e00-\u9fff]"), re.compile("[A-Za-z]")

ENTRIES = {
    "raw",
    "post",
    "exam",
    "heldout",
    "truth.json",
    "leakage.json",
    "summary.json",
}  # of a world's folder

__all__ = ["LeakageError", "Person", "World", "build_world", "check", "read_raw", "write_world"]


def write_world(out: Path | str, cfg: WorldConfig, seed: int) -> dict:
    """Writes raw/, post/, exam/, heldout/, truth.json, leakage.json and summary.json under `out`.

    `cfg` is a WorldConfig. Returns the summary (counts, bytes, shares). The folder appears whole or not at all: it is
    written beside `out` and renamed. An older world at `out` is replaced.

    Raises UserError for a configuration that cannot be built or an `out` that holds something else, LeakageError when
    training text knows the exam.
    """
    out, settings = Path(out), cfg
    check_settings(settings)
    if out.exists() and not _replaceable(out):
        raise UserError(f"{out} exists and is not a world: choose an empty or new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        summary = _write(work, settings, seed)
        work.chmod(0o755)
        _put(work, out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return summary


def _replaceable(out: Path) -> bool:
    """An empty folder, or a whole world with nothing of anybody else beside it."""
    names = {entry.name for entry in out.iterdir()} if out.is_dir() else {""}
    return not names or names == ENTRIES


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


def _write(root: Path, settings: WorldConfig, seed: int) -> dict:
    world = build_world(settings, seed)
    shelf = raw.Shelf(stream(seed, "shelf"))
    raw.write_statements(world, settings, shelf)
    raw.write_code(world, settings, shelf)
    raw.write_questions(world, settings, shelf)
    rows = {
        "sft": post.sft(world, shelf),
        "multi_turn": post.multi_turn(world, shelf),
        "self_cognition": post.self_cognition(world, settings),
        "preference": post.preference(world),
        "rl": post.reinforcement(world),
    }
    plant(shelf.files, settings, world)
    payloads = [r.payload for f in shelf.files for r in f.records if isinstance(r.payload, dict)]
    records = [*payloads, *(row for table in rows.values() for row in table)]
    heldout = exam.heldout(
        world, shelf, "\n\x00".join("\n".join(t for _, t in leaves(r)) for r in records)
    )
    for file in shelf.files:
        write_file(root / "raw", file)
    for name, table in rows.items():
        write_rows(root / "post" / f"{name}.jsonl", table)
    for name, table in heldout.items():
        write_rows(root / "heldout" / f"{name}.jsonl", table)
    questions = {}
    for split in ("dev", "test"):
        for subject, table in exam.subjects(world, split).items():
            atomic_write(root / "exam" / split / f"{subject}.csv", exam.csv_text(table))
            questions[f"{split}/{subject}"] = len(table)
    write_rows(root / "exam" / "cloze.jsonl", exam.cloze(world))
    plants = truth_rows(shelf.files)
    atomic_write(root / "truth.json", _pretty(_truth(world, plants)))
    report = check(root, world)
    atomic_write(root / "leakage.json", _pretty(report))
    if not report["passed"]:
        first = report["leaks"][0]
        raise LeakageError(
            f"{len(report['leaks'])} leaks; the first: {first['what']}: {first['text'][:80]!r}"
        )
    summary = _summary(root, world, shelf, settings, seed)
    summary |= {
        "post": {k: len(v) for k, v in rows.items()},
        "heldout": {k: len(v) for k, v in heldout.items()},
    }
    summary |= {"exam": questions, "plants": _count(p["kind"] for p in plants)}
    atomic_write(root / "summary.json", _pretty(summary))
    return summary


def _pretty(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _count(items) -> dict[str, int]:
    counts: dict[str, int] = {}
    for item in items:
        counts[item] = counts.get(item, 0) + 1
    return dict(sorted(counts.items()))


def _truth(world: World, plants: list[dict]) -> dict:
    people = [
        {
            "zh": p.zh,
            "en": p.en,
            "split": p.split,
            "values": {
                a: {k: world.value(p, a, k) for k in ("zh", "en")} for a in world.attributes
            },
        }
        for p in world.people
    ]
    products = {c["zh"]: world.product(i, "zh") for i, c in enumerate(world.pools.get("city", []))}
    pairs = {"train": world.train_pairs, "dev": world.dev_pairs, "test": world.test_pairs}
    return {
        "seed": world.seed,
        "people": people,
        "product_of": products,
        "arithmetic_pairs": pairs,
        "plants": plants,
    }


def _summary(root: Path, world: World, shelf: raw.Shelf, settings: WorldConfig, seed: int) -> dict:
    """Records and characters per source, and the shares the mixture aims at (of UTF-8 bytes before plants)."""
    sources: dict[str, dict[str, int]] = {}
    for file in shelf.files:
        entry = sources.setdefault(file.source, {"records": 0, "plants": 0})
        entry["records"] += len(file.records)
        entry["plants"] += sum(bool(r.plant) for r in file.records)
    total = sum(shelf.bytes.values())
    han = latin = 0
    for file in shelf.files:
        if not file.source.startswith("starcoder"):
            for record in file.records:
                if not record.plant:
                    text = "".join(t for key, t in leaves(record.payload) if key not in LABELS)
                    han += len(_HAN.findall(text))
                    latin += len(_LATIN.findall(text))
    return {
        "seed": seed,
        "people": {s: len(world.split(s)) for s in ("train", "dev", "test")},
        "facts": len(world.people) * len(world.attributes),
        "sources": sources,
        "raw_bytes": total,
        "chinese_share_of_bytes": round(3 * han / (3 * han + latin), 4),
        "chinese_share_of_characters": round(han / (han + latin), 4),
        "question_share": round(shelf.bytes["questions"] / total, 4),
    }
