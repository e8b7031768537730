"""The commands of `steel data` and `steel tokenizer`, and `steel pack`."""

import heapq
import json
import os
from collections import Counter
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from .cli_common import Json, Tokenizer, command, say, show_table
from .config import UserError
from .runlog import write_json

Recipe = Annotated[str, Option(help="steel, original, or a YAML file.")]
Workers = Annotated[int, Option(help="Processes.")]


@command("data list", "steel data list")
def data_list() -> None:
    """The sources: licence, size, language, format."""
    from .corpus.sources import SOURCES

    show_table(source.table() for source in SOURCES.values())


@command("data cards", "steel data cards baidu_baike")
def data_cards(source: Annotated[str, Argument(help="One source.")] = "") -> None:
    """The data cards: what a source is, how to get it, what the original did with it."""
    from .corpus.sources import SOURCES, find_source

    for name in [source] if source else SOURCES:
        say(find_source(name).card() + "\n")


@command(
    "data download",
    "steel data download wikipedia_cn raw/wikipedia_cn --sample 1000",
    "steel data download hub:HuggingFaceTB/cosmopedia raw --map question=prompt,answer=text",
)
def data_download(
    source: Annotated[str, Argument(help="One of the sources, or hub:OWNER/NAME.")],
    out: Path,
    sample: Annotated[int, Option(min=0, help="Only so many records, without the rest.")] = 0,
    endpoint: Annotated[str, Option(help="A mirror of the hub; also HF_ENDPOINT.")] = "",
    map: Annotated[str, Option(help="For hub: text=… or turns=… or question=…,answer=…")] = "",
    split: Annotated[str, Option(help="For hub:.")] = "train",
) -> None:
    """Fetch a source, or say how to."""
    from .corpus.download import download, stream_dataset

    if source.startswith("hub:"):
        if endpoint:
            os.environ["HF_ENDPOINT"] = endpoint  # `datasets` reads it when it is imported
        roles = dict(part.strip().partition("=")[::2] for part in map.split(",") if part.strip())
        repo = source.removeprefix("hub:")
        say(stream_dataset(repo, out, roles, sample=sample, split=split))
    else:
        say(download(source, out, sample=sample, endpoint=endpoint, tell=say))


@command("data compare", "steel data compare raw --out compare.json")
def data_compare(raw: Path, out: Json = None) -> None:
    """What the original's conversion keeps of raw files, and what ours does, source by source."""
    from .corpus.convert import compare

    rows, columns = compare(raw), "records original steel original_characters".split()
    columns += ["original_without_template", "steel_characters"]
    show_table(
        {"source": name} | {column: f"{row.get(column, 0):,}" for column in columns}
        for name, row in rows.items()
    )
    if out:
        write_json(out, rows)


@command(
    "data prepare",
    "steel data prepare raw docs --recipe steel --workers 8",
    "steel data prepare raw docs --executor slurm --tasks 500 partition=cpu time=20:00:00",
)
def data_prepare(
    raw: Path,
    out: Path,
    options: Annotated[
        list[str] | None,
        Argument(help="KEY=VALUE of datatrove's executor.", metavar="[KEY=VALUE]…"),
    ] = None,
    recipe: Recipe = "steel",
    trace: Annotated[int, Option(min=0, help="Changes of each operator to OUT/report/traces.")] = 0,
    executor: Annotated[str, Option(help="local, slurm or ray.")] = "local",
    workers: Annotated[int, Option(help="Tasks at a time.")] = 1,
    tasks: Annotated[int, Option(help="Tasks in all, at most; each has whole files.")] = 64,
) -> None:
    """Raw files to clean, deduplicated documents, with OUT/report.json; killed, it goes on."""
    from .corpus.pipeline import prepare

    given = dict(map(_setting, options or []))
    how = {"executor": executor, "workers": workers, "tasks": tasks, "options": given}
    report = prepare(raw, out, recipe, trace=trace, **how)
    if report is None:
        say("Slurm has the jobs; when they are done, the same command shows the report")
        return
    for warning in report["warnings"]:
        say(f"warning    {warning}")
    say(f"documents  {out}\nreport     {out / 'report.json'}")


def _setting(text: str) -> tuple[str, object]:
    """KEY=VALUE, the value a number or true or false where it reads so."""
    key, found, value = text.partition("=")
    if not found:
        raise UserError(f"'{text}' is no KEY=VALUE; options of the executor are")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _step(name: str, summary: str) -> None:
    """Add the command of one of `prepare`'s steps alone."""

    @command(f"data {name}", f"steel data {name} FROM TO --recipe original", doc=summary)
    def step(source: Path, out: Path, recipe: Recipe = "steel") -> None:
        from .corpus.pipeline import prepare

        prepare(source, out, recipe, steps=(name,))
        say(f"documents  {out}")


_step("convert", "Only the first step: raw files to OUT/<source>.jsonl.zst.")
_step("clean", "Only the second step: a recipe's operators over documents.")
_step("dedup", "Only the third step: remove exact and near duplicates.")


@command("data rejects", "steel data rejects docs --operator letter_ratio --limit 20")
def data_rejects(
    out: Annotated[Path, Argument(help="What `steel data prepare` wrote.")],
    operator: Annotated[str, Option(help="Its removals; without one, their numbers.")] = "",
    source: Annotated[str, Option(help="Only of this source.")] = "",
    limit: Annotated[
        int, Option(min=1, help="Documents, those nearest to the operator's limit.")
    ] = 10,
    chars: Annotated[int, Option(min=0, help="Characters shown of each.")] = 300,
) -> None:
    """Read what the cleaning threw away, the doubtful cases first: is the recipe right?"""
    from .corpus.report import read_rejects

    def distance(document) -> float:
        found = document.meta["rejected"]
        return 0.0 if found["limit"] is None else abs(found["value"] - found["limit"])

    if not operator:
        counts = Counter(d.meta["rejected"]["operator"] for d in read_rejects(out, "", source))
        for name, number in counts.most_common():
            say(f"{number:10,}  {name}")
        if not counts:
            say("nothing was removed")
        return
    found = heapq.nsmallest(limit, read_rejects(out, operator, source), key=distance)
    if not found:
        raise UserError(f"{operator} removed nothing; `steel data rejects {out}` lists what did")
    for document in found:
        rejected = document.meta["rejected"]
        copy = f", of {rejected['copy_of']}" if "copy_of" in rejected else ""
        text = document.readable()
        more = f" … {len(text):,} characters" if len(text) > chars else ""
        say(f"-- {document.id}: {rejected['reason']}{copy}\n{text[:chars]}{more}\n")


@command("data append", "steel data append shards new-docs --run runs/1b")
def data_append(
    out: Path,
    docs: Path,
    tokenizer: Tokenizer = None,
    run: Annotated[Path | None, Option(help="RUN folder that reads OUT.")] = None,
    workers: Workers = 1,
) -> None:
    """Add documents to a corpus that a run may be reading; duplicates are refused by content."""
    from .data.pack import append

    added = append(out, docs, tokenizer, consumed=run, workers=workers)
    say(f"shards  {out}: {added['documents']:,} documents, {added['tokens']:,} tokens added")
    if run is not None:
        new, first = f"{added['new_samples']:,} new samples", f"step {added['from_step']:,}"
        say(f"run     {run}: {new} are mixed in from {first}")
        if added["without_share"]:
            names = ", ".join(added["without_share"])
            say(f"        before it goes on, name {names} in data.weights, or have a * there")


@command("data verify", "steel data verify shards")
def data_verify(shards: Path) -> None:
    """Read every byte of a shard folder and compare it with the manifest."""
    from .data.shards import verify

    found = verify(shards)
    say(f"sound  {shards}: {found['shards']:,} shards, {found['tokens']:,} tokens")


@command("pack", "steel pack docs shards --tokenizer tokenizer --workers 8")
def pack(
    docs: Path,
    out: Path,
    tokenizer: Annotated[Path, Option("--tokenizer", "-t", help="Its folder.")],
    workers: Workers = 1,
    hold_out: Annotated[float, Option(help="Share of documents kept for validation.")] = 0.0,
    litpkds: Annotated[bool, Option("--litpkds", help="DOCS are the original's *.bin.")] = False,
) -> None:
    """Documents to token shards with a manifest."""
    from .data.pack import pack as pack_documents

    pack_documents(docs, out, tokenizer, workers=workers, hold_out=hold_out, litpkds=litpkds)
    say(f"shards  {out}")


@command("tokenizer train", "steel tokenizer train docs tokenizer --vocab-size 32768")
def tokenizer_train(
    docs: Path,
    out: Path,
    vocab_size: Annotated[int, Option(help="Entries.")] = 32768,
    sample_bytes: Annotated[
        int, Option(min=1, help="Text to draw, from all sources.")
    ] = 50_000_000,
) -> None:
    """Train a byte-level BPE on documents."""
    from .tokenizer import bpe
    from .tokenizer.texts import sample_texts

    bpe.save(bpe.train(sample_texts(docs, sample_bytes), vocab_size), out)
    say(f"tokenizer  {out}")


@command(
    "tokenizer merge",
    "steel tokenizer merge tokenizer more merged --hanzi TCC",
    "steel tokenizer merge runs/1b/hf merged --hanzi FCC",
)
def tokenizer_merge(
    base: Annotated[Path, Argument(help="Tokenizer, or a model with one, to be extended.")],
    other: Annotated[list[Path], Argument(help="[OTHER] OUT: a tokenizer to add, and where to.")],
    hanzi: Annotated[str, Option(help="Add all Hanzi up to level FCC, SCC or TCC.")] = "",
) -> None:
    """Add another vocabulary's entries, or Hanzi, to a byte-level BPE; a model's rows grow with it."""
    from .tokenizer import bpe, measure
    from .tokenizer.merge import extend_embeddings, merge

    *others, out = other
    levels = measure.hanzi()
    if len(others) > 1 or not (others or hanzi):
        raise UserError("give one OTHER tokenizer or --hanzi, and then the folder to write")
    if out.exists():  # with OUT forgotten it would be the tokenizer that was to be added
        raise UserError(f"{out} exists; choose another folder to write")
    if hanzi and hanzi not in levels:
        raise UserError(f"--hanzi is {', '.join(levels)}, not '{hanzi}'")
    wanted = list(levels)[: list(levels).index(hanzi) + 1] if hanzi else []
    model = None
    if (base / "config.json").is_file():
        from .model.folder import open_model, save_model

        model, tokenizer = open_model(base, device="cpu")
    else:
        tokenizer = bpe.load(base)
    more = bpe.load(others[0]) if others else None
    merged, spelled = merge(tokenizer, out, more, "".join(levels[level] for level in wanted))
    if model is not None:
        extend_embeddings(model, spelled, len(merged))
        save_model(out, model, tokenizer=merged)
    say(f"{'model' if model else 'tokenizer'}  {out}  ({len(spelled):,} entries added)")


@command("tokenizer report", "steel tokenizer report tokenizer docs --reference llama-2")
def tokenizer_report(
    folder: Annotated[Path, Argument(help="Tokenizer folder.")],
    docs: Annotated[Path, Argument(help="Folder of documents.")],
    reference: Annotated[Path | None, Option(help="Tokenizer to compare with.")] = None,
    sample_bytes: Annotated[int, Option(min=1, help="Text to draw of each source.")] = 2_000_000,
    out: Json = None,
) -> None:
    """Bytes per token and what else a vocabulary is worth, source by source."""
    from .tokenizer import bpe, measure

    other = bpe.load(reference) if reference else None
    found = measure.report(bpe.load(folder), docs, sample_bytes, other)
    columns = "bytes_per_token compared per_hanzi per_word fragments torn used".split()
    rows = {**found["sources"], "all": found["all"]}.items()
    show_table(
        {"source": n} | {column: _shown(row[column]) for column in columns} for n, row in rows
    )
    if out:
        write_json(out, found)
        say(f"report     {out}")


@command("tokenizer coverage", "steel tokenizer coverage tokenizer other-tokenizer")
def tokenizer_coverage(folders: Annotated[list[Path], Argument(help="Tokenizer folders.")]) -> None:
    """Share of the national table's Hanzi that are one token, by level."""
    from .tokenizer import bpe, measure

    for folder in folders:
        found = measure.coverage(bpe.load(folder))
        say(f"{folder}  " + "  ".join(f"{level} {share:.2%}" for level, share in found.items()))


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
