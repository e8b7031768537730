"""The sources: a card for each (cards.yaml), and how a folder of raw files is recognised."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...config import UserError
from . import readers

KINDS = ("text", "dialogue", "code", "poetry")


@dataclass(frozen=True)
class Source:
    """What is known about one source; `size_bytes` and `records` of the public whole, or 0.

    kind picks the operators of a recipe. hub is the Hugging Face dataset and hub_files patterns of
    the files wanted. aliases: other names of its folder. signs: sets of fields that tell its
    records, with `field.key` for the objects in a list.
    """

    name: str
    title: str
    kind: str
    language: str
    licence: str
    size_bytes: int
    records: int
    link: str
    obtain: str
    container: str
    fields: list[str]
    original: str
    aliases: tuple[str, ...] = ()
    hub: str = ""
    hub_files: tuple[str, ...] = ()
    gated: bool = False
    signs: tuple[list[str], ...] = ()


def _load() -> dict[str, Source]:
    cards = yaml.safe_load((Path(__file__).parent / "cards.yaml").read_text(encoding="utf-8"))
    return {name: Source(name=name, **card) for name, card in cards.items()}


SOURCES = _load()  # in the order of the cards, which is that of preference among copies


def find_source(name: str) -> Source:
    """The source of this name. UserError when there is none."""
    if name not in SOURCES:
        raise UserError(f"no source named {name!r}; the sources are {', '.join(SOURCES)}")
    return SOURCES[name]


def _size_and_count(source: Source) -> tuple[str, str]:
    size = f"{source.size_bytes / 1e9:,.1f} GB" if source.size_bytes else ""
    return size, f"{source.records:,}" if source.records else ""


def list_sources() -> list[dict[str, str]]:
    """One row a source for a table."""
    rows = []
    for source in SOURCES.values():
        size, count = _size_and_count(source)
        row = {"name": source.name, "kind": source.kind, "language": source.language}
        row |= {"records": count, "size": size, "container": source.container}
        rows.append(row | {"licence": source.licence})
    return rows


def card(name: str) -> str:
    """The source's card as Markdown."""
    source = find_source(name)
    size, count = _size_and_count(source)
    rows = {
        "name": f"`{name}`",
        "kind": source.kind,
        "language": source.language,
        "licence": source.licence,
        "size": size or "not stated",
        "records": count or "not stated",
        "link": source.link,
        "how to obtain": source.obtain,
        "raw container": source.container,
        "fields": ", ".join(f"`{f}`" for f in source.fields),
        "what the original did": source.original,
    }
    lines = [f"| {key} | {value} |" for key, value in rows.items()]
    return "\n".join([f"## {source.title}", "", "| | |", "|---|---|", *lines, ""])


def survey(folder: Path | str) -> tuple[dict[str, list[Path]], list[Path]]:
    """The files of each source in a folder of raw data, and the files that belong to none.

    A folder named after a source (or one of its aliases) decides for all record files below it;
    elsewhere the first records of a file decide. Text, Markdown and PDF files outside a named
    folder are `personal`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder that holds the raw files")
    found: dict[str, list[Path]] = {name: [] for name in SOURCES}
    unknown = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") for part in parts):
            name = _source_of(path, (folder.resolve().name, *parts[:-1]))
            (found[name] if name else unknown).append(path)
    return {name: files for name, files in found.items() if files}, unknown


def inside(path: Path, root: Path, name: str) -> str:
    """The path below the folder named after the source, or `root`, wherever that stands."""
    parts = path.relative_to(root).parts
    named = [place for place, part in enumerate(parts[:-1]) if name in _named(part)]
    return "/".join(parts[named[-1] + 1 :] if named else parts)


def _source_of(path: Path, folders: tuple[str, ...]) -> str | None:
    suffix = readers.plain_suffix(path)
    named = next((candidates for part in reversed(folders) if (candidates := _named(part))), ())
    if suffix in readers.TEXT_SUFFIXES:
        about = path.stem.lower() in ("readme", "license", "licence")
        return "personal" if named == ("personal",) or (not named and not about) else None
    if suffix not in readers.RECORD_SUFFIXES:
        return None
    if len(named) == 1 and named != ("personal",):
        return named[0]
    guess = sniff(path)
    return guess if not named or guess in named else named[0]


@functools.cache
def _aliases() -> dict[str, tuple[str, ...]]:
    """Folder name, simplified -> sources it may hold; more than one: the records decide."""
    table: dict[str, tuple[str, ...]] = {_simple(name): (name,) for name in SOURCES}
    for name, source in SOURCES.items():
        for key in map(_simple, source.aliases):
            table[key] = (*table.get(key, ()), name)
    return table


def _simple(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _named(folder: str) -> tuple[str, ...]:
    return _aliases().get(_simple(folder), ())


def sniff(path: Path, look: int = 20) -> str | None:
    """The source whose records look like the first readable ones of this file, or None."""
    for number, record in readers.records(path):
        if number >= look:
            return None
        if isinstance(record, dict) and (name := _looks_like(record)):
            return name
    return None


def _looks_like(record: dict[str, Any]) -> str | None:
    """The source with the longest sign in the record."""
    keys = set(record)
    for name, value in record.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            keys |= {f"{name}.{key}" for key in value[0]}
    signs = [(len(sign), source.name, sign) for source in SOURCES.values() for sign in source.signs]
    signs.sort(key=lambda entry: -entry[0])
    return next((name for _, name, sign in signs if keys.issuperset(sign)), None)
