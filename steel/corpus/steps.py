"""The steps of `prepare` as datatrove `PipelineStep`s; every one can run alone, again, elsewhere.

Between datatrove's own steps single documents flow; here whole sources do, `(name, stream of
(document, its JSON line))`, so that a step counts by source and an unchanged document is never
encoded twice. What a task leaves in OUT/.work is written atomically before datatrove marks the task
as completed: a task that is killed in between is done again, to the same bytes.
"""

import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep

from ..documents import Document, DocumentWriter, decode, encode, read_lines, write_rows
from ..runlog import atomic_file, atomic_write, read_json
from . import dedup as duplicates
from .convert import PLACES, convert_source
from .dedup import NO_DEDUP, Dedup, Keys
from .operators import Reject, apply
from .recipe import Recipe
from .report import Evidence, Tally, drop_stale, publish_evidence, write_report

LISTED = 100_000  # pairs of copies, at most
Stream = Iterator[tuple[Document, bytes]]


@dataclass(frozen=True)
class Job:
    """One call of `prepare`, all paths absolute: it travels to other processes and machines."""

    root: Path
    out: Path
    recipe: Recipe
    steps: tuple[str, ...]
    trace: int
    files: dict[str, list[Path]]  # by source
    about: dict[str, Any]  # for the report
    blocks: list[dict[str, list[Path]]]  # the files of each task, by source
    digest: str  # of everything that decides the outputs

    @property
    def done(self) -> Path:
        return self.out / ".work" / "done.json"

    @property
    def work(self) -> Path:
        return self.out / ".work" / f"{self.digest}-{len(self.blocks)}"

    @property
    def copies(self) -> Dedup:
        return self.recipe.dedup if "dedup" in self.steps else NO_DEDUP

    def outcome(self) -> str:
        """What stands in done.json when this call has been made and its outputs still stand."""
        sizes = {file.name: file.stat().st_size for file in sorted(self.out.glob("*.json*"))}
        return json.dumps([self.digest, sizes])

    def is_done(self) -> bool:
        return self.done.is_file() and self.done.read_bytes() == self.outcome().encode()

    def make_room(self) -> None:
        """Remove what other calls have left in OUT/.work, and this one's if its outputs are gone."""
        self.done.unlink(missing_ok=True)
        finished = (self.work / "report/completions/00000").exists()
        for old in self.done.parent.glob("*"):
            if old.is_file():
                old.unlink()
            elif old != self.work or finished:
                shutil.rmtree(old)


class Step(PipelineStep):
    """A step of a job. `run(data, rank)`: the sources of task `rank`, one after the other."""

    type = "steel"

    def __init__(self, job: Job):
        super().__init__()
        self.job = job

    def count(self, rank: int, tallies: dict[str, Tally]) -> None:
        """Leave the counts of this step, by source, for the report."""
        counts = {source: tally.counts() for source, tally in tallies.items()}
        atomic_write(self.job.work / "counts" / f"{self.name}-{rank:05d}.json", json.dumps(counts))

    def counts(self, step: str, source: str) -> dict[str, Any]:
        """The sum over all tasks of what `count` of a step left of one source: numbers, numbers by
        reason, and the first places by reason."""
        files = sorted((self.job.work / "counts").glob(f"{step}-*.json"))
        found = [counts for file in files if (counts := read_json(file).get(source))]
        return {key: _sum([counts[key] for counts in found]) for key in found[0]}

    def part(self, rank: int, source: str, suffix: str) -> Path:
        """A file that a task leaves of one source."""
        return self.job.work / "parts" / f"{rank:05d}-{source}{suffix}"

    def parts(self) -> list[tuple[int, str]]:
        """(rank, source) of all parts, in the order of documents."""
        return [(rank, name) for rank, block in enumerate(self.job.blocks) for name in block]


def _sum(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        keys = sorted(set(itertools.chain(*values)))
        return {key: _sum([value[key] for value in values if key in value]) for key in keys}
    if isinstance(values[0], list):
        return list(itertools.chain(*values))[:PLACES]
    return sum(values)


class Convert(Step):
    """Raw files to documents."""

    name = "convert"

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator[tuple[str, Stream]]:
        block, root, recipe = self.job.blocks[rank], self.job.root, self.job.recipe
        tallies = {name: Tally("rejected") for name in block}
        for name, files in block.items():
            yield name, convert_source(name, files, root, recipe, tallies[name])
        self.count(rank, tallies)


class Read(Step):
    """Documents that the steps before have written."""

    name = "read"

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator[tuple[str, Stream]]:
        for name, files in self.job.blocks[rank].items():
            lines = ((file, *numbered) for file in files for numbered in read_lines(file))
            yield name, ((decode(line, f"{file}:{n}"), line + b"\n") for file, n, line in lines)


class Clean(Step):
    """A recipe's operators over documents."""

    name = "clean"

    def run(self, data, rank: int = 0, world_size: int = 1) -> Iterator[tuple[str, Stream]]:
        tallies = {}
        for name, documents in data:
            tally, stem = tallies.setdefault(name, Tally()), self.part(rank, name, ".clean")
            with Evidence(stem, tally, self.job.trace) as evidence:
                yield name, cleaned(documents, self.job.recipe, tally, evidence)
        self.count(rank, tallies)


def cleaned(found: Stream, recipe: Recipe, tally: Tally, evidence: Evidence) -> Stream:
    """What the recipe's operators leave of the documents; a changed one is encoded again."""
    operators = cache(recipe.operators)
    tally.more |= {"changed": Counter(), "removed_characters": Counter(), "characters": 0}
    for document, line in found:
        tally.read += 1
        chain = operators(document.source, bool(document.messages))
        result, reject = apply(chain, document, evidence.changed)
        size = len(result.readable())
        if reject is not None:
            tally.more["removed_characters"][reject.operator] += size
            evidence.reject(result, reject)
            continue
        tally.kept += 1
        tally.more["characters"] += size
        yield result, line if result is document else encode(result)


class Keep(Step):
    """Write the documents of a task, and what deduplication remembers of them."""

    name = "keep"

    def run(self, data, rank: int = 0, world_size: int = 1) -> None:
        for name, documents in data:
            ids: list[str] = []
            with DocumentWriter(self.part(rank, name, ".jsonl.zst")) as writer:
                keys = duplicates.keys(written(documents, writer, ids), self.job.copies)
            with atomic_file(self.part(rank, name, ".npz")) as file:
                np.savez(file, **keys._asdict(), documents=len(ids))
            atomic_write(self.part(rank, name, ".ids.json"), json.dumps(ids))


def written(documents: Stream, writer: DocumentWriter, ids: list[str]) -> Iterator[Document]:
    """The documents, each written and its name noted on the way."""
    for document, line in documents:
        writer.write_line(line)
        ids.append(document.id)
        yield document


class Compare(Step):
    """One task: the copies among the documents of all sources, in the order of the files.

    pairs.json: the place of the first document of each source, and the pairs with their ids.
    """

    name = "compare"

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> None:
        loaded, firsts, place = [], {}, 0
        for at in self.parts():
            firsts.setdefault(at[1], place)
            with np.load(self.part(*at, ".npz"), allow_pickle=False) as keys:
                place += int(keys["documents"])
                loaded.append([keys[field] for field in Keys._fields])
        keys = Keys(*map(np.concatenate, zip(*loaded, strict=True)))
        del loaded  # as large as the keys
        pairs = duplicates.find(keys, self.job.copies)
        ids = self._ids({place for pair in pairs for place in (pair.removed, pair.kept)})
        named = [
            (p.removed, p._asdict() | {"removed": ids[p.removed], "kept": ids[p.kept]})
            for p in pairs
        ]
        atomic_write(self.job.work / "pairs.json", json.dumps([firsts, named]))

    def _ids(self, wanted: set[int]) -> dict[int, str]:
        """The names of the documents at some places."""
        parts = (read_json(self.part(*at, ".ids.json"), list) for at in self.parts())
        places = enumerate(itertools.chain.from_iterable(parts))
        return {place: name for place, name in places if place in wanted}


class LeaveOut(Step):
    """One task for each source: its documents that are no copies, in one file."""

    name = "dedup"

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> None:
        name, tally, near = list(self.job.files)[rank], Tally(), self.job.copies.near
        firsts, named = read_json(self.job.work / "pairs.json", list)
        copies, limits = dict(named), {"near": near and near.threshold}
        docs = self.job.work / "docs"
        parts = (self.part(*at, ".jsonl.zst") for at in self.parts() if at[1] == name)
        lines = (line for part in parts for _, line in read_lines(part))
        kept = DocumentWriter(docs / f"{name}.jsonl.zst")
        with kept as writer, Evidence(docs / name, tally) as evidence:
            for place, line in enumerate(lines, firsts[name]):
                tally.read += 1
                if pair := copies.get(place):
                    kind = pair["kind"]
                    reject = Reject(f"{kind} copy", pair["similarity"], limits.get(kind), kind)
                    evidence.reject(decode(line), reject, copy_of=pair["kept"])
                else:
                    tally.kept += 1
                    writer.write_line(line + b"\n")
        self.count(rank, {name: tally})


class Report(Step):
    """One task: outputs get their names, the report is written."""

    name = "report"

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> None:
        job = self.job
        if "dedup" in job.steps:
            _, named = read_json(job.work / "pairs.json", list)
            rows = (pair for _, pair in named[:LISTED])
            write_rows(job.out / "report" / "duplicates.jsonl", rows)
        parts = {}
        for name, files in job.files.items():
            steps = {step: self.counts(step, name) for step in job.steps}
            parts[name] = {"files": len(files), "steps": steps}
        drop_stale(job.out, list(job.files))
        for name in job.files:
            stems = [self.part(*at, ".clean") for at in self.parts() if at[1] == name]
            stems = stems if "clean" in job.steps else []
            publish_evidence([*stems, job.work / "docs" / name], job.out, name, job.trace)
            made = job.work / "docs" / f"{name}.jsonl.zst"
            if made.exists():  # else an earlier try of this task has moved it
                os.replace(made, job.out / made.name)
        write_report(job.out, job.recipe.name, parts, job.about)
        atomic_write(job.done, job.outcome())
