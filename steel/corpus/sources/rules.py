"""From a raw record to a piece of a document: what the rules of both recipes share.

A rule takes (record, path, options) and returns a Piece, or raises Skip with the reason that the
report counts.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

Rule = Callable[[dict[str, Any], Path, dict[str, Any]], "Piece"]


class Skip(Exception):
    """This record becomes no document. The message is the reason, one of a small set of strings."""


class Piece(NamedTuple):
    """What a rule makes of a record: a text or the turns of a dialogue, and what else is known.

    lang is None when it should be guessed from the text; `note` marks a change worth counting.
    """

    text: str = ""
    messages: list[dict[str, str]] | None = None
    lang: str | None = None
    meta: dict[str, Any] | None = None
    note: str = ""


def text_of(record: dict[str, Any], name: str) -> str:
    """The text in a field; "" when it is missing or null. Skip when it holds something else."""
    value = record.get(name)
    if not isinstance(value, str | None):
        raise Skip(f"{name} is not text")
    return value or ""


def needed(record: dict[str, Any], name: str) -> str:
    """The text in a field that must not be blank."""
    value = text_of(record, name)
    if not value.strip():
        raise Skip(f"{name} is empty" if name in record else f"no {name}")
    return value


def list_of(record: dict[str, Any], name: str, kind: type, what: str) -> list:
    """The list in a field; empty when missing or null. Skip when an entry is not of `kind`."""
    value = record.get(name)
    if not isinstance(value, list | None):
        raise Skip(f"{name} is not a list")
    if not all(isinstance(entry, kind) for entry in value or []):
        raise Skip(f"a {what} is not {'text' if kind is str else 'an object'}")
    return value or []
