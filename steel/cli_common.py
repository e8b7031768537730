"""What the commands share: option types, saying things, and the commands that are not built."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .config import UserError

Preset = Annotated[str, typer.Option("--preset", "-p", help="Preset name, or a YAML file.")]
Run = Annotated[Path, typer.Option("--run", "-r", help="RUN folder.")]
Json = Annotated[Path | None, typer.Option("--out", "-o", help="JSON file.")]
Model = Annotated[Path, typer.Argument(help="Model folder, or RUN folder.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="section.key=value …", metavar="[KEY=VALUE]…")
]

NOT_BUILT = {
    "serve": ("steel.serve.server", "An OpenAI-compatible server with a small web page"),
    "export gguf": ("steel.serve.gguf", "Writing a dense model for llama.cpp"),
    "eval contamination": ("steel.evaluation.contamination", "Overlap of training text and exams"),
    "tokenizer merge": ("steel.tokenizer.merge", "Joining two vocabularies"),
    "tokenizer report": ("steel.tokenizer.report", "Bytes per token by source"),
    "tokenizer coverage": (
        "steel.tokenizer.coverage",
        "Share of common Hanzi with their own token",
    ),
}
"""Commands whose room is still empty: (room, what it will do)."""


def group(summary: str) -> typer.Typer:
    """A group of sub-commands such as `steel data`."""
    return typer.Typer(no_args_is_help=True, help=summary, rich_markup_mode="rich")


def add_not_built(groups: dict[str, typer.Typer]) -> None:
    """Give every command of NOT_BUILT its place; called, it says that it is not built, exit 2."""
    anything = {"ignore_unknown_options": True, "allow_extra_args": True}

    def command(name: str, room: str, what: str):
        def refuse() -> None:
            raise UserError(f"steel {name} is not built yet ({what}: {room})")

        group_name, _, word = name.rpartition(" ")
        add = groups[group_name].command(
            word, help=f"{what}: not built.", context_settings=anything
        )
        add(refuse)

    for name, (room, what) in NOT_BUILT.items():
        command(name, room, what)


def say(text: str) -> None:
    """One line to the terminal, markup allowed."""
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(text)


def configuration(preset: str, overrides: list[str] | None):
    """Preset and overrides as a Config."""
    from . import config

    return config.load(preset, overrides or [])


def model_folder(path: Path) -> Path:
    """A Hugging Face folder, or the newest one inside a RUN folder."""
    for name in ("", "hf", "grpo/hf", "dpo/hf", "sft/hf", "pretrain/hf"):
        if (path / name / "config.json").is_file():
            return path / name
    raise UserError(f"no model at {path}: neither config.json nor a RUN folder with hf/")
