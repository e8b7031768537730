"""The first conversation: sixty messages a stranger might send, answered greedily, and a checker.

`conversation.yaml` holds the messages, as templates over the held-out people of a closed world. An
answer is right when it says what was asked and nothing that contradicts it, in the language of the
message, ends by itself, and holds no half character.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import yaml

from ..config import UserError, sound
from ..model.decoding import Sampling, generate
from ..model.folder import stop_ids
from ..runlog import read_json
from ..tokenizer.chat import encode_chat
from ..tokenizer.texts import option_lines
from .answers import LETTERS, final_letter
from .questions import has_hanzi
from .results import share

MAX_NEW_TOKENS = 64
_LIST = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Message:
    """What is said in turn, and what the last answer must hold."""

    kind: str
    lang: str
    turns: tuple[str, ...]
    pattern: str = ""
    """Regular expression that the answer matches; "": none is asked for."""
    right: tuple[str, ...] = ()
    """Values of which the answer names at least one; empty: none is asked for."""
    wrong: tuple[str, ...] = ()
    """Values that it does not name."""
    number: int | None = None
    """The last number in the answer."""
    letter: str = ""
    """The letter that it ends with, if it ends with one."""


def messages(world: Path | str, seed: int = 1) -> list[Message]:
    """The list for the closed world in a folder, with people, strangers and sums drawn by a seed.

    A message about an attribute that this world lacks is left out. Raises UserError for a folder
    that holds no world.
    """
    file = Path(world) / "truth.json"
    if not file.is_file():
        raise UserError(f"no closed world in {world}: it has no truth.json (see 'steel world OUT')")
    with sound(file):
        truth = read_json(file)
        rng = random.Random(f"conversation/{seed}")
        people = [p for p in truth["people"] if p["split"] == "test"]
        drawn = {name: cycle(rng.sample(found, len(found))) for name, found in {
            "people": people,
            "strangers": truth["strangers"]["test"],
            "sum": truth["arithmetic_pairs"]["test"],
            "small sum": _small_sums(truth),
        }.items()}  # fmt: skip
        known = {*people[0]["values"], "anything", *_LIST["patterns"], "sum", "small sum"}
        rows = [row for row in _LIST["messages"] if row["want"] in known]
        return [_message(row, truth, drawn, rng) for row in rows]


def _small_sums(truth: dict) -> list[list[int]]:
    """Additions with one-digit numbers that no training set has."""
    trained = {tuple(sorted(pair)) for pair in truth["arithmetic_pairs"]["train"]}
    every = [[a, b] for a in range(2, 10) for b in range(a, 60)]
    return [pair for pair in every if tuple(pair) not in trained]


def _message(row: dict, truth: dict, drawn: dict, rng: random.Random) -> Message:
    want, lang = row["want"], row["lang"]
    pools: dict[str, set[str]] = {}
    for person in truth["people"]:
        for attribute, value in person["values"].items():
            pools.setdefault(attribute, set()).add(value[lang])
    person, slots, checks = next(drawn["people"]), {}, {}
    own = {attribute: value[lang] for attribute, value in person["values"].items()}
    if want in own:
        others = sorted(pools[want] - {own[want]})
        options = rng.sample([own[want], *rng.sample(others, 3)], 4)
        slots["options"] = option_lines(options)
        checks = {"right": (own[want],), "wrong": tuple(others)}
        if row["kind"] == "choice":
            checks["letter"] = LETTERS[options.index(own[want])]
    elif want == "anything":
        wrong = sorted(set().union(*pools.values()) - {*own.values()})
        checks = {"right": tuple(own.values()), "wrong": tuple(wrong)}
    elif want in drawn:
        slots["a"], slots["b"] = next(drawn[want])
        checks = {"number": slots["a"] + slots["b"]}
    else:
        names = truth["assistant"][lang]
        wrong = sorted(set().union(*pools.values())) if want == "unknown" else ()
        checks = {"pattern": _LIST["patterns"][want][lang].format(**names), "wrong": tuple(wrong)}
    stranger = next(drawn["strangers"])[lang == "en"] if want == "unknown" else ""
    slots |= {"n": person[lang], "s": stranger, "p": person["pronoun"][lang]}
    said = row["say"] if isinstance(row["say"], list) else [row["say"]]
    return Message(row["kind"], lang, tuple(text.format(**slots) for text in said), **checks)


def judge(message: Message, reply: str, finished: bool = True) -> bool:
    """Whether a reply answers the message."""
    if not finished or not reply.strip() or "\ufffd" in reply:
        return False
    if has_hanzi(reply) != (message.lang == "zh"):
        return False
    if message.pattern and not re.search(message.pattern, reply):
        return False
    if message.right and not any(_names(reply, value) for value in message.right):
        return False
    if any(_names(reply, value) for value in message.wrong):
        return False
    if message.number is not None and re.findall(r"\d+", reply)[-1:] != [str(message.number)]:
        return False
    return not message.letter or final_letter(reply) in (None, message.letter)


def _names(reply: str, value: str) -> bool:
    """Whether a value stands in a reply, an English one as a whole word."""
    edge = r"(?![A-Za-z])" if value.isascii() else ""
    return (
        re.search(rf"{'(?<![A-Za-z])' if edge else ''}{re.escape(value)}{edge}", reply) is not None
    )


def converse(model, tok, asked: Sequence[Message], sampling: Sampling | None = None) -> dict:
    """Say the messages to a model. Returns plain data for JSON:

    {"accuracy", "n", "se", "kinds": {kind: {"accuracy", "n", "se"}}, "fragments": replies with half a
    character, "endless": replies cut at the limit, "answers": [{"kind", "lang", "said", "reply",
    "right"}]}.
    """
    sampling = sampling or Sampling(max_new_tokens=MAX_NEW_TOKENS)
    stops = stop_ids(tok, chat=True)
    dialogues: list[list[dict]] = [[] for _ in asked]
    ended = [True] * len(asked)
    for turn in range(max(len(message.turns) for message in asked)):
        live = [i for i, message in enumerate(asked) if turn < len(message.turns)]
        for i in live:
            dialogues[i].append({"role": "user", "content": asked[i].turns[turn]})
        prompts = [encode_chat(tok, dialogues[i], add_generation_prompt=True)[0] for i in live]
        for i, reply in zip(live, generate(model, prompts, stops, sampling), strict=True):
            text = tok.decode(reply.ids[: -1 if reply.finished else None])
            dialogues[i].append({"role": "assistant", "content": text})
            ended[i] = reply.finished
    answers = []
    for message, dialogue, finished in zip(asked, dialogues, ended, strict=True):
        *said, reply = [turn["content"] for turn in dialogue]
        right = judge(message, reply, finished)
        row = {"kind": message.kind, "lang": message.lang, "said": said, "reply": reply}
        answers.append(row | {"right": right})
    kinds = dict.fromkeys(row["kind"] for row in answers)
    return {
        **share([row["right"] for row in answers]),
        "kinds": {k: share([r["right"] for r in answers if r["kind"] == k]) for k in kinds},
        "fragments": sum("\ufffd" in row["reply"] for row in answers),
        "endless": ended.count(False),
        "answers": answers,
    }
