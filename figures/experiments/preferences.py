"""Chapter 15: what pairs teach, pairs that somebody wrote and pairs of the model's own answers.

    python -m figures.experiments.preferences --out runs/preferences --lives runs/a,runs/b,runs/c

Each finished life of preset laptop gives its model after SFT, its written pairs and the pairs sampled from that model,
all of train people. Judged are: held-out pairs of both kinds about people of the exam (which answer is likelier, and
how both move), and the exam itself, written freely. A reward model learns from each kind of pairs as well.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from steel.align.dpo import Pair, pair_rows
from steel.align.logprobs import encode_answer, score_answers
from steel.align.reward import RewardModel
from steel.align.rows import check_preference, read_rows
from steel.align.samples import sample
from steel.align.stage import run as train_stage
from steel.align.stage import split
from steel.config import Config, from_dict
from steel.corpus.world.people import build_world
from steel.corpus.world.post import preference, reinforcement
from steel.documents import write_rows
from steel.evaluation.exam import run_exam
from steel.model.folder import open_model
from steel.runlog import read_log

from . import command
from .ledger import Ledger
from .life_seeds import of_people

ONCE = {"epochs": 1.0, "learning_rate": 5e-5}
TWICE = {"epochs": 2.0, "learning_rate": 2e-4}
ARMS: dict[str, tuple[str, dict]] = {
    "written": ("written", {**ONCE, "nll_weight": 0.0}),
    "written, NLL": ("written", {**ONCE, "nll_weight": 1.0}),
    "own": ("own", {**ONCE, "nll_weight": 0.0}),
    "own, NLL": ("own", {**ONCE, "nll_weight": 1.0}),
    "own, harder": ("own", {**TWICE, "nll_weight": 0.0}),
    "own, harder, NLL": ("own", {**TWICE, "nll_weight": 1.0}),
    "written, harder, NLL": ("written", {**TWICE, "nll_weight": 1.0}),
    "own, NLL alone": ("own", {**TWICE, "nll_weight": 1.0, "beta": 1e-6}),
}
"""Name -> whose pairs, and the settings of DPO; "own, harder, NLL" has the preset's. In the last arm the pairs do not
pull: what is left is fine-tuning on the model's own right answers."""
CURVE = ("step", "loss", "accuracy", "margin", "logprob_chosen", "logprob_rejected")


def held_out(cfg: Config, model: Path, out: Path) -> dict[str, Path]:
    """Pairs about the exam's people, written as the world writes them and sampled from `model`."""
    world = build_world(cfg.world, cfg.seed)
    theirs = replace(world, people=[replace(p, split="train") for p in world.split("test")])
    files = {"written": out / "written.jsonl", "own": out / "own" / "preference.jsonl"}
    if not files["own"].is_file():
        write_rows(files["written"], preference(theirs))
        write_rows(out / "rl.jsonl", reinforcement(theirs))
        sample(cfg, model, out / "rl.jsonl", out / "own")
    return files


def pairs_of(tokenizer, file: Path) -> list[Pair]:
    """The pairs of a file, tokenised."""
    rows, _ = read_rows(file, check_preference, "pairs")
    return [
        Pair(*(encode_answer(tokenizer, r["messages"], r[k]) for k in ("chosen", "rejected")), r)
        for r in rows
    ]


@torch.no_grad()
def logprobs(model, pairs: list[Pair]) -> torch.Tensor:
    """Summed log-probabilities of both answers of each pair, (P, 2) [nats]."""
    found = torch.zeros(len(pairs), 2)
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i].chosen[0]))
    for some in split(order, 64):
        found[some] = score_answers(model, pair_rows(pairs, some)).logprob.sum(-1).view(2, -1).T
    return found


def judge(folder: Path, cfg: Config, life: Path, files: dict[str, Path], before: dict) -> dict:
    """A model on held-out pairs and on the exam; `before` are the SFT model's log-probabilities, filled when empty."""
    model, tokenizer = open_model(folder, device="cpu")
    row: dict = {}
    for kind, file in files.items():
        now_P2 = logprobs(model, pairs_of(tokenizer, file))
        moved = (now_P2 - before.setdefault(kind, now_P2)).mean(0)
        row[kind] = {
            "pairs": len(now_P2),
            "accuracy": round(float((now_P2[:, 0] > now_P2[:, 1]).float().mean()), 4),
            "chosen_moved": round(float(moved[0]), 3),
            "rejected_moved": round(float(moved[1]), 3),
        }
    asked = {"scoring": ["generate"], "max_new_tokens": cfg.exam.max_new_tokens}
    exam = run_exam(model, tokenizer, life / "world" / "exam", **asked)
    people = exam["groups"]["people"]
    scores = {k: people[k] for k in ("n", "generate", "written") if k in people}
    replies = of_people(exam)["answers"]["generate"]
    scores["unparsed"] = round(replies.count("-") / len(replies), 4)
    return row | {"exam": scores}


def reward_accuracy(folder: Path, files: dict[str, Path]) -> dict[str, float]:
    """Share of held-out pairs of each kind whose chosen answer a reward model pays more; ties are half right."""
    model, tokenizer = RewardModel.from_pretrained(folder)
    found = {}
    for kind, file in files.items():
        pairs, right = pairs_of(tokenizer, file), 0.0
        with torch.no_grad():
            for some in split(range(len(pairs)), 64):
                chosen_P, rejected_P = model(pair_rows(pairs, some)).chunk(2)
                right += float(((chosen_P > rejected_P) + 0.5 * (chosen_P == rejected_P)).sum())
        found[kind] = round(right / len(pairs), 4)
    return found


def main(out: Path, lives: str) -> None:
    """All arms on each life: OUT/preferences.json. A killed run goes on with the same call."""
    ledger = Ledger(out / "preferences.json", "preferences", {"arms": ARMS})
    for life in map(Path, lives.split(",")):
        state = json.loads((life / "state.json").read_text(encoding="utf-8"))
        cfg = from_dict(state["asked"]["config"])
        seed, base, home = cfg.seed, life / "sft" / "hf", out / f"seed-{cfg.seed}"
        files, before = held_out(cfg, base, home), {}
        training = {
            "written": life / "world" / "post" / "preference.jsonl",
            "own": life / "samples" / "preference.jsonl",
        }
        begin = judge(base, cfg, life, files, before)
        if ledger.find(seed=seed, arm="SFT") is None:
            ledger.add({"seed": seed, "arm": "SFT", **begin})
        for arm, (pairs, other) in ARMS.items():
            if ledger.find(seed=seed, arm=arm) is None:
                own = replace(cfg, dpo=replace(cfg.dpo, log_every=1, checkpoint_every=0, **other))
                run = home / arm.replace(", ", "-")
                folder = train_stage("dpo", own, base, [training[pairs]], run)
                curve = [[r[k] for k in CURVE] for r in read_log(run / "log.jsonl", "step")]
                row = {"seed": seed, "arm": arm, **judge(folder, cfg, life, files, before)}
                print(ledger.add(row | {"curve": curve}) | {"curve": None}, flush=True)
        for pairs, file in training.items():
            arm = f"reward model, {pairs}"
            if ledger.find(seed=seed, arm=arm) is None:
                folder = train_stage("reward", cfg, base, [file], home / f"reward-{pairs}")
                print(
                    ledger.add({"seed": seed, "arm": arm, "pays": reward_accuracy(folder, files)})
                )


if __name__ == "__main__":
    command(main)
