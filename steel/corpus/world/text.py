"""Statements about people and cities: biographies in many wordings and layouts, and source files."""

from __future__ import annotations

import random
import re
from string import Template

from .people import Person, World, table


def capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


def fill(template: str, person: Person, lang: str, **slots: str) -> str:
    """Fills a template with the person's name."""
    return capitalise(template.format(n=person.name(lang), p=person.pronoun(lang), **slots))


def fill_pronoun(template: str, person: Person, lang: str, **slots: str) -> str:
    """Fills a template with a pronoun; English only where the name is the subject or its owner."""
    pronoun = person.pronoun(lang)
    if lang == "zh":
        return template.format(n=pronoun, p=pronoun, **slots)
    if not template.startswith("{n}"):
        return fill(template, person, lang, **slots)
    possessive = "her" if person.female else "his"
    text = template.replace("{n}'s", possessive).replace("{n}", pronoun)
    return capitalise(text.format(p=pronoun, **slots))


def join(sentences: list[str], lang: str) -> str:
    return table(lang)["space"].join(s for s in sentences if s)


def elide(sentences: list[str], person: Person, rng: random.Random) -> list[str]:
    """Joins two neighbouring Chinese sentences of one subject, which the second one drops."""
    subject = re.compile(f"({person.zh}|{person.pronoun('zh')})(的?)")
    # 的 after the subject is a possessive: dropping the owner there would leave a torn phrase.
    plain = [(found := subject.match(s)) is not None and not found[2] for s in sentences]
    starts = [i for i in range(len(sentences) - 1) if plain[i] and plain[i + 1]]
    if not starts:
        return sentences
    i = rng.choice(starts)
    second = subject.sub("", sentences[i + 1], count=1)
    return [*sentences[:i], sentences[i].rstrip("。") + "，" + second, *sentences[i + 2 :]]


class Teller:
    """Writes statements; `held_out=True` uses one held-out phrasing per text (heldout/ only)."""

    def __init__(self, world: World, rng: random.Random, held_out: bool = False) -> None:
        self.world, self.rng, self.held_out = world, rng, held_out

    def statement(
        self, person: Person, attribute: str, lang: str, pronoun: bool = False, direct: bool = False
    ) -> str:
        """One trained sentence with one fact; `direct` ones also read well as an answer."""
        found = table(lang)["attributes"][attribute]["statements"]
        template = self.rng.choice(found[: table(lang)["direct"]] if direct else found)
        write = fill_pronoun if pronoun else fill
        return write(template, person, lang, v=self.world.value(person, attribute, lang))

    def facts(self, person: Person, lang: str) -> list[str]:
        """All facts of a person, a sentence each, in random order; the first carries the name."""
        order = list(self.world.attributes)
        self.rng.shuffle(order)
        sentences = [
            self.statement(person, a, lang, pronoun=i > 0 and self.rng.random() > 0.75)
            for i, a in enumerate(order)
        ]
        if self.held_out:
            where = self.rng.randrange(len(order))
            template = self.rng.choice(table(lang)["attributes"][order[where]]["heldout"])
            value = self.world.value(person, order[where], lang)
            sentences[where] = fill(template, person, lang, v=value)
        return sentences

    def biography(self, person: Person, lang: str, cards: bool = True) -> str:
        """A short text with all facts of one person; `cards` allows a list of fields at times."""
        rng, words = self.rng, table(lang)
        if cards and not self.held_out and rng.random() < 0.06:
            return self.card(person, lang)
        sentences = self.facts(person, lang)
        if lang == "zh" and rng.random() < 0.3:
            sentences = elide(sentences, person, rng)
        if rng.random() < 0.45:
            sentences.insert(0, fill(rng.choice(words["openers"]), person, lang))
        if rng.random() < 0.3:
            sentences.insert(rng.randrange(1, len(sentences) + 1), rng.choice(words["scenery"]))
        if rng.random() < 0.3:
            sentences.append(fill(rng.choice(words["closers"]), person, lang))
        return join(sentences, lang)

    def card(self, person: Person, lang: str) -> str:
        """Facts as a list of `label: value` lines, in random order."""
        words, order = table(lang), list(self.world.attributes)
        self.rng.shuffle(order)
        lines = [words["card"].format(label=words["name"], value=person.name(lang))]
        for a in order:
            label, value = words["attributes"][a]["label"], self.world.value(person, a, lang)
            lines.append(words["card"].format(label=label, value=value))
        if self.rng.random() < 0.5:
            lines.append(fill(self.rng.choice(words["closers"]), person, lang))
        return "\n".join(lines)

    def city_sentences(self, index: int, lang: str, count: int) -> list[str]:
        """Sentences that state a city's product, each in another wording."""
        product = table(lang)["product"]
        slots = {"c": self.world.pools["city"][index][lang], "v": self.world.product(index, lang)}
        templates = self.rng.sample(product["statements"], count)
        if self.held_out:
            templates[0] = self.rng.choice(product["heldout"])
        return [capitalise(t.format(**slots)) for t in templates]

    def city_page(self, index: int, lang: str) -> str:
        """A short text about a city and its product."""
        sentences = self.city_sentences(index, lang, self.rng.choice((2, 3)))
        if self.rng.random() < 0.5:
            where = self.rng.randrange(len(sentences) + 1)
            sentences.insert(where, self.rng.choice(table(lang)["scenery"]))
        return join(sentences, lang)


def source_file(
    world: World, language: str, people: list[Person], pairs: list, rng: random.Random
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
