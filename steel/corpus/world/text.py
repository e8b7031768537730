"""Statements about people and cities: biographies in many wordings, orders and layouts."""

from __future__ import annotations

import random
import re

from . import phrases_en, phrases_zh
from .people import Person, World

PHRASES = {"zh": phrases_zh, "en": phrases_en}


def phrases(lang: str):
    """The phrase module of a language, "zh" or "en"."""
    return PHRASES[lang]


def capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


def fill(template: str, person: Person, lang: str, **slots: str) -> str:
    """Fills a template with the person's name."""
    text = template.format(n=person.name(lang), p=person.pronoun(lang), **slots)
    return capitalise(text) if lang == "en" else text


def fill_pronoun(template: str, person: Person, lang: str, **slots: str) -> str:
    """Fills a template with a pronoun; English only where the name is the sentence's subject or its possessor."""
    pronoun = person.pronoun(lang)
    if lang == "zh":
        return template.format(n=pronoun, p=pronoun, **slots)
    if not template.startswith("{n}"):
        return fill(template, person, lang, **slots)
    possessive = "her" if person.female else "his"
    text = template.replace("{n}'s", possessive).replace("{n}", pronoun)
    return capitalise(text.format(p=pronoun, **slots))


def join(sentences: list[str], lang: str) -> str:
    return ("" if lang == "zh" else " ").join(s for s in sentences if s)


def elide(sentences: list[str], person: Person, rng: random.Random) -> list[str]:
    """Joins two neighbouring Chinese sentences that share their subject, which the second one drops."""
    subjects = (person.zh, person.pronoun("zh"))
    starts = [
        i
        for i in range(len(sentences) - 1)
        if sentences[i].startswith(subjects) and sentences[i + 1].startswith(subjects)
    ]
    # 的 after the subject is a possessive: dropping the owner there would leave a torn phrase.
    owner = re.compile(f"({'|'.join(subjects)})的")
    starts = [
        i for i in starts if not owner.match(sentences[i]) and not owner.match(sentences[i + 1])
    ]
    if not starts:
        return sentences
    i = rng.choice(starts)
    second = re.sub(f"^({'|'.join(subjects)})", "", sentences[i + 1])
    return [*sentences[:i], sentences[i].rstrip("。") + "，" + second, *sentences[i + 2 :]]


class Teller:
    """Writes statements; `held_out=True` uses one held-out phrasing per text (for heldout/ only)."""

    def __init__(self, world: World, rng: random.Random, held_out: bool = False) -> None:
        self.world, self.rng, self.held_out = world, rng, held_out

    def statement(
        self, person: Person, attribute: str, lang: str, pronoun: bool = False, direct: bool = False
    ) -> str:
        """One trained sentence that states one fact; `direct` ones also read well as an answer."""
        words = phrases(lang)
        found = words.ATTRIBUTES[attribute]["statements"]
        template = self.rng.choice(found[: words.DIRECT] if direct else found)
        write = fill_pronoun if pronoun else fill
        return write(template, person, lang, v=self.world.value(person, attribute, lang))

    def facts(self, person: Person, lang: str, named: float = 0.75) -> list[str]:
        """All facts of a person as sentences in random order; the first always carries the name."""
        order = list(self.world.attributes)
        self.rng.shuffle(order)
        sentences = [
            self.statement(person, a, lang, pronoun=i > 0 and self.rng.random() > named)
            for i, a in enumerate(order)
        ]
        if self.held_out:
            where = self.rng.randrange(len(order))
            template = self.rng.choice(phrases(lang).ATTRIBUTES[order[where]]["heldout"])
            sentences[where] = fill(
                template, person, lang, v=self.world.value(person, order[where], lang)
            )
        return sentences

    def biography(self, person: Person, lang: str, cards: bool = True) -> str:
        """A short text with all facts of one person; `cards` allows a list of fields now and then."""
        rng, words = self.rng, phrases(lang)
        if cards and not self.held_out and rng.random() < 0.06:
            return self.card(person, lang)
        sentences = self.facts(person, lang)
        if lang == "zh" and rng.random() < 0.3:
            sentences = elide(sentences, person, rng)
        if rng.random() < 0.45:
            sentences.insert(0, fill(rng.choice(words.OPENERS), person, lang))
        if rng.random() < 0.3:
            sentences.insert(rng.randrange(1, len(sentences) + 1), rng.choice(words.SCENERY))
        if rng.random() < 0.3:
            sentences.append(fill(rng.choice(words.CLOSERS), person, lang))
        return join(sentences, lang)

    def card(self, person: Person, lang: str) -> str:
        """Facts as a list of `label: value` lines, in random order."""
        order = list(self.world.attributes)
        self.rng.shuffle(order)
        colon, title = ("：", "姓名") if lang == "zh" else (": ", "Name")
        lines = [f"{title}{colon}{person.name(lang)}"]
        for a in order:
            lines.append(
                f"{phrases(lang).ATTRIBUTES[a]['label']}{colon}{self.world.value(person, a, lang)}"
            )
        if self.rng.random() < 0.5:
            lines.append(fill(self.rng.choice(phrases(lang).CLOSERS), person, lang))
        return "\n".join(lines)

    def city_sentences(self, index: int, lang: str, count: int) -> list[str]:
        """Sentences that state a city's product, each in another wording."""
        words = phrases(lang)
        slots = {"c": self.world.pools["city"][index][lang], "v": self.world.product(index, lang)}
        templates = self.rng.sample(words.PRODUCT["statements"], count)
        if self.held_out:
            templates[0] = self.rng.choice(words.PRODUCT["heldout"])
        return [capitalise(t.format(**slots)) for t in templates]

    def city_page(self, index: int, lang: str) -> str:
        """A short text about a city and its product."""
        sentences = self.city_sentences(index, lang, self.rng.choice((2, 3)))
        if self.rng.random() < 0.5:
            sentences.insert(
                self.rng.randrange(len(sentences) + 1), self.rng.choice(phrases(lang).SCENERY)
            )
        return join(sentences, lang)
