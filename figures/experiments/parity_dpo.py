"""Chapter 15's toy: what a pair teaches is where its two answers part.

The base of chapter 16 has read answers to sixteen bits of which a quarter are worked, and is right half of the time.
Written pairs show a worked answer beside a copy of it that is spoilt, in one of three ways. Its own pairs are a right
and a wrong answer that it gave itself. All are learnt by the project's own DPO.

    python -m figures.experiments.parity_dpo --out runs/parity-dpo        parity-dpo.json; four minutes of one core
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from steel.align import dpo
from steel.align.dpo import Pair, pair_rows
from steel.align.logprobs import score_answers
from steel.align.stage import Job, split
from steel.config import Config, DPOConfig
from steel.model.decoding import Sampling, generate, uniforms
from steel.model.folder import open_model
from steel.runlog import read_log
from steel.train.loop import fit
from steel.train.parallel import World
from steel.train.run_folder import RunFolder

from . import command
from .ledger import Ledger
from .parity_rl import END, ZERO, D, imitate, inputs, probe, prompt, right, settings

GROUP = 8
"""Answers that the base gives to an input."""
SHARE, PAIRS, HELD = 0.25, 512, 256
"""Share of worked answers that the base has read; inputs that pairs are made from, and others that are only judged."""
SPOILT = ("a wrong bit", "stops halfway", "rambles on")


def config(seed: int, **given) -> Config:
    """Settings of a row: the base of `parity_rl`, then one pass of DPO over the pairs."""
    cfg = settings(seed)
    values = {
        "batch_size": 32,
        "micro_batch_size": 32,
        "learning_rate": 2e-4,
        "schedule": "constant",
    }
    values |= {
        "warmup_steps": 3,
        "weight_decay": 0.0,
        "checkpoint_every": 0,
        "eval_every": 0,
        "log_every": 1,
    }
    return dataclasses.replace(cfg, dpo=DPOConfig(**(values | given)))


def row(bits: np.ndarray, answer) -> tuple[list[int], int]:
    """A prompt and an answer, and where the answer starts."""
    return [*prompt(bits), *map(int, answer)], D + 1


def written(how: str, n: int, *seed: int) -> list[Pair]:
    """n pairs: the worked answer, and a copy in which a bit is wrong, half is missing, or the end is."""
    pairs = []
    for i, bits in enumerate(inputs(n, *seed)):
        chain = [int(b) for b in ZERO + np.cumsum(bits) % 2]
        flip = 1 + i % (D - 1)
        spoilt = {
            "a wrong bit": [*chain[:flip], 2 * ZERO + 1 - chain[flip], *chain[flip + 1 :]],
            "stops halfway": chain[: D // 2],
            "rambles on": [*chain, *chain[:4]],
        }[how]
        pairs.append(Pair(row(bits, [*chain, END]), row(bits, [*spoilt, END]), {"kind": how}))
    return pairs


@torch.no_grad()
def own(model, n: int, *seed: int) -> list[Pair]:
    """The first right and the first wrong of GROUP drawn answers to each of n inputs that got both."""
    bits, pairs = inputs(n, *seed), []
    asked = [prompt(b) for b in bits for _ in range(GROUP)]
    u_RN = uniforms(len(asked), D + 2, *seed)
    sampling = Sampling(1.0, max_new_tokens=D + 2)
    done = generate(model, asked, {END, 0}, sampling, u_RN=u_RN)
    for b, answers in zip(bits, split(done, GROUP), strict=True):
        ended = [a for a in answers if a.finished]
        sides = [
            next((a.ids for a in ended if right(b, a) is want), None) for want in (True, False)
        ]
        if None not in sides:
            pairs.append(Pair(*(row(b, ids) for ids in sides), {"kind": "own"}))
    return pairs


@torch.no_grad()
def logprobs(model, pairs: list[Pair]) -> torch.Tensor:
    """Summed log-probabilities of the chosen and the rejected answers, (P, 2) [nats]."""
    parts = [score_answers(model, pair_rows(pairs, some)) for some in split(range(len(pairs)), 128)]
    return torch.cat([part.logprob.sum(-1).view(2, -1).T for part in parts])


def prefer(cfg: Config, base: Path, folder: Path, pairs: list[Pair]):
    """The model after one pass of DPO over the pairs, and what each step measured."""
    model, words = open_model(base, device="cpu")
    facts = {"sha256": f"parity {cfg.seed} {folder.name} {len(pairs)}"}
    job = Job("dpo", cfg, base, [], facts, model, words, RunFolder(folder), World())
    fit(dpo.stage(job, pairs), job.run, job.world, resume="never")
    return model, read_log(folder / "log.jsonl", "step")


def both(kind: str, model, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs of a kind to learn from, and others to judge by."""
    sizes = ((PAIRS, seed, 7), (HELD, seed, 9))
    if kind == "own":
        return tuple(own(model, *size) for size in sizes)
    return tuple(written(kind, *size) for size in sizes)


def judged(model, held: list[Pair], before: torch.Tensor | None = None) -> dict:
    """Held-out pairs and the answers themselves: accuracy, moved [nats], and a `probe`."""
    now_P2 = logprobs(model, held)
    moved = (now_P2 - (now_P2 if before is None else before)).mean(0).tolist()
    found = {"pairs": round(float((now_P2[:, 0] > now_P2[:, 1]).float().mean()), 4)}
    found |= {"chosen_moved": round(moved[0], 3), "rejected_moved": round(moved[1], 3)}
    return found | probe(model)


def main(out: Path, seeds: int = 5) -> None:
    """Each kind of pairs under several seeds: OUT/parity-dpo.json. A killed run goes on with the same call."""
    ledger = Ledger(out / "parity-dpo.json", "parity dpo", {"share": SHARE, "pairs": PAIRS})
    for seed in range(1, seeds + 1):
        cfg = config(seed)
        base = imitate(cfg, SHARE, out / f"base-{seed}")
        model, _ = open_model(base, device="cpu")
        for kind in (*SPOILT, "own"):
            if ledger.find(seed=seed, kind=kind) is None:
                learn, held = both(kind, model, seed)
                before = logprobs(model, held)
                after, _ = prefer(cfg, base, out / f"{kind.replace(' ', '-')}-{seed}", learn)
                row = {"before": judged(model, held), "after": judged(after, held, before)}
                print(ledger.add({"seed": seed, "kind": kind, **row}), flush=True)


if __name__ == "__main__":
    command(main)
