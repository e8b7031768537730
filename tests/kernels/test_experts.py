"""Grouped products compute what the padded batch computes, for any load, and the loss of training does not notice."""

import pytest
import torch

from steel.config import load
from steel.kernels import choose, install
from steel.kernels.experts import ALIGN, groups
from steel.model.build import build


@pytest.mark.parametrize("load_of", [[5, 0, 9], [0, 0, 14], [8, 3, 3]])
def test_groups_are_aligned_and_lose_nobody(load_of):
    chosen_NK = torch.repeat_interleave(torch.arange(3), torch.tensor(load_of))[
        torch.randperm(14)
    ].view(7, 2)
    order, rows, ends, total = groups(chosen_NK, 3)
    assert total % ALIGN == 0 and ends[-1] == total and ends.dtype == torch.int32
    assert all(end % ALIGN == 0 for end in ends.tolist()) and len(set(rows.tolist())) == 14
    expert = chosen_NK.reshape(-1)[order]
    starts = torch.cat((ends.new_zeros(1), ends[:-1]))
    assert bool(((rows >= starts[expert]) & (rows < ends[expert])).all())


def steps(kernels, count=12):
    """Losses of a small top-k mixture with the model's own code (None) or with the kernels."""
    cfg = load("cpu", ["model.feed_forward=top_k_moe", "model.num_experts=3", "model.top_k=2"])
    model = build(cfg.model, seed=1).train()
    if kernels:
        assert install(model, choose(kernels))["top_k_experts"] == cfg.model.num_hidden_layers
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    tokens = torch.randint(0, 50, (2, 40), generator=torch.Generator().manual_seed(2))
    losses = []
    for _ in range(count):
        loss = model(tokens, shift_labels=tokens.roll(-1, 1)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_twelve_steps_with_grouped_experts_end_at_the_same_loss():
    own, grouped = steps(None), steps({"all": "reference", "experts": "torch"})
    assert own[-1] < own[0]
    assert max(abs(a - b) / a for a, b in zip(own, grouped, strict=True)) <= 5e-3
