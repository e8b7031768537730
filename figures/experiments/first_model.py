"""Chapter 00's first model under other seeds: another town, another vocabulary, another beginning.

    python -m figures.experiments.first_model 2 3      adds these seeds to figures/runs/first-model.json

The chapter itself trains the first seed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from steel.config import load
from steel.evaluation.cloze import cloze, load_cloze
from steel.life import Life
from steel.runlog import read_log
from steel.tokenizer import bpe
from steel.tokenizer.bpe import encode_text

LOG = Path(__file__).resolve().parents[1] / "runs" / "first-model.json"
STEPS, EVERY = 104, 13  # of the first model; between two examinations


def facts_said(run: Path) -> Callable:
    """measure(model, step) for `steel.train.pretrain`: facts of run/world that the model says, by language."""

    @cache  # neither exists before the run begins
    def opened() -> tuple:
        rows = load_cloze(run / "world" / "exam" / "cloze.jsonl")
        rows = [{key: row[key] for key in ("prompt", "answer", "lang")} for row in rows]
        return bpe.load(run / "tokenizer"), rows

    def ask(model, step: int) -> dict:
        said = cloze(model, *opened())["by_language"]
        return {f"facts_{name}": round(part["accuracy"] * part["n"]) for name, part in said.items()}

    return ask


def right_kind(model, tokenizer, rows: list[dict]) -> tuple[int, int]:
    """How many prompts the model goes on with some candidate (a city where a city is asked for), and with the true one.

    Plain greedy continuation of the prompt as it is encoded."""
    kind = right = 0
    for row in rows:
        ids_BT = torch.tensor([encode_text(tokenizer, row["prompt"])])
        out_BT = model.generate(ids_BT, max_new_tokens=10, do_sample=False, pad_token_id=0)
        said = tokenizer.decode(out_BT[0, ids_BT.shape[1] :], skip_special_tokens=True).strip()
        kind += any(said.startswith(candidate) for candidate in row["candidates"])
        right += said.startswith(row["answer"].strip())
    return kind, right


def examined(run: Path) -> list[dict]:
    """Step, tokens, held-out loss [nats/token] and facts at each examination of a run."""
    keys = ("step", "tokens", "loss", "facts_zh", "facts_en")
    rows = read_log(run / "pretrain" / "log.jsonl", "eval")
    return [{key: row.get(key, 0) for key in keys} for row in rows]


def way_down(rows: list[dict]) -> list[float]:
    """Share of the held-out loss's whole descent that is done at each examination [1]."""
    first, last = rows[0]["loss"], rows[-1]["loss"]
    return [(first - row["loss"]) / (first - last) for row in rows]


def reached(rows: list[dict], share: float) -> int:
    """Index of the first examination at which `share` of the descent is done."""
    return next(k for k, done in enumerate(way_down(rows)) if done >= share)


def others() -> dict[str, list[dict]]:
    """seed → examinations of the committed runs."""
    return json.loads(LOG.read_text(encoding="utf-8"))


def main(seeds: list[str]) -> None:
    known = others() if LOG.exists() else {}
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            settings = [f"seed={seed}", f"train.eval_every={EVERY}", "train.checkpoint_every=0"]
            settings.append(f"train.steps={STEPS}")
            life = Life(load("cpu", settings), Path(folder) / "run")
            life.open()
            for name in ("world", "documents", "tokenizer", "shards"):
                getattr(life, f"make_{name}")()
            life.pretrain(measure=facts_said(life.run), prompts=None)
            known[seed] = examined(life.run)
        LOG.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
