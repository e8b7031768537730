"""Post-training data about train people: SFT, several turns, self-cognition, preferences, RL.

There are no refusals about unknown people: they would teach the model to refuse exactly the people
the exam asks about.
"""

from __future__ import annotations

from ...config import WorldConfig
from .people import Person, World, shuffled, stream, table
from .questions import Asker, Item
from .raw import Shelf

# languages, and styles of choices, of the rows about every fact of a train person
_SFT_QUESTIONS = ("zh", "zh", "zh", "zh", "en", "en")
_SFT_CHOICES = [("zh", "text")] * 3 + [("en", "text")] * 2
_SFT_CHOICES += [("zh", "letter"), ("en", "letter"), ("zh", "eliminate")]


def _dialogues(items: list[Item | None]) -> list[dict]:
    return [{"messages": i.messages, "kind": i.kind, "lang": i.lang} for i in items if i]


def _pairs(world: World) -> list[tuple[int, int]]:
    """The quarter of the training pairs that raw questions leave to post-training."""
    return world.pairs["train"][len(world.pairs["train"]) * 3 // 4 :]


def sft(world: World, shelf: Shelf) -> list[dict]:
    """Single-turn rows in trained phrasings."""
    asker, people = Asker(world, "sft"), world.split("train")
    items: list[Item | None] = []
    for person in people:
        for attribute in world.attributes:
            for lang in _SFT_QUESTIONS:
                items.append(shelf.fresh(asker.qa, person, attribute, lang))
            for lang, style in _SFT_CHOICES:
                items.append(shelf.fresh(asker.choice, person, attribute, lang, style))
        if world.cities:
            for lang in ("zh", "zh", "zh", "en"):
                items.append(shelf.fresh(asker.hop2, person, lang))
    for i in range(4 * len(people)):
        items.append(shelf.fresh(asker.drill, "zh" if i % 4 else "en"))
    for i, pair in enumerate(_pairs(world)):
        lang = "zh" if i % 5 < 4 else "en"
        items.append(asker.sum_choice(pair) if i % 5 == 0 else asker.sum(pair, lang))
    return shuffled(_dialogues(items), asker.rng)


def multi_turn(world: World, shelf: Shelf) -> list[dict]:
    """Two or three turns with coreference (他, 她, 那里, he, she, that city)."""
    asker, items = Asker(world, "multi_turn"), []
    for lang in ("zh",) * 8 + ("en",) * 2:
        for person in world.split("train"):
            items.append(shelf.fresh(asker.several, person, lang))
    return shuffled(_dialogues(items), asker.rng)


def self_cognition(world: World, settings: WorldConfig) -> list[dict]:
    """Who the assistant is; the configured name, author and date stand in place."""
    items = []
    for lang, suffix in (("zh", ""), ("en", "_en")):
        names = ("name", "author", "date")
        slots = {name: getattr(settings, f"assistant_{name}{suffix}") for name in names}
        for opener in table(lang)["self_openers"]:
            for question, answer in table(lang)["self"]:
                if not (opener and question.startswith(("请", "你好"))):
                    turns = [(opener + question, answer.format(**slots))]
                    items.append(Item("self_cognition", lang, turns))
    return shuffled(_dialogues(items), stream(world.seed, "self"))


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
                chosen = item.turns[0][1]
                if kind != "rambling":
                    chosen = asker.statement(person, attribute, lang, direct=True)
                rejected = _rejected(asker, person, attribute, lang, kind, chosen)
                row = {"messages": item.messages[:1], "chosen": chosen, "rejected": rejected}
                rows.append(row | {"kind": kind, "lang": lang})
    return shuffled(rows, asker.rng)


def reinforcement(world: World) -> list[dict]:
    """Prompts with checkable answers: a letter (mcq), a value (qa), a product (hop2), a sum."""
    asker = Asker(world, "rl")
    items: list[tuple[str, Item]] = []
    for person in world.split("train"):
        for attribute in world.attributes:
            for lang in ("zh", "zh", "en"):
                items.append(("mcq", asker.choice(person, attribute, lang)))
            items.append(("qa", asker.qa(person, attribute, "zh")))
        if world.cities:
            items.append(("hop2", asker.hop2(person, "zh", "hop2")))
    items += [("sum", asker.sum(pair, "zh")) for pair in _pairs(world)]
    rows = []
    for kind, item in items:
        answer = item.letter if kind == "mcq" else item.value
        row = {"messages": item.messages[:1], "answer": answer, "options": list(item.options)}
        rows.append(row | {"kind": kind, "lang": item.lang})
    return shuffled(rows, asker.rng)
