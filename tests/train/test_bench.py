"""The step benchmark runs the trainer's own loop and adds up."""

import json

import pytest

from steel.config import UserError, load
from steel.train.bench import PHASES, bench_step, render

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
    text = render(report)
    assert "tokens/s" in text and "MFU seed" in text and "GiB" in text


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="choose auto, cuda or cpu"):
        bench_step(load("cpu", SMALL), device="moon")
