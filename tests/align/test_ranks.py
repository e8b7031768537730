"""Two processes with FSDP on gloo train what one process trains."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from align_world import config, preference_rows, sft_rows, turn, write

from steel.align.stage import run
from steel.runlog import read_log

STAGES = {
    "sft": {"steps": 3, "sequence_length": 96, "batch_size": 8, "micro_batch_size": 2},
    "reward": {"steps": 3, "batch_size": 8, "micro_batch_size": 2},
    "dpo": {"steps": 3, "batch_size": 8, "micro_batch_size": 2},
    "grpo": {
        "steps": 3,
        "batch_size": 4,
        "micro_batch_size": 2,
        "group_size": 8,
        "max_new_tokens": 6,
        "kl_beta": 0.05,
        "updates_per_rollout": 2,
    },
}


def train(base: Path, data: Path, out: Path) -> None:
    """All stages from the same base model; also the body of each rank."""
    common = {"log_every": 1, "learning_rate": 3e-3, "warmup_steps": 1}
    cfg = config(**{name: {**fields, **common} for name, fields in STAGES.items()})
    for name in STAGES:
        run(name, cfg, base, data / f"{name}.jsonl", out / name)


def test_two_ranks_train_what_one_trains(base, tmp_path, monkeypatch):
    write(tmp_path / "sft.jsonl", sft_rows(40))
    for name in ("dpo", "reward"):
        write(tmp_path / f"{name}.jsonl", preference_rows(20))
    write(
        tmp_path / "grpo.jsonl",
        [{"messages": [turn("user", q)], "answer": "7", "kind": "sum"} for q in "甲乙丙丁戊己"],
    )
    train(base[0], tmp_path, tmp_path / "one")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, base[0], tmp_path, tmp_path / "two"],
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "RANK": r,
                "LOCAL_RANK": r,
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
        )
        for r in "01"
    ]
    for rank in ranks:
        _, errors = rank.communicate(timeout=400)
        assert rank.returncode == 0, errors[-2000:]
    for name in STAGES:
        one, two = (read_log(tmp_path / n / name / "log.jsonl", "step") for n in ("one", "two"))
        assert len(one) == len(two) == 3
        files, sharded = (
            {p.name: p.read_bytes() for p in (tmp_path / n / name / "hf").iterdir()}
            for n in ("one", "two")
        )
        assert files.keys() == sharded.keys() and files["config.json"] == sharded["config.json"]
        for a, b in zip(one, two, strict=True):
            keys = sorted(
                a.keys()
                & {"loss", "grad_norm", "margin", "accuracy", "reward", "length", "entropy", "kl"}
            )
            assert [b[k] for k in keys] == pytest.approx(
                [a[k] for k in keys], rel=1e-4, abs=1e-6
            ), (name, keys)


if __name__ == "__main__":
    train(*map(Path, sys.argv[1:]))
