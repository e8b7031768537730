"""The `steel` command. Each command reads its arguments, calls one function of the room it belongs
to, and says where the result lies. Exit code 0 only on success; a user's mistake gets one line and
exit code 2, never a traceback.
"""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import cli_data
from .cli_common import (
    Json,
    Model,
    Overrides,
    Preset,
    Run,
    add_not_built,
    configuration,
    group,
    model_folder,
    say,
)
from .config import UserError

app = typer.Typer(
    name="steel",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Pretrain a language model from nothing: data, tokenizer, training, alignment, exams, chat.",
)
bench_app = group("How fast your preset runs on your machine.")
eval_app = group("Exams, perplexity, contamination.")
export_app = group("Write a model in other formats.")
GROUPS = {
    "data": cli_data.app,
    "tokenizer": cli_data.tokenizer_app,
    "eval": eval_app,
    "export": export_app,
    "bench": bench_app,
}
for _name, _group in GROUPS.items():
    app.add_typer(_group, name=_name)
add_not_built({"": app, **GROUPS})
app.command("pack")(cli_data.pack)


# -- the whole life --------------------------------------------------------------------------------


@app.command("run")
def run_life(
    preset: Preset = "laptop",
    run: Annotated[
        Path | None, typer.Option("--run", "-r", help="RUN folder; default runs/PRESET.")
    ] = None,
    raw: Annotated[
        Path | None, typer.Option(help="Folder of real raw files instead of the closed world.")
    ] = None,
    exam: Annotated[
        Path | None, typer.Option(help="Folder with dev/ and test/ CSV files to be judged by.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Offer a chat at the end.")] = False,
    overrides: Overrides = None,
) -> None:
    """Train a small Steel through its whole life: data, pretraining, SFT, DPO, GRPO, exam, report.

    [dim]steel run --preset laptop --run runs/mine train.steps=400[/dim]
    """
    from . import life

    folder = run or Path("runs") / Path(preset).stem
    page = life.run(configuration(preset, overrides), folder, raw, exam)
    say(f"report card  {page}\nchat         steel chat {folder}")
    if chat and sys.stdin.isatty() and typer.confirm("Chat with it now?", default=True):
        chat_with(folder)


@app.command("report")
def report(run: Annotated[Path, typer.Argument(help="RUN folder of a life.")]) -> None:
    """Write the report card of a RUN folder again.

    [dim]steel report runs/laptop[/dim]
    """
    from .report.render import write_report

    if not run.is_dir():
        raise UserError(f"no run folder at {run}")
    logs = (run / "state.json", run / "log.jsonl", *run.glob("*/log.jsonl"))
    if not any(path.is_file() for path in logs):
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


# -- training --------------------------------------------------------------------------------------


@app.command("pretrain")
def pretrain(
    run: Annotated[Path | None, typer.Option("--run", "-r", help="RUN folder.")] = None,
    data: Annotated[Path | None, typer.Option("--data", "-d", help="Token shards.")] = None,
    preset: Preset = "gpu1",
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", "-t", help="Default: the shards' own.")
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
    gpu: Annotated[str, typer.Option(help="GPU that --dry-run reckons with.")] = "H800",
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

        where = {"data": data, "run": run, "tokenizer": tokenizer, "overrides": overrides}
        machines = {"nodes": nodes, "gpus_per_node": gpus_per_node}
        print(render(print_launch, cfg, preset, **where, **machines), end="")
        return
    from .train import pretrain as room

    if resume not in ("auto", "never"):
        raise UserError(f"--resume is auto or never, not '{resume}'")
    result = room.pretrain(cfg, data, run, tokenizer, resume=resume)
    say(f"model  {run / 'hf'}  (loss {result.loss:.4f} after {result.tokens:,} tokens)")


def align(stage: str, rows: str) -> None:
    """Add the command of one alignment stage, which reads `rows`."""

    def command(
        run: Run,
        model: Annotated[
            Path | None, typer.Option("--model", "-m", help="Folder to start from.")
        ] = None,
        data: Annotated[
            list[Path] | None, typer.Option("--data", "-d", help="jsonl files.")
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
    mfu: Annotated[float, typer.Option(help="Share of the peak reached; 0: a published one.")] = 0,
    document_length: Annotated[
        float, typer.Option(help="Mean tokens of a document, for presets that mask; 0: a row.")
    ] = 0,
    overrides: Overrides = None,
) -> None:
    """Parameters, FLOPs per token, memory, days and money of a pretraining run.

    [dim]steel plan --preset steel-1b --gpu H800 --num-gpus 8[/dim]
    """
    from . import plan as room

    given = {"tokens": tokens, "mfu": mfu, "document_length": document_length}
    print(room.render(room.plan(configuration(preset, overrides), gpu, num_gpus, **given)))


@bench_app.command("step")
def bench_step(
    preset: Preset = "cpu",
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    steps: Annotated[int, typer.Option(min=1, help="Steps timed, after three for warm-up.")] = 8,
    accumulation: Annotated[
        int, typer.Option(min=0, help="Micro-batches per step; 0: as the preset says.")
    ] = 1,
    out: Json = None,
    overrides: Overrides = None,
) -> None:
    """One training step here, by the trainer's own loop: tokens/s, MFU, memory, bytes sent, advice.

    [dim]steel bench step --preset steel-1b-causal train.micro_batch_size=4[/dim]

    [dim]torchrun --nproc-per-node 8 -m steel bench step --preset steel-1b-causal[/dim]
    """
    from .train import bench

    cfg = configuration(preset, overrides)
    report = bench.bench_step(cfg, steps=steps, accumulation=accumulation, device=device, out=out)
    if report is not None:  # rank 0 reports
        print(bench.render(report))
        if out:
            say(f"report            {out}")


# -- judging and using a model ---------------------------------------------------------------------


@eval_app.command("exam")
def eval_exam(
    ckpt: Model,
    folder: Annotated[Path, typer.Option("--folder", "-d", help="Folder of dev/ and test/ CSVs.")],
    suite: Annotated[
        str, typer.Option(help="cmmlu, ceval, mmlu or world; default: by its subjects.")
    ] = "",
    shots: Annotated[int, typer.Option(help="Worked examples before a question.")] = 0,
    scoring: Annotated[
        str, typer.Option(help="letter, text, generate; several with commas.")
    ] = "letter,text,generate",
    out: Json = None,
    limit: Annotated[int | None, typer.Option(help="Questions per subject.")] = None,
) -> None:
    """Multiple-choice exam, scored in up to three ways, with standard error and trivial baselines.

    [dim]steel eval exam runs/laptop --folder runs/laptop/world/exam[/dim]
    """
    from .evaluation.exam import run_exam
    from .evaluation.suites import check_suite
    from .model.folder import open_model
    from .runlog import atomic_write

    if suite:
        check_suite(suite)  # before the model is opened, which may take long
    options = {"suite": suite, "scoring": scoring.split(","), "shots": shots, "limit": limit}
    result = run_exam(*open_model(model_folder(ckpt)), folder, **options)
    for how, r in result["scoring"].items():
        say(f"{how:<9} {r['accuracy']:7.2%} ± {r['se']:.2%}  (macro {r['macro']:.2%}, n {r['n']})")
    say("baselines " + "  ".join(f"{k} {v:.2%}" for k, v in result["baselines"].items()))
    if out:
        atomic_write(out, json.dumps(result, ensure_ascii=False, indent=1))
        say(f"result    {out}")


@eval_app.command("perplexity")
def eval_perplexity(
    ckpt: Model,
    files: Annotated[
        list[Path],
        typer.Argument(help='jsonl files of {"text"} or {"messages"}; one domain a file.'),
    ],
) -> None:
    """Bits per byte and perplexity by domain.

    [dim]steel eval perplexity runs/laptop runs/laptop/world/heldout/*.jsonl[/dim]
    """
    from .evaluation.perplexity import bits_per_byte, load_domains
    from .model.folder import open_model

    found, domains = model_folder(ckpt), load_domains(files)
    result = bits_per_byte(*open_model(found), domains)
    bad = []
    for name, r in result["domains"].items():
        if r["bpb"] is None:
            bad.append(
                f"{name} ({r['nan_documents']} of {r['documents']} documents are not finite)"
            )
            continue
        perplexity = r["ppl"] or float("inf")
        numbers = f"{r['bpb']:.4f} bits/byte   perplexity {perplexity:.2f}"
        say(f"{name:<20} {numbers}   {r['tokens']:,} tokens")
    if bad:
        raise UserError(f"no number, and therefore no mean, for {', '.join(bad)}")
    say(f"{'geometric mean':<20} {result['geometric_mean']['bpb']:.4f} bits/byte")


@app.command("chat")
def chat_with(
    ckpt: Model,
    prompt: Annotated[str | None, typer.Option(help="Answer this one message and leave.")] = None,
    temperature: Annotated[float, typer.Option(help="0: the likeliest answer.")] = 0.0,
) -> None:
    """Talk to a model in the terminal.

    [dim]steel chat runs/laptop[/dim]
    """
    from .serve.chat import chat

    chat(model_folder(ckpt), prompt=prompt, temperature=temperature)


@export_app.command("hf")
def export_hf(ckpt: Model, out: Path) -> None:
    """Copy a model as a Hugging Face folder with its own code.

    [dim]steel export hf runs/laptop exported[/dim]
    """
    from .serve.export import export_hf as copy

    say(f"model  {copy(model_folder(ckpt), out)}")


@app.command("import-original")
def import_original(folder: Path, out: Path) -> None:
    """Convert a checkpoint of the original Steel-LLM.

    [dim]steel import-original Steel-LLM steel-hf[/dim]
    """
    from .model.original import import_original as convert

    if not (folder / "config.json").is_file():
        raise UserError(f"no original checkpoint at {folder}: it has no config.json")
    convert(folder, out)
    say(f"model  {out}")


# -- entry -----------------------------------------------------------------------------------------

_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EDQUOT: "the disk quota is used up",
}
_PLACE = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)


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
        if error.errno not in _DISK and not isinstance(error, _PLACE):
            raise
        what = _DISK.get(error.errno, (error.strerror or str(error)).lower())
        fail(f"{error.filename or 'a file'}: {what}", 2)
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's usage errors; typer has its own click
            raise
        fail(f"{error.format_message()} See --help.", 2)


def fail(message: str, code: int) -> None:
    """Print one line to stderr and exit."""
    print(f"steel: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
