"""Chapter 14's lessons: what fine-tuning rows do to a finished laptop life, every arm under several seeds.

    python -m figures.experiments.lessons --out runs/lessons --lives runs/laptop        lessons.json; a minute a row

Each row fine-tunes a life's base model for the same number of steps. Four questions: what rows of one language do to
the other (Steel's Table 3); what the exam's own questions and letters do to that exam, reordered and rephrased, and to
people whose questions were left out; what answers without working do to sums; what forgetting costs, and rows of
pretraining text against it. "mix" is every post-training row and no text beside them: what the other arms differ from.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
import time
from functools import cached_property
from pathlib import Path

import yaml

from steel.align.stage import run as train
from steel.config import Config, from_dict
from steel.corpus.world.people import build_world, stream, table
from steel.corpus.world.text import fill
from steel.documents import read_rows, write_rows
from steel.evaluation.cloze import cloze, load_cloze
from steel.evaluation.conversation import Message, converse, messages
from steel.evaluation.exam import run_exam
from steel.evaluation.perplexity import bits_per_byte, load_domains
from steel.evaluation.questions import has_hanzi, load_exam
from steel.life import ALIGNMENT
from steel.model.decoding import Sampling
from steel.model.folder import open_model
from steel.tokenizer.chat import render
from steel.tokenizer.texts import option_lines

from . import command
from .ledger import Ledger

STEPS, COPIES, SUMS = 80, 12, 100
"""Steps of fine-tuning [steps]; copies of each leaked exam question; unseen sums in a language."""
ARMS: dict[str, dict] = {
    "mix": {},
    "zh": {"languages": {"zh": 1.0}},
    "en": {"languages": {"en": 1.0}},
    "leaked": {"rows": "leaked"},
    "direct": {"rows": "direct"},
    "replay 2": {"replay_rows": 2, "replay_weight": 0.3},
    "replay 4": {"replay_rows": 4, "replay_weight": 0.3},
}
"""What each arm changes: settings of SFT, or the rows. The weight is that of preset laptop when the log was made."""
LANGUAGES = ("zh", "en")
HALVES = {"leaked": 0, "kept": 1}
"""Held-out people by the parity of their number: those whose questions an arm may see, and the others."""


class Life:
    """A finished life, and what is asked of its models."""

    def __init__(self, folder: Path, out: Path):
        self.folder, self.out = folder, out
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        self.cfg: Config = from_dict(config)
        self.world = build_world(self.cfg.world, self.cfg.seed)
        self.people = self.world.split("test")
        files = (self.folder / "world" / "post" / name for name in ALIGNMENT["sft"])
        self.files = list(files)

    @property
    def key(self) -> dict:
        """What tells this life from others in the ledger."""
        return {"life": self.cfg.seed, "vocabulary": self.cfg.model.vocab_size}

    # -- rows ----------------------------------------------------------------------------------------------------

    def rows(self, kind: str) -> list[Path]:
        """Files of an arm's rows."""
        if not kind:
            return self.files
        made = self.out / f"{kind}.jsonl"
        if kind == "direct":
            write_rows(made, filter(None, (direct(row) for _, row in read_rows(self.files[0]))))
            return [made, *self.files[1:]]
        write_rows(made, (row for q in self.questions("leaked", "asked") for row in leaked(q)))
        return [*self.files, *[made] * COPIES]

    def questions(self, half: str, form: str) -> list:
        """The exam's questions about single facts of half the held-out people, as they stand or in trained words."""
        found = []
        for q in load_exam(self.folder / "world" / "exam"):
            attribute, _, lang = q.subject.rpartition("_")
            if attribute not in self.world.attributes or int(q.id) % 2 != HALVES[half]:
                continue
            if form == "rephrased":
                words = table(lang)["attributes"][attribute]["questions"][0]
                q = dataclasses.replace(q, question=fill(words, self.people[int(q.id)], lang))
            found.append(q)
        return found

    # -- questions -----------------------------------------------------------------------------------------------

    @cached_property
    def asked(self) -> dict[tuple[str, str], list[Message]]:
        """Free questions about held-out people, and sums that no text holds, by (what, language)."""
        found = {}
        for lang in LANGUAGES:
            facts = found["free", lang] = []
            for person in self.people:
                for attribute in self.world.attributes:
                    value = self.world.value(person, attribute, lang)
                    wrong = tuple(v for v in self.world.pools[attribute][lang] if v != value)
                    words = table(lang)["attributes"][attribute]["questions"][0]
                    said = (fill(words, person, lang),)
                    facts.append(Message("free", lang, said, right=(value,), wrong=wrong))
            words = table(lang)["arithmetic"]["questions"][0]
            found["sums", lang] = [
                Message("sums", lang, (words.format(a=a, b=b),), number=a + b)
                for a, b in self.unseen
            ]
        return found

    @cached_property
    def unseen(self) -> list[tuple[int, int]]:
        """Pairs of two-digit numbers whose sum no training row and no exam asks for."""
        taken = {tuple(sorted(p)) for pairs in self.world.pairs.values() for p in pairs}
        free = [(a, b) for a in range(11, 100) for b in range(a, 100) if (a, b) not in taken]
        return stream(self.cfg.seed, "lessons").sample(free, SUMS)

    def measure(self, model_folder: Path) -> dict:
        """Everything that is asked of one model (shares in 1, bits per byte)."""
        model, tok = open_model(model_folder, device="cpu")
        home, row = self.folder / "world", {}
        exam = run_exam(model, tok, home / "exam", scoring=("text", "generate"), max_new_tokens=48)
        row["exam"] = {
            group: {way: round(x[way], 4) for way in ("text", "generate", "written")}
            for group, x in exam["groups"].items()
        }
        for (what, lang), asked in self.asked.items():
            said = converse(model, tok, asked, Sampling(max_new_tokens=40))
            foreign = [has_hanzi(a["reply"]) != (lang == "zh") for a in said["answers"]]
            refused = [a["reply"] == table(lang)["unknown"] for a in said["answers"]]
            shares = {"right": said["accuracy"], "foreign": mean(foreign), "refused": mean(refused)}
            row.setdefault(what, {})[lang] = {k: round(v, 4) for k, v in shares.items()}
        known = cloze(model, tok, load_cloze(home / "exam" / "cloze.jsonl"))
        row["cloze"] = {k: round(v["accuracy"], 4) for k, v in known["by_language"].items()}
        text = bits_per_byte(model, tok, load_domains(home / "heldout"))["domains"]
        row["bits_per_byte"] = {k: round(v["bpb"], 4) for k, v in text.items()}
        talk = converse(model, tok, messages(home, self.cfg.seed))
        row["conversation"] = round(talk["accuracy"], 4)
        row["gaming"] = {half: self._gaming(model, tok, half) for half in HALVES}
        return row

    def _gaming(self, model, tok, half: str) -> dict:
        """One half's questions as they stand, with the options in another order, and in trained words."""
        found = {}
        for form in ("asked", "reordered", "rephrased"):
            folder = write_exam(self.out / "exams" / half / form, self.questions(half, form))
            how = {"scoring": ("letter", "generate"), "max_new_tokens": 48, "suite": "world"}
            how |= {"shuffle_seed": 1} if form == "reordered" else {}
            scores = run_exam(model, tok, folder, **how)["scoring"]
            found[form] = {way: round(s["accuracy"], 4) for way, s in scores.items()}
        return found


def mean(values: list) -> float:
    """Mean."""
    return sum(values) / len(values)


def direct(row: dict) -> dict | None:
    """A row whose sum is said at once; None for a sum with options, whose answer would still be worked."""
    if row["kind"] == "sum":
        said = row["messages"][0]["content"]
        a, b = map(int, re.findall(r"\d+", said))
        words = table(row["lang"])["arithmetic"]["answers"][0]
        answer = {"role": "assistant", "content": words.format(a=a, b=b, s=a + b)}
        return row | {"messages": [row["messages"][0], answer]}
    worked = any("+" in m["content"] for m in row["messages"] if m["role"] == "assistant")
    return None if worked else row


def leaked(q) -> list[dict]:
    """An exam question as the exam words it, and its letter."""
    turns = ("user", f"{q.question}\n{option_lines(q.options)}"), ("assistant", q.answer)
    lang = "zh" if q.chinese else "en"
    messages = [{"role": role, "content": text} for role, text in turns]
    return [{"messages": messages, "kind": "leaked", "lang": lang}]


def write_exam(folder: Path, questions: list) -> Path:
    """The questions as an exam folder."""
    subjects: dict[str, list] = {}
    for q in questions:
        subjects.setdefault(q.subject, []).append((q.id, q.question, *q.options, q.answer))
    (folder / "test").mkdir(parents=True, exist_ok=True)
    for subject, rows in subjects.items():
        with open(folder / "test" / f"{subject}.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("id", "question", *"ABCD", "answer"), *rows])
    return folder


def tune(life: Life, arm: str, seed: int) -> dict:
    """Fine-tune the life's base in one arm and measure what became of it."""
    change, begin = dict(ARMS[arm]), time.process_time()
    files = life.rows(change.pop("rows", ""))
    change = {"replay_rows": 0} | change
    sft = dataclasses.replace(life.cfg.sft, steps=STEPS, checkpoint_every=0, eval_every=0, **change)
    cfg = dataclasses.replace(life.cfg, seed=seed, sft=sft)
    replay = life.folder / "shards" if sft.replay_rows else None
    folder = life.out / f"{arm}-{seed}".replace(" ", "-")
    model = train("sft", cfg, life.folder / "pretrain" / "hf", files, folder, replay=replay)
    trained = time.process_time()
    row = life.measure(model)
    shutil.rmtree(folder)
    seconds = {"sft": trained - begin, "asked": time.process_time() - trained}
    return row | {"cpu_seconds": {k: round(v, 1) for k, v in seconds.items()}}


def example(life: Life) -> dict:
    """One leaked question, its other forms, and a sum both ways: what a reader has to see."""
    asked, rephrased = (life.questions("leaked", form)[0] for form in ("asked", "rephrased"))
    sums = [row for _, row in read_rows(life.files[0]) if row["kind"] == "sum"]
    return {
        "leaked": render(leaked(asked)[0]["messages"]),
        "rephrased": rephrased.question,
        "worked": sums[0]["messages"],
        "direct": direct(sums[0])["messages"],
    }


def main(out: Path, lives: str, seeds: int = 3, arms: str = "") -> None:
    """Every arm under several seeds of SFT, from each life: OUT/lessons.json; a killed run goes on."""
    same = {"steps": STEPS, "copies": COPIES, "sums": SUMS, "arms": ARMS}
    ledger = Ledger(out / "lessons.json", "lessons of fine-tuning", same)
    for folder in map(Path, lives.split(",")):
        life = Life(folder, out / "work" / folder.name)
        if "example" not in ledger.content:
            ledger.write(example=example(life), asked=len(life.asked["free", "zh"]))
        if ledger.find(**life.key, arm="base") is None:
            base = life.measure(folder / "pretrain" / "hf")
            ledger.add({**life.key, "arm": "base", "seed": 0, **base})
        for seed in range(1, seeds + 1):
            for arm in arms.split(",") if arms else ARMS:
                key = {**life.key, "arm": arm, "seed": seed}
                if ledger.find(**key) is None:
                    row = ledger.add({**key, **tune(life, arm, seed)})
                    shown = {k: row[k] for k in ("free", "sums", "bits_per_byte", "cpu_seconds")}
                    print(*key.values(), json.dumps(shown), flush=True)


if __name__ == "__main__":
    command(main)
