"""The exam over held-out people, cloze prefixes, held-out text, and the check that nothing leaked.

Every question uses a phrasing that no training text contains; letters are balanced, options distinct.
"""

import csv
import io
import random
import re
from collections.abc import Iterator
from pathlib import Path

from ...runlog import atomic_write
from ..sources.readers import Bad, records
from .containers import text_of
from .people import Person, World, chunks, shuffled, stream, table
from .questions import LETTERS, Asker, plain_sum
from .raw import Shelf
from .text import Teller, fill

COLUMNS = ("id", "question", *LETTERS, "answer", "explanation")
LANGUAGES = ("zh", "en")
_SUM = re.compile(
    r"(?<!\d)(\d{2})\s*(?:\+|加上|加|和|与|plus|and)\s*(\d{2})(?!\d)|add\((\d{2}), (\d{2})\)",
    re.IGNORECASE,
)


class LeakageError(RuntimeError):
    """Training text contains something that the exam or the held-out text asks about."""


# -- questions -------------------------------------------------------------------------------------


def _letters(count: int, rng: random.Random) -> list[str]:
    """`count` letters, as uniform as possible, in random order."""
    start = rng.randrange(4)
    return shuffled((LETTERS[(start + i) % 4] for i in range(count)), rng)


def _about(asker: Asker, people: list[Person], subject: str, lang: str) -> Iterator[tuple]:
    """(question, options, letter, explanation) on an attribute of each person, or (hop2) the home town."""
    world = asker.world
    for person, letter in zip(people, _letters(len(people), asker.rng), strict=True):
        if subject == "hop2":
            city, value = world.home(person, lang)
            drawn = asker.options(value, world.pools["product"][lang], letter)
            explanation = fill(table(lang)["hop2"]["reasoned"][0], person, lang, c=city, v=value)
        else:
            value = world.value(person, subject, lang)
            drawn = asker.options(value, world.pools[subject][lang], letter)
            explanation = asker.statement(person, subject, lang, direct=True)
        yield fill(table(lang)["exam"][subject], person, lang), *drawn, explanation


def _sums(asker: Asker, pairs: list[tuple[int, int]]) -> Iterator[tuple]:
    for (a, b), letter in zip(pairs, _letters(len(pairs), asker.rng), strict=True):
        question = table("zh")["exam"]["arith"].format(a=a, b=b)
        yield question, *asker.sum_options(a, b, letter), plain_sum(a, b)


def write_questions(world: World, folder: Path) -> dict[str, int]:
    """Writes <split>/<subject>.csv for dev and test; returns the number of questions of each."""
    counts = {}
    for split in ("dev", "test"):
        tables = {}
        for lang in LANGUAGES:
            for subject in [*world.attributes, *(["hop2"] if world.cities[lang] else [])]:
                asker = Asker(world, "exam", split, subject, lang)
                tables[f"{subject}_{lang}"] = _about(asker, world.split(split), subject, lang)
        tables["arith_zh"] = _sums(Asker(world, "exam", split, "arith"), world.pairs[split])
        for subject, questions in tables.items():
            page, rows = io.StringIO(), [COLUMNS]
            for number, (question, options, letter, explanation) in enumerate(questions):
                rows.append((number, question, *options, letter, explanation))
            csv.writer(page, lineterminator="\n").writerows(rows)
            atomic_write(folder / split / f"{subject}.csv", page.getvalue())
            counts[f"{split}/{subject}"] = len(rows) - 1
    return counts


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
        for city in world.cities[lang]:
            keep(lang, teller.city_page(city, lang))
    people = world.people
    for language in table("code"):
        people = shuffled(people, rng)
        for group in chunks(people, 8):
            keep("code", teller.source_file(language, group[:4]))
    for person in world.split("train"):
        for attribute in world.attributes:
            lang = "zh" if rng.random() < 0.8 else "en"
            item = rng.choice((asker.qa, asker.qa, asker.choice))(person, attribute, lang)
            keep("dialogue", str(item), {"messages": item.messages, "lang": lang})
    return domains


# -- leaks -----------------------------------------------------------------------------------------


def exam_phrasings(world: World) -> list[str]:
    """The longest fixed piece of every exam template: what must not occur in training text."""
    asked = (*world.attributes, "hop2", "arith")
    templates = [t for lang in LANGUAGES for s, t in table(lang)["exam"].items() if s in asked]
    return [max(re.split(r"\{\w\}", t), key=len).strip() for t in templates]


def _texts(folder: Path, without: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """(first folder or file below `folder`, text) of every record; one that is torn has no text."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        for _, record in records(path):
            text = "" if isinstance(record, Bad) else text_of(record, without)
            yield path.relative_to(folder).parts[0], text


def check(root: Path, world: World) -> dict:
    """Reads the written world back and counts what the model may have read of what the exam asks.

    Returns {passed, leaks: [{what, text}], compared: counts}.
    """
    asking, stating = [text for _, text in _texts(root / "post")], []
    for source, text in _texts(root / "raw"):
        (asking if source in table("sources")["question_sources"] else stating).append(text)
    questions, everything = "\n\x00".join(asking), "\n\x00".join(asking + stating)
    marked = "\n".join(t for t in stating if "？" in t or "?" in t)
    exam = [path.read_text(encoding="utf-8") for path in sorted((root / "exam").rglob("*.csv"))]
    rows = [row for page in exam for row in csv.DictReader(io.StringIO(page))]
    pieces = {
        "held_out_names": [n for p in world.people if p.split != "train" for n in (p.zh, p.en)],
        "exam_questions": [row["question"] for row in rows],
        "exam_phrasings": exam_phrasings(world),
        "held_out_texts": [text for _, text in _texts(root / "heldout", ("role", "lang"))],
    }
    leaks = [
        {"what": what, "text": piece}
        for what, kind, text in (
            ("held-out name in questions", "held_out_names", questions),
            ("held-out name beside a question mark", "held_out_names", marked),
            ("exam phrasing in training text", "exam_phrasings", everything),
            ("exam question in training text", "exam_questions", everything),
            ("held-out text in training text", "held_out_texts", everything),
        )
        for piece in pieces[kind]
        if piece in text
    ]
    trained = {tuple(sorted(int(x) for x in m.groups() if x)) for m in _SUM.finditer(everything)}
    asked = {tuple(sorted(p)) for split in ("dev", "test") for p in world.pairs[split]}
    for a, b in sorted(trained & asked):
        leaks.append({"what": "exam sum in training text", "text": f"{a}+{b}"})
    read = {"training_records": len(asking) + len(stating), "question_records": len(asking)}
    compared = read | {kind: len(found) for kind, found in pieces.items()}
    compared |= {"training_sums": len(trained), "exam_sums": len(asked)}
    return {"passed": not leaks, "leaks": leaks, "compared": compared}
