"""Raw files -> documents: every record becomes a document or a counted reason."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import UserError
from ..documents import Document, DocumentWriter, document_id, encode, guess_language
from .recipe import Recipe, load_recipe
from .report import EVERY, Progress, drop_stale, finish, shown
from .sources import SOURCES, inside, survey
from .sources.readers import Bad, records
from .sources.rules import Rule, Skip


@dataclass
class Tally:
    """What conversion counts for one source. `check` asserts that nothing is lost: read = kept + rejected."""

    read: int = 0
    kept: int = 0
    unread_bytes: int = (
        0  # of what could not be read: one reason may stand for a great many records
    )
    rejected: Counter = field(default_factory=Counter)
    notes: Counter = field(default_factory=Counter)

    def check(self) -> dict[str, Any]:
        assert self.read == self.kept + sum(self.rejected.values()), (
            f"conversion lost records: {self}"
        )
        return {
            "in": self.read,
            "kept": self.kept,
            "rejected": dict(sorted(self.rejected.items())),
            "unread_bytes": self.unread_bytes,
            "notes": dict(sorted(self.notes.items())),
        }


def rules_of(recipe: Recipe) -> dict[str, Rule]:
    """The conversion rules of a recipe, by source."""
    if recipe.rules == "original":
        from .sources.original_rules import RULES
    else:
        from .sources.steel_rules import RULES
    return RULES


def convert_source(
    name: str,
    files: list[Path],
    root: Path,
    recipe: Recipe,
    tally: Tally,
    progress: Progress | None = None,
    limit: int | None = None,
) -> Iterator[tuple[Document, bytes]]:
    """(document, its JSON line) of every good record of one source; the others are counted in `tally`.

    limit: read at most this many records. One bad record never ends a file, one bad file never ends a source.
    """
    rule, options = rules_of(recipe)[name], recipe.options.get(name) or {}
    for path in files:
        label = inside(path, root, name)
        for number, record in records(path):
            if limit is not None and tally.read >= limit:
                return
            tally.read += 1
            if progress is not None and tally.read % EVERY == 0:
                progress(name, "convert", tally.read)
            if isinstance(record, Bad):
                tally.unread_bytes += record.bytes
            try:
                document, note = _document(name, label, number, record, rule, options, path)
                line = encode(document)
            except Skip as skip:
                tally.rejected[str(skip)] += 1
                continue
            except (
                TypeError
            ) as error:  # orjson: a text with lone surrogates, or a value that JSON lacks
                tally.rejected[
                    "not valid unicode" if "surrogates" in str(error) else "not valid as JSON"
                ] += 1
                continue
            except Exception as error:  # a record nobody foresaw must not end a run of days
                tally.rejected[f"rule failed: {type(error).__name__}"] += 1
                continue
            tally.kept += 1
            if note:
                tally.notes[note] += 1
            yield document, line


def _document(
    name: str, label: str, number: int, record: Any, rule: Rule, options: dict, path: Path
) -> tuple[Document, str]:
    if isinstance(record, Bad):
        raise Skip(record.reason)
    if not isinstance(record, dict):
        raise Skip("record is not an object")
    piece = rule(record, path, options)
    meta = {**(piece.meta or {}), "file": label, "record": number}
    text = piece.text
    if piece.messages is not None:
        meta["messages"] = piece.messages
        text = "\n".join(turn["content"] for turn in piece.messages)
    lang = piece.lang or guess_language(text)
    return Document(document_id(name, label, number), piece.text, name, lang, meta), piece.note


def chosen(
    raw: Path, out: Path, recipe: Recipe, sources: list[str] | None
) -> tuple[list[tuple[str, list[Path]]], dict]:
    """The recognised sources to work on, and what the report says about the rest."""
    if (raw / "truth.json").is_file() and (raw / "raw").is_dir():
        raise UserError(
            f"{raw} is a whole world (with its exam and held-out texts); give {raw / 'raw'}"
        )
    if out.resolve().is_relative_to(raw.resolve()):
        raise UserError(
            f"{out} lies inside {raw}: it would be read as raw data; choose a folder outside"
        )
    for name in sources or ():
        SOURCES[name]  # UserError for a name that does not exist
    found, unknown = survey(raw)
    if not found:
        raise UserError(
            f"{raw}: no raw data recognised; name the folders after sources ({', '.join(SOURCES)})"
        )
    rules = rules_of(recipe)
    wanted = [
        (name, files)
        for name, files in found
        if (sources is None or name in sources) and name in rules
    ]
    skipped = [name for name, _ in found if name not in rules]
    if sources and (missing := [name for name in sources if name not in dict(found)]):
        raise UserError(f"{raw}: no files of {', '.join(missing)}; found {', '.join(dict(found))}")
    return wanted, {
        "unrecognised_files": [os.fspath(p.relative_to(raw)) for p in unknown],
        "sources_without_a_rule": skipped,
    }


def convert(
    raw: Path | str,
    out: Path | str,
    recipe: str | Path | Recipe = "steel",
    sources: list[str] | None = None,
    progress: Progress | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """Write OUT/<source>.jsonl.zst for every source found in `raw`, and OUT/report.json. Returns the report.

    Raises UserError when `raw` holds nothing that is recognised or a name is wrong.
    """
    raw, out, recipe = Path(raw), Path(out), load_recipe(recipe)
    wanted, rest = chosen(raw, out, recipe, sources)
    parts = {}
    drop_stale(out, [name for name, _ in wanted])
    for name, files in wanted:
        tally = Tally()
        with (
            DocumentWriter(out / f"{name}.jsonl.zst") as writer,
            shown(progress, f"converting {name}") as progress_of,
        ):
            for _, line in convert_source(name, files, raw, recipe, tally, progress_of, limit):
                writer.write_line(line)
        parts[name] = {"files": len(files), "steps": {"convert": tally.check()}}
    return finish(out, recipe.name, parts, rest)
