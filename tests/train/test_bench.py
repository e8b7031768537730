"""The step benchmark runs the trainer's own loop and adds up."""

import json
import os
import subprocess
import sys

import pytest

from steel.config import UserError, load
from steel.plan import memory, memory_settings
from steel.train import bench
from steel.train.bench import PHASES, bench_step, render
from steel.train.parallel import World

SMALL = ["train.micro_batch_size=2", "data.sequence_length=32"]


def test_a_step_is_timed_by_phase(tmp_path):
    out = tmp_path / "step.json"
    report = bench_step(
        load("cpu", SMALL), steps=3, warmup=1, accumulation=2, device="cpu", out=out
    )
    assert json.loads(out.read_text()) == report
    assert (
        report["tokens_per_step"] == 2 * 2 * 32
        and report["accumulation"] == 2
        and len(report["losses"]) == 4
    )
    seconds = report["seconds"]
    assert 0 < seconds["forward_backward"] <= seconds["step"] and set(seconds) == {"step", *PHASES}
    assert report["tokens_per_s"] == pytest.approx(
        report["tokens_per_step"] / seconds["step"], rel=1e-2
    )
    causal, full = (report["mfu"][name] for name in ("executed_causal", "executed_full"))
    assert causal["peak"] is None and 0 < causal["measured"] < full["measured"]
    assert report["attention_share"] < 0.5, "preset cpu masks documents, three to a row here"
    assert sum(report["sent_bytes"].values()) == 0 and report["memory_bytes"] > 0
    text = render(report)
    assert "tokens/s" in text and "MFU seed" in text and "GiB" in text


def test_advice_names_what_fits_and_what_does_not(monkeypatch):
    sizes = {"memory": 10 * 2**30}
    monkeypatch.setattr(bench, "available_bytes", lambda world: sizes["memory"])
    cfg = load("gpu1", ["train.micro_batch_size=2", "train.activation_checkpointing=true"])
    estimate = memory(cfg.model, **memory_settings(cfg, 8, kernels="fused"))["total"]

    def advice(gib: float) -> list[str]:
        sizes["memory"] = gib * 2**30
        return bench._advice(cfg, World(0, 8), 64, round(estimate))

    assert "train.micro_batch_size=64 fits" in advice(800)[0]
    assert any("train.sharding=ddp fits" in line for line in advice(800))
    assert any("activation_checkpointing=false" in line for line in advice(800))
    assert "memory is short" in advice(0.1)[0]


def test_bytes_on_the_wire_are_those_of_the_ring(tmp_path):
    """Full sharding gathers every weight twice a micro-batch and scatters every gradient once."""
    out = tmp_path / "step.json"
    command = f"-m steel bench step --device auto --steps 1 --accumulation 2 --out {out}".split()
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = [sys.executable, *launch, *command, *SMALL]
    done = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(out.read_text())
    weights = 4 * report["parameters"]
    assert report["sent_bytes"]["all_gather"] == 2 * 2 * weights // 2
    assert report["sent_bytes"]["reduce_scatter"] == weights // 2
    assert report["ranks"] == 2 and "sent per rank" in done.stdout


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="choose auto, cuda or cpu"):
        bench_step(load("cpu", SMALL), device="moon")
