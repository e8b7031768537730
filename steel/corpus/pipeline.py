"""Raw folder -> clean documents: convert, clean, deduplicate, and a report whose sums close.

Each source runs through the first steps in one stream into OUT/.work, with its counts and its
deduplication keys; when all are there, copies are found across sources and OUT/<source>.jsonl.zst
are written. A killed run goes on with the first source that is not finished; its result is byte for
byte that of a run that was not killed. Any part of the steps can run alone, on the documents that
the steps before have written.
"""

import hashlib
import io
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..config import UserError
from ..documents import (
    Document,
    DocumentWriter,
    decode,
    document_files,
    encode,
    read_lines,
    write_rows,
)
from ..machine import Progress, progress
from ..runlog import atomic_write
from . import dedup as duplicates
from .convert import convert_source, own_cards, rules_of
from .dedup import NO_DEDUP, Dedup, Keys, Pair
from .operators import Operator, Reject, apply
from .recipe import Recipe, load_recipe
from .report import STEPS, Evidence, Tally, drop_stale, publish_evidence, write_report
from .sources import SOURCES, inside, survey

# Raise when a recipe gives other bytes: intermediate files of old runs are then not used.
VERSION = 4
EVERY = 1000  # records between two moves of the progress bar
LISTED = 100_000  # pairs of copies, at most


def prepare(
    raw: Path | str,
    out: Path | str,
    recipe: str | Path | Recipe = "steel",
    steps: tuple[str, ...] = STEPS,
    trace: int = 0,
) -> dict[str, Any]:
    """Run `steps` over `raw` into OUT/<source>.jsonl.zst and OUT/report.json, which it returns.

    raw: a folder of raw files, or without the step "convert" of documents. Pairs of copies, removed
    documents and the first `trace` changes of each operator in each source go to OUT/report. Raises
    UserError for a folder without known data or a broken recipe.
    """
    raw, out, recipe = Path(raw), Path(out), load_recipe(recipe)
    files, about = _inputs(raw, out, recipe, steps)
    if "clean" in steps:
        about["idle_operators"] = recipe.idle()
    job = _Job(raw, out, recipe, steps, files, trace)
    done = job.work / "done.json"
    if done.is_file() and done.read_text() == job.outcome(about):
        return json.loads((out / "report.json").read_text(encoding="utf-8"))
    job.work.mkdir(parents=True, exist_ok=True)
    done.unlink(missing_ok=True)
    with progress(None, "preparing documents", "records") as bar:
        parts = {name: job.stream(name, bar) for name in files}
        job.publish(parts, bar)
    report = write_report(out, recipe.name, parts, about)
    shutil.rmtree(job.work)
    atomic_write(done, job.outcome(about))
    return report


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
    rules = rules_of(recipe, own_cards(found, raw))
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
    trace: int = 0

    @property
    def work(self) -> Path:
        return self.out / ".work"

    @property
    def copies(self) -> Dedup:
        return self.recipe.dedup if "dedup" in self.steps else NO_DEDUP

    def fingerprint(self, name: str) -> str:
        """Everything that decides the documents of one source."""
        stats = [(file, file.stat()) for file in self.files[name]]
        files = [(inside(f, self.root, name), s.st_size, s.st_mtime_ns) for f, s in stats]
        if "convert" in self.steps:
            files += [asdict(c) for c in own_cards({name: self.files[name]}, self.root).values()]
        return _digest(
            [VERSION, self.steps, self.trace, asdict(replace(self.recipe, name="")), files]
        )

    def outcome(self, about: dict[str, Any]) -> str:
        """What stands in done.json when this call has been made and its outputs still stand."""
        sizes = {file.name: file.stat().st_size for file in sorted(self.out.glob("*.json*"))}
        return json.dumps([_digest([*map(self.fingerprint, self.files), about]), sizes])

    def stream(self, name: str, bar: Progress) -> dict[str, Any]:
        """The first steps over one source, into WORK/<name>.jsonl.zst, its keys into .npz.

        Returns its counts: those of an earlier, killed run, if that has finished the source.
        """
        ends = (".jsonl.zst", ".npz", ".json")
        data, keys, marker = (self.work / f"{name}{end}" for end in ends)
        current = self.fingerprint(name)
        if data.exists() and keys.exists() and marker.exists():
            state = json.loads(marker.read_text())
            if state["fingerprint"] == current:
                return state["part"]
        tallies: dict[str, Tally] = {}
        evidence = Evidence(self.work, name, "clean", self.trace)
        with DocumentWriter(data) as writer, evidence:

            def written() -> Iterator[Document]:
                for document, line in self._documents(name, tallies, evidence):
                    writer.write_line(line)
                    if writer.count % EVERY == 0:
                        bar.advance(EVERY, source=name)
                    yield document

            buffer = io.BytesIO()
            np.savez(buffer, **duplicates.keys(written(), self.copies)._asdict())
        atomic_write(keys, buffer.getvalue())
        steps = {step: tally.counts() for step, tally in tallies.items()}
        part = {"files": len(self.files[name]), "steps": steps}
        atomic_write(marker, json.dumps({"fingerprint": current, "part": part}))
        return part

    def _documents(
        self, name: str, tallies: dict[str, Tally], evidence: Evidence
    ) -> Iterator[tuple[Document, bytes]]:
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
            found = _cleaned(found, self.recipe, tally, evidence)
        return found

    def _pairs(self) -> list[Pair]:
        """The copies among the documents of all sources, in the order of `files`."""
        loaded = []
        for name in self.files:
            with np.load(self.work / f"{name}.npz", allow_pickle=False) as data:
                loaded.append([data[field] for field in Keys._fields])
        columns = zip(*loaded, strict=True)
        return duplicates.find(Keys(*map(np.concatenate, columns)), self.copies) if loaded else []

    def publish(self, parts: dict[str, dict], bar: Progress) -> None:
        """Give what is no copy its name in OUT, count the copies in `parts`, write the pairs."""
        suffix = ".jsonl.zst"
        if "dedup" in self.steps:
            suffix = ".unique"
            self._leave_out_copies(parts, bar, suffix)
        drop_stale(self.out, list(self.files))
        for name in self.files:
            publish_evidence(self.work, self.out, name)
            os.replace(self.work / f"{name}{suffix}", self.out / f"{name}.jsonl.zst")

    def _leave_out_copies(self, parts: dict[str, dict], bar: Progress, suffix: str) -> None:
        pairs = self._pairs()
        copies = {pair.removed: pair for pair in pairs}
        limits = {"near": self.copies.near and self.copies.near.threshold}
        ids = {place: "" for pair in pairs for place in (pair.removed, pair.kept)}
        place = 0
        for name in self.files:
            tally = Tally()
            evidence = Evidence(self.work, name, "dedup")
            with DocumentWriter(self.work / f"{name}{suffix}") as writer, evidence:
                for _, line in read_lines(self.work / f"{name}.jsonl.zst"):
                    tally.read += 1
                    if place in ids:
                        document = decode(line)
                        ids[place] = document.id
                    if pair := copies.get(place):
                        tally.gone[pair.kind] += 1
                        value, limit = pair.similarity, limits.get(pair.kind)
                        reject = Reject(f"{pair.kind} copy", value, limit, pair.kind)
                        evidence.reject(document, reject, copy_of=ids[pair.kept])
                    else:
                        tally.kept += 1
                        writer.write_line(line + b"\n")
                    place += 1
                    if place % EVERY == 0:
                        bar.advance(EVERY, source=name, step="dedup")
            parts[name]["steps"]["dedup"] = tally.counts()
        named = (p._asdict() | {"removed": ids[p.removed], "kept": ids[p.kept]} for p in pairs)
        write_rows(self.out / "report" / "duplicates.jsonl", itertools.islice(named, LISTED))


def _cleaned(
    found: Iterator[tuple[Document, bytes]], recipe: Recipe, tally: Tally, evidence: Evidence
) -> Iterator[tuple[Document, bytes]]:
    """What the recipe's operators leave of the documents; a changed one is encoded again."""
    operators: dict[tuple[str, bool], list] = {}
    changed = tally.more.setdefault("changed", Counter())
    removed = tally.more.setdefault("removed_characters", Counter())
    tally.more["characters"] = 0

    def note(op: Operator, before: Document, after: Document) -> None:
        changed[op.name] += 1
        evidence.changed(op, before, after)

    for document, line in found:
        kind = (document.source, bool(document.messages))
        if kind not in operators:
            operators[kind] = recipe.operators(*kind)
        tally.read += 1
        result, reject = apply(operators[kind], document, note)
        size = len(result.readable())
        if reject is not None:
            tally.gone[reject.operator] += 1
            removed[reject.operator] += size
            evidence.reject(result, reject)
            continue
        tally.kept += 1
        tally.more["characters"] += size
        yield result, line if result is document else encode(result)
