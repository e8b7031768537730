"""The `steel` command. Each command reads its arguments, calls one function of the room it belongs
to, and says where the result lies. Exit code 0 only on success; a user's mistake gets one line and
exit code 2, never a traceback.
"""

import errno
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from .cli_common import Json, Model, Overrides, Preset, Tokenizer, app, command, hf_folder, say
from .config import UserError, load

Run = Annotated[Path, Option("--run", "-r", help="RUN folder.")]
From = Annotated[Path, Option("--model", "-m", help="Model folder, or RUN folder, to start from.")]
Rows = Annotated[list[Path], Option("--data", "-d", help="jsonl files.")]

# -- the whole life --------------------------------------------------------------------------------


@command("run", "steel run --preset laptop --run runs/mine train.steps=400")
def run_life(
    preset: Preset = "laptop",
    run: Annotated[Path | None, Option("--run", "-r", help="Default: runs/PRESET.")] = None,
    raw: Annotated[Path | None, Option(help="Real raw files instead of the closed world.")] = None,
    exam: Annotated[Path | None, Option(help="dev/ and test/ CSV files to be judged by.")] = None,
    chat: Annotated[bool, Option("--chat", help="Offer a chat at the end.")] = False,
    overrides: Overrides = None,
) -> None:
    """Train a small Steel through its whole life: data, pretraining, SFT, DPO, GRPO, exam, report."""
    cfg, folder = load(preset, overrides), run or Path("runs") / Path(preset).stem
    from . import life  # after a mistake in the settings would have been said

    page = life.run(cfg, folder, raw, exam)
    say(f"report card  {page}\nchat         steel chat {folder}")
    if chat and sys.stdin.isatty() and typer.confirm("Chat with it now?", default=True):
        chat_with(folder)


@command("report", "steel report runs/laptop", "steel report runs/one runs/two --out both.html")
def report(
    runs: Annotated[list[Path], Argument(help="RUN folder of a life; several are compared.")],
    out: Annotated[Path | None, Option("--out", "-o", help="Page of the comparison.")] = None,
) -> None:
    """Write the report card of a RUN folder again, or a page that compares several."""
    from .report.render import write_comparison, write_report

    for run in runs:
        names = ("state.json", "log.jsonl", "*/log.jsonl")
        if run.is_dir() and not any(path for name in names for path in run.glob(name)):
            raise UserError(f"{run} is not a RUN folder: neither state.json nor a log.jsonl in it")
    if len(runs) == 1:
        if out:
            raise UserError("--out is for a comparison; the card of one run lies in its folder")
        say(f"report card  {write_report(runs[0])}")
        return
    out = out or Path("comparison.html")
    if out.suffix != ".html":
        raise UserError(f"--out {out}: the comparison is a page, name it .html")
    say(f"comparison  {write_comparison(runs, out)}")


@command("world", "steel world runs/world world.people=32")
def world(
    out: Annotated[Path, Argument(help="Folder to write.")],
    preset: Preset = "laptop",
    overrides: Overrides = None,
) -> None:
    """Write the closed world in all raw source formats, with its exam and post-training sets."""
    from .corpus.world import write_world

    cfg = load(preset, overrides)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty folder; choose another")
    write_world(out, cfg.world, cfg.seed)
    say(f"world  {out}")


# -- training --------------------------------------------------------------------------------------


@command(
    "pretrain",
    "torchrun --nproc-per-node 8 -m steel pretrain --preset steel-1b --data shards -r runs/1b",
    "steel pretrain --preset steel-1b --dry-run --gpu H100 --nodes 4",
)
def pretrain(
    run: Annotated[Path | None, Option("--run", "-r", help="RUN folder.")] = None,
    data: Annotated[Path | None, Option("--data", "-d", help="Token shards.")] = None,
    preset: Preset = "gpu1",
    tokenizer: Tokenizer = None,
    resume: Annotated[str, Option(help="auto or never.")] = "auto",
    dry_run: Annotated[bool, Option("--dry-run", help="Only print what it would take.")] = False,
    print_launch: Annotated[str, Option(help="Print a launch file instead: slurm or k8s.")] = "",
    nodes: Annotated[int, Option(help="Machines, for --dry-run and --print-launch.")] = 1,
    gpus_per_node: Annotated[int, Option(help="GPUs per machine, likewise.")] = 8,
    gpu: Annotated[str, Option(help="GPU that --dry-run reckons with.")] = "H800",
    overrides: Overrides = None,
) -> None:
    """Pretrain on token shards; under torchrun on as many ranks as it starts."""
    cfg = load(preset, overrides)
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
    if os.environ.get("RANK", "0") == "0":  # one rank speaks
        say(f"model  {run / 'hf'}  (loss {result.loss:.4f} after {result.tokens:,} tokens)")


# -- after pretraining -----------------------------------------------------------------------------

SELF_COGNITION_REPEATS = 16


@command(
    "sft",
    "steel sft --model runs/laptop/pretrain/hf --data sft.jsonl --run runs/sft",
    "steel sft --preset minillm-0.2b -m base -d alpaca.jsonl -r runs/chat --name 小明 --author 李华",
    doc='Fine-tune a model on dialogues: rows of {"messages"}.',
)
def sft(
    run: Run,
    model: From,
    data: Rows,
    preset: Preset = "laptop",
    replay: Annotated[Path | None, Option(help="Token shards for sft.replay_rows.")] = None,
    name: Annotated[str, Option(help="Teach it this name.")] = "",
    author: Annotated[str, Option(help="… who trained it.")] = "",
    date: Annotated[str, Option(help="… and when.")] = "",
    overrides: Overrides = None,
) -> None:
    cfg, model = load(preset, overrides), hf_folder(model)
    from .align.stage import run as train

    if cfg.sft.replay_rows and replay is None:
        say("no --replay SHARDS: sft.replay_rows is not used")
    asked = {"name": name, "author": author, "date": date}
    if given := {key: value for key, value in asked.items() if value}:
        from .corpus.world.post import write_self_cognition

        file = run / "self_cognition.jsonl"
        write_self_cognition(file, cfg.world, cfg.seed, **given)
        data = [*data, *[file] * SELF_COGNITION_REPEATS]
    say(f"model  {train('sft', cfg, model, data, run, replay=replay)}")


def _stage(name: str, rows: str, doc: str) -> None:
    """Add the command of a stage, which reads `rows`."""
    example = f"steel {name} --model runs/laptop/sft/hf --data {rows} --run runs/{name}"

    @command(name, example, doc=doc)
    def work(
        run: Run, model: From, data: Rows, preset: Preset = "laptop", overrides: Overrides = None
    ) -> None:
        cfg = load(preset, overrides)
        from .align.stage import run as train

        say(f"model  {train(name, cfg, hf_folder(model), data, run)}")


_PAIRS = 'rows of {"messages", "chosen", "rejected"}.'
_CHECKED = 'rows of {"messages", "answer", "options"}.'
_stage("reward", "preference.jsonl", f"Train a reward model on pairs of answers: {_PAIRS}")
_stage("dpo", "preference.jsonl", f"Direct preference optimisation on pairs of answers: {_PAIRS}")
_stage("grpo", "rl.jsonl", f"Reinforce answers that a program can check: {_CHECKED}")


@command(
    "sample",
    "steel sample --model runs/laptop/sft/hf --data rl.jsonl --run runs/own grpo.group_size=8",
)
def sample(
    run: Run, model: From, data: Rows, preset: Preset = "laptop", overrides: Overrides = None
) -> None:
    """A model's own answers to RL prompts, judged: pairs for DPO, rows for SFT, prompts for GRPO."""
    cfg = load(preset, overrides)
    from .align.samples import sample as work

    report = work(cfg, hf_folder(model), data, run)
    shares = f"pass@1 {report['pass_at_1']:.1%}   pass@{report['k']} {report['pass_at_k']:.1%}"
    say(f"{shares}   of {report['prompts']:,} prompts")
    for name, rows in report["rows"].items():
        say(f"{rows:>8,} rows  {run / name}.jsonl")


# -- what it takes ---------------------------------------------------------------------------------


@command("plan", "steel plan --preset steel-1b --gpu H800 --num-gpus 8")
def plan(
    preset: Preset = "steel-1b",
    gpu: Annotated[str, Option(help="H800, H100, H200, A100-80G, 4090, CPU, …")] = "H800",
    num_gpus: Annotated[int, Option(help="GPUs in all.")] = 8,
    tokens: Annotated[float, Option(min=0, help="Tokens to train on; 0: as the preset says.")] = 0,
    mfu: Annotated[float, Option(min=0, help="Share of the peak reached; 0: a published one.")] = 0,
    document_length: Annotated[
        float, Option(min=0, help="Mean, in tokens, where masked; 0: a row.")
    ] = 0,
    overrides: Overrides = None,
) -> None:
    """Parameters, FLOPs per token, memory, days and money of a pretraining run."""
    from . import plan as room

    given = {"tokens": tokens, "mfu": mfu, "document_length": document_length}
    print(room.render(room.plan(load(preset, overrides), gpu, num_gpus, **given)))


@command(
    "bench step",
    "steel bench step --preset steel-1b-causal train.micro_batch_size=4",
    "torchrun --nproc-per-node 8 -m steel bench step --preset steel-1b-causal",
)
def bench_step(
    preset: Preset = "cpu",
    device: Annotated[str, Option(help="auto, cuda or cpu.")] = "auto",
    steps: Annotated[int, Option(min=1, help="Steps timed, after three for warm-up.")] = 8,
    accumulation: Annotated[int, Option(min=0, help="Micro-batches; 0: the preset's.")] = 1,
    out: Json = None,
    overrides: Overrides = None,
) -> None:
    """One training step here, by the trainer's own loop: tokens/s, MFU, memory, bytes sent, advice."""
    from .train import bench

    cfg = load(preset, overrides)
    report = bench.bench_step(cfg, steps=steps, accumulation=accumulation, device=device, out=out)
    if report is not None:  # rank 0 reports
        print(bench.render(report))
        if out:
            say(f"report            {out}")


# -- judging and using a model ---------------------------------------------------------------------


@command("chat", "steel chat runs/laptop")
def chat_with(
    ckpt: Model,
    prompt: Annotated[str | None, Option(help="Answer this one message and leave.")] = None,
    temperature: Annotated[float, Option(min=0, help="0: the likeliest answer.")] = 0.0,
) -> None:
    """Talk to a model in the terminal."""
    from .serve.chat import CHAT, chat

    chat(hf_folder(ckpt), prompt, replace(CHAT, temperature=temperature))


@command("serve", "steel serve runs/laptop", "steel serve runs/laptop --port 8080 --name steel")
def serve(
    ckpt: Model,
    host: Annotated[
        str, Option(help="Address to listen on; 0.0.0.0: every network.")
    ] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="0: a free one.")] = 8000,
    name: Annotated[str, Option(help="The model's name; default: the folder's.")] = "",
) -> None:
    """Serve a model under OpenAI's protocol, with a page to chat at /. Ctrl-C ends it."""
    from .serve.server import serve as room

    folder, name = hf_folder(ckpt), name or ckpt.resolve().name
    room(folder, host, port, name, lambda url: say(f"chat     {url}\nclients  {url}/v1"))


@command(
    "export hf",
    "steel export hf runs/laptop exported --dtype bf16",
    "steel export hf runs/laptop exported --as llama",
)
def export_hf(
    ckpt: Model,
    out: Path,
    dtype: Annotated[str, Option(help="fp32 or bf16.")] = "fp32",
    kind: Annotated[
        str,
        Option(
            "--as",
            help="steel, with its code. A plain model also llama or qwen3, without; or qwen2, "
            "whose text transformers cuts as Qwen2's.",
        ),
    ] = "steel",
) -> None:
    """Copy a model as a Hugging Face folder with its own code, or as a class of transformers."""
    from .serve.export import export_hf as copy

    say(f"model  {copy(hf_folder(ckpt), out, dtype, kind)}")


@command("export gguf", "steel export gguf runs/laptop laptop.gguf --dtype q8_0")
def export_gguf(
    ckpt: Model,
    out: Path,
    dtype: Annotated[str, Option(help="Of the matrices: f32, f16, bf16 or q8_0.")] = "f16",
) -> None:
    """Write a plain dense model, tokenizer inside, as one file for llama.cpp and its kin."""
    from .serve.gguf import export_gguf as write

    say(f"model  {write(hf_folder(ckpt), out, dtype)}")


@command(
    "export llama-factory",
    "steel export llama-factory sft --model runs/laptop/pretrain/hf --data sft.jsonl --run out",
)
def export_llama_factory(
    stage: str,
    run: Run,
    model: From,
    data: Rows,
    preset: Preset = "laptop",
    overrides: Overrides = None,
) -> None:
    """Rows and settings of a stage (sft, reward, dpo) as data and YAML for LLaMA-Factory."""
    cfg = load(preset, overrides)
    from .align.llama_factory import export

    say(f"settings  {export(stage, cfg, hf_folder(model), data, run)}")


@command("import-original", "steel import-original Steel-LLM steel-hf")
def import_original(folder: Path, out: Path) -> None:
    """Convert a checkpoint of the original Steel-LLM."""
    from .model.original import import_original as convert

    convert(folder, out)
    say(f"model  {out}")


# -- entry -----------------------------------------------------------------------------------------

from . import cli_data, cli_eval  # noqa: E402, F401 - their commands come after these in --help

_STOPPED = "stopped; nothing was left half-written: the same command goes on or starts afresh"


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `steel` command."""
    message = _STOPPED
    try:
        code = app(args=argv, standalone_mode=False) or 0
        if code != 130:  # as typer ends a command on Ctrl-C
            sys.exit(code)
    except typer.Abort:
        code = 130
    except UserError as error:
        code, message = 2, str(error)
    except OSError as error:  # with a file that could not be read or written
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        full = error.errno == errno.ENOSPC
        what = "the disk is full" if full else (error.strerror or str(error)).lower()
        code, message = 2, f"{error.filename or 'a file'}: {what}"
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's usage errors; typer has its own click
            raise
        code, message = 2, f"{error.format_message()} See --help."
    print(f"steel: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
