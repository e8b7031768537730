"""What the commands share: option types, configuration, finding a model, saying things."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from .config import UserError

Preset = Annotated[str, typer.Option("--preset", "-p", help="Preset name, or a YAML file.")]
Run = Annotated[Path, typer.Option("--run", "-r", help="RUN folder.")]
Overrides = Annotated[
    Optional[list[str]], typer.Argument(help="section.key=value …", metavar="[KEY=VALUE]…")
]


def group(summary: str) -> typer.Typer:
    """A group of sub-commands such as `steel data`."""
    return typer.Typer(no_args_is_help=True, help=summary, rich_markup_mode="rich")


def say(text: str) -> None:
    """One line to the terminal, markup allowed."""
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(text)


def not_built(part: str) -> None:
    """For a command whose room is still empty: say which part is missing, exit 2."""
    raise UserError(f"{part} is not built yet")


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
