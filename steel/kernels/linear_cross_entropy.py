"""Vocabulary projection and cross-entropy together, chunk by chunk: the logits never exist at once.

    loss_i = log_z_i - x_i · W[t_i] + z_loss · log_z_i²,   log_z_i = log Σ_v exp(x_i · W[v]),   0 where t_i = -100

At V = 151,936 one micro-batch of 16,384 tokens has 4.98 GB of bf16 logits, and as much again of gradient. Here a chunk
of 2,048 to 4,096 tokens is projected, its loss taken, its logits overwritten by their own gradient, and that gradient
multiplied into x's and W's gradients before the next chunk reuses the buffer. Chunks are large because every chunk
reads and writes the whole fp32 accumulator of dW; small ones would spend their time there.

Two forms. The sum makes its gradients in the forward pass (three matrix products in all). Per-token losses make them
in the backward pass, from logits computed once more (four products), because each token's weight is only known then.
The row arithmetic is either PyTorch or two Triton kernels; the loop around it is the same.

Shapes: N tokens, D model width, V vocabulary (this rank's part of it, with a `VocabularyShard`).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from . import _triton
from ._triton import jit, tl

IGNORE = -100
# Logits of one chunk, in elements: on a CPU they should stay in the cache, a GPU wants large matrix products.
CHUNK_ELEMENTS_CPU = 1 << 20
CHUNK_ELEMENTS_GPU = 1 << 29
BLOCK = 4096


@dataclass(frozen=True)
class VocabularyShard:
    """One rank's rows of the vocabulary matrix, for vocabulary-parallel heads.

    start: first vocabulary entry here. all_max, all_sum: reduce a tensor over the ranks that hold the other rows and
    return it. Every rank passes the same x and targets, and gets the whole loss and grad_x, and its own rows
    of grad_W.
    """

    start: int
    all_max: Callable[[torch.Tensor], torch.Tensor]
    all_sum: Callable[[torch.Tensor], torch.Tensor]


def shard_of(group, rows: int) -> VocabularyShard:
    """The shard of this rank in a torch.distributed group whose ranks hold `rows` vocabulary entries each, in order."""
    import torch.distributed as dist

    def reduce(x: torch.Tensor, how) -> torch.Tensor:
        dist.all_reduce(x, op=how, group=group)
        return x

    return VocabularyShard(
        dist.get_rank(group) * rows,
        lambda x: reduce(x, dist.ReduceOp.MAX),
        lambda x: reduce(x, dist.ReduceOp.SUM),
    )


def chunk_tokens(tokens: int, vocabulary: int, device: torch.device) -> int:
    """Tokens per chunk: on a GPU 2,048 to 4,096, even over the chunks; on a CPU what keeps the logits in the cache."""
    if device.type == "cpu":
        return max(16, CHUNK_ELEMENTS_CPU // vocabulary)
    most = min(4096, max(2048, CHUNK_ELEMENTS_GPU // vocabulary))
    tokens = max(1, tokens)
    chunks = -(-tokens // most)
    return -(-tokens // (chunks * 128)) * 128


# Row arithmetic. statistics(logits, targets, start) -> largest logit, Σ exp(logit - largest), the target's logit (0
# when it is not among these columns); gradient(logits, targets, start, log_z, slope, scale) overwrites the logits by
# (softmax · slope - onehot) · scale, and by 0 where scale is 0.


def _statistics_reference(logits, targets, start):
    wide = logits.to(_triton.wide(logits.dtype))
    largest = wide.amax(dim=-1)
    sumexp = (wide - largest[:, None]).exp_().sum(dim=-1)
    index = targets - start
    here = (index >= 0) & (index < logits.shape[1])
    picked = wide.gather(1, index.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
    return largest, sumexp, torch.where(here, picked, 0.0)


def _gradient_reference(logits, targets, start, log_z, slope, scale):
    wide = logits if logits.dtype == log_z.dtype else logits.to(log_z.dtype)
    gradient = wide.sub_(log_z[:, None]).exp_().mul_(slope[:, None])
    index = targets - start
    here = (index >= 0) & (index < logits.shape[1])
    gradient.scatter_add_(
        1, index.clamp(0, logits.shape[1] - 1)[:, None], -here[:, None].to(log_z.dtype)
    )
    gradient.mul_(scale[:, None]).masked_fill_(scale[:, None] == 0, 0.0)
    return gradient if gradient is logits else logits.copy_(gradient)


@jit
def row_statistics(logits, targets, largest, sumexp, picked, V, stride, start, BLOCK: tl.constexpr):
    """One program per row: an online softmax, so each logit is read once."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    top = float("-inf")
    total = 0.0
    for begin in range(0, V, BLOCK):
        columns = begin + tl.arange(0, BLOCK)
        x = tl.load(logits + columns, mask=columns < V, other=float("-inf")).to(tl.float32)
        new = tl.maximum(top, tl.max(x, axis=0))
        shift = tl.where(new == float("-inf"), 0.0, new)  # a row of -inf alone has sum 0, not NaN
        total = total * tl.exp(top - shift) + tl.sum(tl.exp(x - shift), axis=0)
        top = new
    target = tl.load(targets + row) - start
    here = (target >= 0) & (target < V)
    value = tl.load(logits + target, mask=here, other=0.0).to(tl.float32)
    tl.store(largest + row, top)
    tl.store(sumexp + row, total)
    tl.store(picked + row, value)


@jit
def row_gradient(logits, targets, log_z, slope, scale, V, stride, start, BLOCK: tl.constexpr):
    """One program per row and block of columns, in place."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    logits += row * stride
    target = tl.load(targets + row) - start
    weight = tl.load(scale + row)
    x = tl.load(logits + columns, mask=columns < V, other=0.0).to(tl.float32)
    probability = tl.exp(x - tl.load(log_z + row)) * tl.load(slope + row)
    gradient = (probability - tl.where(columns == target, 1.0, 0.0)) * weight
    gradient = tl.where(weight == 0.0, 0.0, gradient)
    tl.store(logits + columns, gradient.to(logits.dtype.element_ty), mask=columns < V)


def _statistics_triton(logits, targets, start):
    rows, V = logits.shape
    largest, sumexp, picked = torch.empty(3, rows, dtype=torch.float32, device=logits.device)
    block = min(BLOCK, _triton.next_power_of_2(V))
    with _triton.on(logits):
        row_statistics[(rows,)](
            logits,
            targets,
            largest,
            sumexp,
            picked,
            V,
            logits.stride(0),
            start,
            BLOCK=block,
            num_warps=_triton.warps(block),
        )
    return largest, sumexp, picked


def _gradient_triton(logits, targets, start, log_z, slope, scale):
    rows, V = logits.shape
    block = min(BLOCK, _triton.next_power_of_2(V))
    with _triton.on(logits):
        row_gradient[(rows, -(-V // block))](
            logits,
            targets,
            log_z,
            slope,
            scale,
            V,
            logits.stride(0),
            start,
            BLOCK=block,
            num_warps=_triton.warps(block),
        )
    return logits


ROWS = {
    "reference": (_statistics_reference, _gradient_reference),
    "triton": (_statistics_triton, _gradient_triton),
}


@functools.cache
def _has_wide_product(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this torch and device multiply two `dtype` matrices into an fp32 one; tried once."""
    small = torch.zeros(16, 16, dtype=dtype, device=device)
    total = torch.zeros(16, 16, device=device)
    try:
        torch.addmm(total, small.t(), small, out_dtype=torch.float32, out=total)
    except (TypeError, RuntimeError, NotImplementedError):
        return False
    return True


def _accumulate(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """total += aᵀ b in total's precision; bf16 factors take a product that sums in fp32 where there is one."""
    if a.dtype == total.dtype:
        total.addmm_(a.t(), b)
    elif total.is_cuda and total.dtype == torch.float32 and _has_wide_product(a.device, a.dtype):
        torch.addmm(total, a.t(), b, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(a.t().to(total.dtype), b.to(total.dtype))


def _loss(statistics, targets, z_loss: float, vocabulary: int, shard: VocabularyShard | None):
    """Row statistics -> loss and log Z per token. A target outside the vocabulary makes its loss NaN: nothing is read
    out of bounds, and the run's check for non-finite losses finds it without asking the device here."""
    largest, sumexp, picked = statistics
    if shard is not None:
        top = shard.all_max(largest.clone())
        sumexp, picked = shard.all_sum(torch.stack((sumexp * (largest - top).exp(), picked)))
        largest = top
    log_z = sumexp.log() + largest
    loss = log_z - picked + (z_loss * log_z.square() if z_loss else 0.0)
    if shard is None:
        loss = torch.where((targets < 0) | (targets >= vocabulary), torch.nan, loss)
    return torch.where(targets == IGNORE, 0.0, loss), log_z


def in_chunks(
    x,
    weight,
    targets,
    z_loss,
    rows,
    implementation,
    need_x,
    need_weight,
    *,
    log_z=None,
    scale=None,
    shard=None,
):
    """The loop over chunks of `rows` tokens. -> (loss_N, log_z_N, grad_x or None, grad_weight or None).

    scale (N,): weight of each token in the gradients, 1 by default. log_z (N,): from an earlier pass, which then saves
    the statistics. grad_weight comes in fp32 (fp64 for fp64 inputs).
    """
    statistics, gradient = ROWS["reference" if x.dtype == torch.float64 else implementation]
    N, V = x.shape[0], weight.shape[0]
    start = shard.start if shard is not None else 0
    kept, weight = weight, weight.to(x.dtype)
    number = _triton.wide(x.dtype)
    loss_N = torch.zeros(N, dtype=number, device=x.device)
    log_N = torch.empty(N, dtype=number, device=x.device) if log_z is None else log_z
    grad_x = torch.empty_like(x) if need_x else None
    grad_weight = torch.zeros(kept.shape, dtype=number, device=x.device) if need_weight else None
    buffer = torch.empty(min(rows, N), V, dtype=x.dtype, device=x.device)
    for begin in range(0, N, rows):
        part = slice(begin, min(begin + rows, N))
        chunk, target = x[part], targets[part]
        logits = torch.mm(chunk, weight.t(), out=buffer[: chunk.shape[0]])
        if log_z is None:
            loss_N[part], log_N[part] = _loss(
                statistics(logits, target, start), target, z_loss, V, shard
            )
        if not (need_x or need_weight):
            continue
        factor = (target != IGNORE).to(number)
        if scale is not None:
            factor = factor * scale[part]
        logits = gradient(
            logits, target, start, log_N[part], 1.0 + 2.0 * z_loss * log_N[part], factor
        )
        if need_x:
            torch.mm(logits, weight, out=grad_x[part])
        if need_weight:
            _accumulate(grad_weight, logits, chunk)
    if need_x and shard is not None:
        grad_x = shard.all_sum(grad_x)
    return loss_N, log_N, grad_x, grad_weight


# The operators. Flags and sizes are plain numbers, so that torch.compile keeps each call as one node of its graph.


@torch.library.custom_op("steel::linear_cross_entropy", mutates_args=())
def _sum_op(
    x: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    z_loss: float,
    rows: int,
    implementation: str,
    need_x: bool,
    need_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    loss, _, grad_x, grad_weight = in_chunks(
        x, weight, targets, z_loss, rows, implementation, need_x, need_weight
    )
    return (
        loss.sum(),
        loss,
        x.new_empty(0) if grad_x is None else grad_x,
        loss.new_empty(0) if grad_weight is None else grad_weight,
    )


@_sum_op.register_fake
def _(x, weight, targets, z_loss, rows, implementation, need_x, need_weight):
    number = _triton.wide(x.dtype)
    return (
        x.new_empty((), dtype=number),
        x.new_empty(x.shape[0], dtype=number),
        torch.empty_like(x) if need_x else x.new_empty(0),
        weight.new_empty(weight.shape if need_weight else 0, dtype=number),
    )


def _sum_setup(ctx, inputs, output):
    ctx.save_for_backward(output[2], output[3])
    ctx.need, ctx.weight_dtype = inputs[-2:], inputs[1].dtype
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _sum_backward(ctx, grad, *_unused):
    grad_x, grad_weight = ctx.saved_tensors
    # The product is written in the wanted type at once: no second fp32 copy of the vocabulary matrix.
    grad_x = grad_x * grad.to(grad_x.dtype) if ctx.need[0] and grad is not None else None
    if ctx.need[1] and grad is not None:
        scaled = torch.empty_like(grad_weight, dtype=ctx.weight_dtype)
        grad_weight = torch.mul(grad_weight, grad, out=scaled)
    else:
        grad_weight = None
    return grad_x, grad_weight, None, None, None, None, None, None


_sum_op.register_autograd(_sum_backward, setup_context=_sum_setup)


@torch.library.custom_op("steel::linear_cross_entropy_tokens", mutates_args=())
def _tokens_op(
    x: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    z_loss: float,
    rows: int,
    implementation: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    return in_chunks(x, weight, targets, z_loss, rows, implementation, False, False)[:2]


@_tokens_op.register_fake
def _(x, weight, targets, z_loss, rows, implementation):
    number = _triton.wide(x.dtype)
    return x.new_empty(x.shape[0], dtype=number), x.new_empty(x.shape[0], dtype=number)


@torch.library.custom_op("steel::linear_cross_entropy_tokens_backward", mutates_args=())
def _tokens_backward_op(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    log_z: torch.Tensor,
    z_loss: float,
    rows: int,
    implementation: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    _, _, grad_x, grad_weight = in_chunks(
        x,
        weight,
        targets,
        z_loss,
        rows,
        implementation,
        True,
        True,
        log_z=log_z,
        scale=grad.to(log_z.dtype).contiguous(),
    )
    return grad_x, grad_weight.to(weight.dtype)


@_tokens_backward_op.register_fake
def _(grad, x, weight, targets, log_z, z_loss, rows, implementation):
    return torch.empty_like(x), torch.empty_like(weight)


def _tokens_setup(ctx, inputs, output):
    x, weight, targets, *ctx.rest = inputs
    ctx.save_for_backward(x, weight, targets, output[1])
    ctx.mark_non_differentiable(output[1])


def _tokens_backward(ctx, grad, _unused):
    x, weight, targets, log_z = ctx.saved_tensors
    grad_x, grad_weight = _tokens_backward_op(grad, x, weight, targets, log_z, *ctx.rest)
    return grad_x, grad_weight, None, None, None, None


_tokens_op.register_autograd(_tokens_backward, setup_context=_tokens_setup)


class _Sharded(torch.autograd.Function):
    """The sum with a part of the vocabulary per rank: collectives inside, so it stays out of compiled graphs."""

    @staticmethod
    def forward(ctx, x, weight, targets, z_loss, rows, implementation, shard):
        need = ctx.needs_input_grad[:2]
        loss, _, *gradients = in_chunks(
            x, weight, targets, z_loss, rows, implementation, *need, shard=shard
        )
        ctx.save_for_backward(*gradients)
        ctx.weight_dtype = weight.dtype
        ctx.mark_non_differentiable(loss)
        return loss.sum(), loss

    @staticmethod
    def backward(ctx, grad, _unused):
        grad_x, grad_weight = ctx.saved_tensors
        grad_x = None if grad_x is None else grad_x * grad.to(grad_x.dtype)
        grad_weight = None if grad_weight is None else (grad_weight * grad).to(ctx.weight_dtype)
        return grad_x, grad_weight, None, None, None, None, None


def linear_cross_entropy(
    x_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    z_loss: float = 0.0,
    *,
    reduction: str = "sum",
    implementation: str = "reference",
    rows: int | None = None,
    shard: VocabularyShard | None = None,
):
    """Cross-entropy [nats] of the logits x Wᵀ (plus z_loss · log_z²), without ever holding them all.

    x (N, D) in the compute type (autocast's, if on), weight (V, D) in any float type, targets (N,) int64 in 0..V-1 or
    -100. reduction: "sum" -> scalar; "both" -> (scalar, losses (N,) without gradient, for logs); "none" -> losses (N,)
    that carry gradients, at the price of a fourth matrix product. Losses are fp32 (fp64 for fp64 x).
    rows: tokens per chunk; None chooses. A target outside the vocabulary makes the loss NaN.
    """
    if reduction not in ("sum", "both", "none"):
        raise ValueError(f"reduction={reduction!r}: choose sum, both or none")
    if shard is not None and reduction == "none":
        raise ValueError("reduction='none' is not made for a vocabulary shard; use 'sum' or 'both'")
    kind = x_ND.device.type
    if torch.is_autocast_enabled(kind):
        x_ND = x_ND.to(torch.get_autocast_dtype(kind))
    rows = rows or chunk_tokens(x_ND.shape[0], weight_VD.shape[0], x_ND.device)
    x_ND, targets_N = x_ND.contiguous(), targets_N.contiguous()
    with torch.autocast(kind, enabled=False):
        if reduction == "none":
            return _tokens_op(x_ND, weight_VD, targets_N, float(z_loss), rows, implementation)[0]
        if shard is not None:
            total, losses = _Sharded.apply(
                x_ND, weight_VD, targets_N, float(z_loss), rows, implementation, shard
            )
        else:
            grad = torch.is_grad_enabled()
            total, losses, _, _ = _sum_op(
                x_ND,
                weight_VD,
                targets_N,
                float(z_loss),
                rows,
                implementation,
                grad and x_ND.requires_grad,
                grad and weight_VD.requires_grad,
            )
    return total if reduction == "sum" else (total, losses)


def aot_cases() -> list[dict]:
    """What `steel.kernels.aot` compiles: the vocabulary of the 1 B model."""
    numbers = {"V": "i32", "stride": "i32", "start": "i32"}
    cases = []
    for kind in ("bf16", "fp32"):
        per_row = dict.fromkeys(("largest", "sumexp", "picked"), "*fp32")
        cases.append(
            {
                "kernel": row_statistics,
                "name": f"row_statistics {kind}",
                "warps": _triton.warps(BLOCK),
                "signature": {"logits": f"*{kind}", "targets": "*i64", **per_row, **numbers},
                "constants": {"BLOCK": BLOCK},
                "aligned": ("V", "stride"),
            }
        )
        per_row = dict.fromkeys(("log_z", "slope", "scale"), "*fp32")
        cases.append(
            {
                "kernel": row_gradient,
                "name": f"row_gradient {kind}",
                "warps": _triton.warps(BLOCK),
                "signature": {"logits": f"*{kind}", "targets": "*i64", **per_row, **numbers},
                "constants": {"BLOCK": BLOCK},
                "aligned": ("V", "stride"),
            }
        )
    return cases
