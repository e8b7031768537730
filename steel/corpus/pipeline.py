"""Raw folder -> clean documents: convert, clean, deduplicate, and a report whose sums close.

The work is a datatrove pipeline (`steps`), so the same call runs in this process, in several, on a
Slurm cluster or on Ray (`engine`). The files of all sources, in order, are cut into as many tasks
as wanted, of about equal bytes; each leaves its documents, counts and deduplication keys in
OUT/.work and a marker of datatrove's. When all are there, copies are found across sources, and
OUT/<source>.jsonl.zst are written. A killed run goes on with the tasks that are not finished; the
result is byte for byte the same at any number of tasks and of workers, killed or not. Any part of
the steps can run alone, on the documents that the steps before have written.
"""

import hashlib
import itertools
import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..config import UserError
from ..documents import document_files
from ..runlog import read_json
from .convert import own_cards, rules_of
from .job import Job
from .recipe import Recipe, load_recipe
from .report import STEPS
from .sources import SOURCES, inside, survey

# Raise when a recipe gives other bytes: intermediate files of old runs are then not used.
VERSION = 6
MOST_TASKS = 64  # unless told; a task costs 30 ms in datatrove, and is what a killed run repeats


def prepare(
    raw: Path | str,
    out: Path | str,
    recipe: str | Path | Recipe = "steel",
    steps: tuple[str, ...] = STEPS,
    *,
    trace: int = 0,
    executor: str = "local",
    workers: int = 1,
    tasks: int = MOST_TASKS,
    options: dict[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Run `steps` over `raw` into OUT/<source>.jsonl.zst and OUT/report.json, which it returns.

    raw: a folder of raw files, or without the step "convert" of documents. Pairs of copies, removed
    documents and the first `trace` changes of each operator in each source go to OUT/report.
    executor: local, slurm or ray, with `workers` tasks at a time and at most `tasks` in
    all (a task has whole files); options: further arguments of datatrove's executor of that name.
    Returns None when Slurm has the jobs and is not done; the same call after that has the report.
    Raises UserError for a folder without known data, a broken recipe or a failed task.
    """
    if min(workers, tasks) < 1:
        raise UserError("prepare needs workers ≥ 1 and tasks ≥ 1")
    raw, out, recipe = Path(raw), Path(out), load_recipe(recipe)
    steps = tuple(step for step in STEPS if step in steps)
    files, about = _inputs(raw, out, recipe, steps)
    if "clean" in steps:
        about["idle_operators"] = recipe.idle()
    cards = own_cards(files, raw.absolute()) if "convert" in steps else {}
    decides = [VERSION, steps, trace, asdict(replace(recipe, name="")), about]
    digest = _digest([*decides, [asdict(card) for card in cards.values()], _stands(files, raw)])
    blocks = _blocks(files, tasks)
    job = Job(raw.absolute(), out.absolute(), recipe, steps, trace, files, about, blocks, digest)
    if not job.is_done():
        from .engine import run

        job.make_room()
        if not run(job, executor, workers, options or {}):
            return None
    shutil.rmtree(job.work, ignore_errors=True)
    return read_json(out / "report.json")


def _inputs(
    raw: Path, out: Path, recipe: Recipe, steps: tuple[str, ...]
) -> tuple[dict[str, list[Path]], dict[str, Any]]:
    """The files to work on by source, in the order of the cards, and what is said of others."""
    if raw.resolve() == out.resolve():
        raise UserError(f"{out}: give an output folder that is not the input folder")
    if "convert" not in steps:
        rank = {name: place for place, name in enumerate(SOURCES)}
        named = {f.name.removesuffix(".jsonl.zst"): [f.absolute()] for f in document_files(raw)}
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
    known = {name: files for name, files in found.items() if name in rules}
    return {name: [file.absolute() for file in files] for name, files in known.items()}, about


def _blocks(files: dict[str, list[Path]], tasks: int) -> list[dict[str, list[Path]]]:
    """All files in order, cut into at most `tasks` blocks of about equal bytes, each by source."""
    flat = [(name, file) for name in files for file in files[name]]
    sizes = [file.stat().st_size + 1 for _, file in flat]
    blocks: dict[int, dict[str, list[Path]]] = {}
    for (name, file), size, end in zip(flat, sizes, itertools.accumulate(sizes), strict=True):
        block = blocks.setdefault((2 * end - size) * tasks // (2 * sum(sizes)), {})
        block.setdefault(name, []).append(file)
    return list(blocks.values())


def _stands(files: dict[str, list[Path]], raw: Path) -> list[tuple]:
    """What tells that a file is still the same: its source, place, size in bytes and time."""
    flat = [(name, file, file.stat()) for name in files for file in files[name]]
    root = raw.absolute()
    return [(name, inside(f, root, name), s.st_size, s.st_mtime_ns) for name, f, s in flat]


def _digest(data: Any) -> str:
    text = json.dumps(data).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=8).hexdigest()
