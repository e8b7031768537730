"""RMSNorm, alone or with the residual addition before it, in one pass over memory each way.

    s = x + residual,   y = s · r · weight,   r = 1 / sqrt(mean(s²) + eps)      (Zhang & Sennrich 2019)
    dŝ = dy · weight,   ds = r · (dŝ - s · r² · mean(dŝ · s)) + (gradient arriving at s),   dweight = Σ_rows dy · s · r

Statistics in fp32. The backward pass gives each program many rows and lets it add up dweight in registers; the few
partial sums are added in a fixed order, so results repeat bit for bit.

Shapes: N rows (all leading axes), D width.
"""

import torch
import torch.nn.functional as F

from . import _triton
from ._triton import jit, tl

WIDEST = 16384  # one row must fit the registers of one program


@jit
def rms_norm_forward(
    x,
    residual,
    weight,
    y,
    total,
    r,
    N,
    D,
    eps,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
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
    dy,
    ds,
    s,
    weight,
    r,
    dx,
    dweight,
    N,
    D,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program p takes tiles p, p + P, …; dweight is (P, D), a partial sum per program."""
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


def _tile(D: int) -> tuple[int, int, int]:
    block = _triton.next_power_of_2(D)
    rows = max(1, 2048 // block)
    return rows, block, _triton.warps(rows * block)


@torch.library.custom_op("steel::add_rms_norm", mutates_args=())
def _forward_op(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = x.contiguous()
    D = x.shape[-1]
    N = x.numel() // D
    y = torch.empty_like(x, dtype=dtype)
    add = residual is not None
    total = (
        torch.empty_like(x, dtype=torch.promote_types(x.dtype, residual.dtype))
        if add
        else x.new_empty(0)
    )
    r = torch.empty(N, dtype=torch.float32, device=x.device)
    rows, block, warps = _tile(D)
    with _triton.on(x):
        rms_norm_forward[(-(-N // rows),)](
            x,
            residual.contiguous() if add else x,
            weight,
            y,
            total if add else x,
            r,
            N,
            D,
            eps,
            ADD=add,
            ROWS=rows,
            BLOCK=block,
            num_warps=warps,
        )
    return y, total, r


@_forward_op.register_fake
def _(x, residual, weight, eps, dtype):
    total = (
        x.new_empty(0)
        if residual is None
        else x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, residual.dtype))
    )
    return (
        x.new_empty(x.shape, dtype=dtype),
        total,
        x.new_empty(x.numel() // x.shape[-1], dtype=torch.float32),
    )


@torch.library.custom_op("steel::rms_norm_backward", mutates_args=())
def _backward_op(
    dy: torch.Tensor,
    ds: torch.Tensor | None,
    s: torch.Tensor,
    weight: torch.Tensor,
    r: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    dy, s = dy.contiguous(), s.contiguous()
    D = s.shape[-1]
    N = s.numel() // D
    dx = torch.empty_like(s)
    rows, block, warps = _tile(D)
    count = _triton.programs(s, -(-N // rows))
    partial = torch.empty(count, D, dtype=torch.float32, device=s.device)
    with _triton.on(s):
        rms_norm_backward[(count,)](
            dy,
            ds.contiguous() if ds is not None else dy,
            s,
            weight,
            r,
            dx,
            partial,
            N,
            D,
            ADD=ds is not None,
            ROWS=rows,
            BLOCK=block,
            num_warps=warps,
        )
    return dx, partial.sum(dim=0).to(weight.dtype)


@_backward_op.register_fake
def _(dy, ds, s, weight, r):
    return s.new_empty(s.shape), torch.empty_like(weight)


def _setup(ctx, inputs, output):
    x, residual, weight, _, _ = inputs
    y, total, r = output
    ctx.types = x.dtype, None if residual is None else residual.dtype
    ctx.save_for_backward(x if residual is None else total, weight, r)
    ctx.mark_non_differentiable(r)
    ctx.set_materialize_grads(False)


def _backward(ctx, dy, ds, _unused):
    s, weight, r = ctx.saved_tensors
    x_type, residual_type = ctx.types
    if residual_type is None:
        ds = None
    dy = torch.zeros_like(s) if dy is None else dy
    dx, dweight = _backward_op(dy, ds, s, weight, r)
    return (
        dx.to(x_type),
        None if residual_type is None else dx.to(residual_type),
        dweight,
        None,
        None,
    )


_forward_op.register_autograd(_backward, setup_context=_setup)


def rms_norm_reference(x, weight, eps: float, residual=None, dtype: torch.dtype | None = None):
    """The formula by PyTorch's own operators; same arguments as `rms_norm`."""
    s = x if residual is None else x + residual
    y = F.rms_norm(s, weight.shape, weight.to(s.dtype), eps).to(dtype or s.dtype)
    return y if residual is None else (y, s)


def rms_norm(
    x: torch.Tensor,
    weight_D: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
):
    """Triton RMSNorm of x (…, D): y; with a residual of the same shape (y, x + residual), both with gradients.

    dtype: type of y, by default that of the sum. Rows wider than 16,384 go to the reference.
    """
    if x.shape[-1] > WIDEST or x.dtype == torch.float64:
        return rms_norm_reference(x, weight_D, eps, residual, dtype)
    sum_type = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
    y, total, _ = _forward_op(x, residual, weight_D, eps, dtype or sum_type)
    return y if residual is None else (y, total)


def aot_cases() -> list[dict]:
    """The residual stream of the 1 B model, and one head of QK-norm."""
    cases = []
    for D in (1792, 64):
        rows, block, warps = _tile(D)
        constants = {"ADD": True, "ROWS": rows, "BLOCK": block}
        bf16 = "*bf16"
        cases.append(
            {
                "kernel": rms_norm_forward,
                "name": f"rms_norm_forward {D}",
                "warps": warps,
                "signature": {
                    "x": bf16,
                    "residual": bf16,
                    "weight": "*fp32",
                    "y": bf16,
                    "total": bf16,
                    "r": "*fp32",
                    "N": "i32",
                    "D": "i32",
                    "eps": "fp32",
                },
                "constants": constants,
                "aligned": ("N", "D"),
            }
        )
        cases.append(
            {
                "kernel": rms_norm_backward,
                "name": f"rms_norm_backward {D}",
                "warps": warps,
                "signature": {
                    "dy": bf16,
                    "ds": bf16,
                    "s": bf16,
                    "weight": "*fp32",
                    "r": "*fp32",
                    "dx": bf16,
                    "dweight": "*fp32",
                    "N": "i32",
                    "D": "i32",
                },
                "constants": constants,
                "aligned": ("N", "D"),
            }
        )
    return cases
