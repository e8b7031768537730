"""Raw records -> documents: every record becomes a document or a counted reason."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..documents import Document, document_id, encode, guess_language
from .recipe import Recipe
from .report import Tally
from .sources import SOURCES, Source, inside, original_rules, own_card, steel_rules
from .sources.readers import Bad, records
from .sources.rules import Piece, Rule, Skip


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

    One bad record never ends a file, one bad file never ends a source.
    """
    rule = rules_of(recipe, own_cards({name: files}, root))[name]
    options = recipe.options.get(name) or {}
    notes = tally.more.setdefault("notes", Counter())
    tally.more.setdefault("unread_bytes", 0)
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
                line = encode(document)
            except Skip as skip:
                tally.gone[str(skip)] += 1
            except TypeError as error:  # orjson: lone surrogates, or a value that JSON lacks
                unicode = "surrogates" in str(error)
                tally.gone["not valid unicode" if unicode else "not valid as JSON"] += 1
            except Exception as error:  # a record nobody foresaw must not end a run of days
                tally.gone[f"rule failed: {type(error).__name__}"] += 1
            else:
                tally.kept += 1
                if piece.note:
                    notes[piece.note] += 1
                yield document, line


def _document(name: str, place: str, number: int, piece: Piece) -> Document:
    meta = {**(piece.meta or {}), "file": place, "record": number}
    text = piece.text
    if piece.messages is not None:
        meta["messages"] = piece.messages
        text = "\n".join(turn["content"] for turn in piece.messages)
    language = piece.lang or guess_language(text)
    return Document(document_id(name, place, number), piece.text, name, language, meta)
