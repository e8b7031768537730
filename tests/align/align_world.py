"""A toy town for the alignment tests: who lives where, as dialogues, preference pairs and RL prompts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from steel.align.stage import Job
from steel.config import Config, ModelConfig
from steel.model import build
from steel.model.folder import open_model
from steel.tokenizer import bpe
from steel.train.parallel import World
from steel.train.run_folder import RunFolder

CITIES = ["云州", "青岩", "白港", "松山", "海宁", "石桥", "Norfell", "Eastmere"]
SURNAMES, GIVEN = "林陈赵周吴郑王冯", "晓雨晴明远山海川月星"


def people(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """n (name, city) pairs."""
    rng = np.random.default_rng(seed)
    names = [a + b + c for a in SURNAMES for b in GIVEN for c in GIVEN]
    return [
        (names[i], CITIES[int(rng.integers(len(CITIES)))]) for i in rng.permutation(len(names))[:n]
    ]


def turn(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def sft_rows(n: int, seed: int = 0) -> list[dict]:
    """Dialogues of one to three question-answer rounds."""
    rng, rows, known = np.random.default_rng(seed + 1), [], people(max(n // 8, 4), seed)
    for _ in range(n):
        messages = []
        for _ in range(int(rng.choice([1, 1, 2, 3]))):
            name, city = known[int(rng.integers(len(known)))]
            messages += [
                turn("user", f"{name}住在哪里？"),
                turn("assistant", f"{name}住在{city}。"),
            ]
        rows.append({"messages": messages, "kind": "qa", "lang": "zh"})
    return rows


def preference_rows(n: int, seed: int = 0) -> list[dict]:
    rng, rows, known = np.random.default_rng(seed + 2), [], people(max(n // 8, 4), seed)
    for _ in range(n):
        name, city = known[int(rng.integers(len(known)))]
        wrong = CITIES[(CITIES.index(city) + int(rng.integers(1, len(CITIES)))) % len(CITIES)]
        rows.append(
            {
                "messages": [turn("user", f"{name}住在哪里？")],
                "chosen": f"{name}住在{city}。",
                "rejected": f"{name}住在{wrong}。",
                "kind": "wrong_value",
                "lang": "zh",
            }
        )
    return rows


def rl_rows(n: int, seed: int = 0) -> list[dict]:
    return [
        {
            "messages": [turn("user", f"{name}住在哪里？")],
            "answer": city,
            "options": [],
            "kind": "qa",
            "lang": "zh",
        }
        for name, city in people(n, seed)
    ]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8"
    )
    return path


def base_model(
    folder: Path,
    hidden_size: int = 32,
    layers: int = 2,
    vocab_size: int = 400,
    seed: int = 0,
    **fields,
):
    """An untrained model and a tokenizer in a Hugging Face folder; returns (folder, model, tokenizer)."""
    texts = [m["content"] for row in sft_rows(64) for m in row["messages"]] + [
        "user\nassistant\n",
        *CITIES,
    ]
    tokenizer = bpe.train(texts, vocab_size)
    cfg = ModelConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 3,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        **fields,
    )
    build(cfg, seed=seed).save_pretrained(folder)
    bpe.save(tokenizer, folder)
    return folder, *open_model(folder, device="cpu")


def awake(feed_forward: str, seed: int = 0):
    """A model in fp64 with perturbed weights, so that no layer is close to zero; 16-token segments."""
    cfg = ModelConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        feed_forward=feed_forward,
        num_experts=3,
        num_shared_experts=1,
        segment_length=16,
    )
    model = build(cfg, seed=seed, dtype=torch.float64).eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return model


def config(**stages: dict) -> Config:
    """A Config whose stages have the given fields: config(sft={"steps": 3})."""
    cfg = Config()
    for name, fields in stages.items():
        for key, value in fields.items():
            assert hasattr(getattr(cfg, name), key), key
            setattr(getattr(cfg, name), key, value)
    return cfg


def job_of(base, name: str, rows: list[dict], folder: Path, world: World | None = None, **fields):
    """The Job of a stage on the model of `base`, as `stage.run` makes it from files."""
    source, model, tokenizer = base
    where = (RunFolder(folder), world or World())
    cfg, facts = config(**{name: fields}), {"sha256": repr(rows)}
    return Job(name, cfg, source, rows, facts, model, tokenizer, *where)
