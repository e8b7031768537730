"""What the start-up check computes: for each operation inputs and a call, at the sizes of the run.

Shapes: B batch, T time, N tokens, D model width, F expert width, H heads, G key/value heads,
C head width, J slots, E experts, K experts per token, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from types import SimpleNamespace

import torch

from ..model.causal_soft_moe import plan_segments
from ..model.feed_forward import SteelExperts
from ._triton import cdiv

# Relative error in the 2-norm that the start-up check lets pass.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 5e-3, torch.float64: 1e-6}


@dataclass(frozen=True)
class Sizes:
    """The run's sizes as far as the kernels see them: SteelConfig's, and the batch's. The defaults
    divide no block and suit Triton's interpreter."""

    hidden_size: int = 100
    intermediate_size: int = 100
    vocab_size: int = 200
    num_attention_heads: int = 2
    num_key_value_heads: int = 1
    head_dim: int = 56
    num_experts: int = 3
    slots_per_expert: int = 1
    experts_per_token: int = 2
    segment_length: int = 4
    tokens: int = 33
    """Rows of the examples; not a multiple of any tile."""
    batch: int = 1
    """Sequences per forward pass; with `length` the shape on which attention is timed."""
    length: int = 0
    """Tokens per sequence; 0: unknown, attention is then left as it is."""
    documents: bool = False
    """Whether batches hold packed documents that must not see each other."""


def sizes_of(config, **batch) -> Sizes:
    """Sizes of a run from a SteelConfig; batch: `batch`, `length` and `documents`."""
    names = [each.name for each in fields(Sizes) if hasattr(config, each.name)]
    return Sizes(tokens=1021, **{name: getattr(config, name) for name in names}, **batch)


def normal(device: torch.device, *shape: int) -> torch.Tensor:
    """Standard normal numbers that depend on the shape alone, fp32."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(device)


def values(call: Callable, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Outputs of call(*inputs), and the gradients of the sum of their squares / 2."""
    with torch.enable_grad():
        inputs = [t.detach().clone().requires_grad_() for t in inputs]
        out = call(*inputs)
        out = list(out) if isinstance(out, tuple) else [out]
        return [*out, *torch.autograd.grad(out, inputs, [o.detach() for o in out])]


def check(call: Callable, exact: Callable, inputs, dtype: torch.dtype, wide: torch.dtype) -> float:
    """Relative error, ‖found - wanted‖ / ‖wanted‖ at worst, of a call in `dtype` beside the exact
    one in `wide`, over values and gradients. RuntimeError if it is large, or not a number."""
    inputs = [t.to(dtype) for t in inputs]
    found, wanted = values(call, inputs), values(exact, [t.to(wide) for t in inputs])
    pairs = [(a.detach().double(), b.detach().double()) for a, b in zip(found, wanted, strict=True)]
    errors = [(a - b).norm() / b.norm().clamp_min(1e-30) for a, b in pairs]
    error = float(torch.stack(errors).max())
    if not error <= TOLERANCE[dtype]:
        allowed = f"allowed {TOLERANCE[dtype]:.0e}"
        raise RuntimeError(f"it differs from the reference by {error:.1e}, {allowed}")
    return error


# Each: (device, sizes) -> (inputs, call(functions, *inputs) -> outputs).


def linear_cross_entropy(device: torch.device, s: Sizes):
    """Two chunks of tokens, one of them ignored, and a z-loss."""
    width = min(s.hidden_size, 256)  # the whole matrix in fp64 would not fit beside a model
    targets = (torch.arange(s.tokens) * 7 % s.vocab_size).to(device)
    targets[3] = -100
    inputs = [normal(device, s.tokens, width), normal(device, s.vocab_size, width) / width**0.5]
    rows = cdiv(s.tokens, 2)
    return inputs, lambda f, x, w: f.linear_cross_entropy(x, w, targets, 1e-3, rows)


def soft_moe(device: torch.device, s: Sizes):
    """Two rows dispatched and combined."""
    T, J = cdiv(s.tokens, 2), s.num_experts * s.slots_per_expert
    plan = plan_segments((2, T), s.segment_length).to(device)
    shapes = (2, T, s.hidden_size), (2, T, J), (*plan.start_BS.shape, J, s.hidden_size)
    return (
        [normal(device, *shape) for shape in shapes],
        lambda f, x, w, z: (*f.segment_sums(x, w, plan), f.segment_combine(w, z, plan)),
    )


def experts(device: torch.device, s: Sizes):
    """Double experts, the last of which nobody visits."""
    D, inner, E = cdiv(s.hidden_size, 8) * 8, cdiv(s.intermediate_size, 8) * 8, s.num_experts
    chosen_NK = normal(device, s.tokens, E).topk(min(s.experts_per_token, E), dim=-1).indices
    chosen_NK[chosen_NK == E - 1] = 0
    weights = normal(device, E, D, 2 * inner) / D**0.5, normal(device, E, inner, 2 * D) / inner**0.5

    shape = {"hidden_size": D, "intermediate_size": inner, "expert": "double_swiglu"}
    with torch.device("meta"):
        stacked = SteelExperts(SimpleNamespace(**shape), E)

    def call(f, x, w, up, down):
        stacked._parameters |= {"gate_up_proj": up, "down_proj": down}
        return f.top_k_experts(x, w, chosen_NK, stacked)

    return [normal(device, s.tokens, D), normal(device, *chosen_NK.shape).abs(), *weights], call


def rms_norm(device: torch.device, s: Sizes):
    """With a residual."""
    rows = normal(device, s.tokens, s.hidden_size), normal(device, s.tokens + 1, s.hidden_size)[:-1]
    return [*rows, normal(device, s.hidden_size)], lambda f, x, r, w: f.rms_norm(x, w, 1e-6, r)


def rope(device: torch.device, s: Sizes):
    """Two rows of a fused projection."""
    T, heads = cdiv(s.tokens, 2), s.num_attention_heads + 2 * s.num_key_value_heads
    rate = torch.linspace(1.0, 0.1, s.head_dim // 2, device=device)
    angle = torch.arange(float(T), device=device)[None, :, None, None] * rate
    tables = angle.cos(), angle.sin()
    inputs = [normal(device, 2, T, heads, s.head_dim)]
    return inputs, lambda f, x: f.rope_qkv(x, *tables, s.num_attention_heads, s.num_key_value_heads)


def swiglu(device: torch.device, s: Sizes):
    """One gate."""
    return [normal(device, s.tokens, 2 * s.intermediate_size)], lambda f, pair: f.swiglu(pair)
