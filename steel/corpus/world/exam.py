"""The exam over held-out people, cloze prefixes and held-out text.

Every question uses a phrasing that no training text contains; letters are balanced, options distinct.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterator

from .people import Person, World, shuffled, stream, table
from .questions import LETTERS, Asker, plain_sum
from .raw import Shelf
from .text import Teller, fill

COLUMNS = ("id", "question", *LETTERS, "answer", "explanation")
LANGUAGES = ("zh", "en")


def letters(count: int, rng: random.Random) -> list[str]:
    """`count` letters, as uniform as possible, in random order."""
    start = rng.randrange(4)
    return shuffled((LETTERS[(start + i) % 4] for i in range(count)), rng)


def _about(asker: Asker, people: list[Person], subject: str, lang: str) -> Iterator[tuple]:
    """(question, options, letter, explanation) on an attribute of each person, or (hop2) the home town."""
    world, hop2 = asker.world, table(lang)["hop2"]
    for person, letter in zip(people, letters(len(people), asker.rng), strict=True):
        if subject == "hop2":
            city, value = (world.value(person, a, lang) for a in ("city", "specialty"))
            options = asker.options(value, world.pools["product"][lang], letter)
            explanation = fill(hop2["reasoned"][0], person, lang, c=city, v=value)
            question = hop2["exam"]
        else:
            value = world.value(person, subject, lang)
            options = asker.options(value, world.pools[subject][lang], letter)
            explanation = asker.statement(person, subject, lang, direct=True)
            question = table(lang)["attributes"][subject]["exam"]
        yield fill(question, person, lang), *options, explanation


def _sums(asker: Asker, pairs: list[tuple[int, int]]) -> Iterator[tuple]:
    for (a, b), letter in zip(pairs, letters(len(pairs), asker.rng), strict=True):
        question = table("zh")["arithmetic"]["exam"].format(a=a, b=b)
        yield question, *asker.sum_options(a, b, letter), plain_sum(a, b)


def subjects(world: World, split: str) -> dict[str, list[tuple]]:
    """subject -> rows of COLUMNS of the exam for "dev" or "test"."""
    hop2 = ("hop2",) if world.cities else ()
    exam = {}
    for lang in LANGUAGES:
        for subject in (*world.attributes, *hop2):
            asker = Asker(world, "exam", split, subject, lang)
            exam[f"{subject}_{lang}"] = _about(asker, world.split(split), subject, lang)
    exam["arith_zh"] = _sums(Asker(world, "exam", split, "arith"), world.pairs[split])
    return {
        subject: [
            (number, question, *options, letter, explanation)
            for number, (question, options, letter, explanation) in enumerate(questions)
        ]
        for subject, questions in exam.items()
    }


def csv_text(rows: list[tuple]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([COLUMNS, *rows])
    return buffer.getvalue()


def exam_phrasings(world: World) -> list[str]:
    """The longest fixed piece of every exam template: what must not occur in training text."""
    templates = [
        table(lang)["attributes"][a]["exam"] for lang in LANGUAGES for a in world.attributes
    ]
    templates += [table(lang)["hop2"]["exam"] for lang in LANGUAGES]
    pieces = [max(t.split("{n}"), key=len).strip() for t in templates]
    return [*pieces, table("zh")["arithmetic"]["exam"].split("{b}")[1]]


def cloze(world: World) -> list[dict]:
    """Statement prefixes about test people whose value comes last.

    prompt + answer is the exact text: English answers and candidates start with a space.
    """
    rows = []
    for lang in LANGUAGES:
        words = table(lang)
        space, ending = words["space"], words["space"] + "{v}" + words["stop"]
        for attribute in world.attributes:
            rng = stream(world.seed, "cloze", attribute, lang)
            found = words["attributes"][attribute]["statements"]
            usable = [t for t in found if t.endswith(ending) and t.startswith("{n}")]
            candidates = [space + v for v in world.pools[attribute][lang]]
            for person in world.split("test"):
                prompt = fill(rng.choice(usable).removesuffix(ending), person, lang)
                answer = space + world.value(person, attribute, lang)
                row = {"prompt": prompt, "answer": answer, "candidates": candidates}
                rows.append(row | {"lang": lang, "attribute": attribute})
    return rows


def heldout(world: World, shelf: Shelf, training: str) -> dict[str, list[dict]]:
    """Fresh texts of the same world by domain: zh, en, code, dialogue (about train people).

    `training` is all training text in one string; nothing that occurs in it is kept.
    """
    asker = Asker(world, "heldout")
    rng, teller = asker.rng, Teller(world, asker.rng, held_out=True)
    domains: dict[str, list[dict]] = {"zh": [], "en": [], "code": [], "dialogue": []}

    def keep(domain: str, text: str, row: dict | None = None) -> None:
        if text not in shelf.seen and text not in training:
            shelf.seen.add(text)
            domains[domain].append(row or {"text": text})

    for lang, rounds in (("zh", 2), ("en", 1)):
        for person in world.people * rounds:
            keep(lang, teller.biography(person, lang))
        for index in world.cities:
            keep(lang, teller.city_page(index, lang))
    people = list(world.people)
    for language in table("code"):
        rng.shuffle(people)
        for start in range(0, len(people), 8):
            keep("code", teller.source_file(language, people[start : start + 4]))
    for person in world.split("train"):
        for attribute in world.attributes:
            lang = "zh" if rng.random() < 0.8 else "en"
            item = rng.choice((asker.qa, asker.qa, asker.choice))(person, attribute, lang)
            keep("dialogue", str(item), {"messages": item.messages, "lang": lang})
    return domains
