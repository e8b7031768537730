"""The people of SteelTown: names, attribute pools, splits. Everything comes from one seed.

Legend: an *attribute* is a column (city, university, ...); its *values* exist in Chinese and English
under the same index, so the two languages state the same facts.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

from ...config import UserError, WorldConfig, from_dict


@cache
def table(name: str) -> dict:
    """A YAML file of this folder: town, zh, en, sources or code."""
    return yaml.safe_load((Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8"))


def stream(seed: int, *names: object) -> random.Random:
    """An independent random stream for one purpose, a pure function of (seed, names)."""
    return random.Random("/".join(["steeltown", str(seed), *map(str, names)]))


def check_settings(settings: WorldConfig) -> None:
    """Raises UserError for a world that cannot be built: the field, its value and what to choose."""
    from_dict({"world": vars(settings)})
    names, known = settings.attributes, list(table("zh")["attributes"])
    if not names or len(set(names)) < len(names) or not set(names) <= set(known):
        raise UserError(
            f"world.attributes={list(names)}: choose distinct names of {', '.join(known)}"
        )


@dataclass(frozen=True)
class Person:
    """One fictional person; `values` maps attribute to the index of its value in the pool."""

    zh: str
    en: str
    female: bool
    split: str
    values: dict[str, int] = field(hash=False)

    def name(self, lang: str) -> str:
        return self.zh if lang == "zh" else self.en

    def pronoun(self, lang: str) -> str:
        """Subject pronoun: 他/她, he/she."""
        return table(lang)["pronouns"][self.female]


@dataclass(frozen=True)
class World:
    """People, values and the disjoint arithmetic pairs of one seed."""

    seed: int
    attributes: tuple[str, ...]
    people: tuple[Person, ...]
    pools: dict[str, list[dict[str, str]]]
    product_of: tuple[int, ...]
    train_pairs: tuple[tuple[int, int], ...]
    dev_pairs: tuple[tuple[int, int], ...]
    test_pairs: tuple[tuple[int, int], ...]

    def split(self, name: str) -> list[Person]:
        return [p for p in self.people if p.split == name]

    def value(self, person: Person, attribute: str, lang: str) -> str:
        return self.pools[attribute][person.values[attribute]][lang]

    def values(self, attribute: str, lang: str) -> list[str]:
        return [v[lang] for v in self.pools[attribute]]

    def product(self, city_index: int, lang: str) -> str:
        return self.pools["product"][self.product_of[city_index]][lang]

    def hop2(self, person: Person, lang: str) -> tuple[str, str]:
        """(city, its product) of a person."""
        return self.value(person, "city", lang), self.product(person.values["city"], lang)


def _names(count: int, rng: random.Random) -> list[tuple[str, str]]:
    """Unique names; given names are distinct in Chinese and in romanisation, and no name contains another."""
    lists = (table("town")[name] for name in ("surnames", "first", "second"))
    surnames, firsts, seconds = (list(syllables.items()) for syllables in lists)
    givens = [(a, b) for a in firsts for b in seconds if a[1] != b[1]]
    rng.shuffle(givens)
    rng.shuffle(surnames)
    names: list[tuple[str, str]] = []
    used: set[str] = set()
    for (zh1, en1), (zh2, en2) in givens:
        if len(names) == count:
            break
        given = en1 + en2.lower()
        # Yunxi would be found inside Yunxiao by a substring search: keep only one of such a pair.
        if any(given.startswith(other) or other.startswith(given) for other in used):
            continue
        used.add(given)
        surname_zh, surname_en = surnames[len(names) % len(surnames)]
        names.append((surname_zh + zh1 + zh2, f"{surname_en} {given}"))
    assert len(names) == count, "name pool exhausted"
    return names


def _pairs(count: int, rng: random.Random) -> tuple[list, list, list]:
    """Train, dev and test operand pairs; unordered pairs never repeat across the three."""
    pairs = [(a, b) for a in range(11, 100) for b in range(a, 100)]
    rng.shuffle(pairs)
    pairs = [p if rng.random() < 0.5 else p[::-1] for p in pairs]
    return pairs[60 : 60 + count], pairs[:20], pairs[20:60]


def build_world(settings: WorldConfig, seed: int) -> World:
    """Draws the world of a configuration: names, values, splits (50 % train, 10 % dev, 40 % test), products."""
    count, attributes = settings.people, tuple(settings.attributes)
    names = _names(count, stream(seed, "names"))
    train, dev = count // 2, max(1, round(count * 0.1))
    splits = ["train"] * train + ["dev"] * dev + ["test"] * (count - train - dev)
    stream(seed, "splits").shuffle(splits)
    pools = {
        name: [{"zh": zh, "en": en} for zh, en in table("town")["pools"][name].items()]
        for name in (*attributes, "product")
    }
    rng = stream(seed, "people")
    people = tuple(
        Person(
            zh, en, rng.random() < 0.5, split, {a: rng.randrange(len(pools[a])) for a in attributes}
        )
        for (zh, en), split in zip(names, splits, strict=True)
    )
    products = list(range(len(pools["product"])))
    stream(seed, "products").shuffle(products)
    pairs = [tuple(p) for p in _pairs(settings.arithmetic_problems, stream(seed, "arithmetic"))]
    return World(seed, attributes, people, pools, tuple(products), *pairs)
