"""SteelTown, the closed world: fictional people whose facts fill every raw source format, and an exam.

`write_world(out, cfg.world, seed)` writes the whole world from one seed, byte-identically, and checks
it for leaks. Its words are data: town.yaml (names, values), zh.yaml and en.yaml (sentences),
sources.yaml (raw formats, routes, post-training rows) and code.yaml (source files).
"""

import json
import re
from collections import Counter
from pathlib import Path

from ...config import UserError, WorldConfig
from ...documents import write_rows
from ...runlog import new_folder, write_json
from . import exam, post, raw
from .containers import LABELS, plant, text_of, truth_rows, write_file
from .exam import LeakageError, check
from .people import Person, World, build_world, stream

_CHINESE, _LATIN = re.compile("[\u4e00-\u9fff]"), re.compile("[A-Za-z]")
_NAMES = {"raw", "post", "exam", "heldout", "truth.json", "leakage.json", "summary.json"}

__all__ = ["LeakageError", "Person", "World", "build_world", "check", "write_world"]


def write_world(out: Path | str, cfg: WorldConfig, seed: int) -> dict:
    """Writes raw/, post/, exam/, heldout/, truth.json, leakage.json and summary.json under `out`.

    Returns the summary (counts, bytes, shares). The folder appears whole or not at all. Raises
    UserError for a configuration that cannot be built and for an `out` that holds anything but an
    old world, LeakageError when training text knows the exam.
    """
    out, world = Path(out), build_world(cfg, seed)
    if out.exists() and not (out.is_dir() and {p.name for p in out.iterdir()} in (set(), _NAMES)):
        raise UserError(f"{out} exists and is not a world: choose an empty or new folder")
    with new_folder(out) as root:
        return _write(root, world, cfg)


def _write(root: Path, world: World, cfg: WorldConfig) -> dict:
    shelf = raw.Shelf(stream(world.seed, "shelf"))
    raw.write_statements(world, cfg, shelf)
    raw.write_code(world, shelf)
    raw.write_questions(world, cfg, shelf)
    rows = post.tables(world, cfg, shelf)
    plant(shelf.files, cfg, world)
    for file in shelf.files:
        write_file(root / "raw", file)
    records = [r.payload for f in shelf.files for r in f.records if isinstance(r.payload, dict)]
    records += [row for table in rows.values() for row in table]
    heldout = exam.heldout(world, shelf, "\n\x00".join(map(text_of, records)))
    for room, tables in (("post", rows), ("heldout", heldout)):
        for name, table in tables.items():
            write_rows(root / room / f"{name}.jsonl", table)
    write_rows(root / "exam" / "cloze.jsonl", exam.cloze(world))
    questions = exam.write_questions(world, root / "exam")
    plants = truth_rows(shelf.files)
    write_json(root / "truth.json", _truth(world, cfg) | {"plants": plants})
    report = check(root, world)
    write_json(root / "leakage.json", report)
    if leaks := report["leaks"]:
        first = f"{leaks[0]['what']}: {leaks[0]['text'][:80]!r}"
        raise LeakageError(f"{len(leaks)} leaks; the first: {first}")
    summary = _summary(world, shelf) | {
        "post": {name: len(table) for name, table in rows.items()},
        "heldout": {name: len(table) for name, table in heldout.items()},
        "exam": questions,
        "plants": dict(sorted(Counter(p["kind"] for p in plants).items())),
    }
    write_json(root / "summary.json", summary)
    return summary


def _truth(world: World, cfg: WorldConfig) -> dict:
    people = []
    for p in world.people:
        values = {a: {k: world.value(p, a, k) for k in ("zh", "en")} for a in world.attributes}
        pronoun = {lang: p.pronoun(lang) for lang in ("zh", "en")}
        row = {"zh": p.zh, "en": p.en, "split": p.split, "pronoun": pronoun, "values": values}
        people.append(row)
    products = dict(world.cities["zh"])
    truth = {"seed": world.seed, "people": people, "product_of": products}
    truth |= {"arithmetic_pairs": world.pairs, "strangers": world.strangers}
    return truth | {"assistant": {lang: post.assistant(cfg, lang) for lang in ("zh", "en")}}


def _summary(world: World, shelf: raw.Shelf) -> dict:
    """Records per source, and the shares of UTF-8 bytes, before plants, to aim at."""
    sources: dict[str, Counter] = {}
    natural = []
    for file in shelf.files:
        counts = sources.setdefault(file.source, Counter(records=0, plants=0))
        counts["records"] += len(file.records)
        counts["plants"] += sum(bool(r.plant) for r in file.records)
        if not file.source.startswith("starcoder"):
            natural += [text_of(r.payload, LABELS) for r in file.records if not r.plant]
    text, total = "".join(natural), sum(shelf.bytes.values())
    chinese, latin = len(_CHINESE.findall(text)), len(_LATIN.findall(text))
    return {
        "seed": world.seed,
        "people": {s: len(world.split(s)) for s in ("train", "dev", "test")},
        "facts": len(world.people) * len(world.attributes),
        "sources": sources,
        "raw_bytes": total,
        "chinese_share_of_bytes": round(3 * chinese / (3 * chinese + latin), 4),
        "chinese_share_of_characters": round(chinese / (chinese + latin), 4),
        "question_share": round(shelf.bytes["questions"] / total, 4),
    }
