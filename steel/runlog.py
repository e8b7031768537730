"""The run log: one JSON object a line, plain enough for `grep`, complete enough to redraw every figure.

A RUN folder's `log.jsonl` starts with a header (configuration, commit, packages, hardware, seed); then come steps,
evaluations and events, in the order in which they happened. A line is written whole or not at all: after a crash the
last, torn line is dropped when the log is opened again, so a resumed run appends to a clean file.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from pathlib import Path

from .machine import commit, hardware, packages


def atomic_write(path: Path | str, data: str | bytes) -> None:
    """Write a file so that readers see the old content or the new, never half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


class RunLog:
    """Append-only JSONL log. `write` adds `time_s`, seconds since the log was opened, to every line."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._drop_torn_line()
        self._started = time.monotonic()

    def header(self, config: dict, config_hash: str = "", **extra) -> None:
        """First line of a run, and again after every resume: what ran, with which code, on what."""
        self.write(
            "header",
            config=config,
            config_hash=config_hash,
            commit=commit(),
            packages=packages(),
            hardware=hardware(),
            seed=config.get("seed"),
            **extra,
        )

    def write(self, kind: str, **fields) -> None:
        """Append one record. Numbers that JSON lacks (NaN, infinity) are written as null."""
        record = {"kind": kind, **fields, "time_s": round(time.monotonic() - self._started, 3)}
        line = json.dumps(_finite(record), ensure_ascii=False)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def truncate_after(self, step: int) -> None:
        """Drop what a crashed run logged after its last checkpoint, so that every step stands once."""
        if not self.path.exists():
            return
        kept = [
            r
            for r in read_log(self.path)
            if r["kind"] in ("header", "event") or r.get("step", 0) <= step
        ]
        atomic_write(self.path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept))

    def _drop_torn_line(self) -> None:
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        if data and not data.endswith(b"\n"):
            atomic_write(self.path, data[: data.rfind(b"\n") + 1])


def read_log(path: Path | str, kind: str | None = None) -> list[dict]:
    """All records of a log, or those of one kind. A torn last line is ignored."""
    records = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            with contextlib.suppress(json.JSONDecodeError):
                records.append(json.loads(line))
    return [r for r in records if kind is None or r.get("kind") == kind]


def _finite(value):
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value
