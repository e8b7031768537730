"""Post-training data about train people: SFT, several turns, self-cognition, preferences, RL.

There are no refusals about unknown people: they would teach the model to refuse exactly the people the exam asks about.
"""

from __future__ import annotations

from ...config import WorldConfig
from . import phrases_en, phrases_zh
from .people import Person, World, stream
from .questions import Asker, Item
from .raw import Shelf
from .text import join, phrases

# (method, language, choice style) drawn for every fact of a train person
_SFT = (
    *(("qa", "zh", ""),) * 4,
    *(("qa", "en", ""),) * 2,
    *(("choice", "zh", "text"),) * 3,
    *(("choice", "en", "text"),) * 2,
    ("choice", "zh", "letter"),
    ("choice", "en", "letter"),
    ("choice", "zh", "eliminate"),
)


def sft_row(item: Item) -> dict:
    return {"messages": item.messages, "kind": item.kind, "lang": item.lang}


def sft(world: World, shelf: Shelf) -> list[dict]:
    """Single-turn rows in trained phrasings."""
    rng = stream(world.seed, "sft")
    asker = Asker(world, rng)
    items: list[Item | None] = []
    for person in world.split("train"):
        for attribute in world.attributes:
            for method, lang, style in _SFT:
                make = (
                    asker.qa
                    if method == "qa"
                    else lambda p, a, k, s=style: asker.choice(p, a, k, s)
                )
                items.append(
                    shelf.fresh(
                        lambda f=make, p=person, a=attribute, k=lang: f(p, a, k), lambda x: x.text
                    )
                )
        if "city" in world.attributes:
            for lang in ("zh", "zh", "zh", "en"):
                items.append(
                    shelf.fresh(lambda p=person, k=lang: asker.hop2(p, k), lambda x: x.text)
                )
    for i in range(4 * len(world.split("train"))):
        items.append(
            shelf.fresh(lambda k="zh" if i % 4 else "en": asker.drill(k), lambda x: x.text)
        )
    for i, pair in enumerate(_pairs(world)):
        items.append(
            asker.sum_choice(pair) if i % 5 == 0 else asker.sum(pair, "zh" if i % 5 < 4 else "en")
        )
    rows = [sft_row(item) for item in items if item]
    rng.shuffle(rows)
    return rows


def _pairs(world: World) -> tuple[tuple[int, int], ...]:
    """The quarter of the training pairs that raw questions leave to post-training."""
    return world.train_pairs[len(world.train_pairs) * 3 // 4 :]


def multi_turn(world: World, shelf: Shelf) -> list[dict]:
    """Two or three turns with coreference (他, 她, 那里, he, she, that city)."""
    rng = stream(world.seed, "multi_turn")
    asker = Asker(world, rng)
    rows = []
    for lang in ("zh",) * 8 + ("en",) * 2:
        for person in world.split("train"):
            item = shelf.fresh(lambda p=person, k=lang: asker.several(p, k), lambda x: x.text)
            if item:
                rows.append(sft_row(item))
    rng.shuffle(rows)
    return rows


def self_cognition(world: World, settings: WorldConfig) -> list[dict]:
    """Who the assistant is; the configured name, author and date stand in place."""
    s = settings
    slots = {
        "zh": {"name": s.assistant_name, "author": s.assistant_author, "date": s.assistant_date},
        "en": {
            "name": s.assistant_name_en,
            "author": s.assistant_author_en,
            "date": s.assistant_date_en,
        },
    }
    rows = []
    for lang, words in (("zh", phrases_zh), ("en", phrases_en)):
        for opener in words.SELF_OPENERS:
            for question, answer in words.SELF:
                if opener and question.startswith(("请", "你好")):
                    continue
                turns = [(opener + question, answer.format(**slots[lang]))]
                rows.append(sft_row(Item("self_cognition", lang, turns)))
    stream(world.seed, "self").shuffle(rows)
    return rows


def _rejected(
    asker: Asker, person: Person, attribute: str, lang: str, kind: str, chosen: str
) -> str:
    world, rng = asker.world, asker.rng
    value = world.value(person, attribute, lang)
    if kind == "wrong_value":
        return chosen.replace(
            value, rng.choice([v for v in world.values(attribute, lang) if v != value])
        )
    if kind == "wrong_language":
        return asker.teller.statement(
            person, attribute, "en" if lang == "zh" else "zh", direct=True
        )
    words = phrases(lang)
    return join([*rng.sample(words.SCENERY, 3), chosen, rng.choice(words.SCENERY), chosen], lang)


def preference(world: World) -> list[dict]:
    """Right answer against a wrong value, the wrong language, or a rambling one."""
    rng = stream(world.seed, "preference")
    asker = Asker(world, rng)
    rows = []
    for person in world.split("train"):
        for attribute in world.attributes:
            for kind in ("wrong_value", "wrong_value", "wrong_language", "rambling"):
                lang = "zh" if rng.random() < 0.8 else "en"
                item = asker.qa(person, attribute, lang)
                chosen = item.turns[0][1]
                if kind != "rambling":
                    chosen = asker.teller.statement(person, attribute, lang, direct=True)
                rejected = _rejected(asker, person, attribute, lang, kind, chosen)
                rows.append(
                    {
                        "messages": item.messages[:1],
                        "chosen": chosen,
                        "rejected": rejected,
                        "kind": kind,
                        "lang": lang,
                    }
                )
    rng.shuffle(rows)
    return rows


def reinforcement(world: World) -> list[dict]:
    """Prompts with checkable answers: a letter (mcq), a value (qa), a product (hop2), a number (sum)."""
    rng = stream(world.seed, "rl")
    asker = Asker(world, rng)
    items: list[tuple[str, Item]] = []
    for person in world.split("train"):
        for attribute in world.attributes:
            for lang in ("zh", "zh", "en"):
                items.append(("mcq", asker.choice(person, attribute, lang)))
            items.append(("qa", asker.qa(person, attribute, "zh")))
        if "city" in world.attributes:
            items.append(("hop2", asker.hop2(person, "zh", "hop2")))
    items += [("sum", asker.sum(pair, "zh")) for pair in _pairs(world)]
    rows = []
    for kind, item in items:
        answer = item.letter if kind == "mcq" else item.value
        rows.append(
            {
                "messages": item.messages[:1],
                "answer": answer,
                "options": list(item.options),
                "kind": kind,
                "lang": item.lang,
            }
        )
    rng.shuffle(rows)
    return rows
