"""The commands that judge and use a model: `steel eval`, `steel chat`, `steel serve`, `steel export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from .cli_common import group, model_folder, not_built, say
from .config import UserError

eval_app = group("Exams, perplexity, contamination.")
export_app = group("Write a model in other formats.")


@eval_app.command("exam")
def eval_exam(
    ckpt: Annotated[Path, typer.Argument(help="Model folder, or RUN folder.")],
    folder: Annotated[
        Path, typer.Option("--folder", "-d", help="Folder with dev/ and test/ CSV files.")
    ],
    suite: Annotated[str, typer.Option(help="cmmlu, ceval, mmlu or world.")] = "world",
    shots: int = 0,
    scoring: Annotated[
        str, typer.Option(help="letter, text, generate; several with commas.")
    ] = "letter,text,generate",
    out: Annotated[Optional[Path], typer.Option("--out", "-o", help="JSON file.")] = None,
    limit: Annotated[Optional[int], typer.Option(help="Questions per subject.")] = None,
) -> None:
    """Multiple-choice exam, scored in up to three ways, with standard error and trivial baselines.

    [dim]steel eval exam runs/laptop --folder runs/laptop/world/exam[/dim]
    """
    import json

    from .evaluation.exam import run_exam
    from .model.folder import open_model
    from .runlog import atomic_write

    if suite not in ("cmmlu", "ceval", "mmlu", "world"):
        raise UserError(f"--suite '{suite}' is not one of cmmlu, ceval, mmlu, world")
    model, tokenizer = open_model(model_folder(ckpt))
    result = {
        "suite": suite,
        **run_exam(
            model, tokenizer, folder, scoring=tuple(scoring.split(",")), shots=shots, limit=limit
        ),
    }
    for how, r in result["scoring"].items():
        say(f"{how:<9} {r['accuracy']:7.2%} ± {r['se']:.2%}  (macro {r['macro']:.2%}, n {r['n']})")
    say("baselines " + "  ".join(f"{k} {v:.2%}" for k, v in result["baselines"].items()))
    if out:
        atomic_write(out, json.dumps(result, ensure_ascii=False, indent=1))
        say(f"result    {out}")


@eval_app.command("perplexity")
def eval_perplexity(
    ckpt: Path,
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

    model, tokenizer = open_model(model_folder(ckpt))
    result = bits_per_byte(model, tokenizer, load_domains(files))
    for name, r in result["domains"].items():
        say(
            f"{name:<20} {r['bpb']:.4f} bits/byte   perplexity {r['ppl']:.2f}   {r['tokens']:,} tokens"
        )
    say(f"{'geometric mean':<20} {result['geometric_mean']['bpb']:.4f} bits/byte")


@eval_app.command("contamination")
def eval_contamination(docs: Path, folder: Path) -> None:
    """Overlap of training text and exams."""
    not_built("the contamination check (steel.evaluation.contamination)")


def chat(
    ckpt: Annotated[Path, typer.Argument(help="Model folder, or RUN folder.")],
    prompt: Annotated[
        Optional[str], typer.Option(help="Answer this one message and leave.")
    ] = None,
    temperature: float = 0.0,
) -> None:
    """Talk to a model in the terminal.

    [dim]steel chat runs/laptop[/dim]
    """
    chat_with(ckpt, prompt, temperature)


def chat_with(ckpt: Path, prompt: str | None = None, temperature: float = 0.0) -> None:
    """Open the newest model at `ckpt` and talk to it."""
    from .serve.chat import chat as talk

    talk(model_folder(ckpt), prompt=prompt, temperature=temperature)


def serve(ckpt: Path) -> None:
    """An OpenAI-compatible server with a small web page."""
    not_built("the server (steel.serve.server)")


@export_app.command("hf")
def export_hf(ckpt: Path, out: Path) -> None:
    """Copy a model as a Hugging Face folder with its own code.

    [dim]steel export hf runs/laptop exported[/dim]
    """
    from .serve.export import export_hf as copy

    say(f"model  {copy(model_folder(ckpt), out)}")


@export_app.command("gguf")
def export_gguf(ckpt: Path, out: Path) -> None:
    """Write a dense model for llama.cpp."""
    not_built("the GGUF export (steel.serve.gguf)")


def import_original(folder: Path, out: Path) -> None:
    """Convert a checkpoint of the original Steel-LLM.

    [dim]steel import-original Steel-LLM steel-hf[/dim]
    """
    from .model.original import import_original as convert

    if not (folder / "config.json").is_file():
        raise UserError(f"no original checkpoint at {folder}: it has no config.json")
    convert(folder, out)
    say(f"model  {out}")
