"""Which micro-batch is fastest, and what the card then holds: three presets at 8, 16 and 32 sequences, one command.

    python -m figures.experiments.micro_batch --out micro-batch.json      on one GPU; again until no row is pending

A row is one `steel.train.bench.bench_step` in a process of its own, so that no row sees another's memory; the file is
written after each. What it holds is skipped; what failed or took too long is tried again, once a start.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from steel.config import UserError, load

from . import command, numbers
from .ledger import Ledger
from .processes import last_words, talking

PRESETS = "steel-1b,steel-1b-dense,steel-1b-causal"
DONE = ("ok", "out of memory")
ROW_SECONDS = 240.0
"""Longest time of a row; a start with less than `SHORTEST` left begins none."""
SHORTEST = 45.0


def measure(pipe, preset: str, overrides: list[str], options: dict) -> None:
    """In the row's own process: send the benchmark's report with the memory of the card, or why there is none."""
    from steel.train.bench import bench_step

    try:
        row = {"status": "ok", "reason": "", **bench_step(load(preset, overrides), **options)}
        row["card_bytes"] = card_bytes()
    except torch.cuda.OutOfMemoryError as error:
        row = {"status": "out of memory", "reason": str(error).splitlines()[0][:200]}
        row["card_bytes"] = card_bytes()
    pipe.send(row)


def card_bytes() -> dict | None:
    """Peaks of this process as tensors and as the allocator's blocks, and what the whole card holds now [bytes]."""
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return {
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "in_use": total - free,
        "total": total,
    }


def one(preset: str, overrides: list[str], options: dict, seconds: float) -> dict:
    """A row by `measure`, or its end: failed, or too slow."""
    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder) / "errors"
        errors.touch()
        with talking(measure, preset, overrides, options, errors=errors) as (pipe, process):
            try:
                if pipe.poll(seconds):
                    return pipe.recv()
                return {"status": "too slow", "reason": f"not done after {seconds:.0f} s"}
            except EOFError:
                process.join()
        code = process.exitcode
        return {"status": "failed", "reason": f"exit code {code}: {last_words(errors)}"}


def sweep(
    out: Path,
    presets: list[str],
    micro_batches: list[int],
    *,
    overrides: list[str] = (),
    seconds: float = 540.0,
    say: Callable[[str], None] = print,
    **options,
) -> bool:
    """Fill `out` with a row for each preset and micro-batch (0: the preset's own); whether all are there.

    options: of `bench_step`. seconds: for all rows of this start.
    """
    deadline = time.monotonic() + seconds
    ledger = Ledger(out, "micro-batch", {"overrides": list(overrides), "options": options})
    keys = [{"preset": p, "micro_batch": m} for p in presets for m in micro_batches]
    for key in keys:
        if not key["micro_batch"]:
            key["micro_batch"] = load(key["preset"], list(overrides)).train.micro_batch_size
        before = ledger.find(**key)
        if before is None or before["status"] not in DONE:
            left = deadline - time.monotonic()
            if left < min(SHORTEST, seconds / 2):
                say(
                    f"{key['preset']:<18}{key['micro_batch']:>3}  pending; the same command goes on"
                )
                continue
            given = [*overrides, f"train.micro_batch_size={key['micro_batch']}"]
            row = one(key["preset"], given, options, min(left, ROW_SECONDS))
            if before is not None:
                ledger.rows.remove(before)
            ledger.add({**row, **key})
        say(line(ledger.find(**key)))
    rows = [ledger.find(**key) for key in keys]
    return all(row is not None and row["status"] in DONE for row in rows)


def line(row: dict) -> str:
    """One row in one line."""
    head = f"{row['preset']:<18}{row['micro_batch']:>3}  "
    if row["status"] != "ok":
        return f"{head}{row['status']}: {row['reason']}"
    mfu = row["mfu"]["executed_causal"]
    share = mfu["peak"] if mfu["peak"] is not None else mfu["measured"]
    return f"{head}{row['tokens_per_s']:>10,.0f} tokens/s  MFU {share:5.1%}  {row['memory_bytes'] / 2**30:5.1f} GiB"


def main(
    out: Path,
    overrides: list[str],
    presets: str = PRESETS,
    micro_batches: str = "8,16,32",
    accumulation: int = 8,
    steps: int = 8,
    device: str = "auto",
    seconds: float = 540.0,
) -> int:
    """Time a training step of each preset at each micro-batch; 75 while rows are missing: start it again.

    out: JSON file, written after each row. micro_batches: sequences; 0: the preset's own. accumulation: micro-batches
    per step. seconds: after which it stops.
    """
    if device not in ("auto", "cuda", "cpu"):
        raise UserError(f"--device {device}: choose auto, cuda or cpu")
    options = {"accumulation": accumulation, "steps": steps, "device": device}
    names = [name.strip() for name in presets.split(",")]
    sizes = numbers("micro-batches", micro_batches, int)
    whole = sweep(out, names, sizes, overrides=overrides, seconds=seconds, **options)
    return 0 if whole else 75


if __name__ == "__main__":
    from figures.experiments import micro_batch  # a row's process finds `measure` by its module

    command(micro_batch.main)
