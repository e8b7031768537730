"""`steel bench`: benchmarks against peers, and the experiments of the chapters at any size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from steel.cli_common import Overrides, Preset, configuration, group, say
from steel.config import UserError

bench_app = group("Benchmarks against peers, failure drills, ablations.")


@bench_app.command("table2")
def bench_table2(
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file, rewritten after every row.")],
    device: Annotated[str, typer.Option(help="auto, cuda or cpu (toy sizes).")] = "auto",
    budget: Annotated[float, typer.Option(help="Seconds for all rows.")] = 460.0,
    rows: Annotated[
        Optional[list[str]], typer.Option(help="Only rows whose id starts so; again for more.")
    ] = None,
    micro_batch: Annotated[int, typer.Option(help="Sequences; 0: 8.")] = 0,
    fresh: Annotated[bool, typer.Option(help="Measure again what the file holds.")] = False,
) -> None:
    """The paper's Table 2 on one GPU: fusions one by one, all on, left out; beside transformers, Liger, compiled peers.

    A row whose loss or gradients differ is printed, not ranked. The same command goes on where it was cut off.

    [dim]steel bench table2 --out table2.json --rows A --rows B.on[/dim]
    """
    from figures.experiments import table2

    settings = {
        "device": device,
        "budget": budget,
        "rows": rows,
        "micro_batch": micro_batch,
        "fresh": fresh,
    }
    report = table2.table2(out, **settings, say=print)
    print(table2.render(report))
    say(f"report            {out}")
    if not any(record["ranked"] for record in report["rows"]):
        raise typer.Exit(1)


@bench_app.command("loader")
def bench_loader(
    samples: Annotated[
        int, typer.Option(help="Samples of the corpus for the throughput.")
    ] = 16_384,
    index: Annotated[
        int, typer.Option(help="Samples of the corpus that is started and resumed.")
    ] = 100_000_000,
    length: Annotated[int, typer.Option(help="Tokens of a sample.")] = 2048,
    batch: Annotated[int, typer.Option(help="Samples of a batch.")] = 32,
    workers: Annotated[int, typer.Option(help="Processes that prepare batches.")] = 0,
    repeats: Annotated[int, typer.Option(help="Of each timing; the best counts.")] = 3,
    only: Annotated[
        str, typer.Option(help="Contenders, as steel,torch,litdata,streaming; default: all.")
    ] = "",
    experiments: Annotated[bool, typer.Option(help="Find out what each survives.")] = True,
    out: Annotated[Optional[Path], typer.Option("--out", "-o", help="JSON of the report.")] = None,
) -> None:
    """Read the same tokens with this project's loader and its peers: speed, start, memory, and what each survives.

    [dim]steel bench loader --out loader.json[/dim]
    """
    from figures.experiments import loader

    names = [name.strip() for name in only.split(",")] if only else None
    report = loader.run_bench(
        out,
        samples=samples,
        index=index,
        length=length,
        batch=batch,
        workers=workers,
        repeats=repeats,
        names=names,
        experiments=experiments,
    )
    print(loader.render(report))
    if out:
        say(f"report            {out}")


@bench_app.command("ladder")
def bench_ladder(
    data: Annotated[
        Path, typer.Option("--data", "-d", help="Token shards with a validation split.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the runs and ladder.json.")],
    preset: Preset = "gpu1",
    widths: Annotated[
        str, typer.Option(help="Widths of the rungs, as 192,256,384; default: five.")
    ] = "",
    target: Annotated[int, typer.Option(help="Width to forecast; 0: the preset's.")] = 0,
    tokens_per_parameter: Annotated[
        float, typer.Option(help="Tokens for each weight that meets a token.")
    ] = 20.0,
    repeats: Annotated[int, typer.Option(help="Further seeds of the two smallest rungs.")] = 2,
    others: Annotated[
        str, typer.Option(help="Further tokens per parameter, as 10,40, for L(N, D).")
    ] = "",
    rates: Annotated[
        str, typer.Option(help="Factors on the learning rates to try, as 0.5,1,2.")
    ] = "",
    rate_steps: Annotated[
        int, typer.Option(help="Steps of each such try; 0: as the smallest rung.")
    ] = 0,
    overrides: Overrides = None,
) -> None:
    """Train a ladder of small models, forecast a larger one, train it too, and tell the error of the forecast.

    [dim]steel bench ladder --preset gpu1 --data shards --out runs/ladder[/dim]
    """
    from figures.experiments import ladder

    content = ladder.run_ladder(
        configuration(preset, overrides),
        data,
        out,
        widths=_numbers("widths", widths, int) or None,
        target=target,
        tokens_per_parameter=tokens_per_parameter,
        repeats=repeats,
        others=_numbers("others", others, float),
        rates=_numbers("rates", rates, float),
        rate_steps=rate_steps,
    )
    print(ladder.render(content))
    say(f"report            {out / 'ladder.json'}")


@bench_app.command("drills")
def bench_drills(
    kills: Annotated[int, typer.Option(help="How often the run is killed.")] = 10,
    steps: Annotated[int, typer.Option(help="Length of the run that is killed [steps].")] = 60,
    appends: Annotated[int, typer.Option(help="How often data are added to it; killed, too.")] = 1,
    faults: Annotated[
        bool, typer.Option(help="Dead rank, full disk, damaged shard, bad batch, SIGTERM.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Draws the moments.")] = 1,
    background: Annotated[
        bool, typer.Option(help="Checkpoints written in a background thread.")
    ] = True,
    out: Annotated[
        Optional[Path], typer.Option("--out", "-o", help="Folder for the runs and drills.json.")
    ] = None,
) -> None:
    """Break a tiny run on purpose, resume it, compare it with an unbroken one: exit 0 only when nothing differs.

    [dim]steel bench drills --kills 100 --steps 400 --appends 5 --out runs/drills[/dim]
    """
    from figures.experiments import drills

    report = drills.run_drills(
        out,
        kills=kills,
        seed=seed,
        background=background,
        steps=steps,
        appends=appends,
        faults=None if faults else [],
    )
    print(drills.render(report))
    if out:
        say(f"report            {out / 'drills.json'}")
    if not report["passed"]:
        raise typer.Exit(1)


@bench_app.command("ablation")
def bench_ablation(
    data: Annotated[
        Path, typer.Option("--data", "-d", help="Folder of token shards with a validation split.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file, written after each row.")],
    preset: Preset = "ablation",
    variants: Annotated[
        str, typer.Option(help="Names with commas; empty: one for each feed-forward.")
    ] = "",
    seeds: Annotated[int, typer.Option(help="Seeds per variant.")] = 3,
    budget: Annotated[str, typer.Option(help="tokens, or flops: as many as dense uses.")] = "flops",
    overrides: Overrides = None,
) -> None:
    """Compare feed-forward layers under one budget; the same command goes on where it stopped.

    [dim]steel bench ablation --preset gpu1 --data shards --out ablation.json train.optimizer=adamw[/dim]
    """
    from figures.experiments import ablation

    names = tuple(name.strip() for name in variants.split(",")) if variants else ablation.SEVEN
    cfg = configuration(preset, overrides)
    ablation.run_ablation(cfg, data, out, variants=names, seeds=seeds, budget=budget, say=say)
    say(f"report  {out}")


def _numbers(name: str, text: str, kind: type) -> list:
    """The numbers of an option such as 192,256,384; an empty text gives none."""
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(
            f"--{name.replace('_', '-')} takes {kind.__name__} numbers with commas, not '{text}'"
        ) from None


if __name__ == "__main__":
    bench_app()
