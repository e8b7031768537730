"""The tasks of the loader benchmark, each in a process of its own, so that nothing warms up for another.

`serve` imports one contender's packages, then answers lists of requests that come through a pipe. Every request of a
list runs in a forked process, all of them at the same time.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import sys
import time
from pathlib import Path

import numpy as np

from .loader_peers import CONTENDERS, Reader


def _cpu() -> float:
    """CPU seconds of this process, its threads, and its children that have ended."""
    return sum(
        u.ru_utime + u.ru_stime
        for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def throughput(reader: Reader, steps: int, **_) -> dict:
    """Samples per CPU second over `steps` batches, after a warm-up; each batch is touched."""
    reader.open(None)
    batches = reader.batches()
    for _ in range(8):
        next(batches)
    cpu, wall, checksum = _cpu(), time.perf_counter(), 0
    for _ in range(steps):
        inputs, targets, positions = next(batches)
        checksum += (
            int(inputs[0, 0])
            + int(targets[-1, -1])
            + (0 if positions is None else int(positions[0, -1]))
        )
    wall = time.perf_counter() - wall
    batches = reader.loader = None  # workers end, and count
    cpu = _cpu() - cpu
    samples = steps * reader.batch
    return {"samples": samples, "cpu_s": cpu, "wall_s": wall, "samples_per_cpu_s": samples / cpu}


def start(reader: Reader, state: dict | None, **_) -> dict:
    """Seconds until the first batch is there; the packages are imported."""
    cpu, wall = _cpu(), time.perf_counter()
    reader.open(state)
    first = next(reader.batches())
    return {"wall_s": time.perf_counter() - wall, "cpu_s": _cpu() - cpu, "rows": len(first[0])}


def order(reader: Reader, state: dict | None, take: int | None, save_at: int | None, **_) -> dict:
    """First token of every row, to the end of the epoch or for `take` batches; the state after `save_at` of them."""
    reader.open(state)
    ids: list[int] = []
    saved = None
    for inputs, *_rest in reader.batches():
        ids += inputs[:, 0].tolist()
        reader.taken += 1
        if reader.taken == save_at:
            saved = reader.state()
        if reader.taken == take:
            break
    return {"ids": ids, "state": saved}


def deep_state(reader: Reader, position: int, **_) -> dict:
    """The state to resume from after `position` samples."""
    return {"state": reader.state_at(position)}


def write(reader: Reader, tokens: str, part: int, samples: int | None, **_) -> dict:
    """Store the samples of an .npz file in the contender's format."""
    with np.load(tokens) as stored:
        reader.write(reader.folder, dict(stored), reader.length, part)
    return {"samples": reader.multiply(reader.folder, samples, reader.length) if samples else 0}


TASKS = {f.__name__: f for f in (throughput, start, order, deep_state, write)}


def answer(request: dict) -> dict:
    """One task. A failure of the contender is a result, too: {"error": its first line}."""
    os.environ |= request["environment"]
    reader = CONTENDERS[request["name"]](
        Path(request["folder"]), request["length"], request["batch"], **request["reader"]
    )
    defaults = {"state": None, "take": None, "save_at": None, "part": 0, "samples": None}
    try:
        return TASKS[request["task"]](reader, **defaults | request["arguments"])
    except Exception as error:  # whatever a peer raises is what the benchmark reports
        lines = [line for line in str(error).splitlines() if line.strip()]
        return {"error": f"{type(error).__name__}: {lines[0] if lines else ''}"}


def _listen(pipes: dict[int, int]) -> list[dict]:
    """What the children answer, {pipe: process}, and `memory_bytes`, their peak as it is measured from outside."""
    texts = dict.fromkeys(pipes, b"")
    first = {pipe: _memory(child) for pipe, child in pipes.items()}
    peak, open_pipes = dict(first), set(pipes)
    while open_pipes:
        ready = select.select(list(open_pipes), [], [], 0.005)[0]
        for pipe in open_pipes:
            peak[pipe] = max(peak[pipe], _memory(pipes[pipe]))
        for pipe in ready:
            data = os.read(pipe, 1 << 16)
            texts[pipe] += data
            if not data:
                open_pipes.discard(pipe)
                os.close(pipe)
                os.waitpid(pipes[pipe], 0)
    died = {"error": "the process died"}
    answers = {pipe: json.loads(text) if text else died for pipe, text in texts.items()}
    return [{"memory_bytes": peak[p] - first[p], **found} for p, found in answers.items()]


def _memory(process: int) -> int:
    """Memory of its own and shared memory of a process [bytes]; not the pages of files that the kernel keeps mapped."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(
        int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "RssShmem"))
    )


def serve(pipe, name: str) -> None:
    """Answer lists of requests until the pipe is closed."""
    os.environ |= {"DISABLE_LITDATA_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    import torch

    torch.set_num_threads(1)
    for module in CONTENDERS[name].modules:
        importlib.import_module(module)
    sys.stdout = sys.stderr  # contenders may print
    while True:
        try:
            requests = pipe.recv()
        except EOFError:
            return
        children: dict[int, int] = {}
        for request in requests:
            read, write_end = os.pipe()
            if (child := os.fork()) == 0:
                os.close(read)
                with os.fdopen(write_end, "w") as out:
                    out.write(json.dumps(answer(request)))
                os._exit(0)  # some contenders leave threads behind that nobody stops
            os.close(write_end)
            children[read] = child
        pipe.send(_listen(children))
