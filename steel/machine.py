"""The machine under a run: code, packages, hardware, memory; and the one progress bar."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGES = (
    *("torch", "transformers", "tokenizers", "numpy", "triton"),
    *("liger_kernel", "flash_attn"),
)


def commit() -> str:
    """Short hash of the checked-out commit, with + when files differ; empty outside a checkout."""
    try:

        def run(*arguments: str) -> str:
            folder = Path(__file__).parent
            done = subprocess.run(
                ("git", *arguments),
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=5,
                check=True,
            )
            return done.stdout.strip()

        return run("rev-parse", "--short", "HEAD") + (
            "+" if run("status", "--porcelain", "-uno") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return ""


def packages() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in PACKAGES:
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
