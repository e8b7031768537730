"""SwiGLU's elementwise part: silu(a) · b of the two halves of the last axis (Shazeer 2020).

The double SwiGLU of Steel-LLM applies the same function again to the second projection's halves, silu(W₃h) · (W₄h), so
one kernel serves both. The backward pass recomputes silu from the saved input instead of storing it:
    da = dy · b · σ(a) · (1 + a · (1 - σ(a))),   db = dy · a · σ(a).

Shapes: N rows (all leading axes), F width of one half.
"""

import torch
import torch.nn.functional as F

from . import _triton
from ._triton import jit, tl


@jit
def swiglu_forward(pair, y, N, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """A tile of ROWS × BLOCK per program."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (row < N) & (column < width)
    a = tl.load(pair + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(pair + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
    gate = a / (1.0 + tl.exp(-a))
    tl.store(y + row * width + column, (gate * b).to(y.dtype.element_ty), mask=inside)


@jit
def swiglu_backward(dy, pair, dpair, N, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Same tiles; reads dy, a and b, writes both gradients."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (row < N) & (column < width)
    first = row * 2 * width + column
    gradient = tl.load(dy + row * width + column, mask=inside, other=0.0).to(tl.float32)
    a = tl.load(pair + first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(pair + first + width, mask=inside, other=0.0).to(tl.float32)
    sigma = 1.0 / (1.0 + tl.exp(-a))
    da = gradient * b * sigma * (1.0 + a * (1.0 - sigma))
    tl.store(dpair + first, da.to(dpair.dtype.element_ty), mask=inside)
    tl.store(dpair + first + width, (gradient * a * sigma).to(dpair.dtype.element_ty), mask=inside)


def _launch(kernel, like: torch.Tensor, *tensors: torch.Tensor) -> None:
    width = like.shape[-1] // 2
    N = like.numel() // (2 * width)
    rows, block = _triton.tile(width, 2048)
    with _triton.on(like):
        kernel[(-(-N // rows), -(-width // block))](
            *tensors, N, width, ROWS=rows, BLOCK=block, num_warps=_triton.warps(rows * block)
        )


@torch.library.custom_op("steel::swiglu", mutates_args=())
def _forward_op(pair: torch.Tensor) -> torch.Tensor:
    pair = pair.contiguous()
    y = pair.new_empty(*pair.shape[:-1], pair.shape[-1] // 2)
    _launch(swiglu_forward, pair, pair, y)
    return y


@_forward_op.register_fake
def _(pair):
    return pair.new_empty(*pair.shape[:-1], pair.shape[-1] // 2)


@torch.library.custom_op("steel::swiglu_backward", mutates_args=())
def _backward_op(dy: torch.Tensor, pair: torch.Tensor) -> torch.Tensor:
    dy, pair = dy.contiguous(), pair.contiguous()
    dpair = torch.empty_like(pair)
    _launch(swiglu_backward, pair, dy, pair, dpair)
    return dpair


@_backward_op.register_fake
def _(dy, pair):
    return pair.new_empty(pair.shape)


_forward_op.register_autograd(
    lambda ctx, dy: _backward_op(dy, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


def swiglu_reference(pair: torch.Tensor) -> torch.Tensor:
    """silu(a) · b by PyTorch's operators."""
    a, b = pair.chunk(2, dim=-1)
    return F.silu(a) * b


def swiglu(pair: torch.Tensor) -> torch.Tensor:
    """Triton SwiGLU of [a | b] (…, 2F) -> (…, F), arithmetic in fp32, result in pair's type."""
    return swiglu_reference(pair) if pair.dtype == torch.float64 else _forward_op(pair)


def aot_cases() -> list[dict]:
    """The gate of one expert, and the second gate of the double form, in the 1 B model."""
    cases = []
    for width in (448, 1792):
        rows, block = _triton.tile(width, 2048)
        shared = {
            "constants": {"ROWS": rows, "BLOCK": block},
            "aligned": ("N", "width"),
            "warps": _triton.warps(rows * block),
        }
        sizes = {"N": "i32", "width": "i32"}
        cases.append(
            {
                "kernel": swiglu_forward,
                "name": f"swiglu_forward {width}",
                "signature": {"pair": "*bf16", "y": "*bf16", **sizes},
                **shared,
            }
        )
        cases.append(
            {
                "kernel": swiglu_backward,
                "name": f"swiglu_backward {width}",
                "signature": {"dy": "*bf16", "pair": "*bf16", "dpair": "*bf16", **sizes},
                **shared,
            }
        )
    return cases
