"""Exchanged operations leave the model what it is: checkpointed, saved and computed as without them."""

import pytest
import torch

from steel.config import load
from steel.kernels import Choice, install
from steel.kernels.select import HOOKS
from steel.model.attention import SteelAttention
from steel.model.build import build

KINDS = ("dense", "causal_soft_moe", "soft_moe_v3", "top_k_moe")


def model_of(kind: str):
    settings = [f"model.feed_forward={kind}", "model.num_experts=2", "model.top_k=2"]
    return build(load("cpu", settings).model, seed=3).train()


def loss_of(model):
    tokens = torch.arange(96).reshape(2, 48) * 7 % 50
    return model(tokens, position_ids=torch.arange(48).remainder(20)[None], shift_labels=tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_every_hook_is_called_and_every_layer_is_recomputed_once(kind, monkeypatch):
    """A2: an instance attribute `forward` would go round transformers' checkpointing, without a word."""
    model, called, attended = model_of(kind), set(), []

    def spy(name, reference):
        return lambda *args: called.add(name) or reference(*args)

    modules, plain = list(model.modules()), loss_of(model).loss
    own = {hook: getattr(type(m), hook) for m in modules for hook in HOOKS if hasattr(m, hook)}
    changed = install(model, Choice(hooks={hook: spy(hook, f) for hook, f in own.items()}))
    forward = SteelAttention.forward
    monkeypatch.setattr(
        SteelAttention,
        "forward",
        lambda self, *a, **k: attended.append(0) or forward(self, *a, **k),
    )
    model.gradient_checkpointing_enable({"use_reentrant": False})
    loss = loss_of(model).loss
    layers = model.config.num_hidden_layers
    assert torch.equal(loss, plain) and called == set(own) and len(attended) == layers
    loss.backward()
    assert len(attended) == 2 * layers and changed["rms_norm"] == 2 * layers + 1
    assert not any("forward" in module.__dict__ for module in model.modules())
