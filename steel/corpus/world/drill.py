"""The binding drill: documents in which the only thing to learn is to look back.

Four lines `value LETTER` of one pool, then twelve more, each one of the four drawn anew: the letter of
such a line can only be known from the line above with the same value. No person and no question
stands in them, so they say nothing about the exam. A model that reads them before anything else
forms the heads that copy from the context (an induction head, Olsson et al. 2022); text alone does
not form them at this size. Three sources, each harder than the one before: the values of one pool,
of all Chinese pools and of numbers, of both languages.
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ...config import REST, Config, Phase, UserError, WorldConfig
from ...documents import Document, document_id, write_documents
from ...tokenizer.texts import option_line
from .people import World, build_world, shuffled, stream
from .questions import LETTERS

DRILLS = ("drill_1", "drill_2", "drill_3")
SHOWN, ASKED = 4, 12
NUMBERS = [str(number) for number in range(20, 190)]


def drill(pool: list[str], rng: random.Random) -> str:
    """One drill. Queries are drawn with replacement, or the last would be known by exclusion."""
    lines = list(map(option_line, rng.sample(pool, SHOWN), shuffled(LETTERS, rng)))
    return "\n".join(lines + rng.choices(lines, k=ASKED))


def pools(world: World) -> dict[str, list[list[str]]]:
    """Source -> the pools of values that its documents draw from."""
    zh, en = ([values[lang] for values in world.pools.values()] for lang in ("zh", "en"))
    harder = (zh[:1], [*zh, NUMBERS], [*zh, NUMBERS, *en, NUMBERS])
    return dict(zip(DRILLS, harder, strict=True))


def with_drills(cfg: Config) -> Config:
    """The configuration with the drills in its mixture, unless it has none or says its own.

    First the easiest alone, then each harder one as half of what is read, each up to its step of
    `world.drill_steps`; after that the hardest as `world.drill_share`. Only letters are predicted.
    UserError unless there is a step for each drill.
    """
    if not cfg.world.drills or cfg.data.curriculum or cfg.data.weights:
        return cfg
    if len(cfg.world.drill_steps) != len(DRILLS):
        raise UserError(f"world.drill_steps needs {len(DRILLS)} steps, one for each drill")
    none = dict.fromkeys(DRILLS, 0.0)

    def beside(drill: str, share: float) -> dict[str, float]:
        return none | {drill: share, REST: 1 - share}

    mixtures = (none | {DRILLS[0]: 1.0}, *(beside(name, 0.5) for name in DRILLS[1:]))
    phases = [Phase(*both) for both in zip(cfg.world.drill_steps, mixtures, strict=True)]
    letters = "".join(f" {letter}" for letter in LETTERS)
    weights, targets = beside(DRILLS[2], cfg.world.drill_share), dict.fromkeys(DRILLS, letters)
    return replace(cfg, data=replace(cfg.data, curriculum=phases, weights=weights, targets=targets))


def write_drills(docs: Path, settings: WorldConfig, seed: int) -> None:
    """Write docs/drill_1|2|3.jsonl.zst, `settings.drills` documents each."""
    for name, found in pools(build_world(settings, seed)).items() if settings.drills else ():
        rng = stream(seed, name)

        def documents(name=name, found=found, rng=rng) -> Iterator[Document]:
            for number in range(settings.drills):
                text = drill(rng.choice(found), rng)
                yield Document(document_id(name, name, number), text, name)

        write_documents(docs / f"{name}.jsonl.zst", documents())
