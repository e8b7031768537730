"""Rotary position embedding (Su et al. 2021) on the fused projection, which it splits on the way.

The projection's output (B, T, H + 2G, C) goes in; queries, keys and values come out, each contiguous. In the backward
pass their three gradients are written straight into one gradient of the projection: no slicing, no concatenation.
Halves of a head are rotated together, (first, second) -> (first·cos - second·sin, second·cos + first·sin), in fp32; the
backward pass is the rotation by the negative angle.

Shapes: B batch, T time, H query heads, G key/value heads, C head width (even: 56, 64, 128, …).
"""

import torch

from . import _triton
from ._triton import jit, tl

ELEMENTS = 512  # rotated pairs per program; twice as many spill registers on sm_90


@jit
def rotate(
    source,
    result,
    cos,
    sin,
    rows,
    heads,
    source_token,
    source_head,
    result_token,
    result_head,
    half,
    sign,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A row is one head of one token; tables are (tokens, half). sign -1 rotates back."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < half)
    token, head = (row // heads).to(tl.int64), row % heads
    c = tl.load(cos + token * half + column, mask=inside, other=0.0)
    s = tl.load(sin + token * half + column, mask=inside, other=0.0) * sign
    place = source + token * source_token + head * source_head + column
    first = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(place + half, mask=inside, other=0.0).to(tl.float32)
    place = result + token * result_token + head * result_head + column
    tl.store(place, (first * c - second * s).to(result.dtype.element_ty), mask=inside)
    tl.store(place + half, (second * c + first * s).to(result.dtype.element_ty), mask=inside)


def _rotate(
    source: torch.Tensor, result: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, sign: float
) -> None:
    """source, result (tokens, heads, C), any strides but a contiguous last axis; cos, sin (tokens, C / 2) fp32."""
    tokens, heads, C = source.shape
    block = _triton.next_power_of_2(C // 2)
    per_program = max(1, ELEMENTS // block)
    grid = (-(-tokens * heads // per_program),)
    with _triton.on(source):
        rotate[grid](
            source,
            result,
            cos,
            sin,
            tokens * heads,
            heads,
            source.stride(0),
            source.stride(1),
            result.stride(0),
            result.stride(1),
            C // 2,
            sign,
            ROWS=per_program,
            BLOCK=block,
            num_warps=4,
        )


def _tokens(x: torch.Tensor) -> torch.Tensor:
    """(B, T, heads, C) -> (B·T, heads, C) with a contiguous last axis, copying only where the strides ask for it."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    return x.flatten(0, 1)


def _table(table: torch.Tensor, B: int, T: int) -> torch.Tensor:
    """cos or sin, (B or 1, T, 1, C / 2) -> (B·T, C / 2) fp32, contiguous."""
    return table.float().squeeze(2).expand(B, T, -1).reshape(B * T, -1).contiguous()


@torch.library.custom_op("steel::rope_qkv", mutates_args=())
def _forward_op(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, query_heads: int, key_heads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    B, T, _, C = qkv.shape
    flat, H, G = _tokens(qkv), query_heads, key_heads
    query, key = qkv.new_empty(B, T, H, C), qkv.new_empty(B, T, G, C)
    _rotate(flat[:, :H], query.flatten(0, 1), cos, sin, 1.0)
    _rotate(flat[:, H : H + G], key.flatten(0, 1), cos, sin, 1.0)
    return query, key, qkv[:, :, H + G :].clone(memory_format=torch.contiguous_format)


@_forward_op.register_fake
def _(qkv, cos, sin, query_heads, key_heads):
    B, T, heads, C = qkv.shape
    return tuple(
        qkv.new_empty(B, T, n, C) for n in (query_heads, key_heads, heads - query_heads - key_heads)
    )


@torch.library.custom_op("steel::rope_qkv_backward", mutates_args=())
def _backward_op(
    dquery: torch.Tensor,
    dkey: torch.Tensor,
    dvalue: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
) -> torch.Tensor:
    B, T, H, C = dquery.shape
    G = dkey.shape[2]
    gradient = dquery.new_empty(B, T, H + G + dvalue.shape[2], C)
    flat = gradient.flatten(0, 1)
    _rotate(_tokens(dquery), flat[:, :H], cos, sin, -1.0)
    _rotate(_tokens(dkey), flat[:, H : H + G], cos, sin, -1.0)
    gradient[:, :, H + G :].copy_(dvalue)
    return gradient


@_backward_op.register_fake
def _(dquery, dkey, dvalue, cos, sin):
    B, T, H, C = dquery.shape
    return dquery.new_empty(B, T, H + dkey.shape[2] + dvalue.shape[2], C)


def _backward(ctx, *gradients):
    return _backward_op(*gradients, *ctx.saved_tensors), None, None, None, None


_forward_op.register_autograd(
    _backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[1:3])
)


def rope_qkv_reference(qkv, cos, sin, query_heads: int, key_heads: int):
    """Rotation and split by PyTorch's operators; same arguments as `rope_qkv`."""
    qk, value = qkv.split([query_heads + key_heads, qkv.shape[2] - query_heads - key_heads], dim=2)
    first, second = qk.chunk(2, dim=-1)
    qk = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(qkv.dtype)
    return *qk.split([query_heads, key_heads], dim=2), value


def rope_qkv(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, query_heads: int, key_heads: int
):
    """Triton: qkv (B, T, H + 2G, C) -> query (B, T, H, C), key and value (B, T, G, C), the first two rotated.

    cos, sin (B or 1, T, 1, C / 2), fp32. Gradients flow to qkv only.
    """
    if qkv.dtype == torch.float64:
        return rope_qkv_reference(qkv, cos, sin, query_heads, key_heads)
    B, T = qkv.shape[:2]
    return _forward_op(qkv, _table(cos, B, T), _table(sin, B, T), query_heads, key_heads)


def aot_cases() -> list[dict]:
    """Head widths of the 1 B model (56), of its neighbours (64) and of the recommended shape (128)."""
    names = ("rows", "heads", "source_token", "source_head", "result_token", "result_head", "half")
    cases = []
    for width in (56, 64, 128):
        block = _triton.next_power_of_2(width // 2)
        cases.append(
            {
                "kernel": rotate,
                "name": f"rotate {width}",
                "warps": 4,
                "signature": {
                    "source": "*bf16",
                    "result": "*bf16",
                    "cos": "*fp32",
                    "sin": "*fp32",
                    **dict.fromkeys(names, "i32"),
                    "sign": "fp32",
                },
                "constants": {"ROWS": max(1, ELEMENTS // block), "BLOCK": block},
                "aligned": ("rows", "source_token", "result_token")
                + (("half",) if width > 56 else ()),
            }
        )
    return cases
