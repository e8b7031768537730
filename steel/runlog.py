"""The run log: one JSON object a line, plain enough for `grep`, complete enough to redraw every figure.

A RUN folder's `log.jsonl` starts with a header (configuration, commit, packages, hardware, seed); then come steps,
evaluations and events, in the order in which they happened. A line is written whole or not at all: after a crash the
last, torn line is dropped when the log is opened again, so a resumed run appends to a clean file.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path


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


def commit() -> str:
    """Short hash of the checked-out commit, with + when files differ; empty outside a checkout."""
    try:
        run = lambda *a: subprocess.run(
            ("git", *a),
            cwd=Path(__file__).parent,
            capture_output=True,  # noqa: E731
            text=True,
            timeout=5,
            check=True,
        ).stdout.strip()
        return run("rev-parse", "--short", "HEAD") + (
            "+" if run("status", "--porcelain", "-uno") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return ""


def packages() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in ("torch", "transformers", "tokenizers", "numpy", "triton"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def hardware() -> dict:
    """Processor, cores, memory in bytes and, where torch is loaded and sees them, GPUs."""
    info: dict = {
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count() or 1,
    }
    with contextlib.suppress(OSError, ValueError):
        info["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                info["cpu"] = line.partition(":")[2].strip()
                break
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        info["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return info


def peak_memory_bytes() -> int:
    """Largest resident size of this process [bytes] since it started or, on Linux, since `reset_peak_memory`."""
    import resource

    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory() -> None:
    """Start measuring the peak anew (Linux only; elsewhere the peak is the whole process's)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class Progress:
    """One progress bar: `with progress(total, "packing", "documents") as bar: bar.advance(n, loss=…)`."""

    def __init__(self, bar, task):
        self._bar, self._task = bar, task

    def advance(self, amount: float = 1, **shown) -> None:
        """Move on by `amount` and show the given values behind the bar."""
        if self._bar is not None:
            note = "  ".join(
                f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items()
            )
            self._bar.update(self._task, advance=amount, **({"note": note} if shown else {}))


@contextlib.contextmanager
def progress(
    total: float | None, description: str, unit: str = "", done: float = 0
) -> Iterator[Progress]:
    """A rich progress bar with rate and time left; silent when STEEL_QUIET=1 or rich is missing."""
    if os.environ.get("STEEL_QUIET") == "1":
        yield Progress(None, None)
        return
    try:
        from rich import progress as rich_progress
        from rich.console import Console
    except ImportError:
        yield Progress(None, None)
        return
    columns = (
        rich_progress.TextColumn("{task.description:<22}"),
        rich_progress.BarColumn(bar_width=28),
        rich_progress.TextColumn(
            "{task.completed:,.0f}" + ("/{task.total:,.0f} " if total else " ") + unit
        ),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(compact=True),
        rich_progress.TextColumn("{task.fields[note]}"),
    )
    with rich_progress.Progress(
        *columns, console=Console(stderr=True), refresh_per_second=4
    ) as bar:
        yield Progress(bar, bar.add_task(description, total=total, completed=done, note=""))
