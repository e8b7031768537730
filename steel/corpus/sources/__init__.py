"""The sources: a card for each, its raw container, and how a folder of raw files is recognised."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config import UserError
from . import readers


@dataclass(frozen=True)
class Source:
    """What is known about one source. `size_bytes` and `records` are those of the whole public source, 0 if not stated.

    kind picks the operators of a recipe: "text", "dialogue", "code" or "poetry".
    hub is the Hugging Face dataset (with `hub_files`, patterns of the files wanted), empty when it is not there.
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
    fields: tuple[str, ...]
    original: str
    aliases: tuple[str, ...] = ()
    hub: str = ""
    hub_files: tuple[str, ...] = ()
    gated: bool = False


@functools.cache
def _load() -> dict[str, Source]:
    import yaml

    cards = yaml.safe_load((Path(__file__).parent / "cards.yaml").read_text(encoding="utf-8"))
    lists = ("fields", "aliases", "hub_files")
    return {
        name: Source(name=name, **{k: tuple(v) if k in lists else v for k, v in card.items()})
        for name, card in cards.items()
    }


class _Sources:
    """The sources by name, in the order of the cards, read when first used. Behaves like a read-only dict."""

    def __getitem__(self, name: str) -> Source:
        if name not in _load():
            raise UserError(f"no source named {name!r}; the sources are {', '.join(_load())}")
        return _load()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_load())

    def __len__(self) -> int:
        return len(_load())

    def __contains__(self, name: object) -> bool:
        return name in _load()

    def keys(self):
        return _load().keys()

    def values(self):
        return _load().values()

    def items(self):
        return _load().items()


SOURCES = _Sources()


def list_sources() -> list[dict[str, str]]:
    """One row a source for a table, in the order of the cards, which is also the order of preference among copies."""
    return [
        {
            "name": s.name,
            "kind": s.kind,
            "language": s.language,
            "records": f"{s.records:,}" if s.records else "",
            "size": _size(s),
            "container": s.container,
            "licence": s.licence,
        }
        for s in SOURCES.values()
    ]


def _size(source: Source) -> str:
    return f"{source.size_bytes / 1e9:,.1f} GB" if source.size_bytes else ""


def card(name: str) -> str:
    """The source's card as Markdown."""
    source = SOURCES[name]
    size, count = (
        _size(source) or "not stated",
        f"{source.records:,}" if source.records else "not stated",
    )
    rows = [
        ("name", f"`{name}`"),
        ("kind", source.kind),
        ("language", source.language),
        ("licence", source.licence),
        ("size", size),
        ("records", count),
        ("link", source.link),
        ("how to obtain", source.obtain),
        ("raw container", source.container),
        ("fields", ", ".join(f"`{f}`" for f in source.fields)),
        ("what the original did", source.original),
    ]
    return "\n".join(
        [f"## {source.title}", "", "| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows), ""]
    )


def recognise(folder: Path | str) -> list[tuple[str, list[Path]]]:
    """[(source, its files)] of a folder of raw data, in the order of the cards. See `survey`."""
    return survey(folder)[0]


def survey(folder: Path | str) -> tuple[list[tuple[str, list[Path]]], list[Path]]:
    """Which source each file belongs to, and the files that belong to none.

    A folder named after a source (or one of its aliases) decides for all record files below it; elsewhere the first
    records of a file decide. Text, Markdown and PDF files outside a named folder are `personal`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder that holds the raw files")
    found: dict[str, list[Path]] = {name: [] for name in SOURCES}
    unknown = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if not path.is_file() or any(part.startswith(".") for part in parts):
            continue
        name = _source_of(path, (folder.resolve().name, *parts[:-1]))
        if name:
            found[name].append(path)
        else:
            unknown.append(path)
    return [(name, files) for name, files in found.items() if files], unknown


def inside(path: Path, root: Path, name: str) -> str:
    """The path below the folder named after the source, or below `root`: the same wherever the folder stands."""
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
    """Folder name, simplified, -> sources it may hold; more than one means that the records decide."""
    table: dict[str, tuple[str, ...]] = {_simple(name): (name,) for name in _load()}
    for name, source in _load().items():
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
    keys = record.keys()
    if "conversation" in keys or "conversations" in keys:
        turns = record.get("conversation") or record.get("conversations")
        first = turns[0] if isinstance(turns, list) and turns else None
        if not isinstance(first, dict):
            return None
        return "belle_3_5m" if "from" in first else "moss" if "human" in first else None
    return next((name for name, needed in _SIGNS if needed <= keys), None)


_SIGNS: tuple[tuple[str, set[str]], ...] = (  # the more telling first
    ("baidu_baike", {"title", "summary", "sections"}),
    ("chinese_poetry", {"paragraphs", "author"}),
    ("chinese_poetry", {"paragraphs", "title"}),
    ("wanjuan_exam", {"q_main", "std_ans"}),
    ("zhihu_kol", {"INSTRUCTION", "RESPONSE"}),
    ("starcoder", {"content", "max_stars_count"}),
    ("starcoder", {"content", "max_stars_repo_name"}),
    ("firefly", {"input", "target"}),
    ("belle_2m", {"instruction", "output"}),
    ("baidu_qa", {"title", "answer"}),
    ("wikipedia_cn", {"completion"}),
    ("wanjuan", {"content"}),
    ("skypile", {"text"}),
)
