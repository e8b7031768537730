"""Soft mixtures of experts: tokens into slots and slots back to tokens, segment by segment.

Both of the layers in `steel.model` reduce to two contractions over segments of C tokens:

    segment_sums:     N[s,j] = Σ_{t in s} w[t,j] x_t,  M[s,j] = Σ_{t in s} w[t,j]        (dispatch)
    segment_combine:  y_t = Σ_j c[t,j] z[s(t),j]                                          (combine)

The causal layer uses them as they are; v3 adds its segments up afterwards (a split reduction over the sequence). With
few slots (J is 5 or 6) they do about ten operations per byte: bound by memory, so the kernels read x once in its own
type, keep sums in fp32, and need no tensor cores and no copy of x in fp32 or in segment order. Packed documents and
padding come as spans (first token and length of each segment), instead of scattering tokens into a grid and back.

The gradients are the same contractions again, and `segment_dots`: d[t,j] = <x_t, z[s(t),j]>.

Shapes: B batch, T time, S segments per row, C tokens per segment at most, J slots, D width.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from . import _triton
from ._triton import jit, tl

MOST_SLOTS = 64
SPLIT = 256  # tokens per partial sum of v3's dispatch
TIME, BLOCK = 32, 128


@jit
def _span(start, length, segment, T, S, C, SPANS: tl.constexpr):
    """(first token, number of tokens) of a segment, within its row."""
    if SPANS:
        first = tl.load(start + segment)
        count = tl.load(length + segment)
    else:
        first = (segment % S) * C
        count = tl.minimum(C, T - first)
    return first, count


@jit
def segment_sums_kernel(
    x,
    w,
    start,
    length,
    sums,
    mass,
    T,
    S,
    C,
    D,
    J: tl.constexpr,
    SLOTS: tl.constexpr,
    SPANS: tl.constexpr,
    TIME: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per segment and block of columns."""
    segment = tl.program_id(0)
    first, count = _span(start, length, segment, T, S, C, SPANS)
    base = (segment // S).to(tl.int64) * T + first
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.arange(0, SLOTS)
    total = tl.zeros((SLOTS, BLOCK), dtype=tl.float32)
    weight = tl.zeros((SLOTS,), dtype=tl.float32)
    for begin in range(0, count, TIME):
        t = begin + tl.arange(0, TIME)
        row = base + t
        inside = (t < count)[:, None] & (column < D)[None, :]
        value = tl.load(x + row[:, None] * D + column[None, :], mask=inside, other=0.0).to(
            tl.float32
        )
        for j in tl.static_range(J):
            w_j = tl.load(w + row * J + j, mask=t < count, other=0.0).to(tl.float32)
            total += tl.where(
                (slot == j)[:, None], tl.sum(value * w_j[:, None], axis=0)[None, :], 0.0
            )
            weight += tl.where(slot == j, tl.sum(w_j, axis=0), 0.0)
    place = segment.to(tl.int64) * J + slot
    tl.store(
        sums + place[:, None] * D + column[None, :],
        total,
        mask=(slot < J)[:, None] & (column < D)[None, :],
    )
    tl.store(mass + place, weight, mask=(slot < J) & (tl.program_id(1) == 0))


@jit
def segment_combine_kernel(
    c,
    z,
    start,
    length,
    y,
    T,
    S,
    C,
    D,
    J: tl.constexpr,
    SPANS: tl.constexpr,
    TIME: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per segment and block of columns."""
    segment = tl.program_id(0)
    first, count = _span(start, length, segment, T, S, C, SPANS)
    base = (segment // S).to(tl.int64) * T + first
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    slots = z + segment.to(tl.int64) * J * D + column
    for begin in range(0, count, TIME):
        t = begin + tl.arange(0, TIME)
        row = base + t
        mixed = tl.zeros((TIME, BLOCK), dtype=tl.float32)
        for j in tl.static_range(J):
            c_j = tl.load(c + row * J + j, mask=t < count, other=0.0).to(tl.float32)
            mixed += (
                c_j[:, None]
                * tl.load(slots + j * D, mask=column < D, other=0.0).to(tl.float32)[None, :]
            )
        inside = (t < count)[:, None] & (column < D)[None, :]
        tl.store(y + row[:, None] * D + column[None, :], mixed.to(y.dtype.element_ty), mask=inside)


@jit
def segment_dots_kernel(
    x,
    z,
    start,
    length,
    dots,
    T,
    S,
    C,
    D,
    J: tl.constexpr,
    SLOTS: tl.constexpr,
    SPANS: tl.constexpr,
    TIME: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per segment and block of TIME tokens; walks over the width."""
    segment = tl.program_id(0)
    first, count = _span(start, length, segment, T, S, C, SPANS)
    t = tl.program_id(1) * TIME + tl.arange(0, TIME)
    row = (segment // S).to(tl.int64) * T + first + t
    slot = tl.arange(0, SLOTS)
    slots = z + segment.to(tl.int64) * J * D
    total = tl.zeros((TIME, SLOTS), dtype=tl.float32)
    for begin in range(0, D, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        inside = (t < count)[:, None] & (column < D)[None, :]
        value = tl.load(x + row[:, None] * D + column[None, :], mask=inside, other=0.0).to(
            tl.float32
        )
        for j in tl.static_range(J):
            z_j = tl.load(slots + j * D + column, mask=column < D, other=0.0).to(tl.float32)
            total += tl.where(
                (slot == j)[None, :], tl.sum(value * z_j[None, :], axis=1)[:, None], 0.0
            )
    tl.store(
        dots + row[:, None] * J + slot[None, :],
        total,
        mask=(t < count)[:, None] & (slot < J)[None, :],
    )


def _spans(spans, like: torch.Tensor):
    """(start, length, whether they are real) as the kernels take them."""
    return (
        (like, like, False)
        if spans is None
        else (spans[0].contiguous(), spans[1].contiguous(), True)
    )


def _count(T: int, C: int, spans) -> int:
    return -(-T // C) if spans is None else spans[0].shape[1]


def _pair(start, length):
    return None if start is None else (start, length)


@torch.library.custom_op("steel::segment_sums", mutates_args=())
def _sums_op(
    x: torch.Tensor,
    w: torch.Tensor,
    C: int,
    start: torch.Tensor | None,
    length: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    x, w, spans = x.contiguous(), w.contiguous(), _pair(start, length)
    (B, T, D), J = x.shape, w.shape[-1]
    S = _count(T, C, spans)
    sums = torch.empty(B, S, J, D, dtype=torch.float32, device=x.device)
    mass = torch.empty(B, S, J, dtype=torch.float32, device=x.device)
    *where, real = _spans(spans, w)
    with _triton.on(x):
        segment_sums_kernel[(B * S, -(-D // BLOCK))](
            x,
            w,
            *where,
            sums,
            mass,
            T,
            S,
            C,
            D,
            J=J,
            SLOTS=_triton.next_power_of_2(J),
            SPANS=real,
            TIME=TIME,
            BLOCK=BLOCK,
            num_warps=4,
        )
    return sums, mass


@_sums_op.register_fake
def _(x, w, C, start, length):
    (B, T, D), J = x.shape, w.shape[-1]
    S = _count(T, C, _pair(start, length))
    return x.new_empty(B, S, J, D, dtype=torch.float32), x.new_empty(B, S, J, dtype=torch.float32)


@torch.library.custom_op("steel::segment_combine", mutates_args=())
def _combine_op(
    c: torch.Tensor,
    z: torch.Tensor,
    C: int,
    start: torch.Tensor | None,
    length: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    c, z, spans = c.contiguous(), z.contiguous(), _pair(start, length)
    (B, T, J), (S, D) = c.shape, (z.shape[1], z.shape[3])
    make = torch.empty if spans is None else torch.zeros  # tokens in no segment get nothing
    y = make(B, T, D, dtype=dtype, device=z.device)
    *where, real = _spans(spans, c)
    with _triton.on(z):
        segment_combine_kernel[(B * S, -(-D // BLOCK))](
            c, z, *where, y, T, S, C, D, J=J, SPANS=real, TIME=TIME, BLOCK=BLOCK, num_warps=4
        )
    return y


@_combine_op.register_fake
def _(c, z, C, start, length, dtype):
    return z.new_empty(*c.shape[:2], z.shape[3], dtype=dtype)


@torch.library.custom_op("steel::segment_dots", mutates_args=())
def _dots_op(
    x: torch.Tensor,
    z: torch.Tensor,
    C: int,
    start: torch.Tensor | None,
    length: torch.Tensor | None,
) -> torch.Tensor:
    x, z, spans = x.contiguous(), z.contiguous(), _pair(start, length)
    (B, T, D), (S, J) = x.shape, z.shape[1:3]
    make = torch.empty if spans is None else torch.zeros
    dots = make(B, T, J, dtype=torch.float32, device=x.device)
    *where, real = _spans(spans, x)
    with _triton.on(x):
        segment_dots_kernel[(B * S, -(-C // TIME))](
            x,
            z,
            *where,
            dots,
            T,
            S,
            C,
            D,
            J=J,
            SLOTS=_triton.next_power_of_2(J),
            SPANS=real,
            TIME=TIME,
            BLOCK=BLOCK,
            num_warps=4,
        )
    return dots


@_dots_op.register_fake
def _(x, z, C, start, length):
    return x.new_empty(*x.shape[:2], z.shape[2], dtype=torch.float32)


def _sums_setup(ctx, inputs, output):
    x, w, ctx.C, start, length = inputs
    ctx.save_for_backward(x, w, start, length)


def _sums_backward(ctx, dsums, dmass):
    x, w, start, length = ctx.saved_tensors
    dx = _combine_op(w, dsums, ctx.C, start, length, x.dtype)
    dw = _dots_op(x, dsums, ctx.C, start, length)
    ones = dmass.new_ones(*w.shape[:2], 1)
    # Each token's share of dM is dM itself: a combination of one slot per segment, J wide, with weight 1.
    dw = dw + _combine_op(ones, dmass[:, :, None, :], ctx.C, start, length, torch.float32)
    return dx, dw.to(w.dtype), None, None, None


def _combine_setup(ctx, inputs, output):
    c, z, ctx.C, start, length, _ = inputs
    ctx.save_for_backward(c, z, start, length)


def _combine_backward(ctx, dy):
    c, z, start, length = ctx.saved_tensors
    dc = _dots_op(dy, z, ctx.C, start, length)
    dz = _sums_op(dy, c, ctx.C, start, length)[0]
    return dc.to(c.dtype), dz.to(z.dtype), None, None, None, None


_sums_op.register_autograd(_sums_backward, setup_context=_sums_setup)
_combine_op.register_autograd(_combine_backward, setup_context=_combine_setup)


def _membership(T: int, C: int, spans, device) -> torch.Tensor:
    """(B or 1, T, S): True where token t belongs to segment s."""
    t = torch.arange(T, device=device)[None, :, None]
    if spans is None:
        return t // C == torch.arange(_count(T, C, None), device=device)
    start, length = (part[:, None, :] for part in spans)
    return (t >= start) & (t < start + length)


def segment_sums_reference(x_BTD, w_BTJ, C: int, spans=None):
    """`segment_sums` by PyTorch's operators."""
    wide = _triton.wide(x_BTD.dtype)
    member = _membership(x_BTD.shape[1], C, spans, x_BTD.device).to(wide)
    weights_BTSJ = member[..., None] * w_BTJ.to(wide)[:, :, None, :]
    return torch.einsum("btsj,btd->bsjd", weights_BTSJ, x_BTD.to(wide)), weights_BTSJ.sum(dim=1)


def segment_combine_reference(c_BTJ, z_BSJD, C: int, spans=None):
    """`segment_combine` by PyTorch's operators."""
    wide = _triton.wide(z_BSJD.dtype)
    member = _membership(c_BTJ.shape[1], C, spans, z_BSJD.device).to(wide)
    weights_BTSJ = member[..., None] * c_BTJ.to(wide)[:, :, None, :]
    return torch.einsum("btsj,bsjd->btd", weights_BTSJ, z_BSJD.to(wide)).to(z_BSJD.dtype)


def segment_sums(x_BTD: torch.Tensor, w_BTJ: torch.Tensor, C: int, spans=None):
    """Triton dispatch: x (B, T, D), w (B, T, J) -> sums (B, S, J, D) and weights (B, S, J), both fp32.

    spans: None for segments of C tokens one after another, or (start, length), each (B, S) integers: the first token
    of each segment and how many it has (≤ C). Sums of an empty segment are 0.
    """
    if w_BTJ.shape[-1] > MOST_SLOTS or x_BTD.dtype == torch.float64:
        return segment_sums_reference(x_BTD, w_BTJ, C, spans)
    return _sums_op(x_BTD, w_BTJ, C, *(spans or (None, None)))


def segment_combine(c_BTJ: torch.Tensor, z_BSJD: torch.Tensor, C: int, spans=None) -> torch.Tensor:
    """Triton combine: c (B, T, J), z (B, S, J, D) -> y (B, T, D) in z's type; 0 for tokens in no segment."""
    if c_BTJ.shape[-1] > MOST_SLOTS or z_BSJD.dtype == torch.float64:
        return segment_combine_reference(c_BTJ, z_BSJD, C, spans)
    return _combine_op(c_BTJ, z_BSJD, C, *(spans or (None, None)), z_BSJD.dtype)


class Primitives(NamedTuple):
    """The two contractions of one implementation."""

    segment_sums: Callable
    segment_combine: Callable


PRIMITIVES = {
    "reference": Primitives(segment_sums_reference, segment_combine_reference),
    "triton": Primitives(segment_sums, segment_combine),
}


def router_logits(x: torch.Tensor, phi_DJ: torch.Tensor) -> torch.Tensor:
    """x @ phi with its columns padded to a multiple of 8: six bf16 columns are 12 bytes, and rows that are not 16-byte
    aligned keep cuBLAS from its fast kernels."""
    J = phi_DJ.shape[1]
    return (x @ F.pad(phi_DJ, (0, -J % 8)).to(x.dtype))[..., :J]


def soft_moe_v3(
    primitives: Primitives, x_BTD, phi_DJ, slot_experts: Callable, valid_BT=None
) -> torch.Tensor:
    """Steel-LLM's layer: softmax over time into the slots, softmax over slots back (Puigcerver et al. 2024, alg. 1).

    The tokens are L2-normalised by scaling their logits and dispatch weights, so the normalised x is never written.
    phi: already normalised and scaled. slot_experts: (B, J, D) -> (B, J, D). Not causal.
    """
    B, T, _ = x_BTD.shape
    wide = _triton.wide(x_BTD.dtype)
    norm_BT1 = torch.linalg.vector_norm(x_BTD, dim=-1, keepdim=True, dtype=wide).clamp_min(1e-12)
    logits_BTJ = router_logits(x_BTD, phi_DJ).to(wide) / norm_BT1
    over_time = logits_BTJ
    if valid_BT is not None:  # a row of padding alone stays finite
        over_time = over_time.masked_fill(~valid_BT[..., None], torch.finfo(wide).min)
    sums, _ = primitives.segment_sums(x_BTD, over_time.softmax(dim=1) / norm_BT1, SPLIT)
    z_BJD = slot_experts(sums.sum(dim=1).to(x_BTD.dtype))
    z_BSJD = z_BJD[:, None].expand(B, -(-T // SPLIT), *z_BJD.shape[1:])
    return primitives.segment_combine(logits_BTJ.softmax(dim=-1), z_BSJD, SPLIT)


def spans_of(cell_BT: torch.Tensor, S: int, C: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(start, length), each (B, S) int32, from each token's cell in a grid of S segments of C (S·C for padding).

    The tokens of a segment stand side by side, as they do in packed and in left- or right-padded rows.
    """
    B, T = cell_BT.shape
    segment = cell_BT // C
    t = torch.arange(T, device=cell_BT.device).expand(B, T)
    length = torch.zeros(B, S + 1, dtype=torch.long, device=cell_BT.device).scatter_add(
        1, segment, torch.ones_like(t)
    )
    start = torch.full((B, S + 1), T, device=cell_BT.device).scatter_reduce(1, segment, t, "amin")
    return start[:, :S].int().contiguous(), length[:, :S].int().contiguous()


def aot_cases() -> list[dict]:
    """The causal layer of the 1 B model (5 slots), and v3's six, in bf16 with fp32 weights."""
    sizes = dict.fromkeys(("T", "S", "C", "D"), "i32")
    cases = []
    for J, spans in ((5, True), (6, False)):
        span = dict.fromkeys(("start", "length"), "*i32" if spans else "*bf16")
        shared = {"warps": 4, "aligned": ("T", "C", "D")}
        constants = {"J": J, "SPANS": spans, "TIME": TIME, "BLOCK": BLOCK}
        slots = {"SLOTS": _triton.next_power_of_2(J)}
        note = f"J={J}" + (" spans" if spans else "")
        cases += [
            {
                "kernel": segment_sums_kernel,
                "name": f"segment_sums {note}",
                "constants": constants | slots,
                **shared,
                "signature": {
                    "x": "*bf16",
                    "w": "*fp32",
                    **span,
                    "sums": "*fp32",
                    "mass": "*fp32",
                    **sizes,
                },
            },
            {
                "kernel": segment_combine_kernel,
                "name": f"segment_combine {note}",
                "constants": constants,
                **shared,
                "signature": {"c": "*fp32", "z": "*bf16", **span, "y": "*bf16", **sizes},
            },
            {
                "kernel": segment_dots_kernel,
                "name": f"segment_dots {note}",
                "constants": constants | slots,
                **shared,
                "signature": {"x": "*bf16", "z": "*fp32", **span, "dots": "*fp32", **sizes},
            },
        ]
    return cases
