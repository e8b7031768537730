"""Raw records -> documents: every record becomes a document or a counted reason."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..documents import Document, document_id, encode, guess_language
from .recipe import Recipe, load_recipe
from .report import Tally
from .sources import SOURCES, Source, inside, original_rules, own_card, steel_rules, survey
from .sources.readers import Bad, records
from .sources.rules import Piece, Rule, Skip

PLACES = 5  # positions of rejected records that a report shows, for each reason


def rules_of(recipe: Recipe, cards: dict[str, Source] | None = None) -> dict[str, Rule]:
    """The conversion rules of a recipe by source: the functions with the sources' names.

    Recipe `steel` takes those that the cards describe, too: of the catalogue, and the user's own.
    """
    module = original_rules if recipe.rules == "original" else steel_rules
    rules = {name: getattr(module, name) for name in SOURCES if hasattr(module, name)}
    if recipe.rules == "steel":
        mapped = {name: card for name, card in SOURCES.items() if card.map} | (cards or {})
        rules |= {n: steel_rules.mapped(c.map, c.keep, f"card {n}") for n, c in mapped.items()}
    return rules


def own_cards(files: dict[str, list[Path]], root: Path) -> dict[str, Source]:
    """The cards that stand beside the raw files, by source."""
    cards = {name: own_card(paths[0], root) for name, paths in files.items() if paths}
    return {name: card for name, card in cards.items() if card and card.name == name}


def convert_source(
    name: str, files: list[Path], root: Path, recipe: Recipe, tally: Tally
) -> Iterator[tuple[Document, bytes]]:
    """(document, its JSON line) of every good record of one source; the others are counted.

    One bad record never ends a file, one bad file never ends a source. The tally shows the first
    `PLACES` of each reason, as file:record.
    """
    rule = rules_of(recipe, own_cards({name: files}, root))[name]
    options = recipe.options.get(name) or {}
    notes = tally.more.setdefault("notes", Counter())
    tally.more.setdefault("unread_bytes", 0)
    places: dict[str, list[str]] = tally.more.setdefault("first_rejected", {})
    for path in files:
        place = inside(path, root, name)
        for number, record in records(path):
            tally.read += 1
            try:
                if isinstance(record, Bad):
                    tally.more["unread_bytes"] += record.bytes
                    raise Skip(record.reason)
                if not isinstance(record, dict):
                    raise Skip("record is not an object")
                piece = rule(record, path, options)
                document = _document(name, place, number, piece)
                if "\0" in document.readable() and recipe.rules == "steel":
                    raise Skip("NUL character")
                line = encode(document)
            except Skip as skip:
                reason = str(skip)
            except TypeError as error:  # orjson: lone surrogates, or a value that JSON lacks
                unicode = "surrogates" in str(error)
                reason = "not valid unicode" if unicode else "not valid as JSON"
            except Exception as error:  # a record nobody foresaw must not end a run of days
                reason = f"rule failed: {type(error).__name__}"
            else:
                tally.kept += 1
                if piece.note:
                    notes[piece.note] += 1
                yield document, line
                continue
            tally.gone[reason] += 1
            if tally.gone[reason] <= PLACES:
                places.setdefault(reason, []).append(f"{place}:{number}")


def _document(name: str, place: str, number: int, piece: Piece) -> Document:
    meta = {**(piece.meta or {}), "file": place, "record": number}
    text = piece.text
    if piece.messages is not None:
        meta["messages"] = piece.messages
        text = "\n".join(turn["content"] for turn in piece.messages)
    language = piece.lang or guess_language(text)
    return Document(document_id(name, place, number), piece.text, name, language, meta)


def compare(raw: Path) -> dict[str, dict[str, int]]:
    """What both recipes keep of the raw files, by source: records, and documents and characters.

    The original writes its chat template into the text: its characters are counted without it, too.
    """
    found, _ = survey(raw)
    rows = {}
    for name, files in found.items():
        row = rows[name] = {}
        for recipe in map(load_recipe, ("original", "steel")):
            tally, characters, bare = Tally("rejected"), 0, 0
            if name in rules_of(recipe, own_cards({name: files}, raw)):
                made = convert_source(name, files, raw, recipe, tally)
                for text in (document.readable() for document, _ in made):
                    characters += len(text)
                    bare += len(original_rules.without_template(text))
                row["records"] = tally.read
            row |= {recipe.rules: tally.kept, f"{recipe.rules}_characters": characters}
            if recipe.rules == "original":
                row["original_without_template"] = bare
    return rows
