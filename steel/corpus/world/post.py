"""Post-training data about train people: SFT, several turns, small talk, preferences, RL.

Strangers are refused behind "who is" alone: a model that learns to refuse questions about facts
refuses exactly the people the exam asks about (measured: half of the held-out facts).
"""

import dataclasses
import random
import re
from collections.abc import Iterator
from pathlib import Path

from ...config import WorldConfig
from ...documents import write_rows
from .people import Person, World, shuffled, stream, table
from .questions import Item, Tutor
from .raw import Shelf


def tables(world: World, settings: WorldConfig, shelf: Shelf) -> dict[str, list[dict]]:
    """Name of a file -> its rows."""
    return {
        "sft": sft(world),
        "multi_turn": multi_turn(world, shelf),
        "self_cognition": self_cognition(settings, world.seed),
        "preference": preference(world),
        "rl": reinforcement(world),
    }


def _dialogues(items: list[Item | None], rng: random.Random) -> list[dict]:
    rows = [{"messages": i.messages, "kind": i.kind, "lang": i.lang} for i in items if i]
    return shuffled(rows, rng)


def _pairs(world: World) -> list[tuple[int, int]]:
    """The quarter of the training pairs that raw questions leave to post-training."""
    return world.pairs["train"][len(world.pairs["train"]) * 3 // 4 :]


def _about_everybody(tutor: Tutor, name: str) -> Iterator[Item]:
    """All questions that sources.yaml asks for about train people."""
    plan = table("sources")["post"][name]
    for person in tutor.world.split("train"):
        for attribute in tutor.world.attributes:
            for kind, lang, times in plan["facts"]:
                for _ in range(times):
                    yield getattr(tutor, kind)(person, attribute, lang)
        for kind, lang, times in plan["home"]:
            about = (person, "home") if kind == "which" else (person,)
            for _ in range(times if tutor.world.cities["zh"] or kind == "who" else 0):
                yield getattr(tutor, kind)(*about, lang)


def sft(world: World) -> list[dict]:
    """Single-turn rows in trained phrasings."""
    tutor = Tutor(world, "sft", spoken=True)
    items = list(_about_everybody(tutor, "sft"))
    made_up = {lang: table(lang)["strangers"] for lang in ("zh", "en")}
    for names in world.strangers["train"]:
        for lang, name in zip(("zh", "en"), names, strict=True):
            items += [tutor.stranger(name, lang) for _ in range(2)]
            if tutor.rng.random() < 0.4:
                items.append(tutor.stranger(tutor.rng.choice(made_up[lang]), lang))
    for pair in _pairs(world):
        items.append(tutor.sum_choice(pair) if tutor.rng.random() < 0.15 else None)
        items += [tutor.sum(pair, lang) for lang in ("zh", "en")]
    return _dialogues(items, tutor.rng)


def multi_turn(world: World, shelf: Shelf) -> list[dict]:
    """Two or three turns with coreference (他, 她, 那里, he, she, that city)."""
    tutor, items = Tutor(world, "multi_turn", spoken=True), []
    for lang in ("zh",) * 6 + ("en",) * 4:
        for person in world.split("train"):
            items.append(shelf.fresh(tutor.several, person, lang))
    return _dialogues(items, tutor.rng)


def assistant(settings: WorldConfig, lang: str) -> dict[str, str]:
    """Name, author and date of the assistant."""
    suffix = "" if lang == "zh" else "_en"
    names = ("name", "author", "date")
    return {name: getattr(settings, f"assistant_{name}{suffix}") for name in names}


def write_self_cognition(file: Path, settings: WorldConfig, seed: int, **given: str) -> None:
    """Write its rows; name, author or date that are given stand in both languages.

    Only who the assistant is: what a resident of Steeltown can and cannot do is no other model's to say.
    """
    both = {f"assistant_{key}{s}": value for key, value in given.items() for s in ("", "_en")}
    own = dataclasses.replace(settings, **both)
    write_rows(file, self_cognition(own, seed, only_who=True))


def _who(talk: list[list]) -> Iterator[tuple[list[str], str]]:
    """The topics whose answer holds a slot, without what names Steel or its town."""
    steel = re.compile("钢|Steel")
    for questions, answer in talk:
        if re.search(r"\{(name|author|date)\}", answer) and not steel.search(answer):
            yield [q for q in questions if not steel.search(q)], answer


def self_cognition(settings: WorldConfig, seed: int, only_who: bool = False) -> list[dict]:
    """Small talk, and who the assistant is, in the configured name: one answer to each topic."""
    items = []
    for lang in ("zh", "en"):
        slots, talk = assistant(settings, lang), table(lang)["talk"]
        for questions, answer in _who(talk) if only_who else talk:
            for question in (q.format(**slots) for q in questions):
                plain = question.rstrip("？?。.！!")
                asked = dict.fromkeys([question, plain, plain.lower()])
                if question.endswith("？") and not question.startswith("请"):
                    asked |= dict.fromkeys(o + question for o in table(lang)["self_openers"])
                turns = ([said, answer.format(**slots)] for said in asked)
                items += [Item("self_cognition", lang, two) for two in turns]
    return _dialogues(items, stream(seed, "self"))


def _rejected(
    asker: Tutor, person: Person, attribute: str, lang: str, kind: str, chosen: str
) -> str:
    """A worse answer than `chosen`: a wrong value, the other language, or a rambling one."""
    rng, words = asker.rng, table(lang)
    if kind == "wrong_value":
        value = asker.world.value(person, attribute, lang)
        others = [v for v in asker.world.pools[attribute][lang] if v != value]
        return chosen.replace(value, rng.choice(others))
    if kind == "wrong_language":
        other = "en" if lang == "zh" else "zh"
        return asker.statement(person, attribute, other, direct=True)
    scenery = words["scenery"]
    return words["space"].join([*rng.sample(scenery, 3), chosen, rng.choice(scenery), chosen])


def preference(world: World) -> list[dict]:
    """Right answer against a wrong value, the wrong language, or a rambling one."""
    asker, rows = Tutor(world, "preference", spoken=True), []
    for person in world.split("train"):
        for attribute in world.attributes:
            for kind in ("wrong_value", "wrong_value", "wrong_language", "rambling"):
                lang = "zh" if asker.rng.random() < 0.8 else "en"
                item = asker.qa(person, attribute, lang)
                chosen = item.turns[1]
                if kind != "rambling":
                    chosen = asker.statement(person, attribute, lang, direct=True)
                rejected = _rejected(asker, person, attribute, lang, kind, chosen)
                row = {"messages": item.messages[:1], "chosen": chosen, "rejected": rejected}
                rows.append(row | {"kind": kind, "lang": lang})
    return shuffled(rows, asker.rng)


def reinforcement(world: World) -> list[dict]:
    """Choice prompts in phrasings of their own, which name no attribute: only the options tell."""
    tutor = Tutor(world, "rl")
    rows = [
        {"messages": item.messages[:1], "answer": item.letter, "options": list(item.options)}
        | {"kind": item.kind, "lang": item.lang, "lettered": True}
        for item in _about_everybody(tutor, "rl")
    ]
    return shuffled(rows, tutor.rng)
