"""Processes of an experiment: each is fresh, may be killed, and says its results through a pipe.

Two ways to start one. "forkserver": in milliseconds, from a server that has torch loaded (the drills kill hundreds).
"spawn": a new interpreter, so that nothing that ran before can warm it up or break it (timings, GPUs).
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

PRELOADED = ["torch", "steel.train.pretrain", "steel.data.pack"]


def start(target, *arguments, errors: Path | None = None, method: str = "forkserver", threads=1):
    """target(*arguments) in a process of its own; its standard error goes to the file `errors`.

    threads: of torch in there; None: as many as torch takes.
    """
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(PRELOADED)
    # The program that called us is not to be run again in there.
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        process = context.Process(target=_quietly, args=(target, arguments, errors, threads))
        process.start()
    finally:
        sys.modules["__main__"] = main
    return process


def _quietly(target, arguments: tuple, errors: Path | None, threads: int | None) -> None:
    import torch
    from transformers.utils.logging import disable_progress_bar

    os.environ.update(STEEL_QUIET="1", TOKENIZERS_PARALLELISM="false")
    disable_progress_bar()
    if threads:
        torch.set_num_threads(threads)
    if errors is not None:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 2)
    target(*arguments)


def finish(processes: list) -> list:
    """Wait for all of them."""
    for process in processes:
        process.join()
    return processes


@contextmanager
def talking(target, *arguments, errors: Path | None = None) -> Iterator[tuple]:
    """(pipe, process) of target(pipe, *arguments) in a new interpreter, which is gone when the block ends.

    The pipe raises EOFError once the process has ended; `pipe.poll(seconds)` waits.
    """
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = start(target, theirs, *arguments, errors=errors, method="spawn", threads=None)
    theirs.close()
    try:
        yield ours, process
    finally:
        ours.close()
        process.join(2)
        if process.is_alive():
            process.kill()
            process.join()


def last_words(errors: Path) -> str:
    """The last line that a process wrote to its standard error, at most 200 characters."""
    said = [line.strip() for line in errors.read_text(errors="replace").splitlines()]
    return next((line[:200] for line in reversed(said) if line), "")


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
