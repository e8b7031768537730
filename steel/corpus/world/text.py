"""Statements about people and cities: biographies in many wordings and layouts, and source files."""

import random
import re
from string import Template

from .people import Person, World, shuffled, table


def capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


def fill(template: str, person: Person, lang: str, pronoun: bool = False, **slots: str) -> str:
    """Fills a template with the person's name, or with a pronoun (English: only as its first word)."""
    subject = person.name(lang)
    if pronoun and (lang == "zh" or template.startswith("{n}")):
        template = template.replace("{n}'s", "her" if person.female else "his")
        subject = person.pronoun(lang)
    return capitalise(template.format(n=subject, p=person.pronoun(lang), **slots))


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
        return fill(template, person, lang, pronoun, v=self.world.value(person, attribute, lang))

    def facts(self, person: Person, lang: str) -> list[str]:
        """All facts of a person, a sentence each, in random order; the first carries the name."""
        order, sentences = shuffled(self.world.attributes, self.rng), []
        for i, attribute in enumerate(order):
            pronoun = i > 0 and self.rng.random() > 0.75
            sentences.append(self.statement(person, attribute, lang, pronoun))
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
        return words["space"].join(sentences)

    def card(self, person: Person, lang: str) -> str:
        """Facts as a list of `label: value` lines, in random order."""
        words, facts = table(lang), [("name", person.name(lang))]
        for attribute in shuffled(self.world.attributes, self.rng):
            facts.append((attribute, self.world.value(person, attribute, lang)))
        lines = [words["card"].format(label=words["labels"][a], value=v) for a, v in facts]
        if self.rng.random() < 0.5:
            lines.append(fill(self.rng.choice(words["closers"]), person, lang))
        return "\n".join(lines)

    def city_sentences(self, city: tuple[str, str], lang: str, count: int) -> list[str]:
        """Sentences that state the product of a (city, product), each in another wording."""
        words, (name, product) = table(lang)["product"], city
        templates = self.rng.sample(words["statements"], count)
        if self.held_out:
            templates[0] = self.rng.choice(words["heldout"])
        return [capitalise(t.format(c=name, v=product)) for t in templates]

    def city_page(self, city: tuple[str, str], lang: str) -> str:
        """A short text about a city and its product."""
        sentences = self.city_sentences(city, lang, self.rng.choice((2, 3)))
        if self.rng.random() < 0.5:
            where = self.rng.randrange(len(sentences) + 1)
            sentences.insert(where, self.rng.choice(table(lang)["scenery"]))
        return table(lang)["space"].join(sentences)

    def source_file(self, language: str, people: list[Person]) -> str:
        """A source file about a few people (any split: it states, it does not ask) and two sums."""
        spec, rng = table("code")[language], self.rng
        pairs = self.world.pairs["train"]
        pairs = rng.sample(pairs, min(2, len(pairs)))
        lang = "zh" if rng.random() < 0.8 else "en"
        attributes = shuffled(self.world.attributes, rng)

        def lines(part: str, rows: list[dict], between: str = "\n") -> str:
            return between.join(Template(spec[part]).substitute(row) for row in rows)

        def facts(person: Person) -> list[dict]:
            values = [self.world.value(person, a, lang) for a in attributes]
            return [{"attribute": a, "value": v} for a, v in zip(attributes, values, strict=True)]

        slots = {name: rng.choice(options) for name, options in spec["draws"].items()}
        rows = [{"person": p.name(lang), "facts": lines("fact", facts(p), ", ")} for p in people]
        first = {"person": people[0].name(lang)} | facts(people[0])[0]
        slots |= {f"first_{name}": word for name, word in first.items()}
        slots["sums"] = lines("sum", [{"a": a, "b": b, "s": a + b} for a, b in pairs])
        return lines("file", [slots | {"people": lines("person", rows)}])
