"""The machine under a run: code, packages, hardware, memory; the one pool and the one progress bar."""

import contextlib
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from pathlib import Path
from types import ModuleType

from .config import UserError

PACKAGES = "torch transformers tokenizers numpy triton liger_kernel flash_attn".split()


def commit() -> str:
    """Short hash of the checked-out commit, with + when files differ; empty outside a checkout."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    where = {"cwd": Path(__file__).parent, "timeout": 5}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, **where)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def packages() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def hardware() -> dict:
    """Processor, cores, memory in bytes; where torch is loaded its threads, its instruction set, and the GPUs it sees.

    On another number of threads or another instruction set the same sums come in another order.
    """
    system = f"{platform.system()} {platform.machine()}"
    info: dict = {"platform": system, "cores": os.cpu_count() or 1}
    with contextlib.suppress(OSError, ValueError):
        info["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if name := _line("/proc/cpuinfo", "model name"):
        info["cpu"] = name
    torch = sys.modules.get("torch")
    if torch is not None:
        info["threads"] = torch.get_num_threads()
        info["instructions"] = torch.backends.cpu.get_cpu_capability()
    if torch is not None and torch.cuda.is_available():
        info["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return info


def peak_memory_bytes() -> int:
    """Largest resident size of this process [bytes] since it started or, on Linux, since `reset_peak_memory`."""
    import resource

    if peak := _line("/proc/self/status", "VmHWM"):
        return int(peak.split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory() -> None:
    """Start measuring the peak anew (Linux only; elsewhere the peak is the whole process's)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _line(path: str, key: str) -> str:
    """What the first line `key: …` of a file says; empty without one."""
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""


class Progress:
    """One progress bar: `with progress(total, "packing", "documents") as bar: bar.advance(n, loss=…)`."""

    def __init__(self, bar, task):
        self._bar, self._task = bar, task

    def advance(self, amount: float = 1, **shown) -> None:
        """Move on by `amount` and show the given values behind the bar."""
        if self._bar is not None:
            values = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in shown.items()}
            note = {"note": "  ".join(f"{k} {v}" for k, v in values.items())} if shown else {}
            self._bar.update(self._task, advance=amount, **note)


@contextlib.contextmanager
def progress(
    total: float | None, description: str, unit: str = "", done: float = 0, show: bool = True
) -> Iterator[Progress]:
    """A rich progress bar with rate and time left; silent when STEEL_QUIET=1 or rich is missing."""
    try:
        from rich import progress as rich
        from rich.console import Console
    except ImportError:
        rich = None
    if not show or rich is None or os.environ.get("STEEL_QUIET") == "1":
        yield Progress(None, None)
        return
    of = "/{task.total:,.0f}" if total else ""
    columns = (
        rich.TextColumn("{task.description:<22}"),
        rich.BarColumn(bar_width=28),
        rich.TextColumn("{task.completed:,.0f}" + of + " " + unit),
        rich.TimeElapsedColumn(),
        rich.TimeRemainingColumn(compact=True),
        rich.TextColumn("{task.fields[note]}"),
    )
    with rich.Progress(*columns, console=Console(file=sys.stderr), refresh_per_second=4) as bar:
        yield Progress(bar, bar.add_task(description, total=total, completed=done, note=""))


def in_processes(work: Callable, items: Iterable, workers: int) -> Iterator:
    """work(item) of every item, as they are done, in `workers` processes; 1: here, in order.

    UserError when a process is killed.
    """
    if workers == 1:
        yield from map(work, items)
        return
    # spawn: a forked child of a process with threads (torch, tokenizers) may hang
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker)
    try:
        with _without_main():
            futures = [pool.submit(work, item) for item in items]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool:
        what = "a process was killed, probably for lack of memory"
        raise UserError(f"{what}; the same command goes on, try fewer workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Prepare a worker. Processes are the parallelism: a tokenizer in each keeps to one thread.

    A pool does not notice that its owner was killed, so that each process has to watch it.
    """

    def die_with_parent():
        parent_process().join()
        os._exit(1)

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=die_with_parent, daemon=True).start()


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """While processes start: hide the main script, which they would run again for nothing."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
