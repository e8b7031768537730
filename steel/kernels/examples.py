"""What the start-up check computes: for each operation inputs and a call, at the sizes of the run or at small ones.

Shapes: B batch, T time, N tokens, D model width, F expert width, H heads, G key/value heads, C head width, J slots,
E experts, K experts per token, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sizes:
    """The run's sizes as far as the kernels see them. The defaults divide no block and suit Triton's interpreter."""

    width: int = 100
    expert_width: int = 100
    vocabulary: int = 200
    heads: int = 2
    key_heads: int = 1
    head_dim: int = 56
    slots: int = 3
    segment: int = 4
    experts: int = 3
    top_k: int = 2
    tokens: int = 33
    """Rows of the examples; not a multiple of any tile."""
    batch: int = 1
    """Sequences per forward pass; with `length` the shape on which attention is timed."""
    length: int = 0
    """Tokens per sequence; 0: unknown, attention is then left as it is."""
    documents: bool = False
    """Whether batches hold packed documents that must not see each other."""


def sizes_of(config, *, batch: int, length: int, documents: bool) -> Sizes:
    """Sizes of a run from a model's configuration (Steel's; of another model's, what it has under the same names)."""
    width, heads = config.hidden_size, config.num_attention_heads
    return Sizes(
        width=width,
        expert_width=getattr(config, "intermediate_size", None) or width,
        vocabulary=config.vocab_size,
        heads=heads,
        key_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or width // heads,
        slots=getattr(config, "num_experts", 1) * getattr(config, "slots_per_expert", 1),
        segment=getattr(config, "segment_length", 64),
        experts=getattr(config, "num_experts", 1),
        top_k=getattr(config, "experts_per_token", 1),
        tokens=1021,
        batch=batch,
        length=length,
        documents=documents,
    )


def normal(device: torch.device, *shape: int) -> torch.Tensor:
    """Standard normal numbers that depend on the shape alone, fp32."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(device)


def _linear_cross_entropy(device: torch.device, s: Sizes):
    width = min(s.width, 256)  # the fp64 reference of the whole matrix would not fit beside a model
    targets = (torch.arange(s.tokens) * 7 % s.vocabulary).to(device)
    targets[3] = -100
    return (
        [normal(device, s.tokens, width), normal(device, s.vocabulary, width) / width**0.5],
        lambda f, x, w: f(x, w, targets, 1e-3, reduction="sum", rows=-(-s.tokens // 2)),
    )


def _rms_norm(device: torch.device, s: Sizes):
    inputs = [
        normal(device, s.tokens, s.width),
        normal(device, s.tokens + 1, s.width)[:-1],
        normal(device, s.width),
    ]
    return inputs, lambda f, x, r, w: f(x, w, 1e-6, r)


def _rope(device: torch.device, s: Sizes):
    time = -(-s.tokens // 2)
    angle = torch.arange(float(time), device=device)[None, :, None, None]
    angle = angle * torch.linspace(1.0, 0.1, s.head_dim // 2, device=device)
    cos, sin = angle.cos(), angle.sin()
    return (
        [normal(device, 2, time, s.heads + 2 * s.key_heads, s.head_dim)],
        lambda f, x: f(x, cos, sin, s.heads, s.key_heads),
    )


def _soft_moe(device: torch.device, s: Sizes):
    time = -(-s.tokens // 2)

    def call(f, x, w, z):
        sums, weights = f.segment_sums(x, w, s.segment)
        return sums, weights, f.segment_combine(w, z, s.segment)

    return [
        normal(device, 2, time, s.width),
        normal(device, 2, time, s.slots),
        normal(device, 2, -(-time // s.segment), s.slots, s.width),
    ], call


def _experts(device: torch.device, s: Sizes):
    D, F, E = -(-s.width // 8) * 8, -(-s.expert_width // 8) * 8, s.experts
    chosen_NK = normal(device, s.tokens, E).topk(min(s.top_k, E), dim=-1).indices
    chosen_NK[chosen_NK == E - 1] = 0  # the last expert is visited by nobody
    inputs = [
        normal(device, s.tokens, D),
        normal(device, *chosen_NK.shape).abs(),
        normal(device, E, D, 2 * F) / D**0.5,
        normal(device, E, F, 2 * D) / F**0.5,
    ]

    def gate(pair):
        a, b = pair.chunk(2, dim=-1)
        return torch.nn.functional.silu(a) * b

    return inputs, lambda f, x, w, up, down: f(x, w, chosen_NK, up, down, gate, True)


EXAMPLES = {
    "linear_cross_entropy": _linear_cross_entropy,
    "rms_norm": _rms_norm,
    "rope": _rope,
    "swiglu": lambda device, s: (
        [normal(device, s.tokens, 2 * s.expert_width)],
        lambda f, pair: f(pair),
    ),
    "soft_moe": _soft_moe,
    "experts": _experts,
}
"""Operation -> function(device, sizes) -> (inputs, call(function, *inputs) -> outputs)."""
