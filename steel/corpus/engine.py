"""The pipeline on datatrove's executors: this machine, Slurm, Ray.

datatrove marks every task that is completed, keeps logs and statistics of each (OUT/.work/…/logs,
stats) and starts only what is left. It runs the smallest job, too: importing it costs 0.6 CPU
seconds once, a task 30 milliseconds, a document nothing, since whole sources flow between our
steps. One way to run everything is worth that; no markers and no pool of processes are our own.
"""

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from ..config import UserError, first_line, needs
from ..machine import progress, without_main
from .job import Job

with needs("preparing documents", "datatrove"):
    import multiprocess  # the fork of multiprocessing that datatrove uses
    from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
    from loguru import logger
from . import steps

logger.remove()  # datatrove's log goes to files; the terminal has a progress bar


class Local(LocalPipelineExecutor):
    """datatrove's, without the copy of each task's log on the terminal."""

    def _run_for_rank(self, *args, **kwargs):
        with contextlib.redirect_stderr(io.StringIO()):
            return super()._run_for_rank(*args, **kwargs)


def _local(workers: int, **settings) -> Local:
    return Local(workers=min(workers, settings["tasks"]), **settings)


def _slurm(workers: int, **settings) -> SlurmPipelineExecutor:
    venv = {} if sys.prefix == sys.base_prefix else {"venv_path": f"{sys.prefix}/bin/activate"}
    name = os.path.basename(settings["logging_dir"])
    ours = {"job_name": f"steel-{name}", "qos": "", **venv}
    return SlurmPipelineExecutor(workers=workers, **{**ours, **settings})


def _ray(workers: int, **settings) -> RayPipelineExecutor:
    with needs("--executor ray", "Ray", "pip install 'datatrove[ray]'"):
        from ray import remote  # noqa: F401 - a folder called ray can be imported, but is not Ray
    return RayPipelineExecutor(workers=min(workers, settings["tasks"]), **settings)


EXECUTORS = {"local": _local, "slurm": _slurm, "ray": _ray}


def run(job: Job, executor: str, workers: int, options: dict[str, Any]) -> bool:
    """Run what is left of a job; whether all is done (Slurm: or only handed over).

    Raises UserError for an unknown executor or option, and when tasks fail; the same call goes on.
    """
    if executor not in EXECUTORS:
        raise UserError(f"--executor is {', '.join(EXECUTORS)}, not '{executor}'")
    first = steps.Convert(job) if "convert" in job.steps else steps.Read(job)
    clean = [steps.Clean(job)] if "clean" in job.steps else []
    stages = (
        ("documents", [first, *clean, steps.Keep(job)], len(job.blocks)),
        ("compare", [steps.Compare(job)], 1),
        ("dedup", [steps.LeaveOut(job)], len(job.files)),
        ("report", [steps.Report(job)], 1),
    )
    stage, show = None, executor != "slurm"
    with progress(sum(count for *_, count in stages), "preparing", "tasks", show=show) as bar:
        for name, pipeline, tasks in stages:
            before = {"depends": stage} if executor == "slurm" else {}
            settings = {"pipeline": pipeline, "tasks": tasks, "logging_dir": str(job.work / name)}
            try:
                stage = EXECUTORS[executor](workers, **settings, **before, **options)
            except TypeError as error:
                what = f"--executor {executor}: {first_line(error)}"
                raise UserError(f"{what}; give its options as KEY=VALUE") from None
            if executor == "slurm":
                stage.run()
                continue
            with without_main(), _watched(stage, name, bar):
                stage.run()
            if left := stage.get_incomplete_ranks(skip_completed=True):
                what = f"{len(left)} of {tasks} tasks failed ({name})"
                raise UserError(
                    f"{what}; {job.work / name}/logs says why, the same command goes on"
                )
    return not stage.get_incomplete_ranks(skip_completed=True)


@contextlib.contextmanager
def _watched(stage, name: str, bar) -> Iterator[None]:
    """Show how many tasks of a stage are done, and end it when one of its processes was killed.

    A pool of processes waits for ever for a result that died with its process. A signal to the
    main thread ends the waiting, and not SIGINT: what a shell starts in the background ignores it.
    """
    ended, known, shown = threading.Event(), set(), 0
    main = threading.main_thread()

    def show() -> None:
        nonlocal shown
        done = stage.world_size - len(stage.get_incomplete_ranks(skip_completed=True))
        bar.advance(done - shown, step=name)
        shown = done

    def watch() -> None:
        while not ended.wait(0.25):
            show()
            known.update(multiprocess.active_children())
            if any(process.exitcode not in (None, 0, -15) for process in known):
                signal.pthread_kill(main.ident, signal.SIGUSR1)
                return

    def stop(*_) -> None:
        what = "a process was killed, probably for lack of memory"
        raise UserError(f"{what}; the same command goes on, try fewer workers")

    before = signal.signal(signal.SIGUSR1, stop)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)
        show()
