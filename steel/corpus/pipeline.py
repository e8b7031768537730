"""Raw folder -> clean documents: convert, clean, deduplicate, and a report whose sums close.

Each source is converted and cleaned in one stream into OUT/.work, with its counts and its deduplication keys; when all
are there, copies are found across sources and OUT/<source>.jsonl.zst are written. A killed run goes on with the first
source that is not finished; its result is byte for byte that of a run that was not killed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..config import UserError
from ..documents import Document, DocumentWriter, decode, encode, read_documents, read_lines
from ..runlog import atomic_write
from . import dedup as duplicates
from .convert import Tally, chosen, convert_source
from .dedup import Dedup, Keys, Pair
from .operators import Operator, apply
from .recipe import Recipe, load_recipe
from .report import EVERY, Progress, drop_stale, finish, shown
from .sources import SOURCES, inside

VERSION = 1  # raise when the same recipe gives other bytes, so that old intermediate files are not taken up


class _Cleaner:
    """Applies a source's operators and counts: in = kept + removed."""

    def __init__(self, operators: list[Operator]):
        self.operators, self.read, self.kept, self.characters = operators, 0, 0, 0
        self.removed: Counter = Counter()
        self.changed: Counter = Counter()

    def __call__(self, document: Document) -> Document | None:
        self.read += 1
        result, by = apply(self.operators, document, self.changed)
        if result is None:
            self.removed[by] += 1
            return None
        self.kept += 1
        self.characters += len(result.readable())
        return result

    def counts(self) -> dict[str, Any]:
        assert self.read == self.kept + sum(self.removed.values())
        return {
            "in": self.read,
            "kept": self.kept,
            "removed": dict(sorted(self.removed.items())),
            "changed": dict(sorted(self.changed.items())),
            "characters": self.characters,
        }


def prepare(
    raw: Path | str,
    out: Path | str,
    recipe: str | Path | Recipe = "steel",
    executor: str = "local",
    limit: int | None = None,
    progress: Progress | None = None,
    sources: list[str] | None = None,
) -> dict[str, Any]:
    """Convert, clean and deduplicate `raw` into OUT/<source>.jsonl.zst, with OUT/report.json.

    limit: read at most this many records of each source. progress(source, step, records) is called now and then.
    Returns the report. Raises UserError for a folder without known data, a broken recipe or another executor.
    """
    if executor != "local":
        raise UserError(
            f"executor {executor!r} is not part of this version: only `local` runs here; split RAW by "
            "source and run one process for each"
        )
    raw, out, recipe = Path(raw), Path(out), load_recipe(recipe)
    wanted, rest = chosen(raw, out, recipe, sources)
    settings, work = Dedup.of(recipe.dedup), out / ".work"
    prints = {name: _fingerprint(raw, name, files, recipe, limit) for name, files in wanted}
    everything = hashlib.blake2b(json.dumps([prints, rest]).encode(), digest_size=8).hexdigest()
    if (done := _finished(out, work, everything)) is not None:
        return done
    work.mkdir(parents=True, exist_ok=True)
    with shown(progress, "preparing documents") as progress:
        parts = _first_steps(wanted, prints, raw, recipe, settings, work, progress, limit)
        names = list(parts)
        pairs, owners = _duplicates(names, work, settings)
        files = [work / f"{name}.jsonl.zst" for name in names]
        removed, ids = _write_unique(names, files, pairs, owners, out, work, progress)
    for name in names:
        kept = parts[name]["steps"]["clean"]["kept"]
        counts = removed.get(name, Counter())
        parts[name]["steps"]["dedup"] = {
            "in": kept,
            "kept": kept - sum(counts.values()),
            "removed": dict(sorted(counts.items())),
        }
    duplicates.write_pairs(out / "report" / "duplicates.jsonl", pairs, ids)
    report = finish(out, recipe.name, parts, rest)
    shutil.rmtree(work)
    atomic_write(
        work / "done.json",
        json.dumps({"fingerprint": everything, "outputs": _outputs(out, report)}),
    )
    return report


def _first_steps(
    wanted: list[tuple[str, list[Path]]],
    prints: dict[str, str],
    raw: Path,
    recipe: Recipe,
    settings: Dedup,
    work: Path,
    progress: Progress | None,
    limit: int | None,
) -> dict[str, Any]:
    """Convert and clean every source that no earlier, killed run has finished; returns the counts of all."""
    parts = {}
    for name, files in wanted:
        marker = work / f"{name}.json"
        state = json.loads(marker.read_text()) if marker.exists() else {}
        whole = all((work / f"{name}{suffix}").exists() for suffix in (".jsonl.zst", ".npz"))
        if not whole or state.get("fingerprint") != prints[name]:
            part = _convert_and_clean(name, files, raw, recipe, settings, work, progress, limit)
            atomic_write(marker, json.dumps(state := {"fingerprint": prints[name], "part": part}))
        parts[name] = state["part"]
    return parts


def _fingerprint(raw: Path, name: str, files: list[Path], recipe: Recipe, limit: int | None) -> str:
    """Everything that decides the documents of one source."""
    stats = [(inside(f, raw, name), (s := f.stat()).st_size, s.st_mtime_ns) for f in files]
    data = json.dumps([VERSION, recipe.fingerprint(), limit, stats])
    return hashlib.blake2b(data.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _outputs(out: Path, report: dict) -> dict[str, int]:
    return {
        f.name: f.stat().st_size
        for name in report["sources"]
        if (f := out / f"{name}.jsonl.zst").exists()
    }


def _finished(out: Path, work: Path, fingerprint: str) -> dict[str, Any] | None:
    """The report of an earlier run over the same files with the same recipe whose outputs still stand."""
    try:
        done = json.loads((work / "done.json").read_text())
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if done["fingerprint"] == fingerprint and done["outputs"] == _outputs(out, report):
        return report
    (work / "done.json").unlink()
    return None


def _convert_and_clean(
    name: str,
    files: list[Path],
    raw: Path,
    recipe: Recipe,
    settings: Dedup,
    work: Path,
    progress: Progress | None,
    limit: int | None,
) -> dict[str, Any]:
    """Stream one source into WORK/<name>.jsonl.zst and its keys into WORK/<name>.npz; returns its counts."""
    tally, cleaner = Tally(), _Cleaner(recipe.operators(SOURCES[name]))
    with DocumentWriter(work / f"{name}.jsonl.zst") as writer:

        def documents() -> Iterator[Document]:
            for document, line in convert_source(name, files, raw, recipe, tally, progress, limit):
                cleaned = cleaner(document)
                if cleaned is not None:
                    writer.write_line(line if cleaned is document else encode(cleaned))
                    yield cleaned

        found = duplicates.keys(documents(), settings)
    buffer = io.BytesIO()
    np.savez(buffer, **found._asdict())
    atomic_write(work / f"{name}.npz", buffer.getvalue())
    return {"files": len(files), "steps": {"convert": tally.check(), "clean": cleaner.counts()}}


def _duplicates(names: list[str], work: Path, settings: Dedup) -> tuple[list[Pair], list[str]]:
    """The copies among all sources, and for every document the source it came from."""
    loaded = []
    for name in names:
        with np.load(work / f"{name}.npz", allow_pickle=False) as data:
            loaded.append(Keys(*(data[field] for field in Keys._fields)))
    owners = [
        name for name, keys in zip(names, loaded, strict=True) for _ in range(len(keys.exact_N2))
    ]
    return duplicates.find(Keys.join(loaded, settings), settings), owners


def _write_unique(
    names: list[str],
    files: list[Path],
    pairs: list[Pair],
    owners: list[str],
    out: Path,
    work: Path,
    progress: Progress,
) -> tuple[dict[str, Counter], list[str]]:
    """Copy what is no duplicate to OUT; returns what was removed by source, and the ids of the documents of pairs."""
    kinds = {pair.removed: pair.kind for pair in pairs}
    needed = {place for pair in pairs for place in (pair.removed, pair.kept)}
    ids, removed, place = [""] * len(owners), {name: Counter() for name in names}, 0
    for name, file in zip(names, files, strict=True):
        with DocumentWriter(work / f"{name}.unique.zst") as writer:
            for number, line in read_lines(file):
                if place in needed:
                    ids[place] = decode(line).id
                if kind := kinds.get(place):
                    removed[name][kind] += 1
                else:
                    writer.write_line(line + b"\n")
                place += 1
                if number % EVERY == 0:
                    progress(name, "dedup", number)
    assert place == len(owners), "the intermediate files do not match their keys"
    drop_stale(out, names)
    for name in names:
        os.replace(work / f"{name}.unique.zst", out / f"{name}.jsonl.zst")
    return removed, ids


def _document_files(docs: Path) -> list[Path]:
    files = sorted(docs.glob("*.jsonl.zst"))
    if not files:
        raise UserError(f"{docs}: no *.jsonl.zst files; make documents with `steel data convert`")
    return files


def _apart(docs: Path, out: Path) -> None:
    if docs.resolve() == out.resolve():
        raise UserError(f"{out}: give an output folder that is not the input folder")


def _name_of(file: Path) -> str:
    return file.name.removesuffix(".jsonl.zst")


def clean(
    docs: Path | str,
    out: Path | str,
    recipe: str | Path | Recipe = "steel",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a recipe's operators over a folder of documents; writes OUT/<source>.jsonl.zst and OUT/report.json."""
    docs, out, recipe = Path(docs), Path(out), load_recipe(recipe)
    _apart(docs, out)
    parts, files = {}, _document_files(docs)
    drop_stale(out, [_name_of(file) for file in files])
    for file in files:
        operators: dict[str, list[Operator]] = {}
        cleaner = _Cleaner([])
        with (
            DocumentWriter(out / file.name) as writer,
            shown(progress, f"cleaning {_name_of(file)}") as progress_of,
        ):
            for number, document in enumerate(read_documents(file), start=1):
                if document.source not in operators:
                    operators[document.source] = recipe.operators(SOURCES[document.source])
                cleaner.operators = operators[document.source]
                cleaned = cleaner(document)
                if cleaned is not None:
                    writer.write(cleaned)
                if number % EVERY == 0:
                    progress_of(_name_of(file), "clean", number)
        parts[_name_of(file)] = {"files": 1, "steps": {"clean": cleaner.counts()}}
    return finish(out, recipe.name, parts)


def dedup(
    docs: Path | str,
    out: Path | str,
    recipe: str | Path | Recipe = "steel",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Remove copies from a folder of documents, across its files in the order of the cards; the first stays."""
    docs, out, recipe = Path(docs), Path(out), load_recipe(recipe)
    _apart(docs, out)
    settings, work = Dedup.of(recipe.dedup), out / ".work"
    rank = {name: place for place, name in enumerate(SOURCES)}
    files = sorted(_document_files(docs), key=lambda f: (rank.get(_name_of(f), len(rank)), f.name))
    with shown(progress, "removing copies") as progress:
        names, loaded = (
            [_name_of(f) for f in files],
            [duplicates.keys(read_documents(f), settings) for f in files],
        )
        pairs = duplicates.find(Keys.join(loaded, settings), settings)
        owners = [
            name
            for name, keys in zip(names, loaded, strict=True)
            for _ in range(len(keys.exact_N2))
        ]
        removed, ids = _write_unique(names, files, pairs, owners, out, work, progress)
    parts = {
        name: {
            "files": 1,
            "steps": {
                "dedup": {
                    "in": owners.count(name),
                    "kept": owners.count(name) - sum(removed[name].values()),
                    "removed": dict(sorted(removed[name].items())),
                }
            },
        }
        for name in names
    }
    duplicates.write_pairs(out / "report" / "duplicates.jsonl", pairs, ids)
    shutil.rmtree(work)
    return finish(out, recipe.name, parts)
