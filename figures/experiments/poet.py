"""The best small model of classical poetry that some minutes of one GPU buy, and twenty poems that nobody chose.

    python -m figures.experiments.poet --prepare-from raw_poetry --data carry    on a CPU: tokenizer, shards, size
    python -m figures.experiments.poet --data carry --run poet --minutes 8       on the GPU; again after a time limit
    python -m figures.experiments.poet --data carry --run poet --read            sample again from what was trained

The speed of this machine decides the number of steps, so that warm-up, plateau and decay fill the time. RUN/poet.json
gets held-out loss, tokens per second, twenty samples (titles of held-out poems, temperature 0.8, nucleus 0.95) and how
many of them keep a regulated form; the weights stay in RUN/hf. The recipe is preset `poet`: run it to have them again.
"""

from __future__ import annotations

import json
import re
import statistics
import time
from pathlib import Path

import numpy as np

from steel.config import Config, UserError, load
from steel.corpus.instructions import text_form
from steel.data.shards import ShardSet
from steel.machine import commit, hardware, packages
from steel.model.decoding import Sampling, generate
from steel.model.folder import open_model, stop_ids
from steel.runlog import atomic_write
from steel.tokenizer import bpe

from . import command
from .question import prepare as carry
from .runs import train_run
from .trainer_check import load_like, trainer_check

SAMPLES = 20
CALIBRATION_STEPS = 40
RESERVE = 60.0
"""Seconds kept for compiling again, the last save and the samples."""


def steps_for(seconds: float, tokens_per_s: float, cfg: Config) -> int:
    """Whole optimizer steps that fit into the time. UserError when fewer than a hundred do."""
    steps = int(seconds * tokens_per_s / (cfg.train.batch_size * cfg.data.sequence_length))
    if steps < 100:
        raise UserError(f"only {steps} steps fit into {seconds:.0f} s here; give more --minutes")
    return steps


def planned_steps(cfg: Config, shards: Path, run: Path, minutes: float) -> int:
    """The steps of this run: as planned by an earlier start, else what a calibration says; RUN/plan.json keeps it.

    Before the calibration the trainer is checked; both take from the minutes.
    """
    plan = run / "plan.json"
    if not plan.exists():
        began = time.monotonic()
        trainer_check(cfg, shards, run / "check", "poet")
        print(f"self-check: it trains, saves and goes on, {time.monotonic() - began:.0f} s")
        short = load_like(
            cfg, steps=CALIBRATION_STEPS, checkpoint_every=0, eval_every=0, log_every=5
        )
        done = train_run(short, shards, run / "calibration")
        speed = statistics.median(row["tokens_per_s"] for row in done.steps[-4:])
        left = 60 * minutes - (time.monotonic() - began) - RESERVE
        steps = steps_for(left, speed, cfg)
        atomic_write(plan, json.dumps({"steps": steps, "tokens_per_s": speed}))
    return json.loads(plan.read_text(encoding="utf-8"))["steps"]


def titles(shards: Path, tokenizer, count: int = SAMPLES) -> list[str]:
    """Heads (title, and the line of dynasty and author) of the first held-out poems."""
    held_out = ShardSet.open(shards, "validation")
    tokens = np.empty(held_out.tokens, held_out.dtype)
    held_out.read(0, tokens)
    poems = np.split(tokens, np.flatnonzero(tokens == held_out.separator_id) + 1)
    heads = (tokenizer.decode(ids[:-1].astype(int)).split("\n")[:2] for ids in poems if len(ids))
    return ["\n".join(head) + "\n" for head in heads if len(head) == 2][:count]


def sample(run: Path, shards: Path, seed: int = 1) -> list[dict]:
    """Twenty poems on held-out titles, none left out: {"head", "poem", "form", "even"}."""
    model, tokenizer = open_model(run / "hf")
    heads = titles(shards, tokenizer)
    prompts = [bpe.encode_text(tokenizer, head) for head in heads]
    sampling = Sampling(temperature=0.8, top_p=0.95, max_new_tokens=160, seed=seed)
    rows = []
    for head, done in zip(
        heads, generate(model, prompts, stop_ids(tokenizer), sampling), strict=True
    ):
        poem = tokenizer.decode(done.ids, skip_special_tokens=True).strip()
        rows.append(
            {"head": head.strip(), "poem": poem, "form": text_form(poem), "even": even(poem)}
        )
    return rows


def even(poem: str) -> bool:
    """Whether all lines have the same number of characters, and there are at least two."""
    lines = [piece for piece in re.split(r"[，。！？；、\s]+", poem) if piece]
    return len(lines) > 1 and len({len(line) for line in lines}) == 1


def main(
    overrides: list[str],
    data: Path = Path("carry"),
    run: Path = Path("poet"),
    prepare_from: Path = Path(),
    preset: str = "poet",
    minutes: float = 8.0,
    read: bool = False,
) -> int:
    """Train on poems for some minutes and sample twenty; the same command goes on where it stopped.

    data: what --prepare-from (a folder of raw poetry) wrote. run: its folder, and poet.json's. read: only sample.
    """
    cfg, shards = load(preset, overrides), data / "shards"
    if prepare_from != Path():
        from steel.corpus.pipeline import prepare as prepare_documents  # needs the readers

        prepare_documents(prepare_from, data.with_name(data.name + "-docs"))
        size = carry(data.with_name(data.name + "-docs"), data, cfg)
        print(f"{data}: {size / 2**20:.1f} MiB to carry")
        return 0
    found = {"kind": "poet", "commit": commit(), "packages": packages(), "hardware": hardware()}
    if not read:
        own = load_like(cfg, steps=planned_steps(cfg, shards, run, minutes))
        done = train_run(own, shards, run)
        found |= {
            "config": own.to_dict(),
            "seconds": done.seconds,
            "tokens": own.train.steps * own.train.batch_size * own.data.sequence_length,
            "tokens_per_s": statistics.median(row["tokens_per_s"] for row in done.steps),
            "curve": [[r["tokens"], r["loss"]] for r in done.evals],
        }
    found["samples"] = rows = sample(run, shards)
    atomic_write(run / "poet.json", json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    kept = sum(bool(row["form"]) for row in rows)
    print("\n\n".join(f"{row['head']}\n{row['poem']}" for row in rows))
    print(
        f"\n{kept} of {len(rows)} keep a regulated form, {sum(r['even'] for r in rows)} have even lines"
    )
    return 0


if __name__ == "__main__":
    command(main)
