"""The `steel` command. Each command reads its arguments, calls one function of the room it belongs to, and says where
the result lies. Exit code 0 only on success; a user's mistake gets one line and exit code 2, never a traceback.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from . import cli_data, cli_eval
from .cli_common import Overrides, Preset, Run, configuration, group, say
from .config import UserError

app = typer.Typer(
    name="steel",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Pretrain a language model from nothing: data, tokenizer, training, alignment, exams, chat.",
)


# -- the whole life ----------------------------------------------------------------------------------------------------


@app.command("run")
def run_life(
    preset: Preset = "laptop",
    run: Annotated[
        Optional[Path], typer.Option("--run", "-r", help="RUN folder; default runs/PRESET.")
    ] = None,
    raw: Annotated[
        Optional[Path], typer.Option(help="Folder of real raw files instead of the closed world.")
    ] = None,
    exam: Annotated[
        Optional[Path], typer.Option(help="Folder with dev/ and test/ CSV files to be judged by.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Offer a chat at the end.")] = False,
    overrides: Overrides = None,
) -> None:
    """Train a small Steel through its whole life: data, pretraining, SFT, DPO, GRPO, exam, report card.

    [dim]steel run --preset laptop --run runs/mine train.steps=400[/dim]
    """
    from . import life as lifecycle

    folder = run or Path("runs") / Path(preset).stem
    page = lifecycle.run(configuration(preset, overrides), folder, raw, exam)
    say(f"report card  {page}\nchat         steel chat {folder}")
    if chat and sys.stdin.isatty() and typer.confirm("Chat with it now?", default=True):
        cli_eval.chat(folder)


@app.command("report")
def report(run: Annotated[Path, typer.Argument(help="RUN folder of a life.")]) -> None:
    """Write the report card of a RUN folder again.

    [dim]steel report runs/laptop[/dim]
    """
    from .report.render import write_report

    if not run.is_dir():
        raise UserError(f"no run folder at {run}")
    if (
        not (run / "state.json").is_file()
        and not (run / "log.jsonl").is_file()
        and not any(run.glob("*/log.jsonl"))
    ):
        raise UserError(f"{run} is not a RUN folder: it holds neither state.json nor a log.jsonl")
    say(f"report card  {write_report(run)}")


@app.command("world")
def world(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    preset: Preset = "laptop",
    overrides: Overrides = None,
) -> None:
    """Write the closed world in all raw source formats, with its exam and post-training sets.

    [dim]steel world runs/world world.people=32[/dim]
    """
    from .corpus.world import write_world

    cfg = configuration(preset, overrides)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty folder; choose another")
    write_world(out, cfg.world, cfg.seed)
    say(f"world  {out}")


# -- training ----------------------------------------------------------------------------------------------------------


@app.command("pretrain")
def pretrain(
    run: Annotated[Optional[Path], typer.Option("--run", "-r", help="RUN folder.")] = None,
    data: Annotated[
        Optional[Path], typer.Option("--data", "-d", help="Folder of token shards.")
    ] = None,
    preset: Preset = "gpu1",
    tokenizer: Annotated[
        Optional[Path], typer.Option("--tokenizer", "-t", help="Copied beside the model.")
    ] = None,
    resume: Annotated[str, typer.Option(help="auto or never.")] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print parameters, memory, tokens, days; end.")
    ] = False,
    print_launch: Annotated[
        str, typer.Option(help="Print a launch file instead: slurm or k8s.")
    ] = "",
    nodes: Annotated[int, typer.Option(help="Machines, for --dry-run and --print-launch.")] = 1,
    gpus_per_node: Annotated[int, typer.Option(help="GPUs per machine, likewise.")] = 8,
    gpu: Annotated[
        str, typer.Option(help="GPU that --dry-run reckons with, as in steel plan.")
    ] = "H800",
    overrides: Overrides = None,
) -> None:
    """Pretrain on token shards; under torchrun on as many ranks as it starts.

    [dim]torchrun --nproc-per-node 8 -m steel pretrain --preset steel-1b --data shards -r runs/1b[/dim]

    [dim]steel pretrain --preset steel-1b --dry-run --gpu H100 --nodes 4[/dim]
    """
    cfg = configuration(preset, overrides)
    if dry_run:
        from .train.preflight import dry_run as page

        print(page(cfg, gpu, nodes * gpus_per_node, data))
        return
    if data is None or run is None:
        raise UserError("steel pretrain needs --data FOLDER and --run FOLDER")
    if print_launch:
        from .train.launch import render

        print(
            render(
                print_launch,
                cfg,
                preset,
                data=data,
                run=run,
                tokenizer=tokenizer,
                overrides=overrides,
                nodes=nodes,
                gpus_per_node=gpus_per_node,
            ),
            end="",
        )
        return
    from .train import pretrain as room

    if resume not in ("auto", "never"):
        raise UserError(f"--resume is auto or never, not '{resume}'")
    result = room.pretrain(cfg, data, run, tokenizer, resume=resume)
    say(f"model  {run / 'hf'}  (loss {result.loss:.4f} after {result.tokens:,} tokens)")


def align(stage: str, rows: str):
    """Build the command of one alignment stage; its data default to the life's own files."""

    def command(
        run: Run,
        model: Annotated[
            Optional[Path], typer.Option("--model", "-m", help="Folder to start from.")
        ] = None,
        data: Annotated[
            Optional[list[Path]], typer.Option("--data", "-d", help="jsonl files.")
        ] = None,
        preset: Preset = "laptop",
        overrides: Overrides = None,
    ) -> None:
        import importlib

        cfg = configuration(preset, overrides)
        if model is None or not data:
            raise UserError(f"steel {stage} needs --model FOLDER and --data {rows}")
        room = importlib.import_module(f".align.{stage}", __package__)
        say(f"model  {room.run(cfg, model, data, run)}")

    command.__doc__ = (
        f"{stage.upper()}: from a model folder and {rows}.\n\n"
        f"[dim]steel {stage} --model runs/laptop/pretrain/hf --data {rows} --run runs/{stage}[/dim]"
    )
    app.command(stage)(command)


align("sft", "sft.jsonl")
align("reward", "preference.jsonl")
align("dpo", "preference.jsonl")
align("grpo", "rl.jsonl")


@app.command("plan")
def plan(
    preset: Preset = "steel-1b",
    gpu: Annotated[str, typer.Option(help="H800, H100, H200, A100-80G, 4090, CPU, …")] = "H800",
    num_gpus: Annotated[int, typer.Option(help="GPUs in all.")] = 8,
    tokens: Annotated[float, typer.Option(help="Tokens to train on; 0: as the preset says.")] = 0,
    mfu: Annotated[
        float, typer.Option(help="Share of the GPU's peak reached; 0: a published figure.")
    ] = 0,
    overrides: Overrides = None,
) -> None:
    """Parameters, FLOPs per token, memory, days and money of a pretraining run.

    [dim]steel plan --preset steel-1b --gpu H800 --num-gpus 8[/dim]
    """
    from . import plan as room

    cfg = configuration(preset, overrides)
    print(room.render(room.plan(cfg, gpu, num_gpus, tokens=tokens, mfu=mfu)))


bench_app = group("How fast your preset runs on your machine.")


@bench_app.command("step")
def bench_step(
    overrides: Annotated[Optional[list[str]], typer.Argument(help="section.key=value")] = None,
    preset: Annotated[str, typer.Option(help="Preset or YAML file.")] = "cpu",
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    steps: Annotated[int, typer.Option(help="Steps on the clock, after three for warm-up.")] = 8,
    accumulation: Annotated[
        int, typer.Option(help="Micro-batches per step; 0: as the preset says.")
    ] = 1,
    out: Annotated[Optional[Path], typer.Option("--out", "-o", help="JSON file.")] = None,
) -> None:
    """One training step here, by the trainer's own loop: tokens/s, phases, MFU, peak memory.

    [dim]steel bench step --preset steel-1b-causal train.micro_batch_size=4[/dim]
    """
    from .config import load
    from .train import bench as step

    if steps < 1 or accumulation < 0:
        raise UserError(
            "steel bench step needs --steps of at least 1 and --accumulation of at least 0"
        )
    cfg = load(preset, overrides or [])
    report = step.bench_step(cfg, steps=steps, accumulation=accumulation, device=device, out=out)
    print(step.render(report))
    if out:
        say(f"report            {out}")


for _name, _group in (
    ("data", cli_data.data_app),
    ("tokenizer", cli_data.tokenizer_app),
    ("eval", cli_eval.eval_app),
    ("export", cli_eval.export_app),
    ("bench", bench_app),
):
    app.add_typer(_group, name=_name)
for _name, _command in (
    ("pack", cli_data.pack),
    ("chat", cli_eval.chat),
    ("serve", cli_eval.serve),
    ("import-original", cli_eval.import_original),
):
    app.command(_name)(_command)


# -- entry -------------------------------------------------------------------------------------------------------------

_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EDQUOT: "the disk quota is used up",
}


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `steel` command."""
    try:
        code = app(args=argv, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except typer.Abort:
        fail("stopped; nothing was left half-written", 130)
    except UserError as error:
        fail(str(error), 2)
    except KeyboardInterrupt:
        fail("stopped; the same command goes on from the last checkpoint", 130)
    except OSError as error:
        if error.errno in _DISK or isinstance(
            error, (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)
        ):
            what = _DISK.get(error.errno, (error.strerror or str(error)).lower())
            fail(f"{error.filename or 'a file'}: {what}", 2)
        raise
    except Exception as error:
        if not hasattr(
            error, "format_message"
        ):  # click's usage errors have it; typer carries its own copy of click
            raise
        fail(f"{error.format_message()} See --help.", 2)


def fail(message: str, code: int) -> None:
    """Print one line to stderr and exit."""
    print(f"steel: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
