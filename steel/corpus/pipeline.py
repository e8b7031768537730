"""Raw folder -> clean documents: convert, clean, deduplicate, and a report whose sums close.

Each source runs through the first steps in one stream into OUT/.work, with its counts and its
deduplication keys; when all are there, copies are found across sources and OUT/<source>.jsonl.zst
are written. A killed run goes on with the first source that is not finished; its result is byte for
byte that of a run that was not killed. Any part of the steps can run alone, on the documents that
the steps before have written.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import UserError
from ..documents import Document, DocumentWriter, decode, document_files, encode, read_lines
from ..machine import Progress, progress
from ..runlog import atomic_write
from . import dedup as duplicates
from .convert import convert_source, rules_of
from .dedup import Dedup, Keys, Pair
from .operators import apply
from .recipe import Recipe, load_recipe
from .report import STEPS, Tally, drop_stale, write_report
from .sources import SOURCES, inside, survey

# Raise when a recipe gives other bytes: intermediate files of old runs are then not used.
VERSION = 2
EVERY = 1000  # records between two moves of the progress bar


def prepare(
    raw: Path | str,
    out: Path | str,
    recipe: str | Path | Recipe = "steel",
    steps: tuple[str, ...] = STEPS,
) -> dict[str, Any]:
    """Run `steps` over `raw` into OUT/<source>.jsonl.zst and OUT/report.json, which it returns.

    raw: a folder of raw files, or without the step "convert" of documents. Pairs of copies go to
    OUT/report. Raises UserError for a folder without known data or a broken recipe.
    """
    raw, out, recipe = Path(raw), Path(out), load_recipe(recipe)
    files, about = _inputs(raw, out, recipe, steps)
    settings = Dedup.of(recipe.dedup) if "dedup" in steps else None
    job = _Job(raw, out, recipe, steps, files, settings)
    everything = _digest([*map(job.fingerprint, files), about])
    if (done := job.finished(everything)) is not None:
        return done
    job.work.mkdir(parents=True, exist_ok=True)
    with progress(None, "preparing documents", "records") as bar:
        parts = {name: job.stream(name, bar) for name in files}
        job.publish(job.pairs(), parts, bar)
    report = write_report(out, recipe.name, parts, about)
    shutil.rmtree(job.work)
    job.finish(everything, report)
    return report


def convert(raw: Path | str, out: Path | str, recipe: str | Path | Recipe = "steel"):
    """Only the first step: raw files to documents."""
    return prepare(raw, out, recipe, ("convert",))


def clean(docs: Path | str, out: Path | str, recipe: str | Path | Recipe = "steel"):
    """Only the second step: a recipe's operators over a folder of documents."""
    return prepare(docs, out, recipe, ("clean",))


def dedup(docs: Path | str, out: Path | str, recipe: str | Path | Recipe = "steel"):
    """Only the third step: remove copies from a folder of documents; the first stays."""
    return prepare(docs, out, recipe, ("dedup",))


def _inputs(
    raw: Path, out: Path, recipe: Recipe, steps: tuple[str, ...]
) -> tuple[dict[str, list[Path]], dict[str, Any]]:
    """The files to work on by source, in the order of the cards, and what is said of others."""
    if raw.resolve() == out.resolve():
        raise UserError(f"{out}: give an output folder that is not the input folder")
    if "convert" not in steps:
        rank = {name: place for place, name in enumerate(SOURCES)}
        named = {file.name.removesuffix(".jsonl.zst"): [file] for file in document_files(raw)}
        return dict(sorted(named.items(), key=lambda item: rank.get(item[0], len(rank)))), {}
    if (raw / "truth.json").is_file() and (raw / "raw").is_dir():
        raise UserError(f"{raw} is a whole world, with its exam; give {raw / 'raw'}")
    if out.resolve().is_relative_to(raw.resolve()):
        raise UserError(f"{out} lies inside {raw}: it would be read as raw data; choose another")
    found, unknown = survey(raw)
    if not found:
        names = ", ".join(SOURCES)
        raise UserError(f"{raw}: no raw data recognised; name the folders after sources ({names})")
    rules = rules_of(recipe)
    about = {
        "unrecognised_files": [os.fspath(p.relative_to(raw)) for p in unknown],
        "sources_without_a_rule": [name for name in found if name not in rules],
    }
    return {name: files for name, files in found.items() if name in rules}, about


def _digest(data: Any) -> str:
    text = json.dumps(data).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=8).hexdigest()


@dataclass(frozen=True)
class _Job:
    """One call of `prepare`, and its intermediate files in OUT/.work."""

    root: Path
    out: Path
    recipe: Recipe
    steps: tuple[str, ...]
    files: dict[str, list[Path]]  # by source
    settings: Dedup | None  # None: copies stay

    @property
    def work(self) -> Path:
        return self.out / ".work"

    def fingerprint(self, name: str) -> str:
        """Everything that decides the documents of one source."""
        stats = [(file, file.stat()) for file in self.files[name]]
        files = [(inside(f, self.root, name), s.st_size, s.st_mtime_ns) for f, s in stats]
        return _digest([VERSION, self.steps, self.recipe.fingerprint(), files])

    def finished(self, fingerprint: str) -> dict[str, Any] | None:
        """The report of an earlier run over the same files whose outputs still stand."""
        try:
            done = json.loads((self.work / "done.json").read_text())
            report = json.loads((self.out / "report.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        same = done["fingerprint"] == fingerprint and done["outputs"] == self._outputs(report)
        if not same:
            (self.work / "done.json").unlink()
        return report if same else None

    def finish(self, fingerprint: str, report: dict[str, Any]) -> None:
        done = {"fingerprint": fingerprint, "outputs": self._outputs(report)}
        atomic_write(self.work / "done.json", json.dumps(done))

    def _outputs(self, report: dict[str, Any]) -> dict[str, int]:
        files = [self.out / f"{name}.jsonl.zst" for name in report["sources"]]
        return {file.name: file.stat().st_size for file in files if file.exists()}

    def stream(self, name: str, bar: Progress) -> dict[str, Any]:
        """The first steps over one source, into WORK/<name>.jsonl.zst, its keys into .npz.

        Returns its counts: those of an earlier, killed run, if that has finished the source.
        """
        marker, current = self.work / f"{name}.json", self.fingerprint(name)
        data, keys = self.work / f"{name}.jsonl.zst", self.work / f"{name}.npz"
        if marker.exists() and data.exists() and (keys.exists() or self.settings is None):
            state = json.loads(marker.read_text())
            if state["fingerprint"] == current:
                return state["part"]
        tallies: dict[str, Tally] = {}
        with DocumentWriter(data) as writer:

            def written() -> Iterator[Document]:
                for document, line in self._documents(name, tallies):
                    writer.write_line(line)
                    if writer.count % EVERY == 0:
                        bar.advance(EVERY, source=name)
                    yield document

            if self.settings is None:
                for _ in written():
                    pass
            else:
                buffer = io.BytesIO()
                np.savez(buffer, **duplicates.keys(written(), self.settings)._asdict())
                atomic_write(keys, buffer.getvalue())
        steps = {step: tally.counts() for step, tally in tallies.items()}
        part = {"files": len(self.files[name]), "steps": steps}
        atomic_write(marker, json.dumps({"fingerprint": current, "part": part}))
        return part

    def _documents(self, name: str, tallies: dict[str, Tally]) -> Iterator[tuple[Document, bytes]]:
        """(document, its JSON line) of one source after the first steps, counted in `tallies`."""
        files = self.files[name]
        if "convert" in self.steps:
            tally = tallies["convert"] = Tally("rejected")
            found = convert_source(name, files, self.root, self.recipe, tally)
        else:
            lines = ((file, *numbered) for file in files for numbered in read_lines(file))
            found = ((decode(line, f"{file}:{n}"), line + b"\n") for file, n, line in lines)
        if "clean" in self.steps:
            tally = tallies["clean"] = Tally()
            found = _cleaned(found, self.recipe, tally)
        return found

    def pairs(self) -> list[Pair]:
        """The copies among the documents of all sources, in the order of `files`."""
        if self.settings is None:
            return []
        loaded = []
        for name in self.files:
            with np.load(self.work / f"{name}.npz", allow_pickle=False) as data:
                loaded.append(Keys(*(data[field] for field in Keys._fields)))
        return duplicates.find(Keys.join(loaded, self.settings), self.settings)

    def publish(self, pairs: list[Pair], parts: dict[str, dict], bar: Progress) -> None:
        """Give what is no copy its name in OUT, count the copies in `parts`, write the pairs."""
        kinds = {pair.removed: pair.kind for pair in pairs}
        in_pairs = {place for pair in pairs for place in (pair.removed, pair.kept)}
        ids: dict[int, str] = {}
        place = 0
        for name in self.files if self.settings else ():
            tally = Tally()
            with DocumentWriter(self.work / f"{name}.unique") as writer:
                for _, line in read_lines(self.work / f"{name}.jsonl.zst"):
                    tally.read += 1
                    if place in in_pairs:
                        ids[place] = decode(line).id
                    if kind := kinds.get(place):
                        tally.gone[kind] += 1
                    else:
                        tally.kept += 1
                        writer.write_line(line + b"\n")
                    place += 1
                    if place % EVERY == 0:
                        bar.advance(EVERY, source=name, step="dedup")
            parts[name]["steps"]["dedup"] = tally.counts()
        drop_stale(self.out, list(self.files))
        suffix = ".unique" if self.settings else ".jsonl.zst"
        for name in self.files:
            os.replace(self.work / f"{name}{suffix}", self.out / f"{name}.jsonl.zst")
        if self.settings:
            duplicates.write_pairs(self.out / "report" / "duplicates.jsonl", pairs, ids)


def _cleaned(
    found: Iterator[tuple[Document, bytes]], recipe: Recipe, tally: Tally
) -> Iterator[tuple[Document, bytes]]:
    """What the recipe's operators leave of the documents; a changed one is encoded again."""
    operators: dict[tuple[str, bool], list] = {}
    changed = tally.more.setdefault("changed", Counter())
    tally.more["characters"] = 0
    for document, line in found:
        kind = (document.source, bool(document.messages))
        if kind not in operators:
            operators[kind] = recipe.operators(*kind)
        tally.read += 1
        result, by = apply(operators[kind], document, changed)
        if result is None:
            tally.gone[by] += 1
            continue
        tally.kept += 1
        tally.more["characters"] += len(result.readable())
        yield result, line if result is document else encode(result)
