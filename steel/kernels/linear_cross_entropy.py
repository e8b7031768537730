"""Vocabulary projection and cross-entropy together, chunk by chunk: the logits never exist at once.

    loss_i = log_z_i - x_i · W[t_i] + z_loss · log_z_i²,   log_z_i = log Σ_v exp(x_i · W[v])

and 0 where t_i = -100. At V = 151,936 one micro-batch of 16,384 tokens has 4.98 GB of bf16 logits,
and as much again of gradient. Here a chunk of 2,048 to 4,096 tokens is projected, its loss taken,
its logits overwritten by their own gradient, and that gradient multiplied into x's and W's before
the next chunk reuses the buffer: three matrix products in all, everything in the forward pass.
Chunks are large because every chunk reads and writes the whole fp32 sum of dW; the first one writes
it without reading, so that it is never filled with zeros.

Row arithmetic, log_z and the sum of dW are fp32. The model's own `steel.model.loss` is the same
loop in PyTorch's operators, which needs each chunk of logits in fp32 as well.

Shapes: N tokens, D model width, V vocabulary.
"""

import torch
from torch import Tensor

from ..model.loss import IGNORE
from . import _triton
from ._triton import cdiv, constexpr, jit, tl


def tile(V: int) -> dict:
    """How a row is cut, for a launch: blocks of at most 4,096 logits."""
    block = min(_triton.power_of_2(V), 4096)
    return {"BLOCK": block, "num_warps": _triton.warps(block)}


def chunk_tokens(tokens: int, vocabulary: int) -> int:
    """Tokens per chunk: 2,048 to 4,096, about 2^29 logits, evenly over the chunks."""
    most = min(4096, max(2048, (1 << 29) // vocabulary))
    chunks = -(-max(1, tokens) // most)
    return -(-max(1, tokens) // (chunks * 128)) * 128


@jit
def row_statistics(logits, targets, log_z, picked, V, stride, BLOCK: constexpr):
    """log Σ exp and the target's logit of a row, one program each; an online softmax, so that each
    logit is read once. A target outside the vocabulary reads nothing and makes its loss NaN, which
    the run's check for non-finite losses finds without asking the device here."""
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
    target = tl.load(targets + row)
    here = (target >= 0) & (target < V)
    value = tl.load(logits + target, mask=here, other=float("nan")).to(tl.float32)
    tl.store(log_z + row, tl.log(total) + top)
    tl.store(picked + row, value)


@jit
def row_gradient(logits, targets, log_z, slope, V, stride, BLOCK: constexpr):
    """Logits <- softmax · slope - onehot, in place, and 0 in the rows to ignore; one program per
    row and block of columns."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    logits += row * stride
    target = tl.load(targets + row)
    x = tl.load(logits + columns, mask=columns < V, other=0.0).to(tl.float32)
    probability = tl.exp(x - tl.load(log_z + row)) * tl.load(slope + row)
    gradient = probability - tl.where(columns == target, 1.0, 0.0)
    gradient = tl.where(target == -100, 0.0, gradient)
    tl.store(logits + columns, gradient.to(logits.dtype.element_ty), mask=columns < V)


def _by_rows(kernel, blocks: int, logits_NV: Tensor, *per_row: Tensor) -> None:
    """Launch a kernel with `blocks` programs for each row of the logits."""
    N, V = logits_NV.shape
    _triton.launch(kernel, (N, blocks), logits_NV, *per_row, V, logits_NV.stride(0), **tile(V))


def statistics(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """log Σ exp and the target's logit (NaN if there is none) of each row, (N,) fp32."""
    log_z, picked = torch.empty(2, len(logits_NV), dtype=torch.float32, device=logits_NV.device)
    _by_rows(row_statistics, 1, logits_NV, targets_N, log_z, picked)
    return log_z, picked


def _accumulate(total: Tensor, a: Tensor, b: Tensor, first: bool) -> None:
    """total += aᵀ b in fp32, or total = aᵀ b the first time; low-precision factors stay as they are
    where the library sums their products in fp32 (CUDA)."""
    beta = 0.0 if first else 1.0
    if total.is_cuda and a.dtype != total.dtype:
        torch.addmm(total, a.t(), b, out_dtype=total.dtype, beta=beta, out=total)
    else:
        total.addmm_(a.t().to(total.dtype), b.to(total.dtype), beta=beta)


# Flags and sizes are plain numbers, so that torch.compile keeps each call as one node of its graph.
@_triton.operator
def _linear_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, z_loss: float, rows: int, need: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum, and the gradients of x and weight (without elements if not needed)."""
    total = x.new_zeros((), dtype=torch.float32)
    grad_x = x.new_empty(x.shape if need[0] else 0)
    grad_weight = weight.new_empty(weight.shape if need[1] else 0, dtype=torch.float32)
    if _triton.shapes_only(x):
        return total, grad_x, grad_weight
    if not len(x):
        grad_weight.zero_()
    V, weight = len(weight), weight.to(x.dtype)
    buffer = x.new_empty(min(rows, len(x)), V)
    for begin in range(0, len(x), rows):
        chunk, target = x[begin : begin + rows], targets[begin : begin + rows]
        logits = torch.mm(chunk, weight.t(), out=buffer[: len(chunk)])
        log_z, picked = statistics(logits, target)
        loss = log_z - picked + z_loss * log_z.square()
        total += torch.where(target == IGNORE, 0.0, loss).sum()
        if any(need):
            slope = 1.0 + 2.0 * z_loss * log_z
            _by_rows(row_gradient, cdiv(V, tile(V)["BLOCK"]), logits, target, log_z, slope)
        if need[0]:
            torch.mm(logits, weight, out=grad_x[begin : begin + rows])
        if need[1]:
            _accumulate(grad_weight, logits, chunk, first=begin == 0)
    return total, grad_x, grad_weight


def _keep_gradients(ctx, inputs, output):
    ctx.save_for_backward(*output[1:])
    ctx.need, ctx.weight_dtype = inputs[-1], inputs[1].dtype
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _gradients(ctx, grad, *_unused):
    grad_x, grad_weight = ctx.saved_tensors
    grad_x = grad_x * grad.to(grad_x.dtype) if ctx.need[0] else None
    if ctx.need[1]:  # written in the wanted type at once: no second fp32 copy of the whole matrix
        scaled = torch.empty_like(grad_weight, dtype=ctx.weight_dtype)
        grad_weight = torch.mul(grad_weight, grad, out=scaled)
    return grad_x, grad_weight if ctx.need[1] else None, None, None, None, None


_linear_cross_entropy.register_autograd(_gradients, setup_context=_keep_gradients)


def linear_cross_entropy(
    x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, z_loss: float = 0.0, rows: int | None = None
) -> Tensor:
    """Summed cross-entropy [nats] of the logits x Wᵀ, plus z_loss · log_z² per token: fp32, scalar.

    x (N, D) in fp32, bf16 or fp16 (autocast's type, if it is on), weight (V, D) in any float type,
    targets (N,) int64 in 0..V-1, or -100 to leave a token out; any other makes the sum NaN.
    rows: tokens per chunk; None chooses.
    """
    x_ND = x_ND.to(_triton.autocast_type(x_ND) or x_ND.dtype)
    rows = rows or chunk_tokens(len(x_ND), len(weight_VD))
    need = [torch.is_grad_enabled() and t.requires_grad for t in (x_ND, weight_VD)]
    with torch.autocast(x_ND.device.type, enabled=False):
        return _linear_cross_entropy(x_ND, weight_VD, targets_N, float(z_loss), rows, need)[0]
