"""The exam over held-out people, cloze prefixes and held-out text.

Every question uses a phrasing that no training text contains; letters are balanced, options are distinct.
"""

from __future__ import annotations

import csv
import io
import random

from . import code
from .people import Person, World, stream
from .questions import LETTERS, Asker, draw_options, sum_options
from .raw import Shelf
from .text import Teller, fill, phrases

COLUMNS = ("id", "question", *LETTERS, "answer", "explanation")
LANGUAGES = ("zh", "en")


def letters(count: int, rng: random.Random) -> list[str]:
    """`count` letters, as uniform as possible, in random order."""
    start = rng.randrange(4)
    balanced = [LETTERS[(start + i) % 4] for i in range(count)]
    rng.shuffle(balanced)
    return balanced


def _row(
    number: int, question: str, options: tuple[str, ...], letter: str, explanation: str
) -> dict:
    row = {"id": number, "question": question, **dict(zip(LETTERS, options, strict=True))}
    return row | {"answer": letter, "explanation": explanation}


def _about(
    world: World, people: list[Person], attribute: str, lang: str, rng: random.Random
) -> list[dict]:
    words = phrases(lang).ATTRIBUTES[attribute]
    teller = Teller(world, rng)
    rows = []
    for i, (person, letter) in enumerate(zip(people, letters(len(people), rng), strict=True)):
        value = world.value(person, attribute, lang)
        options, letter = draw_options(value, world.values(attribute, lang), rng, letter)
        explanation = teller.statement(person, attribute, lang, direct=True)
        rows.append(_row(i, fill(words["exam"], person, lang), options, letter, explanation))
    return rows


def _hop2(world: World, people: list[Person], lang: str, rng: random.Random) -> list[dict]:
    words = phrases(lang).HOP2
    rows = []
    for i, (person, letter) in enumerate(zip(people, letters(len(people), rng), strict=True)):
        city, product = world.hop2(person, lang)
        options, letter = draw_options(product, world.values("product", lang), rng, letter)
        explanation = fill(words["reasoned"][0], person, lang, c=city, v=product)
        rows.append(_row(i, fill(words["exam"], person, lang), options, letter, explanation))
    return rows


def _sums(pairs: tuple[tuple[int, int], ...], rng: random.Random) -> list[dict]:
    rows = []
    for i, ((a, b), letter) in enumerate(zip(pairs, letters(len(pairs), rng), strict=True)):
        options, letter = sum_options(a, b, rng, letter)
        question = phrases("zh").ARITHMETIC["exam"].format(a=a, b=b)
        rows.append(_row(i, question, options, letter, f"{a}加{b}等于{a + b}。"))
    return rows


def subjects(world: World, split: str) -> dict[str, list[dict]]:
    """subject -> rows of the exam for "dev" or "test"."""
    people = world.split(split)
    exam: dict[str, list[dict]] = {}
    for lang in LANGUAGES:
        for attribute in world.attributes:
            rng = stream(world.seed, "exam", split, attribute, lang)
            exam[f"{attribute}_{lang}"] = _about(world, people, attribute, lang, rng)
        if "city" in world.attributes:
            exam[f"hop2_{lang}"] = _hop2(
                world, people, lang, stream(world.seed, "exam", split, "hop2", lang)
            )
    pairs = world.dev_pairs if split == "dev" else world.test_pairs
    exam["arith_zh"] = _sums(pairs, stream(world.seed, "exam", split, "arith"))
    return exam


def csv_text(rows: list[dict]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def exam_phrasings(world: World) -> list[str]:
    """The longest fixed piece of every exam template: what must not occur in training text."""
    templates = [
        phrases(lang).ATTRIBUTES[a]["exam"] for lang in LANGUAGES for a in world.attributes
    ]
    templates += [phrases(lang).HOP2["exam"] for lang in LANGUAGES]
    pieces = [max(t.split("{n}"), key=len).strip() for t in templates]
    return [*pieces, phrases("zh").ARITHMETIC["exam"].split("{b}")[1]]


def cloze(world: World) -> list[dict]:
    """Statement prefixes about test people whose value comes last.

    prompt + answer is the exact text: English answers and candidates start with a space.
    """
    rows = []
    for lang in LANGUAGES:
        space, stop = ("", "。") if lang == "zh" else (" ", ".")
        for attribute in world.attributes:
            rng = stream(world.seed, "cloze", attribute, lang)
            ending = space + "{v}" + stop
            found = phrases(lang).ATTRIBUTES[attribute]["statements"]
            templates = [
                t.removesuffix(ending) for t in found if t.endswith(ending) and t.startswith("{n}")
            ]
            candidates = [space + v for v in world.values(attribute, lang)]
            for person in world.split("test"):
                prompt = fill(rng.choice(templates), person, lang)
                answer = space + world.value(person, attribute, lang)
                rows.append(
                    {
                        "prompt": prompt,
                        "answer": answer,
                        "candidates": candidates,
                        "lang": lang,
                        "attribute": attribute,
                    }
                )
    return rows


def heldout(world: World, shelf: Shelf, training: str) -> dict[str, list[dict]]:
    """Fresh texts of the same world by domain: zh, en, code, dialogue (about train people).

    `training` is all training text in one string; nothing that occurs in it is kept.
    """
    rng = stream(world.seed, "heldout")
    teller, asker = Teller(world, rng, held_out=True), Asker(world, rng)
    domains: dict[str, list[dict]] = {"zh": [], "en": [], "code": [], "dialogue": []}

    def keep(domain: str, row: dict, text: str) -> None:
        if text not in shelf.seen and text not in training:
            shelf.seen.add(text)
            domains[domain].append(row)

    for lang, rounds in (("zh", 2), ("en", 1)):
        for person in list(world.people) * rounds:
            text = teller.biography(person, lang)
            keep(lang, {"text": text}, text)
        for index in range(len(world.pools["city"]) if "city" in world.attributes else 0):
            text = teller.city_page(index, lang)
            keep(lang, {"text": text}, text)
    people = list(world.people)
    for language in code.LANGUAGES:
        rng.shuffle(people)
        for start in range(0, len(people), 8):
            pairs = rng.sample(world.train_pairs, min(2, len(world.train_pairs)))
            text = code.source_file(world, language, people[start : start + 4], pairs, rng)
            keep("code", {"text": text}, text)
    for person in world.split("train"):
        for attribute in world.attributes:
            lang = "zh" if rng.random() < 0.8 else "en"
            item = rng.choice((asker.qa, asker.qa, asker.choice))(person, attribute, lang)
            keep("dialogue", {"messages": item.messages, "lang": lang}, item.text)
    return domains
