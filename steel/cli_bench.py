"""`steel bench`: benchmarks against peers, and the experiments of the chapters at any size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from .cli_common import Overrides, Preset, configuration, group, not_built, say

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
    steps: Annotated[int, typer.Option(help="Length of the run that is killed [steps].")] = 60,
    appends: Annotated[int, typer.Option(help="How often data are added to it; killed, too.")] = 1,
    faults: Annotated[bool, typer.Option(help="Dead rank, full disk, damaged shard, bad batch, SIGTERM.")] = True,
    seed: Annotated[int, typer.Option(help="Draws the moments.")] = 1,
    background: Annotated[bool, typer.Option(help="Checkpoints written in a background thread.")] = True,
    out: Annotated[Optional[Path], typer.Option("--out", "-o", help="Folder for the runs and drills.json.")] = None,
) -> None:
    """Break a tiny run on purpose, resume it, compare it with an unbroken one: exit 0 only when nothing differs.

    [dim]steel bench drills --kills 100 --steps 400 --appends 5 --out runs/drills[/dim]
    """
    from .bench import drills

    report = drills.run_drills(out, kills=kills, seed=seed, background=background, steps=steps, appends=appends,
                               faults=None if faults else [])
    print(drills.render(report))
    if out:
        say(f"report            {out / 'drills.json'}")
    if not report["passed"]:
        raise typer.Exit(1)


@bench_app.command("ablation")
def bench_ablation(
    data: Annotated[Path, typer.Option("--data", "-d", help="Folder of token shards with a validation split.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file, written after each row.")],
    preset: Preset = "ablation",
    variants: Annotated[str, typer.Option(help="Names with commas; empty: one for each feed-forward.")] = "",
    seeds: Annotated[int, typer.Option(help="Seeds per variant.")] = 3,
    budget: Annotated[str, typer.Option(help="tokens, or flops: as many as dense uses.")] = "flops",
    overrides: Overrides = None,
) -> None:
    """Compare feed-forward layers under one budget; the same command goes on where it stopped.

    [dim]steel bench ablation --preset gpu1 --data shards --out ablation.json train.optimizer=adamw[/dim]
    """
    from .bench import ablation

    names = tuple(name.strip() for name in variants.split(",")) if variants else ablation.SEVEN
    cfg = configuration(preset, overrides)
    ablation.run_ablation(cfg, data, out, variants=names, seeds=seeds, budget=budget, say=say)
    say(f"report  {out}")
