"""The stage of chapter 14: a base model that has only read, and what fine-tuning with other masks makes of it."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

from steel.align import sft
from steel.align.stage import Job
from steel.align.stage import run as train
from steel.config import Config, load
from steel.documents import read_rows, write_rows
from steel.evaluation.conversation import Message, converse
from steel.evaluation.perplexity import bits_per_byte, load_domains
from steel.life import Life
from steel.model.decoding import Sampling
from steel.model.folder import open_model
from steel.tokenizer.chat import encode_chat
from steel.train.parallel import World
from steel.train.run_folder import RunFolder

TOY = [
    "world.people=24", "world.biographies_per_person=30", "world.arithmetic_problems=100", "world.questions=worked",
    "world.question_share=0", "model.hidden_size=64", "model.intermediate_size=192", "model.num_hidden_layers=2",
    "data.sequence_length=128", "train.steps=130", "train.eval_every=0", "train.checkpoint_every=0",
    "sft.steps=40", "sft.batch_size=8", "sft.micro_batch_size=8", "sft.checkpoint_every=0", "sft.replay_weight=1.0",
    "sft.learning_rate=2e-3", "sft.muon_learning_rate=0.015",
]  # fmt: skip
"""A town without a single question among its documents; 40 steps of 8 packed rows after 130 of reading."""
KINDS = ("qa", "choice", "who", "hop2", "hop2_choice")
"""Rows it is fine-tuned on, beside dialogues of several turns; strangers and sums are left to larger models."""
ASKED = 40
"""Held-out questions that are asked of a model."""


def settings(*more: str) -> Config:
    """The configuration of the toy, with overrides."""
    return load("cpu", [*TOY, *more])


def base(run: Path, *more: str) -> Life:
    """A town, its vocabulary and shards, a model that has read them, and rows: run/pretrain/hf, run/facts.jsonl.

    more: overrides of the toy's settings.
    """
    life = Life(settings(*more), run)
    with mock.patch("steel.life._say"):
        life.open()
        for name in ("world", "documents", "tokenizer", "shards"):
            life.stage(name, getattr(life, f"make_{name}"))
        life.stage("pretrain", life.pretrain)
    rows = (row for _, row in read_rows(life.post / "sft.jsonl") if row["kind"] in KINDS)
    write_rows(run / "facts.jsonl", rows)
    return life


def files(life: Life) -> list[Path]:
    """What it is fine-tuned on."""
    return [life.run / "facts.jsonl", life.post / "multi_turn.jsonl"]


def everything(tok, messages: list[dict]) -> tuple[list[int], list[int]]:
    """`encode_chat` with a loss on every token."""
    ids, _ = encode_chat(tok, messages)
    return ids, [1] * len(ids)


def without_end(tok, messages: list[dict]) -> tuple[list[int], list[int]]:
    """`encode_chat` with a loss on what the assistant says, and none on the token that ends it."""
    ids, mask = encode_chat(tok, messages)
    end = tok.convert_tokens_to_ids("<|im_end|>")
    return ids, [int(m and i != end) for i, m in zip(ids, mask, strict=True)]


MASKS = {"answers": encode_chat, "everything": everything, "no end": without_end}


def tune(life: Life, name: str, masks: str = "answers", replay: int = 0) -> Path:
    """Fine-tune the base with one of MASKS and some rows of text in each step; the model's folder."""
    cfg = settings(f"sft.replay_rows={replay}", f"seed={life.cfg.seed}")
    shards = life.run / "shards" if replay else None
    where = (life.run / "pretrain" / "hf", files(life), life.run / name)
    with mock.patch.object(sft, "encode_chat", MASKS[masks]):
        return train("sft", cfg, *where, replay=shards)


def judge(life: Life, folder: Path) -> dict:
    """{"bits": bits per byte by domain of held-out text, "ended": of ASKED answers, "answers"}.

    Domain dialogue is scored on what the assistant says, without the token that ends it.
    """
    model, tok = open_model(folder, device="cpu")
    held = life.run / "world" / "heldout"
    bits = bits_per_byte(model, tok, load_domains(held))["domains"]
    rows = [row for _, row in read_rows(held / "dialogue.jsonl")][:ASKED]
    asked = [Message("talk", row["lang"], (row["messages"][0]["content"],)) for row in rows]
    said = converse(model, tok, asked, Sampling(max_new_tokens=48))
    found = {"bits": {name: d["bpb"] for name, d in bits.items()}}
    return found | {"ended": said["n"] - said["endless"], "answers": said["answers"]}


def counts(life: Life, *more: str) -> dict:
    """What a run's log says of the rows under these settings, without training."""
    cfg = settings(*more)
    rows = [row for file in files(life) for _, row in read_rows(file)]
    model, tok = open_model(life.run / "pretrain" / "hf", device="cpu")
    job = Job("sft", cfg, life.run, rows, {}, model, tok, RunFolder(life.run / "counted"), World())
    found = sft.encode_dialogues(job)
    return {
        "long": dict(job.long),
        "dialogues": len(found),
        "answer_tokens": int(found.answer.sum()),
    }
