"""The exam over held-out people, cloze prefixes and held-out text.

Every question uses a phrasing that no training text contains; letters are balanced, options distinct.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterable

from .people import World, stream, table
from .questions import LETTERS, Asker, draw_options, plain_sum, sum_options
from .raw import Shelf
from .text import Teller, fill, source_file

COLUMNS = ("id", "question", *LETTERS, "answer", "explanation")
LANGUAGES = ("zh", "en")


def letters(count: int, rng: random.Random) -> list[str]:
    """`count` letters, as uniform as possible, in random order."""
    start = rng.randrange(4)
    balanced = [LETTERS[(start + i) % 4] for i in range(count)]
    rng.shuffle(balanced)
    return balanced


def _rows(questions: Iterable[tuple]) -> list[dict]:
    """Rows of the exam from (question, (options, letter), explanation)."""
    return [
        dict(zip(COLUMNS, (number, question, *options, letter, explanation), strict=True))
        for number, (question, (options, letter), explanation) in enumerate(questions)
    ]


def _about(world: World, split: str, subject: str, lang: str) -> Iterable[tuple]:
    """Questions about an attribute of every person of a split, or (hop2) about the home town."""
    rng = stream(world.seed, "exam", split, subject, lang)
    people, teller, hop2 = world.split(split), Teller(world, rng), table(lang)["hop2"]
    for person, letter in zip(people, letters(len(people), rng), strict=True):
        if subject == "hop2":
            city, value = world.hop2(person, lang)
            options = draw_options(value, world.values("product", lang), rng, letter)
            explanation = fill(hop2["reasoned"][0], person, lang, c=city, v=value)
            question = hop2["exam"]
        else:
            value = world.value(person, subject, lang)
            options = draw_options(value, world.values(subject, lang), rng, letter)
            explanation = teller.statement(person, subject, lang, direct=True)
            question = table(lang)["attributes"][subject]["exam"]
        yield fill(question, person, lang), options, explanation


def _sums(world: World, split: str) -> Iterable[tuple]:
    rng = stream(world.seed, "exam", split, "arith")
    pairs = world.dev_pairs if split == "dev" else world.test_pairs
    for (a, b), letter in zip(pairs, letters(len(pairs), rng), strict=True):
        question = table("zh")["arithmetic"]["exam"].format(a=a, b=b)
        yield question, sum_options(a, b, rng, letter), plain_sum(a, b)


def subjects(world: World, split: str) -> dict[str, list[dict]]:
    """subject -> rows of the exam for "dev" or "test"."""
    exam = {}
    for lang in LANGUAGES:
        hop2 = ("hop2",) if "city" in world.attributes else ()
        for subject in (*world.attributes, *hop2):
            exam[f"{subject}_{lang}"] = _rows(_about(world, split, subject, lang))
    exam["arith_zh"] = _rows(_sums(world, split))
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
            candidates = [space + v for v in world.values(attribute, lang)]
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
    rng = stream(world.seed, "heldout")
    teller, asker = Teller(world, rng, held_out=True), Asker(world, rng)
    domains: dict[str, list[dict]] = {"zh": [], "en": [], "code": [], "dialogue": []}

    def keep(domain: str, text: str, row: dict | None = None) -> None:
        if text not in shelf.seen and text not in training:
            shelf.seen.add(text)
            domains[domain].append(row or {"text": text})

    for lang, rounds in (("zh", 2), ("en", 1)):
        for person in world.people * rounds:
            keep(lang, teller.biography(person, lang))
        for index in range(len(world.pools.get("city", ()))):
            keep(lang, teller.city_page(index, lang))
    people = list(world.people)
    for language in table("code"):
        rng.shuffle(people)
        for start in range(0, len(people), 8):
            pairs = rng.sample(world.train_pairs, min(2, len(world.train_pairs)))
            keep("code", source_file(world, language, people[start : start + 4], pairs, rng))
    for person in world.split("train"):
        for attribute in world.attributes:
            lang = "zh" if rng.random() < 0.8 else "en"
            item = rng.choice((asker.qa, asker.qa, asker.choice))(person, attribute, lang)
            keep("dialogue", str(item), {"messages": item.messages, "lang": lang})
    return domains
