"""Post-training data about train people: SFT, several turns, self-cognition, preferences, RL.

There are no refusals about unknown people: they would teach the model to refuse exactly the people
the exam asks about.
"""

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path

from ...config import WorldConfig
from ...documents import write_rows
from .people import Person, World, shuffled, stream, table
from .questions import Asker, Item
from .raw import Shelf


def tables(world: World, settings: WorldConfig, shelf: Shelf) -> dict[str, list[dict]]:
    """Name of a file -> its rows."""
    return {
        "sft": sft(world, shelf),
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


def _about_everybody(asker: Asker, name: str) -> Iterator[tuple]:
    """(method, arguments) of all questions that sources.yaml asks for about train people."""
    plan = table("sources")["post"][name]
    for person in asker.world.split("train"):
        for attribute in asker.world.attributes:
            for kind, *how in plan["facts"]:
                yield getattr(asker, kind), person, attribute, *how
        if asker.world.cities["zh"]:
            for kind, *how in plan["home"]:
                yield getattr(asker, kind), person, *how


def sft(world: World, shelf: Shelf) -> list[dict]:
    """Single-turn rows in trained phrasings."""
    asker = Asker(world, "sft")
    items = [shelf.fresh(*question) for question in _about_everybody(asker, "sft")]
    for i in range(4 * len(world.split("train"))):
        items.append(shelf.fresh(asker.drill, "zh" if i % 4 else "en"))
    for i, pair in enumerate(_pairs(world)):
        lang = "zh" if i % 5 < 4 else "en"
        items.append(asker.sum_choice(pair) if i % 5 == 0 else asker.sum(pair, lang))
    return _dialogues(items, asker.rng)


def multi_turn(world: World, shelf: Shelf) -> list[dict]:
    """Two or three turns with coreference (他, 她, 那里, he, she, that city)."""
    asker, items = Asker(world, "multi_turn"), []
    for lang in ("zh",) * 8 + ("en",) * 2:
        for person in world.split("train"):
            items.append(shelf.fresh(asker.several, person, lang))
    return _dialogues(items, asker.rng)


def write_self_cognition(file: Path, settings: WorldConfig, seed: int, **given: str) -> None:
    """Write its rows; name, author or date that are given stand in both languages."""
    both = {f"assistant_{key}{s}": value for key, value in given.items() for s in ("", "_en")}
    write_rows(file, self_cognition(dataclasses.replace(settings, **both), seed))


def self_cognition(settings: WorldConfig, seed: int) -> list[dict]:
    """Who the assistant is; the configured name, author and date stand in place."""
    items = []
    for lang, suffix in (("zh", ""), ("en", "_en")):
        names = ("name", "author", "date")
        slots = {name: getattr(settings, f"assistant_{name}{suffix}") for name in names}
        for opener in table(lang)["self_openers"]:
            for question, answer in table(lang)["self"]:
                if not (opener and question.startswith(("请", "你好"))):
                    turns = [opener + question, answer.format(**slots)]
                    items.append(Item("self_cognition", lang, turns))
    return _dialogues(items, stream(seed, "self"))


def _rejected(
    asker: Asker, person: Person, attribute: str, lang: str, kind: str, chosen: str
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
    asker, rows = Asker(world, "preference"), []
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
    """Prompts with checkable answers: a letter (mcq), a value (qa), a product (hop2), a sum."""
    asker, rows = Asker(world, "rl"), []
    items = [make(*about) for make, *about in _about_everybody(asker, "rl")]
    for item in items + [asker.sum(pair, "zh") for pair in _pairs(world)]:
        answer, kind = item.letter or item.value, "mcq" if item.letter else item.kind
        row = {"messages": item.messages[:1], "answer": answer, "options": list(item.options)}
        rows.append(row | {"kind": kind, "lang": item.lang})
    return shuffled(rows, asker.rng)
