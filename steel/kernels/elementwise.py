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
import torch.nn.functional as F
from torch import Tensor

from . import _triton
from ._triton import constexpr, jit, tl

WIDEST = 16384  # one row of the norm must fit the registers of one program
PAIRS = 512  # rotated pairs per program; twice as many spill registers on sm_90

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


def norm_tile(D: int) -> dict:
    """How a program of the norm is cut, for a launch."""
    block = _triton.next_power_of_2(D)
    rows = max(1, 2048 // block)
    return {"ROWS": rows, "BLOCK": block, "num_warps": _triton.warps(rows * block)}


def _norm_outputs(x, residual, weight, eps, dtype):
    """Empty y, sum (of no elements without a residual) and 1 / rms of each row."""
    sum_type = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
    total = x.new_empty(0 if residual is None else x.shape, dtype=sum_type)
    r = x.new_empty(x.numel() // x.shape[-1], dtype=torch.float32)
    return x.new_empty(x.shape, dtype=dtype or sum_type), total, r


@torch.library.custom_op("steel::add_rms_norm", mutates_args=())
def _norm_op(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor]:
    y, total, r = _norm_outputs(x, residual, weight, eps, dtype)
    x, N, D, tile = x.contiguous(), len(r), x.shape[-1], norm_tile(x.shape[-1])
    add, other = residual is not None, x if residual is None else residual.contiguous()
    with _triton.on(x):
        rms_norm_forward[(-(-N // tile["ROWS"]),)](
            x, other, weight, y, total, r, N, D, eps, ADD=add, **tile
        )
    return y, total, r


@torch.library.custom_op("steel::rms_norm_backward", mutates_args=())
def _norm_backward_op(
    dy: Tensor, ds: Tensor | None, s: Tensor, weight: Tensor, r: Tensor
) -> tuple[Tensor, Tensor]:
    dy, s, N, D, tile = dy.contiguous(), s.contiguous(), len(r), s.shape[-1], norm_tile(s.shape[-1])
    dx, other = torch.empty_like(s), dy if ds is None else ds.contiguous()
    count = -(-N // tile["ROWS"])
    if s.is_cuda:  # enough programs to fill the chip, few enough that the partial sums stay small
        count = min(count, 4 * torch.cuda.get_device_properties(s.device).multi_processor_count)
    partial = torch.empty(count, D, dtype=torch.float32, device=s.device)
    with _triton.on(s):
        rms_norm_backward[(count,)](
            dy, other, s, weight, r, dx, partial, N, D, ADD=ds is not None, **tile
        )
    return dx, partial.sum(dim=0).to(weight.dtype)


def _norm_setup(ctx, inputs, output):
    x, residual, weight, _, _ = inputs
    ctx.types = x.dtype, None if residual is None else residual.dtype
    ctx.save_for_backward(x if residual is None else output[1], weight, output[2])
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)


def _norm_gradients(ctx, dy, ds, _unused):
    s, weight, r = ctx.saved_tensors
    x_type, residual_type = ctx.types
    dy = torch.zeros_like(s) if dy is None else dy
    dx, dweight = _norm_backward_op(dy, None if residual_type is None else ds, s, weight, r)
    dresidual = None if residual_type is None else dx.to(residual_type)
    return dx.to(x_type), dresidual, dweight, None, None


_norm_op.register_fake(_norm_outputs)
_norm_op.register_autograd(_norm_gradients, setup_context=_norm_setup)
_norm_backward_op.register_fake(
    lambda dy, ds, s, weight, r: (s.new_empty(s.shape), torch.empty_like(weight))
)


def rms_norm_reference(x: Tensor, weight_D: Tensor, eps: float, residual: Tensor | None = None):
    """The formula by PyTorch's own operators; same arguments as `rms_norm`."""
    s = x if residual is None else x + residual
    y = F.rms_norm(s, weight_D.shape, weight_D.to(s.dtype), eps)
    return y if residual is None else (y, s)


def rms_norm(x: Tensor, weight_D: Tensor, eps: float, residual: Tensor | None = None):
    """Triton RMSNorm of x (…, D): y; with a residual of x's shape (y, x + residual).

    Under autocast y comes in its type at once, which saves the pass in which a linear layer would
    cast it. Rows wider than 16,384 go to the reference.
    """
    if x.shape[-1] > WIDEST:
        return rms_norm_reference(x, weight_D, eps, residual)
    y, total, _ = _norm_op(x, residual, weight_D, eps, _triton.autocast_type(x))
    return y if residual is None else (y, total)


# -- rope_qkv --------------------------------------------------------------------------------------


@jit
def rotate(
    source,
    result,
    cos,
    sin,
    rows,
    heads,
    half,
    stride_in,
    stride_out,
    sign,
    ROWS: constexpr,
    BLOCK: constexpr,
):
    """A row is one head of one token; tables are (tokens, half). sign -1 rotates back."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < half)
    token, head = (row // heads).to(tl.int64), row % heads
    c = tl.load(cos + token * half + column, mask=inside, other=0.0)
    s = tl.load(sin + token * half + column, mask=inside, other=0.0) * sign
    place = source + token * stride_in + head * 2 * half + column
    first = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(place + half, mask=inside, other=0.0).to(tl.float32)
    place = result + token * stride_out + head * 2 * half + column
    tl.store(place, (first * c - second * s).to(result.dtype.element_ty), mask=inside)
    tl.store(place + half, (second * c + first * s).to(result.dtype.element_ty), mask=inside)


def rotation_tile(C: int) -> dict:
    """How a program of the rotation is cut, for a launch."""
    block = _triton.next_power_of_2(C // 2)
    return {"ROWS": max(1, PAIRS // block), "BLOCK": block, "num_warps": 4}


def _rotate(source: Tensor, result: Tensor, cos: Tensor, sin: Tensor, sign: float) -> None:
    """source -> result, parts (B, T, heads, C) of contiguous tensors; cos, sin (B·T, C / 2)."""
    B, T, heads, C = source.shape
    if source.stride()[2:] != (C, 1):  # a gradient that an attention kernel laid out by heads
        source = source.contiguous()
    source, result, tile = source.flatten(0, 1), result.flatten(0, 1), rotation_tile(C)
    rows, strides = B * T * heads, (source.stride(0), result.stride(0))
    with _triton.on(source):
        rotate[(-(-rows // tile["ROWS"]),)](
            source, result, cos, sin, rows, heads, C // 2, *strides, sign, **tile
        )


def _rope_outputs(qkv, cos, sin, H, G):
    B, T, X, C = qkv.shape
    return tuple(qkv.new_empty(B, T, heads, C) for heads in (H, G, X - H - G))


@torch.library.custom_op("steel::rope_qkv", mutates_args=())
def _rope_op(
    qkv: Tensor, cos: Tensor, sin: Tensor, H: int, G: int
) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = _rope_outputs(qkv, cos, sin, H, G)
    _rotate(qkv[:, :, :H], query, cos, sin, 1.0)
    _rotate(qkv[:, :, H : H + G], key, cos, sin, 1.0)
    return query, key, value.copy_(qkv[:, :, H + G :])


@torch.library.custom_op("steel::rope_qkv_backward", mutates_args=())
def _rope_backward_op(
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


_rope_op.register_fake(_rope_outputs)
_rope_op.register_autograd(
    lambda ctx, *grads: (_rope_backward_op(*grads, *ctx.saved_tensors), None, None, None, None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[1:3]),
)
_rope_backward_op.register_fake(
    lambda dq, dk, dv, cos, sin: torch.cat([t.new_empty(t.shape) for t in (dq, dk, dv)], dim=2)
)


def rope_qkv_reference(qkv_BTXC: Tensor, cos: Tensor, sin: Tensor, H: int, G: int):
    """Rotation and split by PyTorch's operators; same arguments as `rope_qkv`."""
    qk, value = qkv_BTXC.split([H + G, qkv_BTXC.shape[2] - H - G], dim=2)
    first, second = qk.chunk(2, dim=-1)
    qk = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return *qk.to(qkv_BTXC.dtype).split([H, G], dim=2), value


def rope_qkv(qkv_BTXC: Tensor, cos: Tensor, sin: Tensor, H: int, G: int):
    """Triton: projection -> query (B, T, H, C), key and value (B, T, G, C), the first two rotated.

    cos, sin (B or 1, T, 1, C / 2), fp32. Gradients flow to the projection only.
    """
    B, T = qkv_BTXC.shape[:2]
    cos, sin = (t.float().squeeze(2).expand(B, T, -1).reshape(B * T, -1) for t in (cos, sin))
    return _rope_op(qkv_BTXC, cos.contiguous(), sin.contiguous(), H, G)


# -- swiglu ----------------------------------------------------------------------------------------


@jit
def swiglu_forward(pair, y, N, width, ROWS: constexpr, BLOCK: constexpr):
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


def gate_tile(width: int) -> dict:
    """How a program of the gate is cut, for a launch."""
    block = min(_triton.next_power_of_2(width), 1024)
    rows = max(1, 2048 // block)
    return {"ROWS": rows, "BLOCK": block, "num_warps": _triton.warps(rows * block)}


def _launch_gate(kernel, width: int, *tensors: Tensor) -> None:
    N, tile = tensors[-1].numel() // tensors[-1].shape[-1], gate_tile(width)
    with _triton.on(tensors[0]):
        kernel[(-(-N // tile["ROWS"]), -(-width // tile["BLOCK"]))](*tensors, N, width, **tile)


def _half(pair: Tensor) -> Tensor:
    return pair.new_empty(*pair.shape[:-1], pair.shape[-1] // 2)


@torch.library.custom_op("steel::swiglu", mutates_args=())
def _gate_op(pair: Tensor) -> Tensor:
    y = _half(pair)
    _launch_gate(swiglu_forward, y.shape[-1], pair.contiguous(), y)
    return y


@torch.library.custom_op("steel::swiglu_backward", mutates_args=())
def _gate_backward_op(dy: Tensor, pair: Tensor) -> Tensor:
    dpair = pair.new_empty(pair.shape)
    _launch_gate(swiglu_backward, dy.shape[-1], dy.contiguous(), pair.contiguous(), dpair)
    return dpair


_gate_op.register_fake(_half)
_gate_op.register_autograd(
    lambda ctx, dy: _gate_backward_op(dy, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)
_gate_backward_op.register_fake(lambda dy, pair: pair.new_empty(pair.shape))


def swiglu_reference(pair: Tensor) -> Tensor:
    """silu(a) · b by PyTorch's operators."""
    a, b = pair.chunk(2, dim=-1)
    return F.silu(a) * b


def swiglu(pair: Tensor) -> Tensor:
    """Triton SwiGLU of [a | b] (…, 2F) -> (…, F)."""
    return _gate_op(pair)
