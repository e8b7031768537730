"""Chapter 17's toy: one model that knows where everybody lives sits one exam, asked in four ways.

    python -m figures.experiments.letters --out runs/letters        letters.json; a quarter of an hour of one core

A town of 64 people and 16 places, a token each. Every model reads who lives where. What differs is what else it has
read: nothing; a drill that asks for the letter of one of four listed places, in one of three layouts; questions about
half of the people, answered with place and letter, or with the letter alone. The exam asks about the other half:

    text     which of the four places is the likeliest after "NAME lives"?
    bind     after the right place has been written behind question and options: which letter?
    written  the model's own answer, place and letter: is the letter right?
    letter   which letter is the likeliest first word of an answer?

Chance is a quarter in each, but in *written*, where a reply without a letter is wrong.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from steel.config import Config, ModelConfig, PretrainConfig
from steel.data.batch import IGNORED, Batch
from steel.evaluation.scoring import greedy, score_continuations
from steel.model import SteelForCausalLM
from steel.train.build import make_model
from steel.train.loop import Stage, fit
from steel.train.parallel import World
from steel.train.pretrain import next_token_loss
from steel.train.run_folder import RunFolder

from . import command
from .ledger import Ledger

PEOPLE, PLACES, OPTIONS = 64, 16, 4
END, LIVES, ASK, ANSWER, MARK = 0, 1, 2, 3, 4
LETTER = 5
NAME = LETTER + OPTIONS
PLACE = NAME + PEOPLE
VOCABULARY = PLACE + PLACES + 1 - (PLACE + PLACES + 1) % 2
ARMS: dict[str, dict] = {
    "facts": {},
    "drill": {"layout": "after", "drill": True},
    "drill, letter before": {"layout": "before", "drill": True},
    "drill, sign between": {"layout": "apart", "drill": True},
    "drill and questions": {"layout": "after", "drill": True, "answers": "place"},
    "drill and letters": {"layout": "after", "drill": True, "answers": "letter"},
    "letters": {"layout": "after", "answers": "letter"},
    "drill and questions, longer": {
        "layout": "after",
        "drill": True,
        "answers": "place",
        "steps": 1200,
    },
    "letters, longer": {"layout": "after", "answers": "letter", "steps": 1200},
}
"""What a model reads beside the facts: a drill in a layout, questions about half of the people; for how many steps."""
ROWS, STEPS, QUERIES, LONGEST = 64, 400, 6, 32
"""Rows a step; steps; letters that a drill asks for; the longest row [tokens]."""


def settings(seed: int, layers: int = 2, steps: int = STEPS) -> Config:
    """Everything of one row but what it reads."""
    model = ModelConfig(
        vocab_size=VOCABULARY, hidden_size=96, intermediate_size=288, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=4, rope_theta=1e4, tie_word_embeddings=False, max_position_embeddings=64,
    )  # fmt: skip
    train = PretrainConfig(
        steps=steps, batch_size=ROWS, micro_batch_size=ROWS, optimizer="muon", learning_rate=3e-3, warmup_steps=20,
        decay_fraction=0.3, weight_decay=0.0, checkpoint_every=0, keep_at_decay=False,
    )  # fmt: skip
    return Config(seed=seed, model=model, train=train)


def spelt(ids: list[int]) -> str:
    """Tokens as a reader sees them: p07 for a person, G03 for a place."""
    signs = {END: ".", LIVES: "lives", ASK: "?", ANSWER: "→", MARK: "="}

    def word(i: int) -> str:
        if i in signs:
            return signs[i]
        if i < NAME:
            return "ABCD"[i - LETTER]
        return f"p{i - NAME:02d}" if i < PLACE else f"G{i - PLACE:02d}"

    return " ".join(map(word, ids))


def homes(seed: int) -> np.ndarray:
    """(PEOPLE,) where each lives; every place has as many."""
    return np.random.default_rng([seed, 7]).permutation(np.arange(PEOPLE) % PLACES)


def options(rng, place: int | None = None) -> np.ndarray:
    """(4,) different places in random order, `place` among them."""
    drawn = rng.permutation(PLACES)
    if place is not None:
        drawn = np.append(place, drawn[drawn != place])
    return rng.permutation(drawn[:OPTIONS])


def listed(places: np.ndarray, layout: str) -> list[int]:
    """Four places and their letters, as the layout has them."""
    pairs = [(PLACE + int(place), LETTER + i) for i, place in enumerate(places)]
    form = {
        "after": lambda p, a: [p, a],
        "before": lambda p, a: [a, p],
        "apart": lambda p, a: [p, MARK, a],
    }
    return [token for p, a in pairs for token in form[layout](p, a)]


def cue(place: int, layout: str) -> list[int]:
    """A place, written so that its letter comes next."""
    return [PLACE + int(place), *([MARK] if layout == "apart" else [])]


def fact(person: int, home: np.ndarray) -> tuple[list[int], list[int]]:
    """Ids of "NAME lives PLACE end", and which of them are to be learned."""
    return [NAME + person, LIVES, PLACE + int(home[person]), END], [2, 3]


def drill(layout: str, rng) -> tuple[list[int], list[int]]:
    """Four places with letters, then places drawn from them with replacement; their letters are to be learned."""
    places = options(rng)
    ids, learn = listed(places, layout), []
    for i in rng.integers(0, OPTIONS, QUERIES):
        ids += [*cue(places[i], layout), LETTER + int(i)]
        learn.append(len(ids) - 1)
    return ids, learn


def question(person: int, places: np.ndarray, layout: str) -> list[int]:
    """ "NAME? OPTIONS →", up to where the answer begins."""
    return [NAME + person, ASK, *listed(places, layout), ANSWER]


def exercise(person: int, home: np.ndarray, arm: dict, rng) -> tuple[list[int], list[int]]:
    """A question and its answer, "PLACE LETTER end" or "LETTER end", which is to be learned."""
    place = home[person]
    places = options(rng, place)
    ids = question(person, places, arm["layout"])
    said = cue(place, arm["layout"]) if arm["answers"] == "place" else []
    said += [LETTER + int(np.flatnonzero(places == place)[0]), END]
    return ids + said, list(range(len(ids), len(ids) + len(said)))


def rows(arm: dict, seed: int, step: int) -> Batch:
    """ROWS rows, one text each: in turn a fact, a drill and a question; a fact for what the arm has not."""
    rng, home = np.random.default_rng([seed, step]), homes(seed)
    makers = [lambda: fact(int(rng.integers(PEOPLE)), home)] * 3
    if "drill" in arm:
        makers[1] = lambda: drill(arm["layout"], rng)
    if "answers" in arm:
        makers[2] = lambda: exercise(int(rng.integers(PEOPLE // 2)), home, arm, rng)
    ids = torch.zeros(ROWS, LONGEST, dtype=torch.int64)
    targets = torch.full_like(ids, IGNORED)
    for r in range(ROWS):
        words, learn = makers[r % 3]()
        ids[r, : len(words)] = torch.tensor(words)
        targets[r, torch.tensor(learn) - 1] = ids[r, learn]
    length = int((ids != 0).any(0).sum()) + 1  # no row is longer; END is 0
    return Batch(ids[:, :length], targets[:, :length], torch.arange(length).expand(ROWS, -1))


def learned(arm: str, seed: int, folder: Path, layers: int = 2, steps: int = 0):
    """A model that has read what the arm has; kept in `folder`, and trained unless it is there."""
    if not (folder / "hf").is_dir():
        cfg = settings(seed, layers, steps or ARMS[arm].get("steps", STEPS))
        stage = Stage(
            "letters", cfg.train, make_model(cfg, World()), lambda step: [rows(ARMS[arm], seed, step)],
            next_token_loss(), seed=seed, config=cfg.to_dict(),
        )  # fmt: skip
        fit(stage, RunFolder(folder), World())
    return SteelForCausalLM.from_pretrained(folder / "hf").eval()


def exam(
    model, arm: str, seed: int, papers: int = 8, people: range = range(PEOPLE // 2, PEOPLE)
) -> dict[str, float]:
    """Share right [1] by each way of asking, `papers` questions about each of `people`.

    No question of training has named the second half of the town, whom this asks about unless told otherwise.
    """
    how, home, rng = ARMS[arm], homes(seed), np.random.default_rng([seed, 11])
    layout, asked, key = how.get("layout", "after"), [], []
    for person in np.repeat(list(people), papers):
        places = options(rng, home[person])
        asked.append((int(person), places))
        key.append(int(np.flatnonzero(places == home[person])[0]))
    prompts = [question(*q, layout) for q in asked]
    letters = [[LETTER + i] for i in range(OPTIONS)]
    ways = {
        "text": [([NAME + p, LIVES], [PLACE + int(v)]) for p, places in asked for v in places],
        "bind": [
            (ids + cue(places[k], layout), letter)
            for ids, (_, places), k in zip(prompts, asked, key, strict=True) for letter in letters
        ],
        "letter": [(ids, letter) for ids in prompts for letter in letters],
    }  # fmt: skip
    found = {}
    for way, pairs in ways.items():
        said = np.reshape(score_continuations(model, pairs), (-1, OPTIONS)).argmax(1)
        found[way] = float(np.mean(said == key))
    if how.get("answers") == "place":
        replies = greedy(model, prompts, 4, {END})
        marks = [[i for i in reply if LETTER <= i < NAME] for reply in replies]
        found["written"] = float(np.mean([m[-1:] == [LETTER + k] for m, k in zip(marks, key)]))
    return {way: round(value, 4) for way, value in found.items()}


def letters(out: Path = Path("runs/letters"), seeds: int = 3, layers: int = 2) -> None:
    """Every arm under several seeds: letters.json in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    same = {"people": PEOPLE, "places": PLACES, "steps": STEPS, "layers": layers}
    ledger = Ledger(out / "letters.json", "letters", same)

    def work(key: dict) -> dict:
        model = learned(**key, folder=out / f"{key['arm']}-{key['seed']}", layers=layers)
        return exam(model, **key)

    keys = [{"arm": arm, "seed": seed} for arm in ARMS for seed in range(1, seeds + 1)]
    ledger.fill(keys, work, say=print)


if __name__ == "__main__":
    command(letters)
