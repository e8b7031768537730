"""The commands of `steel data` and `steel tokenizer`, and `steel pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_common import group, say

app = group("Sources and documents: list, download, prepare, append.")
tokenizer_app = group("Train, merge and measure tokenizers.")

Recipe = Annotated[str, typer.Option(help="steel, original, or a YAML file.")]
Workers = Annotated[int, typer.Option(help="Processes.")]
Tokenizer = Annotated[Path, typer.Option("--tokenizer", "-t", help="Its folder.")]
OwnTokenizer = Annotated[
    Path | None, typer.Option("--tokenizer", "-t", help="For shards that carry none.")
]


@app.command("list")
def data_list() -> None:
    """The sources: licence, size, language, format.

    [dim]steel data list[/dim]
    """
    from rich.console import Console
    from rich.table import Table

    from .corpus import sources

    table = Table(box=None, header_style="bold")
    rows = sources.list_sources()
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(v) for v in row.values()))
    Console().print(table)


@app.command("cards")
def data_cards(source: Annotated[str, typer.Argument(help="One source.")] = "") -> None:
    """The data cards: what a source is, how to get it, what the original did with it.

    [dim]steel data cards baidu_baike[/dim]
    """
    from .corpus import sources

    for name in [source] if source else sources.SOURCES:
        say(sources.card(name) + "\n")


@app.command("download")
def data_download(source: str, out: Path) -> None:
    """Fetch a source, or say how to.

    [dim]steel data download wikipedia_cn raw/wikipedia_cn[/dim]
    """
    from .corpus.download import download

    say(str(download(source, out)))


@app.command("prepare")
def data_prepare(raw: Path, out: Path, recipe: Recipe = "steel") -> None:
    """Raw files to clean, deduplicated documents, with OUT/report.json.

    [dim]steel data prepare raw docs --recipe steel[/dim]
    """
    from .corpus.pipeline import prepare

    report = prepare(raw, out, recipe)
    for warning in report["warnings"]:
        say(f"warning    {warning}")
    say(f"documents  {out}\nreport     {out / 'report.json'}")


def _step(name: str, summary: str) -> None:
    """Add the command of one of `prepare`'s steps alone."""

    def command(source: Path, out: Path, recipe: Recipe = "steel") -> None:
        from .corpus.pipeline import prepare

        prepare(source, out, recipe, steps=(name,))
        say(f"documents  {out}")

    example = f"[dim]steel data {name} FROM TO --recipe original[/dim]"
    app.command(name, help=f"{summary}\n\n{example}")(command)


_step("convert", "Only the first step: raw files to OUT/<source>.jsonl.zst.")
_step("clean", "Only the second step: a recipe's operators over documents.")
_step("dedup", "Only the third step: remove exact and near duplicates.")


@app.command("append")
def data_append(
    out: Path,
    docs: Path,
    tokenizer: OwnTokenizer = None,
    run: Annotated[Path | None, typer.Option(help="RUN folder that reads OUT.")] = None,
    workers: Workers = 1,
) -> None:
    """Add documents to a corpus that a run may be reading; duplicates are refused by content.

    [dim]steel data append shards new-docs --run runs/1b[/dim]
    """
    from .data.append import append

    added = append(out, docs, tokenizer, consumed=run, workers=workers)
    say(f"shards  {out}: {added['documents']:,} documents, {added['tokens']:,} tokens added")
    if run is not None:
        new, first = f"{added['new_samples']:,} new samples", f"step {added['from_step']:,}"
        say(f"run     {run}: {new} are mixed in from {first}")


@app.command("verify")
def data_verify(shards: Path) -> None:
    """Read every byte of a shard folder and compare it with the manifest.

    [dim]steel data verify shards[/dim]
    """
    from .data.shards import verify

    found = verify(shards)
    say(f"sound  {shards}: {found['shards']:,} shards, {found['tokens']:,} tokens")


def pack(
    docs: Path,
    out: Path,
    tokenizer: Tokenizer,
    workers: Workers = 1,
    hold_out: Annotated[float, typer.Option(help="Share of documents kept for validation.")] = 0.0,
    litpkds: Annotated[
        bool, typer.Option("--litpkds", help="DOCS holds the original's chunks (*.bin).")
    ] = False,
) -> None:
    """Documents to token shards with a manifest.

    [dim]steel pack docs shards --tokenizer tokenizer --workers 8[/dim]
    """
    from .data.pack import pack as pack_documents

    pack_documents(docs, out, tokenizer, workers=workers, hold_out=hold_out, litpkds=litpkds)
    say(f"shards  {out}")


@tokenizer_app.command("train")
def tokenizer_train(
    docs: Path,
    out: Path,
    vocab_size: Annotated[int, typer.Option(help="Entries.")] = 32768,
    sample_bytes: Annotated[int, typer.Option(help="Text to draw, from all sources.")] = 50_000_000,
) -> None:
    """Train a byte-level BPE on documents.

    [dim]steel tokenizer train docs tokenizer --vocab-size 32768[/dim]
    """
    from .tokenizer import bpe
    from .tokenizer.texts import sample_texts

    bpe.save(bpe.train(sample_texts(docs, sample_bytes), vocab_size), out)
    say(f"tokenizer  {out}")
