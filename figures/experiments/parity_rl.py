"""Chapter 16's centre: what reinforcement learning adds to a model that could do it all along.

    python -m figures.experiments.parity_rl --out runs/parity        parity-rl.json; 17 minutes of one core

After Tsilivis et al., arXiv 2510.11495. A row is 16 random bits, "=" and their parity; a share p of the answers is
worked (the 16 running parities), the others say the parity at once, which no small model computes in one step.
Next-token training imitates the mixture, so the likeliest answer is the short guess while p < 1/3: after the first
parity the end has (1 - p)/2 of the mass and going on has p. GRPO pays for the last bit alone.

Model, trainer and GRPO are the project's own; the reward and the prompts are all that is written here.
"""

from __future__ import annotations

import dataclasses
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from steel.align import grpo
from steel.align.stage import Job
from steel.config import Config, GRPOConfig, ModelConfig, PretrainConfig
from steel.data.batch import IGNORED, Batch
from steel.model.decoding import Completion, Sampling, generate, uniforms
from steel.model.folder import open_model
from steel.runlog import read_log
from steel.tokenizer.bpe import IM_END, SPECIAL_TOKENS
from steel.tokenizer.chat import TEMPLATE
from steel.train.build import make_model
from steel.train.loop import Stage, fit
from steel.train.parallel import World
from steel.train.pretrain import next_token_loss
from steel.train.run_folder import RunFolder

from . import command
from .ledger import Ledger

D = 16
"""Bits of an input [bits]."""
END, ZERO, EQUALS = 2, 3, 5
SHARES = (0.1, 0.25, 0.4)
PROBES = 512
"""Inputs that a probe asks about, the same at every probe; training may have drawn some of them [inputs]."""
VARIANTS: dict[str, dict] = {
    "no std": {"scale_rewards": "none"},
    "Dr. GRPO": {"scale_rewards": "none", "normalise": "constant"},
    "KL in the loss": {"kl_beta": 0.1},
    "KL in the reward": {"kl_beta": 0.1, "kl_in": "reward"},
}
"""What else is tried at p = 0.25, beside GRPO with the group's standard deviation."""
PENALTIES = (0.3, 0.45, 0.6, 0.7)
"""Rewards lost by D tokens beyond a guess's two; the break-even is 8/15 = .53: right less 15/16, or half right."""


def settings(seed: int, layers: int = 2, **grpo_settings) -> Config:
    """Everything of one row: 108,224 parameters, 150 steps of imitation, 40 of GRPO."""
    model = ModelConfig(
        vocab_size=8, hidden_size=64, intermediate_size=192, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=4, rope_theta=100.0, tie_word_embeddings=False, max_position_embeddings=64,
    )  # fmt: skip
    base = PretrainConfig(
        steps=150, batch_size=128, micro_batch_size=128, optimizer="muon", learning_rate=3e-3, warmup_steps=20,
        decay_fraction=0.3, weight_decay=0.0, checkpoint_every=0, keep_at_decay=False,
    )  # fmt: skip
    rl = {
        "steps": 40,
        "batch_size": 32,
        "micro_batch_size": 32,
        "group_size": 8,
        "max_new_tokens": D + 2,
    }
    rl |= {"learning_rate": 5e-4, "schedule": "constant", "warmup_steps": 3, "weight_decay": 0.0}
    rl |= {"checkpoint_every": 0, "eval_every": 4, "log_every": 1}
    return Config(seed=seed, model=model, train=base, grpo=GRPOConfig(**{**rl, **grpo_settings}))


@lru_cache(maxsize=1)
def tokenizer() -> PreTrainedTokenizerFast:
    """Eight entries: the three special tokens, 0, 1, =, and two that nothing uses."""
    words = {word: i for i, word in enumerate([*SPECIAL_TOKENS, "0", "1", "=", "<unk>"])}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    special = {"eos_token": IM_END, "pad_token": SPECIAL_TOKENS[0], "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=TEMPLATE, **special)


def inputs(n: int, *seed: int) -> np.ndarray:
    """(n, D) random bits."""
    return np.random.default_rng(seed).integers(0, 2, (n, D))


def prompt(bits: np.ndarray) -> list[int]:
    """Token ids of the bits and the sign."""
    return [*(ZERO + bits).tolist(), EQUALS]


def imitation(share: float, seed: int, step: int, n: int) -> Batch:
    """n rows, a share of them worked; the loss stands on the answers."""
    bits = inputs(n, seed, step)
    worked = np.random.default_rng([seed, step, 1]).random(n) < share
    ids = np.zeros((n, 2 * D + 2), dtype=np.int64)
    targets = np.full_like(ids, IGNORED)
    running = np.cumsum(bits, axis=1) % 2
    for r in range(n):
        answer = [*(ZERO + (running[r] if worked[r] else running[r, -1:])), END]
        row = [*prompt(bits[r]), *answer]
        ids[r, : len(row)] = row
        targets[r, D : len(row) - 1] = answer
    ids, targets = torch.from_numpy(ids), torch.from_numpy(targets)
    return Batch(ids, targets, torch.arange(ids.shape[1]).expand_as(ids))


def right(bits: np.ndarray, completion: Completion) -> bool:
    """Whether it ended, and its last bit is the parity."""
    said = completion.ids[:-1] if completion.finished else []
    return bool(said) and said[-1] == ZERO + int(bits.sum() % 2)


def reward(penalty: float = 0.0):
    """GRPO's reward: 1 for a right answer, less `penalty` for every D tokens beyond a guess's two."""

    def paid(row: dict, completion: Completion) -> tuple[float, bool]:
        correct = right(row["bits"], completion)
        return float(correct) - penalty * (len(completion.ids) - 2) / D, correct

    return paid


@torch.no_grad()
def probe(model, step: int = 0) -> dict:
    """Greedy and drawn answers to PROBES inputs, and the chain by itself.

    accuracy, long (of at least half a chain) and length [tokens, the end included] of both ways to answer;
    drawn_long_right, drawn_short_right: accuracy by form; chain: whole chains right, each bit given those before it.
    """
    bits, found = inputs(PROBES, 0), {}
    asked = [prompt(b) for b in bits]
    for name, temperature in (("greedy", 0.0), ("drawn", 1.0)):
        sampling = Sampling(temperature, max_new_tokens=D + 2)
        u_RN = uniforms(PROBES, D + 2, 1) if temperature else None
        done = generate(model, asked, {END, 0}, sampling, u_RN=u_RN)
        correct = np.array([right(b, c) for b, c in zip(bits, done, strict=True)])
        length = np.array([len(c.ids) for c in done])
        long = length > D // 2
        found |= {
            f"{name}_accuracy": correct.mean(),
            f"{name}_long": long.mean(),
            f"{name}_length": length.mean(),
        }
        if temperature:
            forms = {"long": long, "short": ~long}
            found |= {
                f"drawn_{k}_right": correct[of].mean() if of.any() else None
                for k, of in forms.items()
            }
    running = ZERO + np.cumsum(bits, axis=1) % 2
    ids = torch.from_numpy(np.concatenate((np.array(asked), running[:, :-1]), axis=1))
    said = model(input_ids=ids).logits[:, D:, ZERO : ZERO + 2].argmax(-1) + ZERO
    found["chain"] = (said.numpy() == running).all(-1).mean()
    return {k: None if v is None else round(float(v), 4) for k, v in found.items()}


def imitate(cfg: Config, share: float, folder: Path) -> Path:
    """The base model's folder; trained unless it is there."""
    if not (folder / "hf").is_dir():
        n = cfg.train.batch_size
        model, words = make_model(cfg, World()), tokenizer()
        step = Stage(
            "imitation", cfg.train, model, lambda step: [imitation(share, cfg.seed, step, n)], next_token_loss(),
            seed=cfg.seed, tokenizer=words, config=cfg.to_dict(),
        )  # fmt: skip
        fit(step, RunFolder(folder), World())
    return folder / "hf"


def reinforce(cfg: Config, base: Path, folder: Path, penalty: float = 0.0) -> dict:
    """GRPO from `base`: {"curve": a probe every few steps, "train": what GRPO logs at each}."""
    model, words = open_model(base, device="cpu")
    facts = {"sha256": f"parity {cfg.seed} {penalty}"}
    job = Job("grpo", cfg, base, [], facts, model, words, RunFolder(folder), World())
    fresh = inputs(cfg.grpo.steps * cfg.grpo.batch_size, cfg.seed, 1_000_000)
    prompts = [(prompt(bits), {"bits": bits}) for bits in fresh]
    stage = dataclasses.replace(grpo.stage(job, prompts, reward(penalty)), evaluate=probe)
    fit(stage, job.run, job.world, resume="never")
    log, noise = folder / "log.jsonl", ("kind", "time_s", "tokens", "loss")
    curve = [{k: v for k, v in r.items() if k not in noise} for r in read_log(log, "eval")]
    kept = ("step", "reward", "accuracy", "length", "zero_variance", "entropy", "kl")
    return {
        "curve": curve,
        "train": [{k: r[k] for k in kept if k in r} for r in read_log(log, "step")],
    }


def jobs(seeds: int) -> list[dict]:
    """The keys of all rows: the main table first, then its variants, penalties, and a base of one layer."""
    seeds = range(1, seeds + 1)
    rows = [("GRPO", p, 2, 0.0) for p in SHARES]
    rows += [(name, 0.25, 2, 0.0) for name in VARIANTS] + [
        ("penalty", 0.25, 2, x) for x in PENALTIES
    ]
    rows += [("GRPO", 0.25, 1, 0.0)]
    names = ("variant", "share", "layers", "penalty")
    return [dict(zip(names, row, strict=True)) | {"seed": seed} for row in rows for seed in seeds]


def main(out: Path, seeds: int = 3) -> None:
    """Every row under several seeds: out/parity-rl.json. A killed run goes on with the same call."""
    cfg = settings(0)
    same = {
        "bits": D,
        "probes": PROBES,
        "config": {k: v for k, v in cfg.to_dict().items() if k in ("model", "train", "grpo")},
    }
    ledger = Ledger(out / "parity-rl.json", "parity rl", same)
    for key in jobs(seeds):
        if ledger.find(**key) is None:
            own = settings(key["seed"], key["layers"], **VARIANTS.get(key["variant"], {}))
            name = f"{key['share']}-{key['layers']}-{key['seed']}"
            begin = time.process_time()
            base = imitate(own, key["share"], out / f"base-{name}")
            trained = time.process_time()
            slug = f"{key['variant']}-{key['penalty']}-{name}".replace(" ", "-")
            row = reinforce(own, base, out / slug, key["penalty"])
            seconds = {
                "imitation": round(trained - begin, 1),
                "rl": round(time.process_time() - trained, 1),
            }
            ledger.add({**key, "cpu_seconds": seconds, **row})
            ends = [
                (at["greedy_accuracy"], at["drawn_length"])
                for at in (row["curve"][0], row["curve"][-1])
            ]
            print(*key.values(), *ends, seconds, flush=True)


if __name__ == "__main__":
    command(main)
