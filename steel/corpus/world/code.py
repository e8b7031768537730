"""Source files that state facts as literals: registries in Python, Java and C++, and small adders."""

from __future__ import annotations

import random
from string import Template

from .people import Person, World, table

LANGUAGES = ("python", "java", "cpp")


def source_file(
    world: World, language: str, people: list[Person], pairs, rng: random.Random
) -> str:
    """One source file about a few people (any split: it states, it does not ask)."""
    spec = table("code")[language]
    lang = "zh" if rng.random() < 0.8 else "en"
    attributes = list(world.attributes)
    rng.shuffle(attributes)
    slots = {name: rng.choice(options) for name, options in spec["draws"].items()}
    rows = []
    for person in people:
        facts = [{"attribute": a, "value": world.value(person, a, lang)} for a in attributes]
        joined = ", ".join(Template(spec["fact"]).substitute(fact) for fact in facts)
        row = {"person": person.name(lang), "facts": joined}
        rows.append(Template(spec["person"]).substitute(row))
    sums = [Template(spec["sum"]).substitute(a=a, b=b, s=a + b) for a, b in pairs]
    return Template(spec["file"]).substitute(
        slots,
        people="\n".join(rows),
        sums="\n".join(sums),
        first_person=people[0].name(lang),
        first_attribute=attributes[0],
        first_value=world.value(people[0], attributes[0], lang),
    )
