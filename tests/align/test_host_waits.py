"""Losses leave their numbers on the device: the loop fetches them all at once."""

from functools import partial

import pytest
import torch
from align_world import job_of, preference_rows, turn

from steel.align import dpo, grpo, reward
from steel.align.logprobs import encode_answer, pad_rows


def micro_batches(base, tmp_path):
    _, model, tokenizer = base
    rows = dpo.pair_rows(
        dpo.encode_pairs(job_of(base, "dpo", preference_rows(2), tmp_path)), [0, 1]
    )
    answers = [encode_answer(tokenizer, [turn("user", "?")], text) for text in ("7", "云州。")]
    rollout = grpo.Rollout(pad_rows(answers), torch.tensor([1.0, -1.0]), None, torch.zeros(2, 1))
    job = job_of(base, "grpo", [], tmp_path, kl_beta=0.1)
    yield partial(dpo.loss, job.cfg.dpo), model, (rows, torch.zeros(4))
    yield partial(grpo.loss, job.settings), model, rollout
    yield reward.loss, reward.RewardModel(model), rows


def test_no_loss_waits_for_the_device(base, tmp_path, monkeypatch):
    work = list(micro_batches(base, tmp_path))
    for loss, model, micro in work:
        loss(model, micro)  # what transformers looks up once is looked up

    def wait(*_):
        pytest.fail("the host waits for a number")

    for name in ("item", "tolist", "__int__", "__float__", "__bool__"):
        monkeypatch.setattr(torch.Tensor, name, wait)
    found = [loss(model, micro) for loss, model, micro in work]
    monkeypatch.undo()
    for total, count, metrics in found:
        assert torch.isfinite(total) and count > 0 and len(metrics) > 2
