"""`steel bench`: benchmarks against peers, and the experiments of the chapters at any size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from .cli_common import group, not_built, say

bench_app = group("Benchmarks against peers, failure drills, ablations.")


@bench_app.command("data")
def bench_data() -> None:
    """Not built yet: the data benchmark."""
    not_built("the data benchmark (steel.bench.data)")


@bench_app.command("table2")
def bench_table2() -> None:
    """Not built yet: the kernel benchmark."""
    not_built("the kernel benchmark (steel.bench.table2)")


@bench_app.command("step")
def bench_step() -> None:
    """Not built yet: the step benchmark."""
    not_built("the step benchmark (steel.bench.step)")


@bench_app.command("loader")
def bench_loader() -> None:
    """Not built yet: the loader benchmark."""
    not_built("the loader benchmark (steel.bench.loader)")


@bench_app.command("drills")
def bench_drills(
    kills: Annotated[int, typer.Option(help="How often the run is killed.")] = 10,
    seed: Annotated[int, typer.Option(help="Draws the moments.")] = 1,
    background: Annotated[bool, typer.Option(help="Checkpoints written in a background thread.")] = True,
    out: Annotated[Optional[Path], typer.Option("--out", "-o", help="Folder for the runs and drills.json.")] = None,
) -> None:
    """Kill a tiny run at random moments, resume it, compare it with an unbroken one: exit 0 only when nothing differs.

    [dim]steel bench drills --kills 20 --out runs/drills[/dim]
    """
    from .bench import drills

    report = drills.run_drills(out, kills=kills, seed=seed, background=background)
    print(drills.render(report))
    if out:
        say(f"report            {out / 'drills.json'}")
    if not report["passed"]:
        raise typer.Exit(1)
