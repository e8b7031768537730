"""Chapter 14's failure: names that the vocabulary cuts differently tell a model whom it was taught about.

    python -m figures.experiments.name_length --out runs/names/name-length.json --lives runs/a,runs/b

Post-training asks about train people alone. A tokenizer that has read those questions, with too few entries for every
name, gives their names fewer tokens than the names of people who are held out, and fine-tuning learns to answer the
short ones. Each finished life is asked, after pretraining and after SFT, four trained questions about each fact of each
person, and who each person and each stranger is.
"""

from __future__ import annotations

import json
from pathlib import Path

from steel.corpus.world.people import table
from steel.model.decoding import Sampling, generate
from steel.model.folder import open_model, stop_ids
from steel.tokenizer.chat import encode_chat

from . import command
from .ledger import Ledger

QUESTIONS = 4
"""Phrasings of each attribute that are asked, the first ones of the world's table."""
STAGES = ("pretrain", "sft")


def say(model, tok, asked: list[str]) -> list[str]:
    """A greedy answer to each message."""
    prompts = [
        encode_chat(tok, [{"role": "user", "content": text}], add_generation_prompt=True)[0]
        for text in asked
    ]
    replies = generate(model, prompts, stop_ids(tok, chat=True), Sampling(max_new_tokens=40))
    return [tok.decode(r.ids[: -1 if r.finished else None]) for r in replies]


def tokens(tok, name: str, lang: str) -> int:
    """Tokens of a name inside a sentence [tokens]."""
    return len(tok((" " if lang == "en" else "") + name)["input_ids"])


def mean(values: list) -> float:
    """Mean, to four digits."""
    return round(sum(values) / len(values), 4)


def measure(life: Path, stage: str, split: str, lang: str) -> dict:
    """How a model answers about the people of a split, in a language (shares in 1, tokens a name)."""
    truth = json.loads((life / "world" / "truth.json").read_text(encoding="utf-8"))
    model, tok = open_model(life / stage / "hf", device="cpu")
    words, refusal = table(lang), table(lang)["unknown"]
    if split == "strangers":
        names = [pair[lang == "en"] for pair in truth["strangers"]["test"]]
        facts = []
    else:
        people = [p for p in truth["people"] if p["split"] == split]
        names = [p[lang] for p in people]
        facts = [
            (text.format(n=p[lang]), value[lang])
            for p in people
            for attribute, value in p["values"].items()
            for text in words["attributes"][attribute]["questions"][:QUESTIONS]
        ]
    row = {"tokens": mean([tokens(tok, name, lang) for name in names])}
    if facts:
        replies = say(model, tok, [question for question, _ in facts])
        row["right"] = mean([v in reply for reply, (_, v) in zip(replies, facts, strict=True)])
        row["refused"] = mean([reply == refusal for reply in replies])
    who = say(model, tok, [words["who"][0].format(n=name) for name in names])
    return row | {"who_refused": mean([reply == refusal for reply in who]), "n": len(names)}


def main(out: Path, lives: str) -> None:
    """Ask finished lives of preset laptop about everybody: OUT.json. A killed run goes on with the same call."""
    ledger = Ledger(out, "name length", {"questions": QUESTIONS, "stages": list(STAGES)})
    for life in map(Path, lives.split(",")):
        state = json.loads((life / "state.json").read_text(encoding="utf-8"))
        about = {
            "seed": state["run"]["seed"],
            "vocabulary": state["asked"]["config"]["model"]["vocab_size"],
        }
        for stage in STAGES:
            for split in ("train", "test", "strangers"):
                for lang in ("zh", "en"):
                    key = {**about, "stage": stage, "split": split, "lang": lang}
                    if ledger.find(**key) is None:
                        print(ledger.add({**key, **measure(life, stage, split, lang)}), flush=True)


if __name__ == "__main__":
    command(main)
