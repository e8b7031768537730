"""RMSNorm, rotary embedding and SwiGLU in one pass over memory each: only when asked for by name.

No preset runs them: torch.compile fuses these operations with their neighbours, which a finished
kernel cannot be. They are for `train.compile: false` on a GPU, and stay only if a measurement there
keeps them.

    rms_norm   s = x + residual,  y = s · r · weight,  r = 1 / sqrt(mean(s²) + eps)
               (Zhang & Sennrich 2019)
    rope_qkv   (a, b) -> (a·cos - b·sin, b·cos + a·sin) for the halves of each query and key head
               (Su et al. 2021)
    swiglu     silu(a) · b for the halves of the last axis (Shazeer 2020)

Arithmetic in fp32, results in the input's type. Backward passes recompute what is cheap.

Shapes: N rows, D width, B batch, T time, H query heads, G key/value heads, X = H + 2G, C head width
(even).
"""

import torch
from torch import Tensor

from . import _triton
from ._triton import WIDEST, cdiv, constexpr, jit, keep_inputs, launch, operator, tl


def norm_tile(D: int) -> dict:
    """How a program of the norm is cut. ValueError for rows that do not fit its registers."""
    if D > WIDEST:
        raise ValueError(f"rows of {D} are wider than {WIDEST}")
    return _triton.tile(D, 2048)


def rotation_tile(C: int) -> dict:
    """How a program of the rotation is cut; twice as many pairs would spill registers on sm_90."""
    return _triton.tile(C // 2, 512) | {"num_warps": 4}


def gate_tile(width: int) -> dict:
    """How a program of the gate is cut."""
    return _triton.tile(width, 2048, 1024)


# -- rms_norm --------------------------------------------------------------------------------------


@jit
def rms_norm_forward(
    x, residual, weight, y, total, r, N, D, eps, ADD: constexpr, ROWS: constexpr, BLOCK: constexpr
):
    """ROWS rows per program."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row < N)[:, None] & (column < D)[None, :]
    place = row[:, None] * D + column[None, :]
    s = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        s += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
        rounded = s.to(total.dtype.element_ty)
        tl.store(total + place, rounded, mask=inside)
        s = rounded.to(tl.float32)  # the norm of what the next layer will see
    w = tl.load(weight + column, mask=column < D, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(s * s, axis=1) / D + eps)
    tl.store(y + place, (s * scale[:, None] * w[None, :]).to(y.dtype.element_ty), mask=inside)
    tl.store(r + row, scale, mask=row < N)


@jit
def rms_norm_backward(
    dy, ds, s, weight, r, dx, dweight, N, D, ADD: constexpr, ROWS: constexpr, BLOCK: constexpr
):
    """dx = r · (dŝ - s·r² · mean(dŝ·s)) + ds with dŝ = dy · weight.

    Program p of P takes tiles p, p + P, … and keeps one row of dweight (P, D), a partial sum; they
    are added in a fixed order, so results repeat bit for bit.
    """
    column = tl.arange(0, BLOCK)
    w = tl.load(weight + column, mask=column < D, other=0.0).to(tl.float32)
    partial = tl.zeros((BLOCK,), dtype=tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(N, ROWS), tl.num_programs(0)):
        row = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        inside = (row < N)[:, None] & (column < D)[None, :]
        place = row[:, None] * D + column[None, :]
        scale = tl.load(r + row, mask=row < N, other=0.0)[:, None]
        value = tl.load(s + place, mask=inside, other=0.0).to(tl.float32) * scale
        gradient = tl.load(dy + place, mask=inside, other=0.0).to(tl.float32)
        partial += tl.sum(gradient * value, axis=0)
        gradient *= w[None, :]
        gradient = scale * (gradient - value * (tl.sum(gradient * value, axis=1) / D)[:, None])
        if ADD:
            gradient += tl.load(ds + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx + place, gradient.to(dx.dtype.element_ty), mask=inside)
    tl.store(dweight + tl.program_id(0).to(tl.int64) * D + column, partial, mask=column < D)


@operator
def _add_rms_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor]:
    """y in `dtype` or the sum's; the sum (of no elements without a residual); 1 / rms of each row."""
    D, add = x.shape[-1], residual is not None
    N, cut = x.numel() // D, norm_tile(D)
    sum_type = torch.promote_types(x.dtype, residual.dtype) if add else x.dtype
    y = x.new_empty(x.shape, dtype=dtype or sum_type)
    total = x.new_empty(x.shape if add else 0, dtype=sum_type)
    r = x.new_empty(N, dtype=torch.float32)
    tensors = x, residual if add else x, weight, y, total, r
    launch(rms_norm_forward, (cdiv(N, cut["ROWS"]),), *tensors, N, D, eps, ADD=add, **cut)
    return y, total, r


@operator
def _rms_norm_backward(
    dy: Tensor, ds: Tensor | None, s: Tensor, weight: Tensor, r: Tensor
) -> tuple[Tensor, Tensor]:
    D, add = s.shape[-1], ds is not None
    N, cut = s.numel() // D, norm_tile(D)
    count = cdiv(N, cut["ROWS"])
    if s.is_cuda and not _triton.shapes_only(s):  # to fill the chip, with few partial sums
        count = min(count, 4 * torch.cuda.get_device_properties(s.device).multi_processor_count)
    dx, partial = s.new_empty(s.shape), s.new_empty(count, D, dtype=torch.float32)
    tensors = dy, ds if add else dy, s, weight, r, dx, partial
    launch(rms_norm_backward, (count,), *tensors, N, D, ADD=add, **cut)
    return dx, partial.sum(dim=0).to(weight.dtype)


def _keep_sum(ctx, inputs, output):
    x, residual, weight, _, _ = inputs
    ctx.added = residual is not None
    ctx.save_for_backward(output[1] if ctx.added else x, weight, output[2])
    ctx.set_materialize_grads(False)


def _norm_gradients(ctx, dy, ds, _unused):
    s, weight, r = ctx.saved_tensors
    dy = torch.zeros_like(s) if dy is None else dy
    dx, dweight = _rms_norm_backward(dy, ds if ctx.added else None, s, weight, r)
    return dx, dx if ctx.added else None, dweight, None, None


_add_rms_norm.register_autograd(_norm_gradients, setup_context=_keep_sum)


def rms_norm(x: Tensor, weight_D: Tensor, eps: float, residual: Tensor | None = None):
    """Triton RMSNorm of x (…, D): y; with a residual of x's shape (y, x + residual).

    Under autocast y comes in its type at once, which saves the pass in which a linear layer would
    cast it.
    """
    y, total, _ = _add_rms_norm(x, residual, weight_D, eps, _triton.autocast_type(x))
    return y if residual is None else (y, total)


# -- rope_qkv --------------------------------------------------------------------------------------


@jit
def rotate(
    x, y, cos, sin, rows, heads, half, stride_x, stride_y, sign, ROWS: constexpr, BLOCK: constexpr
):
    """x -> y: a row is one head of one token; tables are (tokens, half). sign -1 rotates back."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < half)
    token, head = (row // heads).to(tl.int64), row % heads
    c = tl.load(cos + token * half + column, mask=inside, other=0.0)
    s = tl.load(sin + token * half + column, mask=inside, other=0.0) * sign
    place = x + token * stride_x + head * 2 * half + column
    first = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(place + half, mask=inside, other=0.0).to(tl.float32)
    place = y + token * stride_y + head * 2 * half + column
    tl.store(place, (first * c - second * s).to(y.dtype.element_ty), mask=inside)
    tl.store(place + half, (second * c + first * s).to(y.dtype.element_ty), mask=inside)


def _rotate(x: Tensor, y: Tensor, cos: Tensor, sin: Tensor, sign: float) -> None:
    """x -> y, heads (B, T, heads, C) of contiguous tensors; cos, sin (B·T, C / 2)."""
    B, T, heads, C = x.shape
    x, y, cut = x.flatten(0, 1), y.flatten(0, 1), rotation_tile(C)
    numbers = B * T * heads, heads, C // 2, x.stride(0), y.stride(0), sign
    launch(rotate, (cdiv(numbers[0], cut["ROWS"]),), x, y, cos, sin, *numbers, **cut)


@operator
def _rope_qkv(
    qkv: Tensor, cos: Tensor, sin: Tensor, H: int, G: int
) -> tuple[Tensor, Tensor, Tensor]:
    B, T, X, C = qkv.shape
    query, key, value = (qkv.new_empty(B, T, heads, C) for heads in (H, G, X - H - G))
    _rotate(qkv[:, :, :H], query, cos, sin, 1.0)
    _rotate(qkv[:, :, H : H + G], key, cos, sin, 1.0)
    return query, key, value.copy_(qkv[:, :, H + G :])


@operator
def _rope_qkv_backward(
    dquery: Tensor, dkey: Tensor, dvalue: Tensor, cos: Tensor, sin: Tensor
) -> Tensor:
    """Rotated back and written straight into one gradient: no concatenation."""
    B, T, H, C = dquery.shape
    G = dkey.shape[2]
    gradient = dquery.new_empty(B, T, H + G + dvalue.shape[2], C)
    _rotate(dquery, gradient[:, :, :H], cos, sin, -1.0)
    _rotate(dkey, gradient[:, :, H : H + G], cos, sin, -1.0)
    gradient[:, :, H + G :].copy_(dvalue)
    return gradient


_rope_qkv.register_autograd(
    lambda ctx, *grads: (_rope_qkv_backward(*grads, *ctx.saved_tensors), None, None, None, None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[1:3]),
)


def rope_qkv(qkv_BTXC: Tensor, cos: Tensor, sin: Tensor, H: int, G: int):
    """Triton: projection -> query (B, T, H, C), key and value (B, T, G, C), the first two rotated.

    cos, sin (B or 1, T, 1, C / 2), fp32. Gradients flow to the projection only.
    """
    B, T = qkv_BTXC.shape[:2]
    cos, sin = (t.float().squeeze(2).expand(B, T, -1).reshape(B * T, -1) for t in (cos, sin))
    return _rope_qkv(qkv_BTXC, cos, sin, H, G)


# -- swiglu ----------------------------------------------------------------------------------------


@jit
def swiglu_forward(y, pair, N, width, ROWS: constexpr, BLOCK: constexpr):
    """A tile of ROWS × BLOCK per program."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (row < N) & (column < width)
    a = tl.load(pair + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(pair + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
    gate = a / (1.0 + tl.exp(-a))
    tl.store(y + row * width + column, (gate * b).to(y.dtype.element_ty), mask=inside)


@jit
def swiglu_backward(dy, pair, dpair, N, width, ROWS: constexpr, BLOCK: constexpr):
    """da = dy · b · σ(a) · (1 + a · (1 - σ(a))),  db = dy · a · σ(a). Same tiles."""
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


def _by_tiles(kernel, *tensors: Tensor) -> None:
    """Launch a kernel of the gate; the first tensor is as wide as one half."""
    width = tensors[0].shape[-1]
    N, cut = tensors[0].numel() // width, gate_tile(width)
    launch(kernel, (cdiv(N, cut["ROWS"]), cdiv(width, cut["BLOCK"])), *tensors, N, width, **cut)


@operator
def swiglu(pair: Tensor) -> Tensor:
    """Triton SwiGLU of [a | b] (…, 2F) -> (…, F)."""
    y = pair.new_empty(*pair.shape[:-1], pair.shape[-1] // 2)
    _by_tiles(swiglu_forward, y, pair)
    return y


@operator
def _swiglu_backward(dy: Tensor, pair: Tensor) -> Tensor:
    dpair = pair.new_empty(pair.shape)
    _by_tiles(swiglu_backward, dy, pair, dpair)
    return dpair


swiglu.register_autograd(
    lambda ctx, dy: _swiglu_backward(dy, *ctx.saved_tensors), setup_context=keep_inputs
)
