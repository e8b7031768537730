"""Bytes that the operations of a training step move, counted on the meta device, and what they should cost in time.

Chapter 09's meter with a memory, the operations that it is held to, and the cost model of its last figure. No times are
measured here: rates are data sheets' peaks times the guesses in SHARE.

Shapes: N tokens, D width, V vocabulary, B batch, T time, H query and G key/value heads, C head width or segment length,
J slots.
"""

from __future__ import annotations

import math
import weakref

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from steel.kernels import elementwise, soft_moe
from steel.kernels.linear_cross_entropy import chunk_tokens
from steel.model.attention import rope_qkv
from steel.model.feed_forward import swiglu
from steel.plan import GPUS, count_parameters, flops_per_token
from steel.plan.count import feed_forward_cost

BANDWIDTH = {"A100-80G": 2.039e12, "H100": 3.35e12}  # bytes/s, data sheets
SHARE = {"products": 0.69, "narrow": 0.48, "attention": 0.50, "memory": 0.90}
"""Of the peak, reached by large products, the experts' narrow ones, attention at head width 128, passes: guesses."""
WAITS_MS = 8.0  # launches of small kernels and the host, per micro-batch: a guess
TOKENS = 8 * 2048  # of a micro-batch
REREAD = 3 * 4
"""Bytes per float32 logit that no list of operators shows: PyTorch's log-softmax reads a row that is longer than the
48 KiB of a block's shared memory three times, and its gradient twice (aten/src/ATen/native/cuda/SoftMax.cu)."""
PICKS = ("nll_loss", "gather", "scatter")  # touch one element per row of the inputs


def tensors(tree) -> list[torch.Tensor]:
    """The tensors in an operator's arguments or results."""
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


def size(x: torch.Tensor) -> int:
    """Bytes of a tensor; an expanded axis (stride 0) is read once."""
    real = (n for n, stride in zip(x.shape, x.stride()) if stride)
    return x.element_size() * math.prod(real)


def moves(op) -> bool:
    """Whether an operator touches memory: views do not, and tensors are not filled by being allocated."""
    views = any(r.alias_info and not r.alias_info.is_write for r in op._schema.returns)
    return not views and "empty" not in op.__name__


class Meter(TorchDispatchMode):
    """Bytes that operators read and write, and bytes of new tensors alive after each."""

    def __init__(self):
        super().__init__()
        self.moved, self.live, self.history = 0, 0, [0]

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        out = op(*args, **(kwargs or {}))
        if moves(op):
            read = [] if op.__name__.startswith(PICKS) else tensors(args)
            self.moved += sum(map(size, tensors(out) + read))
        self._keep(tensors(out), tensors((args, kwargs)))
        self.history.append(self.live)
        return out

    def _keep(self, made, old):
        known = {id(x.untyped_storage()) for x in old}
        for place, storage in {id(x.untyped_storage()): x.untyped_storage() for x in made}.items():
            if place not in known:
                self.live += storage.nbytes()
                weakref.finalize(storage, self._release, storage.nbytes())

    def _release(self, nbytes):
        self.live -= nbytes


def meta(*shape: int, dtype=torch.bfloat16) -> torch.Tensor:
    """A tensor that has a shape and no contents."""
    return torch.empty(*shape, dtype=dtype, device="meta")


def measure(function, *inputs, meter=Meter):
    """The meter after a forward and a backward pass of `function`."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    with meter() as running:
        out = function(*inputs)
        out = out if isinstance(out, tuple) else (out,)
        torch.autograd.grad(out, inputs, [torch.empty_like(o) for o in out])
    return running


# -- operations, line by line and as one kernel ------------------------------------------------------------------------


def written_norm(x, weight, eps=1e-6):
    """RMSNorm as most codes write it."""
    wide = x.float()
    r = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (wide * r).to(x.dtype) * weight


def written_rope(x, cos, sin):
    """The rotary embedding in the same way."""
    wide, C = x.float(), cos.shape[-1]
    turning, rest = wide[..., :C], wide[..., C:]  # the rest is empty here
    first, second = turning.chunk(2, dim=-1)
    turned = turning * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, rest), dim=-1).to(x.dtype)


def _both(written, kernel, *inputs, tokens) -> list[float]:
    return [measure(form, *inputs).moved / tokens for form in (written, kernel)]


def _norm_kernel(x, residual, weight):
    return elementwise.rms_norm(x, weight, 1e-6, residual)


def _norm(D, N):
    def written(x, residual, weight):
        total = x + residual
        return written_norm(total, weight), total

    return _both(written, _norm_kernel, meta(N, D), meta(N, D), meta(D), tokens=N)


def _rope(H, G, C, B, T):
    half = meta(1, T, 1, C // 2, dtype=torch.float32)
    forms = [
        lambda x, form=form: form(x, half, half, H, G) for form in (rope_qkv, elementwise.rope_qkv)
    ]
    return _both(*forms, meta(B, T, H + 2 * G, C), tokens=B * T)


def _gate(width, N):
    return _both(swiglu, elementwise.swiglu, meta(N, 2 * width), tokens=N)


def _in_segments(weight_BTJ, plan):
    """Weights (B, T, S, J), 0 where token t is not in segment s."""
    B, T, _ = weight_BTJ.shape
    t = torch.arange(B * T, device=weight_BTJ.device).view(B, T, 1)
    start, length = plan.start_BS[:, None, :], plan.length_BS[:, None, :]
    member = (t >= start) & (t < start + length)
    return member[..., None] * weight_BTJ.float()[:, :, None, :]


def _written_sums(x_BTD, w_BTJ, plan):
    weight_BTSJ = _in_segments(w_BTJ, plan)
    return torch.einsum("btsj,btd->bsjd", weight_BTSJ, x_BTD.to(weight_BTSJ)), weight_BTSJ.sum(1)


def _written_combine(c_BTJ, z_BSJD, plan):
    weight_BTSJ = _in_segments(c_BTJ, plan)
    return torch.einsum("btsj,bsjd->btd", weight_BTSJ, z_BSJD.to(weight_BTSJ)).to(z_BSJD.dtype)


def _mixture(D, C, J, B, T):
    """Dispatch and combine of one layer, segments of C tokens."""
    w, z = meta(B, T, J), meta(B, -(-T // C), J, D)
    plan = soft_moe.even_segments(B, T, C, "meta")
    sums = [lambda x, w, f=f: f(x, w, plan) for f in (_written_sums, soft_moe.segment_sums)]
    mixes = [lambda w, z, f=f: f(w, z, plan) for f in (_written_combine, soft_moe.segment_combine)]
    dispatch = _both(*sums, meta(B, T, D), w, tokens=B * T)
    return [a + b for a, b in zip(dispatch, _both(*mixes, w, z, tokens=B * T), strict=True)]


def _loss(D, V, N):
    """Line by line with what log-softmax reads again, and ours.

    Ours: logits read, read and overwritten; the sum of dW written once, then read and written per chunk.
    """
    targets_N = torch.zeros(N, dtype=torch.long, device="meta")
    whole = measure(lambda x: F.cross_entropy(x.float(), targets_N), meta(N, V))
    chunks = -(-N // chunk_tokens(N, V))
    again = REREAD * V if 4 * V > 48 * 1024 else 0
    return [whole.moved / N + again, 6 * V + (2 * chunks - 1) * 4 * V * D / N]


def pieces(model, B: int = 8, T: int = 2048) -> dict[str, tuple[float, float]]:
    """Bytes per token of a step's operations but its matrix products: {name: (line by line, one kernel)}.

    Every residual addition is counted as if its norm took it along.
    """
    N, D, L = B * T, model.hidden_size, model.num_hidden_layers
    H, G = model.num_attention_heads, model.num_key_value_heads
    C, J = model.segment_length, model.num_experts * model.slots_per_expert
    runs = L * feed_forward_cost(model).per_token  # gates that each token passes
    parts = [
        ("norm", 2 * L, _norm(D, N)),
        ("RoPE", L, _rope(H, G, model.head_dim or D // H, B, T)),
        ("gate", runs, _gate(model.intermediate_size, N)),
    ]
    if model.expert == "double_swiglu":
        parts.append(("gate 2", runs, _gate(D, N)))
    if model.feed_forward == "causal_soft_moe":
        parts.append(("mixture", L, _mixture(D, C, J, B, T)))
    parts.append(("loss", 1, _loss(D, model.vocab_size, N)))
    return {
        name: (calls * written, calls * kernel) for name, calls, (written, kernel) in parts if calls
    }


def beside(model, N: int = TOKENS, accumulation: int = 8) -> dict[str, float]:
    """Bytes per token that the trainer moves beside its operations: one GPU, bf16 copies of float32 weights.

    Once per step each weight is copied (read 4, write 2). A micro-batch's bf16 gradient becomes the float32 sum the
    first time (2, 4) and is added to it from then on (6, 4); before, the head's is cast (4, 2) and the embedding's
    filled with zeros (2). The update reads the gradients for their norm (4), and is a fused AdamW (16, 12) that scales
    them as it reads and stores them (4).
    """
    count = count_parameters(model)
    added = (6 + 10 * (accumulation - 1)) / accumulation
    sums = added * count["total"] + 6 * count["lm_head"] + 2 * count["embedding"]
    return {
        "copies of weights": 6 * count["total"] / accumulation / N,
        "sums of gradients": sums / N,
        "update": 36 * count["total"] / accumulation / N,
    }


# -- what they should cost ---------------------------------------------------------------------------------------------


def milliseconds(nbytes: float, gpu: str = "H100") -> float:
    """Time to move so many bytes, at SHARE of the bandwidth."""
    return 1e3 * nbytes / (SHARE["memory"] * BANDWIDTH[gpu])


def products_ms(model, gpu: str = "H100", N: int = TOKENS) -> dict[str, float]:
    """Estimated ms of a micro-batch's matrix products and attention, forward and backward, whole rows."""
    flops = flops_per_token(model, 2048).by_component
    kinds = {
        "head": ("products", ["lm_head"]),
        "projections": ("products", ["attention projections"]),
        "experts": ("narrow", ["experts", "routing"]),
        "attention": ("attention", ["attention scores"]),
    }
    return {
        name: 1e3 * N * sum(flops[p] for p in parts) / (SHARE[kind] * GPUS[gpu].peak)
        for name, (kind, parts) in kinds.items()
    }


def step_ms(
    model, fused: bool = True, gpu: str = "H100", N: int = TOKENS, accumulation: int = 8
) -> dict[str, float]:
    """Estimated ms of one micro-batch by part: products, operations (one kernel or line by line), trainer, waits.

    accumulation: micro-batches per update, which share its copies and its bytes.
    """
    parts = products_ms(model, gpu, N)
    parts |= {name: milliseconds(N * p[fused], gpu) for name, p in pieces(model).items()}
    parts |= {name: milliseconds(N * n, gpu) for name, n in beside(model, N, accumulation).items()}
    return parts | {"launches, waits": WAITS_MS}
