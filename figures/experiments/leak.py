"""What chapter 07 needs to look for a leak: layers by themselves, noise on their weights, the birth of Steel's own.

Shapes: B batch, T time, D model width, J slots.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import nn

from figures.experiments.ablation import row_config
from figures.experiments.runs import town_shards, train_run
from steel.config import Config, ModelConfig, from_dict
from steel.model import SteelForCausalLM, build, steel_config
from steel.model.attention import rope_tables
from steel.model.modeling import Context, SteelDecoderLayer


def perturb(model: nn.Module, amount: float = 0.3) -> nn.Module:
    """Add noise to every weight: `amount` of the tensor's own spread, or of 0.1, whichever is more."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for w in model.parameters():
            size = w.std(correction=0).clamp_min(0.1)
            w += amount * size * torch.randn(w.shape, generator=noise).to(w.dtype)
    return model.eval()


def lone_layer(kind: str, width: int, slots: int, **fields) -> nn.Module:
    """A feed-forward of `steel.model` by itself, in float64, moved off its initial weights."""
    fields = {"expert": "double_swiglu", "num_experts": slots, "num_shared_experts": 1} | fields
    shape = ModelConfig(
        vocab_size=8, hidden_size=width, intermediate_size=12, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, feed_forward=kind, **fields
    )  # fmt: skip
    return perturb(build(shape)).double().model.layers[0].mlp


def agrees(mine, layer: nn.Module, length: int = 32) -> bool:
    """Is mine(layer, x_TD) what the layer computes, to the last digits of float64?"""
    noise = torch.Generator().manual_seed(2)
    width = next(w for name, w in layer.named_parameters() if "gate_up" in name).shape[-2]
    x_TD = torch.randn(length, width, dtype=torch.float64, generator=noise)
    with torch.no_grad():
        return torch.allclose(mine(layer, x_TD), layer(x_TD[None])[0], rtol=0, atol=1e-12)


def rms_of(x: torch.Tensor) -> float:
    """Root of the mean square of all entries."""
    return x.detach().square().mean().sqrt().item()


def train_micro(cfg: Config, names: tuple[str, ...], folder: Path) -> tuple[Config, Path, dict]:
    """Variants of the ablation in two layers, some seconds of SteelTown each: (their configuration, shards, models)."""
    micro = from_dict(cfg.to_dict())
    micro.model = dataclasses.replace(
        cfg.model, vocab_size=512, hidden_size=64, intermediate_size=192, num_hidden_layers=2,
        num_experts=6, segment_length=8,
    )  # fmt: skip
    micro.tokenizer = dataclasses.replace(cfg.tokenizer, vocab_size=512)
    # v2 and v3 know no masks between documents, so nobody gets them
    micro.data = dataclasses.replace(cfg.data, sequence_length=32, mask_documents=False)
    micro.train = dataclasses.replace(
        cfg.train, steps=60, batch_size=32, micro_batch_size=32, optimizer="adamw",
        learning_rate=6e-3, schedule="cosine", warmup_steps=10, eval_every=60,
    )  # fmt: skip
    shards, trained = town_shards(micro, folder), {}
    for name in names:
        train_run(row_config(micro, name, cfg.seed), shards, folder / "trained" / name)
        model = SteelForCausalLM.from_pretrained(folder / "trained" / name / "hf")
        trained[name] = model.eval()
    return micro, shards, trained


@torch.no_grad()
def born(model: ModelConfig, layers: int, length: int = 64, **fields):
    """Fresh layers of `model`'s width in a stack, with the original's initial weights (normal, 0.02).

    Returns (RMS of each feed-forward's output over that of the stream it joins, the last layer, its input (T, D)).
    """
    config = steel_config(dataclasses.replace(model, **fields))
    positions = torch.arange(length)[None]
    context = Context(*rope_tables(positions, config.head_dim, config.rope_theta))
    torch.manual_seed(0)
    x_BTD = 0.02 * torch.randn(1, length, config.hidden_size)
    layer, ratios = SteelDecoderLayer(config, 0), []
    for _ in range(layers):
        for name, w in layer.named_parameters():
            w.normal_(std=0.02) if w.ndim > 1 else w.fill_(0.0 if "bias" in name else 1.0)
        x_BTD = x_BTD + layer.self_attn(layer.input_layernorm(x_BTD), context)
        h_BTD = layer.post_attention_layernorm(x_BTD)
        y_BTD = layer.mlp(h_BTD)
        ratios.append(rms_of(y_BTD) / rms_of(x_BTD))
        x_BTD = x_BTD + y_BTD
    return ratios, layer.mlp, h_BTD[0]


def first_gradients(model: ModelConfig, kind: str, length: int = 64) -> torch.Tensor:
    """Gradients of all expert weights of one fresh layer of `model`'s width, on random tokens, as one vector."""
    shape = dataclasses.replace(model, feed_forward=kind, num_hidden_layers=1, vocab_size=1024)
    fresh = build(shape, seed=0)
    torch.manual_seed(0)
    for w in fresh.parameters():
        if w.ndim > 1:
            nn.init.normal_(w, std=0.02)
    ids_BT = torch.randint(1024, (1, length))
    fresh(ids_BT, labels=ids_BT).loss.backward()
    return torch.cat([w.grad.flatten() for w in fresh.model.layers[0].mlp.experts.parameters()])


def proof_subject(model: ModelConfig) -> nn.Module:
    """The model to prove, in float64: of `model`'s width and feed-forward in two layers with 256 tokens and its weights
    moved, so that it fits anywhere; or, with source "hf", the trained model in its folder as it is."""
    if model.source == "hf":
        return build(model, dtype=torch.float64).eval()
    small = dataclasses.replace(model, num_hidden_layers=2, vocab_size=256)
    return perturb(build(small, seed=1, dtype=torch.float64))
