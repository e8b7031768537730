"""The run log: one JSON object a line, plain enough for `grep`, complete enough to redraw every figure.

A RUN folder's `log.jsonl` starts with a header (configuration, commit, packages, hardware, seed);
then come steps, evaluations and events, in the order in which they happened. A line is written
whole or not at all, so a resumed run appends to a clean file.
"""

import contextlib
import json
import math
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from .config import sound
from .machine import commit, hardware, packages


@contextlib.contextmanager
def atomic_file(path: Path | str) -> Iterator[IO[bytes]]:
    """A file to fill; it takes its name when the block ends well, and otherwise leaves no litter."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def atomic_write(path: Path | str, data: str | bytes) -> None:
    """Write a file so that readers see the old content or the new, never half of it."""
    with atomic_file(path) as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


def write_json(path: Path | str, value) -> None:
    """Write plain data so that people can read it too, as `atomic_write` does."""
    atomic_write(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def read_json(path: Path | str, kind: type = dict, keys: Iterable[str] = ()):
    """The plain data in a file. Raises OSError, and UserError for what is no JSON of this type."""
    with sound(path):
        value = json.loads(Path(path).read_bytes())
        if not isinstance(value, kind):
            raise TypeError(f"no {kind.__name__}")
        if missing := [key for key in keys if key not in value]:
            raise KeyError(missing[0])
    return value


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill beside `path`; it replaces `path` whole when the block ends well.

    The old folder goes only when the new one stands in its place.
    """
    fresh, old = (path.with_name(f".{path.name}.{end}") for end in ("new", "old"))
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        fresh.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


class RunLog:
    """Append-only JSONL log. `write` adds `time_s`, seconds since the log was opened, to every line."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._started = time.monotonic()
        self._whole = False  # a torn last line is dropped before the first write, not by a reader

    def header(self, config: dict, config_hash: str = "", **extra) -> None:
        """First line of a run, and again after every resume: what ran, with which code, on what."""
        where = {"commit": commit(), "packages": packages(), "hardware": hardware()}
        what = {"config": config, "config_hash": config_hash, **where, "seed": config.get("seed")}
        self.write("header", **what, **extra)

    def write(self, kind: str, **fields) -> None:
        """Append one record. Numbers that JSON lacks (NaN, infinity) are written as null."""
        if not self._whole:
            self._rewrite(lambda record: True)
        record = {"kind": kind, **fields, "time_s": round(time.monotonic() - self._started, 3)}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(finite(record), ensure_ascii=False) + "\n")

    def truncate_after(self, step: int) -> None:
        """Drop what a crashed run logged after its last checkpoint, so that every step stands once.

        Headers stay, and so do lines that cannot be read; what has no step counts as step 0.
        """
        self._rewrite(lambda r: r["kind"] == "header" or (r.get("step") or 0) <= step)

    def _rewrite(self, keep: Callable[[dict], bool]) -> None:
        """Keep these records and all damaged lines, without the torn last one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._whole = True
        before = self.path.read_bytes() if self.path.exists() else b""
        lines = before[: before.rfind(b"\n") + 1].splitlines(keepends=True)
        after = b"".join(line for line in lines if (r := _record(line)) is None or keep(r))
        if after != before:
            atomic_write(self.path, after)


def read_log(path: Path | str, kind: str | None = None) -> list[dict]:
    """All records of a log, or those of one kind.

    A torn last line is ignored; damaged lines before it are left out with a warning that counts them.
    """
    *lines, torn = Path(path).read_bytes().split(b"\n")  # whole logs end with a line break
    records = [_record(line) for line in lines]
    if damaged := [number for number, record in enumerate(records, 1) if record is None]:
        said = f"{path}: {len(damaged)} damaged line(s), first line {damaged[0]}"
        warnings.warn(said, stacklevel=2)
    return [r for r in (*records, _record(torn)) if r is not None and kind in (None, r["kind"])]


def _record(line: bytes) -> dict | None:
    """The object on a line, None unless it is one and has a kind."""
    try:
        record = json.loads(line)
    except ValueError:  # broken JSON, or bytes that are no UTF-8
        return None
    return record if isinstance(record, dict) and "kind" in record else None


def finite(value):
    """The same data with NaN and infinities as None, which is what JSON can say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, (list, tuple)) else value
