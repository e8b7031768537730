"""What the commands share: option types, how one is added, and saying things."""

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from .config import UserError

Preset = Annotated[str, Option("--preset", "-p", help="Preset name, or a YAML file.")]
Json = Annotated[Path | None, Option("--out", "-o", dir_okay=False, help="JSON file.")]
Model = Annotated[Path, Argument(help="Model folder, or RUN folder.")]
Tokenizer = Annotated[Path | None, Option("--tokenizer", "-t", help="Default: the shards' own.")]
Overrides = Annotated[
    list[str] | None, Argument(help="section.key=value …", metavar="[KEY=VALUE]…")
]


app = typer.Typer(
    name="steel",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Pretrain a language model from nothing: data, tokenizer, training, alignment, exams, chat.",
)
GROUPS = {
    "data": "Sources and documents: list, download, prepare, append.",
    "tokenizer": "Train, merge and measure tokenizers.",
    "eval": "Exams, perplexity, contamination.",
    "export": "Write a model in other formats.",
    "bench": "How fast your preset runs on your machine.",
}
_places = {"": app}
for _name, _summary in GROUPS.items():
    _places[_name] = typer.Typer(no_args_is_help=True, help=_summary, rich_markup_mode="rich")
    app.add_typer(_places[_name], name=_name)


def command(name: str, *examples: str, doc: str = "") -> Callable:
    """Make a function the command `steel NAME`; its help is its docstring or `doc`, then examples."""

    def add(function: Callable) -> Callable:
        shown = [f"[dim]{example}[/dim]" for example in examples]
        page = "\n\n".join([doc or inspect.getdoc(function), *shown])
        group, _, word = name.rpartition(" ")
        return _places[group].command(word, help=page)(function)

    return add


def say(text: str) -> None:
    """One line to the terminal, as it is: a path or a reply may hold what rich takes for markup."""
    from rich.console import Console

    Console(highlight=False, markup=False, emoji=False, soft_wrap=True).print(text)


def show_table(rows: Iterable[dict[str, str]]) -> None:
    """Rows with the same keys, as a table under them."""
    from rich.console import Console
    from rich.table import Table

    if not (rows := list(rows)):
        return
    table = Table(*(name.replace("_", " ") for name in rows[0]), box=None, header_style="bold")
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)


def hf_folder(path: Path) -> Path:
    """A Hugging Face folder, or the newest one inside a RUN folder."""
    for name in ("", "hf", "grpo/hf", "dpo/hf", "sft/hf", "pretrain/hf"):
        if (path / name / "config.json").is_file():
            return path / name
    raise UserError(f"no model at {path}: neither config.json nor a RUN folder with hf/")
