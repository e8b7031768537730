"""Raw folder -> clean documents: convert, clean, deduplicate, and a report whose sums close.

The work is a datatrove pipeline of our `steps`, so the same call runs in this process, in several,
on a Slurm cluster or on Ray. The files of all sources, in order, are cut into as many tasks as
wanted, of about equal bytes; each leaves its documents, counts and deduplication keys in OUT/.work
and a marker and logs of datatrove's. When all are there, copies are found across sources, and
OUT/<source>.jsonl.zst are written. A killed run goes on with the tasks that are not finished; the
result is byte for byte the same at any number of tasks and of workers, killed or not. Any part of
the steps can run alone, on the documents that the steps before have written.

datatrove runs the smallest job, too: importing it costs 0.6 CPU seconds once, a task 30
milliseconds, a document nothing, since whole sources flow between our steps.
"""

import contextlib
import hashlib
import io
import itertools
import json
import os
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..config import UserError, first_line, needs
from ..documents import document_files
from ..machine import in_processes, progress
from ..runlog import read_json
from .convert import own_cards, rules_of
from .recipe import Recipe, load_recipe
from .report import STEPS
from .sources import SOURCES, inside, survey

with needs("preparing documents", "datatrove"):
    from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
    from loguru import logger
from . import steps as work

# Raise when a recipe gives other bytes: intermediate files of old runs are then not used.
VERSION = 6
MOST_TASKS = 64  # unless told; a task costs 30 ms in datatrove, and is what a killed run repeats
logger.remove()  # datatrove's log goes to files; the terminal has a progress bar


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
    Raises UserError for a folder without known data, a broken recipe or a failed task; after a
    failed task, the same call goes on.
    """
    if min(workers, tasks) < 1:
        raise UserError("prepare needs workers ≥ 1 and tasks ≥ 1")
    raw, out, recipe = Path(raw), Path(out), load_recipe(recipe)
    steps = tuple(step for step in STEPS if step in steps)
    files, about = _inputs(raw, out, recipe, steps)
    root, flat = raw.absolute(), [(name, file) for name in files for file in files[name]]
    if "clean" in steps:
        about["idle_operators"] = recipe.idle()
    cards = own_cards(files, root) if "convert" in steps else {}
    decides = [VERSION, steps, trace, asdict(replace(recipe, name="")), about]
    decides.append([asdict(card) for card in cards.values()])
    decides.append([_stands(name, file, root) for name, file in flat])
    text = json.dumps(decides).encode("utf-8", "surrogatepass")
    digest, blocks = hashlib.blake2b(text, digest_size=8).hexdigest(), _blocks(flat, tasks)
    job = work.Job(root, out.absolute(), recipe, steps, trace, files, about, blocks, digest)
    if not job.is_done():
        job.make_room()
        if not _run(job, executor, workers, options or {}):
            return None
    shutil.rmtree(job.work, ignore_errors=True)
    return read_json(out / "report.json")


def _inputs(raw: Path, out: Path, recipe: Recipe, steps: tuple[str, ...]) -> tuple[dict, dict]:
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
    known = {name: [f.absolute() for f in found[name]] for name in found if name in rules}
    if not known:
        raise UserError(f"{raw}: recipe {recipe.name} has no rule for {', '.join(found)}")
    return known, about


def _stands(name: str, file: Path, root: Path) -> tuple:
    """What tells that a file is still the same: its source, place, size in bytes and time."""
    stat = file.stat()
    return name, inside(file, root, name), stat.st_size, stat.st_mtime_ns


def _blocks(flat: list[tuple[str, Path]], tasks: int) -> list[dict[str, list[Path]]]:
    """All files in order, cut into at most `tasks` blocks of about equal bytes, each by source."""
    sizes = [file.stat().st_size + 1 for _, file in flat]
    blocks: dict[int, dict[str, list[Path]]] = {}
    for (name, file), size, end in zip(flat, sizes, itertools.accumulate(sizes), strict=True):
        block = blocks.setdefault((2 * end - size) * tasks // (2 * sum(sizes)), {})
        block.setdefault(name, []).append(file)
    return list(blocks.values())


# -- datatrove's executors ---------------------------------------------------------------------


class Local(LocalPipelineExecutor):
    """datatrove's, without the copy of each task's log on the terminal."""

    def do(self, rank: int) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            self._run_for_rank(rank)


EXECUTORS = {"local": Local, "slurm": SlurmPipelineExecutor, "ray": RayPipelineExecutor}


def _run(job: work.Job, executor: str, workers: int, options: dict[str, Any]) -> bool:
    """Run what is left of a job; whether all is done (Slurm: or only handed over)."""
    if executor not in EXECUTORS:
        raise UserError(f"--executor is {', '.join(EXECUTORS)}, not '{executor}'")
    if executor == "ray":
        with needs("--executor ray", "Ray", "pip install 'datatrove[ray]'"):
            from ray import remote  # noqa: F401 - a folder called ray can be imported, but is not Ray
    first = work.Convert(job) if "convert" in job.steps else work.Read(job)
    clean = [work.Clean(job)] if "clean" in job.steps else []
    stages = (
        ("documents", [first, *clean, work.Keep(job)], len(job.blocks)),
        ("compare", [work.Compare(job)], 1),
        ("dedup", [work.LeaveOut(job)], len(job.files)),
        ("report", [work.Report(job)], 1),
    )
    stage, show = None, executor != "slurm"
    with progress(sum(count for *_, count in stages), "preparing", "tasks", show=show) as bar:
        for name, pipeline, tasks in stages:
            ours: dict[str, Any] = {"workers": min(workers, tasks)}
            if executor == "slurm":
                ours |= {"depends": stage, "job_name": f"steel-{name}", "qos": ""}
                if sys.prefix != sys.base_prefix:
                    ours["venv_path"] = f"{sys.prefix}/bin/activate"
            fixed = {"pipeline": pipeline, "tasks": tasks, "logging_dir": str(job.work / name)}
            try:
                stage = EXECUTORS[executor](**{**ours, **options, **fixed})
            except TypeError as error:
                what = f"--executor {executor}: {first_line(error)}"
                raise UserError(f"{what}; give its options as KEY=VALUE") from None
            left = stage.get_incomplete_ranks()
            bar.advance(tasks - len(left), step=name)
            if executor == "local":  # datatrove's pool waits for ever for a process that was killed
                for _ in in_processes(stage.do, left, stage.workers):
                    bar.advance(1)
            else:
                stage.run()
            left = stage.get_incomplete_ranks(skip_completed=True)
            if left and executor != "slurm":
                logs = f"{job.work / name}/logs says why, the same command goes on"
                raise UserError(f"{len(left)} of {tasks} tasks failed ({name}); {logs}")
    return not left
