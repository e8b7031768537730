"""A recipe in YAML: conversion rules, operators for each kind of source, deduplication."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..config import UserError, first_line
from .operators import Operator, make_all
from .sources import KINDS, SOURCES

RULE_SETS = ("steel", "original")
_FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Recipe:
    """`rules` names the conversion, `options` its parameters by source; `clean` lists operators by
    kind or by source (the source's own list wins); `dedup` holds `exact: bool` and `near: {…}`."""

    name: str
    rules: str = "steel"
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    clean: dict[str, list] = field(default_factory=dict)
    dedup: dict[str, Any] = field(default_factory=dict)

    def operators(self, source: str, dialogue: bool = False) -> list[Operator]:
        """The operators for one source; `dialogue` gives the kind of one without a card."""
        kind = SOURCES[source].kind if source in SOURCES else "dialogue" if dialogue else "text"
        return make_all(self.clean.get(source, self.clean.get(kind)) or [])

    def fingerprint(self) -> str:
        """Hash of everything that decides the result, for resuming under the same recipe only."""
        data = {key: value for key, value in asdict(self).items() if key != "name"}
        return hashlib.blake2b(json.dumps(data, sort_keys=True).encode(), digest_size=8).hexdigest()


def recipes() -> list[str]:
    """The names of the recipes that come with Steel."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_recipe(recipe: str | Path | Recipe) -> Recipe:
    """A recipe by name or from a YAML file, checked. UserError says what is wrong in it."""
    if isinstance(recipe, Recipe):
        return recipe
    path = _FOLDER / f"{recipe}.yaml"
    if str(recipe) not in recipes():
        path = Path(recipe)
        if path.suffix not in (".yaml", ".yml") or not path.is_file():
            known = " or ".join(recipes())
            raise UserError(f"no recipe {str(recipe)!r}; use {known}, or the path of a YAML file")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML ({first_line(error)})") from None
    return _checked(data, path)


def _checked(data: Any, path: Path) -> Recipe:
    def part(name: str, allowed: set[str], of: dict) -> dict:
        value = of.get(name) or {}
        if not isinstance(value, dict):
            raise UserError(f"{path}: {name} must be a mapping")
        if unknown := set(map(str, value)) - allowed:
            takes = ", ".join(sorted(allowed))
            raise UserError(f"{path}: {name} has no {', '.join(sorted(unknown))}; it takes {takes}")
        return value

    top = part("recipe", {"name", "convert", "clean", "dedup"}, {"recipe": data})
    convert = part("convert", {"rules", "options"}, top)
    if convert.get("rules", "steel") not in RULE_SETS:
        raise UserError(f"{path}: rules must be {' or '.join(RULE_SETS)}, not {convert['rules']!r}")
    made = Recipe(
        name=str(top.get("name", path.stem)),
        rules=convert.get("rules", "steel"),
        options=part("options", set(SOURCES), convert),
        clean=part("clean", {*KINDS, *SOURCES}, top),
        dedup=part("dedup", {"exact", "near"}, top),
    )
    for entries in made.clean.values():
        make_all(entries or [])
    return made
