"""A recipe in YAML: conversion rules, operators for each kind of source, deduplication."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..config import UserError, first_line
from .dedup import NO_DEDUP, Dedup
from .operators import Operator, make
from .sources import KINDS, SOURCES

RULE_SETS = ("steel", "original")
RECIPES = {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}


@dataclass(frozen=True)
class Recipe:
    """`rules` names the conversion, `options` its parameters by source; `clean` lists operators by
    kind or by source (the source's own list wins)."""

    name: str
    rules: str = "steel"
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    clean: dict[str, list] = field(default_factory=dict)
    dedup: Dedup = NO_DEDUP

    def operators(self, source: str, dialogue: bool = False) -> list[Operator]:
        """The operators for one source; `dialogue` gives the kind of one without a card."""
        kind = SOURCES[source].kind if source in SOURCES else "dialogue" if dialogue else "text"
        return [make(entry) for entry in self.clean.get(source, self.clean.get(kind)) or []]


def load_recipe(recipe: str | Path | Recipe) -> Recipe:
    """A recipe by name or from a YAML file, checked. UserError says what is wrong in it."""
    if isinstance(recipe, Recipe):
        return recipe
    path = RECIPES.get(str(recipe), Path(recipe))
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        known = " or ".join(RECIPES)
        raise UserError(f"no recipe {str(recipe)!r}; use {known}, or the path of a YAML file")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML ({first_line(error)})") from None

    def part(of: dict, name: str, *allowed: str) -> dict:
        value = of.get(name) or {}
        if not isinstance(value, dict):
            raise UserError(f"{path}: {name} must be a mapping")
        if unknown := set(map(str, value)) - set(allowed):
            takes = ", ".join(sorted(allowed))
            raise UserError(f"{path}: {name} has no {', '.join(sorted(unknown))}; it takes {takes}")
        return value

    top = part({"recipe": data}, "recipe", "name", "convert", "clean", "dedup")
    convert, clean = part(top, "convert", "rules", "options"), part(top, "clean", *KINDS, *SOURCES)
    rules, options = convert.get("rules", "steel"), part(convert, "options", *SOURCES)
    if rules not in RULE_SETS:
        raise UserError(f"{path}: rules must be {' or '.join(RULE_SETS)}, not {rules!r}")
    for entry in itertools.chain(*filter(None, clean.values())):
        make(entry)
    dedup = Dedup.of(part(top, "dedup", "exact", "near"))
    return Recipe(str(top.get("name", path.stem)), rules, options, clean, dedup)
