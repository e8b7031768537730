"""A recipe in YAML: conversion rules, operators for each kind of source, deduplication."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import UserError, read_yaml
from .dedup import NO_DEDUP, Dedup
from .operators import Operator, make
from .sources import KINDS, SOURCES, chosen

RULE_SETS = ("steel", "original")
RECIPES = {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}


@dataclass(frozen=True)
class Recipe:
    """`rules` names the conversion, `options` its parameters by source; `clean` lists operators by
    kind or by source (the source's own list wins); a deduplicator at the end of a list is part of
    `dedup` and compares all documents whose lists end with the same one."""

    name: str
    rules: str = "steel"
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    clean: dict[str, list] = field(default_factory=dict)
    dedup: Dedup = NO_DEDUP

    def operators(self, source: str, dialogue: bool = False) -> list[Operator]:
        """The operators for one source; `dialogue` gives the kind of one without a card."""
        made = map(make, chosen(self.clean, source, dialogue) or [])
        return [op for op in made if op.kind != "deduplicator"]

    def idle(self) -> dict[str, str]:
        """By name, the operators that lack something and change nothing, and what they lack."""
        made = map(make, itertools.chain(*filter(None, self.clean.values())))
        return {op.name: op.idle for op in made if op.idle}


def load_recipe(recipe: str | Path | Recipe) -> Recipe:
    """A recipe by name or from a YAML file, checked. UserError says what is wrong in it."""
    if isinstance(recipe, Recipe):
        return recipe
    path = RECIPES.get(str(recipe), Path(recipe))
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        known = " or ".join(RECIPES)
        raise UserError(f"no recipe {str(recipe)!r}; use {known}, or the path of a YAML file")

    def part(of: dict, name: str, *allowed: str) -> dict:
        value = of.get(name) or {}
        if not isinstance(value, dict):
            raise UserError(f"{path}: {name} must be a mapping")
        if unknown := set(map(str, value)) - set(allowed):
            takes = ", ".join(sorted(allowed))
            raise UserError(f"{path}: {name} has no {', '.join(sorted(unknown))}; it takes {takes}")
        return value

    top = part({"recipe": read_yaml(path)}, "recipe", "name", "convert", "clean", "dedup")
    convert, clean = part(top, "convert", "rules", "options"), part(top, "clean", *KINDS, *SOURCES)
    rules, options = convert.get("rules", "steel"), part(convert, "options", *SOURCES)
    if rules not in RULE_SETS:
        raise UserError(f"{path}: rules must be {' or '.join(RULE_SETS)}, not {rules!r}")
    simhash = {}
    for name, entries in clean.items():
        made = [make(entry) for entry in entries or []]
        if any(op.kind == "deduplicator" for op in made[:-1]):
            raise UserError(f"{path}: in {name}, a deduplicator must be the last operator")
        last = [op.function.keywords for op in made[-1:] if op.kind == "deduplicator"]
        simhash[name] = last[0] if last else None  # its kind's is not asked for
    used = simhash if any(found is not None for found in simhash.values()) else {}
    dedup = Dedup.of(part(top, "dedup", "exact", "near"), used)
    return Recipe(str(top.get("name", path.stem)), rules, options, clean, dedup)
