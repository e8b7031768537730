"""The people of SteelTown: names, attribute pools, splits. Everything comes from one seed.

Legend: an *attribute* is a column (city, university, ...); its *values* exist in Chinese and English
under the same index, so the two languages state the same facts.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...config import UserError, WorldConfig, from_dict, read_yaml

STRANGERS = 240  # names of people who do not live in the town


@cache
def table(name: str) -> dict:
    """A YAML file of this folder: town, zh, en, sources or code."""
    return read_yaml(Path(__file__).with_name(f"{name}.yaml"))


def stream(seed: int, *names: object) -> random.Random:
    """An independent random stream for one purpose, a pure function of (seed, names)."""
    return random.Random("/".join(["steeltown", str(seed), *map(str, names)]))


def chunks(items: list, size: int) -> list[list]:
    """The items in groups of `size`; the last one may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def shuffled(items: Iterable, rng: random.Random) -> list:
    """A list of the same items in random order."""
    items = list(items)
    rng.shuffle(items)
    return items


@dataclass(frozen=True)
class Person:
    """One fictional person; `values` maps attribute to the index of its value in the pool."""

    zh: str
    en: str
    female: bool
    split: str
    values: dict[str, int]

    def name(self, lang: str) -> str:
        return self.zh if lang == "zh" else self.en

    def pronoun(self, lang: str) -> str:
        """Subject pronoun: 他/她, he/she."""
        return table(lang)["pronouns"][self.female]


@dataclass(frozen=True)
class World:
    """People, values and the disjoint arithmetic pairs of one seed."""

    seed: int
    attributes: list[str]
    people: list[Person]
    pools: dict[str, dict[str, list[str]]]  # attribute, or "product" -> language -> values
    cities: dict[str, list[tuple[str, str]]]  # language -> (city, product); none without "city"
    pairs: dict[str, list[tuple[int, int]]]  # split -> (a, b)
    strangers: dict[str, list[tuple[str, str]]]  # split -> (中文, English), people of elsewhere

    def split(self, name: str) -> list[Person]:
        return [p for p in self.people if p.split == name]

    def value(self, person: Person, attribute: str, lang: str) -> str:
        return self.pools[attribute][lang][person.values[attribute]]

    def home(self, person: Person, lang: str) -> tuple[str, str]:
        """A person's city and what it is known for."""
        return self.cities[lang][person.values["city"]]


def _names(count: int, rng: random.Random) -> list[tuple[str, str]]:
    """Unique names; given names are distinct in Chinese and in romanisation, and no name contains another."""
    lists = (table("town")[name] for name in ("surnames", "first", "second"))
    surnames, firsts, seconds = (list(syllables.items()) for syllables in lists)
    givens = shuffled(((a, b) for a in firsts for b in seconds if a[1] != b[1]), rng)
    rng.shuffle(surnames)
    names: dict[str, tuple[str, str]] = {}  # by the given name in Latin letters
    for (zh1, en1), (zh2, en2) in givens:
        given = en1 + en2.lower()
        # Yunxi would be found inside Yunxiao by a substring search: keep only one of such a pair.
        if not any(given.startswith(other) or other.startswith(given) for other in names):
            surname_zh, surname_en = surnames[len(names) % len(surnames)]
            names[given] = (surname_zh + zh1 + zh2, f"{surname_en} {given}")
        if len(names) == count:
            break
    return list(names.values())


def build_world(settings: WorldConfig, seed: int) -> World:
    """Draws the world of a configuration: names, values, splits (50 % train, 10 % dev, 40 % test).

    Raises UserError, which names the field, for one that cannot be built.
    """
    settings = from_dict({"world": vars(settings)}).world
    count, attributes, pools = settings.people, settings.attributes, {}
    if not attributes or len(set(attributes)) < len(attributes):
        raise UserError(f"world.attributes={attributes}: name at least one, each of them once")
    for name in (*attributes, "product"):
        values = table("town")["pools"][name]
        pools[name] = {"zh": list(values), "en": list(values.values())}
    order = shuffled(range(len(pools["product"]["zh"])), stream(seed, "products"))
    cities = {}
    for lang, products in pools["product"].items():
        names = pools["city"][lang] if "city" in attributes else []
        cities[lang] = list(zip(names, [products[i] for i in order]))
    train, dev = count // 2, max(1, round(count * 0.1))
    splits = ["train"] * train + ["dev"] * dev + ["test"] * (count - train - dev)
    splits = shuffled(splits, stream(seed, "splits"))
    names = _names(count + STRANGERS, stream(seed, "names"))
    rng, people = stream(seed, "people"), []
    for (zh, en), split in zip(names, splits):
        female = rng.random() < 0.5
        values = {a: rng.randrange(len(pools[a]["zh"])) for a in attributes}
        people.append(Person(zh, en, female, split, values))
    rng = stream(seed, "arithmetic")
    pairs = shuffled(((a, b) for a in range(11, 100) for b in range(a, 100)), rng)
    pairs = [p if rng.random() < 0.5 else p[::-1] for p in pairs]
    parts = {"train": pairs[60 : 60 + settings.arithmetic_problems]}
    parts |= {"dev": pairs[:20], "test": pairs[20:60]}
    if settings.questions == "worked":  # sums with a single digit, too; some are left for later
        small = shuffled(((a, b) for a in range(1, 10) for b in range(1, 100)), rng)
        small = [p if rng.random() < 0.5 else p[::-1] for p in small]
        more = settings.arithmetic_problems // 4
        parts["train"] = shuffled(parts["train"] + small[:more], rng)
    others = names[count:]
    strangers = {"test": others[::4], "train": [n for i, n in enumerate(others) if i % 4]}
    return World(seed, attributes, people, pools, cities, parts, strangers)
