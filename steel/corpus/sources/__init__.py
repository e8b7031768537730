"""The sources: a card for each (cards.yaml), and how a folder of raw files is recognised."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...config import UserError, read_yaml, sound
from . import readers

KINDS = ("text", "dialogue", "code", "poetry")
CARD = "card.yaml"  # in a folder of raw files: the card of a source that is not in the catalogue


@dataclass(frozen=True)
class Source:
    """What is known about one source; bytes, tokens and records of the public whole, 0 if not published.

    kind picks the operators of a recipe. map: which field of a record plays which role (see
    `steel_rules.mapped`); keep: fields for the document's meta. hub is the Hugging Face dataset and
    hub_files patterns of the files wanted. aliases: other names of its folder. signs: sets of
    fields that tell its records, with `field.key` for the objects in a list.
    """

    name: str
    title: str = ""
    kind: str = "text"
    language: str = ""
    licence: str = ""
    size_bytes: int = 0
    tokens: int = 0
    records: int = 0
    link: str = ""
    obtain: str = ""
    container: str = ""
    fields: list[str] = field(default_factory=list)
    original: str = ""
    map: dict[str, str] = field(default_factory=dict)
    keep: list[str] = field(default_factory=list)
    aliases: list[str] = field(default_factory=list)
    hub: str = ""
    hub_files: list[str] = field(default_factory=list)
    gated: bool = False
    signs: list[list[str]] = field(default_factory=list)

    def table(self) -> dict[str, str]:
        """What a list of sources shows of this one."""
        return {
            "name": self.name,
            "kind": self.kind,
            "language": self.language,
            "records": f"{self.records:,}" if self.records else "",
            "tokens": f"{self.tokens / 1e9:,.0f} B" if self.tokens else "",
            "size": f"{self.size_bytes / 1e9:,.1f} GB" if self.size_bytes else "",
            "container": self.container,
            "licence": self.licence,
        }

    def card(self) -> str:
        """All of it as Markdown."""
        facts = {key: value or "not published" for key, value in self.table().items()}
        facts |= {
            "link": self.link,
            "how to obtain": self.obtain,
            "fields": ", ".join(f"`{name}`" for name in self.fields),
            "what the original did": self.original,
        }
        lines = [f"| {key} | {value} |" for key, value in facts.items()]
        return "\n".join([f"## {self.title}", "", "| | |", "|---|---|", *lines, ""])


def _simple(folder: str) -> str:
    return "".join(c for c in folder.lower() if c.isalnum())


_CARDS = read_yaml(
    Path(__file__).with_name("cards.yaml")
)  # in the order of preference among copies
SOURCES = {name: Source(name=name, **card) for name, card in _CARDS.items()}
_FOLDERS = {_simple(name): [name] for name in SOURCES}  # folder -> sources that it may hold
for _source in SOURCES.values():
    for _alias in _source.aliases:
        _FOLDERS.setdefault(_simple(_alias), []).append(_source.name)


def find_source(name: str) -> Source:
    """The source of this name. UserError when there is none."""
    if name not in SOURCES:
        raise UserError(f"no source named {name!r}; the sources are {', '.join(SOURCES)}")
    return SOURCES[name]


def own_card(path: Path, root: Path) -> Source | None:
    """The card that the user wrote for the folder in which this file stands, or for one above it.

    Its source is called like the folder. UserError when the file is no card.
    """
    for folder in path.relative_to(root).parents:
        file = root / folder / CARD
        if file.is_file():
            with sound(file):
                return Source(name=file.resolve().parent.name, **read_yaml(file))
    return None


def survey(folder: Path | str) -> tuple[dict[str, list[Path]], list[Path]]:
    """The files of each source in a folder of raw data, and the files that belong to none.

    A folder with a card of its own, or named after a source (or one of its aliases), decides for
    all record files below it; elsewhere the first records of a file decide. Texts, web pages and
    books outside a named folder are `personal`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder that holds the raw files")
    found: dict[str, list[Path]] = {name: [] for name in SOURCES}
    unknown = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and path.name != CARD and not any(p.startswith(".") for p in parts):
            if (own := own_card(path, folder)) and readers.plain_suffix(path) in readers.READERS:
                name = own.name
            else:
                name = _source_of(path, (folder.resolve().name, *parts[:-1]))
            (found.setdefault(name, []) if name else unknown).append(path)
    return {name: files for name, files in found.items() if files}, unknown


def inside(path: Path, root: Path, name: str) -> str:
    """The path below the folder named after the source, or `root`, wherever that stands."""
    parts = path.relative_to(root).parts
    named = [i for i, part in enumerate(parts[:-1]) if name == part or name in _named(part)]
    return "/".join(parts[named[-1] + 1 :] if named else parts)


def _source_of(path: Path, folders: tuple[str, ...]) -> str | None:
    suffix = readers.plain_suffix(path)
    named = next((names for part in reversed(folders) if (names := _named(part))), [])
    if suffix in readers.TEXT_SUFFIXES:
        about = path.stem.lower() in ("readme", "license", "licence")
        return "personal" if named == ["personal"] or (not named and not about) else None
    if suffix not in readers.READERS:
        return None
    if len(named) == 1 and named != ["personal"]:
        return named[0]
    guess = sniff(path)
    return guess if not named or guess in named else named[0]


def _named(folder: str) -> list[str]:
    """The sources that a folder of this name may hold; with more than one the records decide."""
    return _FOLDERS.get(_simple(folder), [])


def sniff(path: Path) -> str | None:
    """The source with the longest sign in the first readable records of this file, or None."""
    for _, record in itertools.islice(readers.records(path), 20):
        if not isinstance(record, dict):
            continue
        keys = set(record)
        for name, value in record.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                keys |= {f"{name}.{key}" for key in value[0]}
        signs = [(source, sign) for source in SOURCES.values() for sign in source.signs]
        fitting = [(len(sign), source.name) for source, sign in signs if keys.issuperset(sign)]
        if fitting:
            return max(fitting, key=lambda fit: fit[0])[1]
    return None


def chosen(lists: dict[str, Any], source: str, dialogue: bool) -> Any:
    """The entry of a mapping by source or kind that is for a source, its own name first; or None.

    dialogue gives the kind of a source without a card.
    """
    kind = SOURCES[source].kind if source in SOURCES else "dialogue" if dialogue else "text"
    return lists.get(source, lists.get(kind))
