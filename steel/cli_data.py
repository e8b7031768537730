"""The commands of `steel data`, `steel tokenizer`, and `steel pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from .cli_common import group, not_built, say
from .config import UserError

data_app = group("Sources and documents: list, download, prepare, append.")
tokenizer_app = group("Train, merge and measure tokenizers.")


@data_app.command("list")
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


@data_app.command("cards")
def data_cards(
    source: Annotated[Optional[str], typer.Argument(help="One source; default all.")] = None,
) -> None:
    """The data cards: what a source is, how to get it, what the original did with it.

    [dim]steel data cards baidu_baike[/dim]
    """
    from .corpus import sources

    for name in [source] if source else sources.SOURCES:
        say(sources.card(name) + "\n")


@data_app.command("download")
def data_download(source: str, out: Path) -> None:
    """Fetch a source, or say how to.

    [dim]steel data download wikipedia_cn raw/wikipedia_cn[/dim]
    """
    from .corpus.download import download

    say(str(download(source, out)))


@data_app.command("prepare")
def data_prepare(
    raw: Path,
    out: Path,
    recipe: Annotated[str, typer.Option(help="steel, original, or a YAML file.")] = "steel",
    executor: Annotated[str, typer.Option(help="local, slurm or ray.")] = "local",
) -> None:
    """Raw files to clean, deduplicated documents, with OUT/report.json.

    [dim]steel data prepare raw docs --recipe steel[/dim]
    """
    from .corpus.pipeline import prepare

    prepare(raw, out, recipe=recipe, executor=executor)
    say(f"documents  {out}\nreport     {out / 'report.json'}")


@data_app.command("convert")
def data_convert(
    raw: Path, out: Path, recipe: Annotated[str, typer.Option(help="steel or original.")] = "steel"
) -> None:
    """Only the first step: raw files to OUT/<source>.jsonl.zst.

    [dim]steel data convert raw converted --recipe original[/dim]
    """
    from .corpus.convert import convert

    convert(raw, out, recipe=recipe)
    say(f"documents  {out}")


@data_app.command("clean")
def data_clean(docs: Path, out: Path, recipe: str = "steel") -> None:
    """Only the second step: run a recipe's operators over documents.

    [dim]steel data clean converted cleaned[/dim]
    """
    from .corpus.pipeline import clean

    clean(docs, out, recipe=recipe)
    say(f"documents  {out}")


@data_app.command("dedup")
def data_dedup(docs: Path, out: Path, recipe: str = "steel") -> None:
    """Only the third step: remove exact and near duplicates.

    [dim]steel data dedup cleaned deduplicated[/dim]
    """
    from .corpus.pipeline import dedup

    dedup(docs, out, recipe=recipe)
    say(f"documents  {out}")


@data_app.command("append")
def data_append(
    out: Path,
    docs: Path,
    tokenizer: Annotated[
        Optional[Path], typer.Option("--tokenizer", "-t", help="The shards' own, if not given.")
    ] = None,
    run: Annotated[Optional[Path], typer.Option(help="RUN folder that reads OUT.")] = None,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
) -> None:
    """Add documents to a corpus that a run may be reading; duplicates are refused by content.

    [dim]steel data append shards new-docs --run runs/1b[/dim]
    """
    from .data.append import append

    added = append(out, docs, tokenizer, consumed=run, workers=workers)
    say(f"shards  {out}: {added['documents']:,} documents, {added['tokens']:,} tokens added")
    if "new_samples" in added:
        say(
            f"run     {run}: {added['new_samples']:,} new samples are mixed in from step {added['from_step']:,}"
        )


def pack(
    docs: Path,
    out: Path,
    tokenizer: Annotated[Path, typer.Option("--tokenizer", "-t", help="Its folder.")],
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    hold_out: Annotated[float, typer.Option(help="Share of documents kept for validation.")] = 0.0,
) -> None:
    """Documents to token shards with a manifest.

    [dim]steel pack docs shards --tokenizer tokenizer --workers 8[/dim]
    """
    from .data.pack import pack as pack_documents

    pack_documents(docs, out, tokenizer, workers=workers, hold_out=hold_out)
    say(f"shards  {out}")


# -- tokenizer ---------------------------------------------------------------------------------------------------------


@tokenizer_app.command("train")
def tokenizer_train(
    docs: Path, out: Path, vocab_size: Annotated[int, typer.Option(help="Entries.")] = 32768
) -> None:
    """Train a byte-level BPE on documents.

    [dim]steel tokenizer train docs tokenizer --vocab-size 32768[/dim]
    """
    from .life import document_texts
    from .tokenizer import bpe

    if not docs.is_dir():
        raise UserError(f"no folder of documents at {docs}")
    bpe.save(bpe.train(document_texts(docs), vocab_size), out)
    say(f"tokenizer  {out}")


@tokenizer_app.command("merge")
def tokenizer_merge(first: Path, second: Path, out: Path) -> None:
    """Join two vocabularies."""
    not_built("merging vocabularies (steel.tokenizer.merge)")


@tokenizer_app.command("report")
def tokenizer_report(tokenizer: Path, docs: Path) -> None:
    """Bytes per token by source."""
    not_built("the tokenizer report (steel.tokenizer.report)")


@tokenizer_app.command("coverage")
def tokenizer_coverage(tokenizer: Path) -> None:
    """Share of common Hanzi with a token of their own."""
    not_built("Hanzi coverage (steel.tokenizer.coverage)")
