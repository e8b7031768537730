"""One pretraining run as a row of an experiment: `steel.train.pretrain` like any other run, and what its log says."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from steel.config import Config, UserError
from steel.runlog import read_log
from steel.train.pretrain import pretrain


@dataclass
class Trained:
    """What a run left: its log by kind, and what it took [s]."""

    header: dict
    steps: list[dict]
    evals: list[dict]
    seconds: float
    cpu_seconds: float

    @property
    def score(self) -> dict:
        """The evaluation after the last step: `loss` [nats/token], `by_source`."""
        return self.evals[-1]


def train_run(cfg: Config, data: Path | str, folder: Path | str, **options) -> Trained:
    """Pretrain `cfg` on the shards in `data`; a killed run goes on from its checkpoint in `folder`.

    Raises UserError for shards without a validation split, on which every row is judged.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    pretrain(cfg, data, folder, **options)
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    log = read_log(Path(folder) / "log.jsonl")
    evals = [r for r in log if r["kind"] == "eval" and "loss" in r]
    if not evals or evals[-1]["step"] != cfg.train.steps:
        raise UserError(f"{data} holds no validation documents; pack it with --hold-out above 0")
    header = next(r for r in log if r["kind"] == "header")
    steps = [r for r in log if r["kind"] == "step"]
    return Trained(header, steps, evals, round(seconds, 1), round(cpu_seconds, 1))


def town_shards(cfg: Config, folder: Path | str) -> Path:
    """Token shards of SteelTown for `cfg` in `folder`/shards, made by the stages of a life; what is done stays."""
    from steel.life import Life  # a GPU box trains rows on shards it was given

    life = Life(cfg, Path(folder))
    life.open()
    life.stage("world", life.make_world)
    life.stage("docs", life.make_documents)
    life.stage("tokenizer", life.make_tokenizer)
    life.stage("shards", life.make_shards)
    return life.run / "shards"
