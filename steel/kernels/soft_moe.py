"""Soft mixtures of experts: tokens into slots and slots back to tokens, segment by segment.

Both of the layers in `steel.model` reduce to two contractions over segments of tokens:

    segment_sums:     N[s,j] = Σ_{t in s} w[t,j] x_t,  M[s,j] = Σ_{t in s} w[t,j]        (dispatch)
    segment_combine:  y_t = Σ_j c[t,j] z[s(t),j]                                          (combine)

The causal layer uses them as they are; v3 adds its segments up afterwards (a split reduction over
the sequence). With few slots (J is 5 or 6) they do about ten operations per byte: bound by memory,
so the kernels read x once in its own type, keep sums in fp32, and need no tensor cores and no copy
of x in fp32 or in segment order. Packed documents and padding come as the first token and the
length of each segment, instead of scattering tokens into a grid and back.

The gradients are the same contractions again, and `segment_dots`: d[t,j] = <x_t, z[s(t),j]>.

Shapes: B batch, T time, S segments per row, J slots, D width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.causal_soft_moe import SegmentPlan
from ._triton import cdiv, constexpr, jit, keep_inputs, launch, operator, power_of_2, tl, wide

MOST_SLOTS = 64  # more would not fit a program's registers
SPLIT = 256  # tokens per partial sum of v3's dispatch
TIME, BLOCK = constexpr(32), constexpr(128)  # a tile: tokens and columns


def even_segments(B: int, T: int, length: int, device: torch.device | str = "cpu") -> SegmentPlan:
    """Segments of `length` tokens one after another, laid out on the device."""
    start_S = torch.arange(0, T, length, device=device, dtype=torch.int32)
    row_B1 = T * torch.arange(B, device=device, dtype=torch.int32)[:, None]
    length_BS = (T - start_S).clamp_max(length).expand(B, -1)
    return SegmentPlan(len(start_S), length, start_BS=row_B1 + start_S, length_BS=length_BS)


@jit
def segment_sums_kernel(x, w, start, length, sums, mass, D, J: constexpr, SLOTS: constexpr):
    """One program per segment and block of columns."""
    segment = tl.program_id(0)
    count = tl.load(length + segment)
    base = tl.load(start + segment).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.arange(0, SLOTS)
    total = tl.zeros((SLOTS, BLOCK), dtype=tl.float32)
    weight = tl.zeros((SLOTS,), dtype=tl.float32)
    for begin in range(0, count, TIME):
        t = begin + tl.arange(0, TIME)
        row = base + t
        inside = (t < count)[:, None] & (column < D)[None, :]
        value = tl.load(x + row[:, None] * D + column[None, :], mask=inside, other=0.0)
        value = value.to(tl.float32)
        for j in tl.static_range(J):
            w_j = tl.load(w + row * J + j, mask=t < count, other=0.0).to(tl.float32)
            summed = tl.sum(value * w_j[:, None], axis=0)
            total += tl.where((slot == j)[:, None], summed[None, :], 0.0)
            weight += tl.where(slot == j, tl.sum(w_j, axis=0), 0.0)
    place = segment.to(tl.int64) * J + slot
    inside = (slot < J)[:, None] & (column < D)[None, :]
    tl.store(sums + place[:, None] * D + column[None, :], total, mask=inside)
    tl.store(mass + place, weight, mask=(slot < J) & (tl.program_id(1) == 0))


@jit
def segment_combine_kernel(c, z, start, length, y, D, J: constexpr):
    """One program per segment and block of columns."""
    segment = tl.program_id(0)
    count = tl.load(length + segment)
    base = tl.load(start + segment).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    slots = z + segment.to(tl.int64) * J * D + column
    for begin in range(0, count, TIME):
        t = begin + tl.arange(0, TIME)
        row = base + t
        mixed = tl.zeros((TIME, BLOCK), dtype=tl.float32)
        for j in tl.static_range(J):
            c_j = tl.load(c + row * J + j, mask=t < count, other=0.0).to(tl.float32)
            z_j = tl.load(slots + j * D, mask=column < D, other=0.0).to(tl.float32)
            mixed += c_j[:, None] * z_j[None, :]
        inside = (t < count)[:, None] & (column < D)[None, :]
        tl.store(y + row[:, None] * D + column[None, :], mixed.to(y.dtype.element_ty), mask=inside)


@jit
def segment_dots_kernel(x, z, start, length, dots, D, J: constexpr, SLOTS: constexpr):
    """One program per segment and block of TIME tokens; walks over the width."""
    segment = tl.program_id(0)
    count = tl.load(length + segment)
    t = tl.program_id(1) * TIME + tl.arange(0, TIME)
    row = tl.load(start + segment).to(tl.int64) + t
    slot = tl.arange(0, SLOTS)
    slots = z + segment.to(tl.int64) * J * D
    total = tl.zeros((TIME, SLOTS), dtype=tl.float32)
    for begin in range(0, D, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        inside = (t < count)[:, None] & (column < D)[None, :]
        value = tl.load(x + row[:, None] * D + column[None, :], mask=inside, other=0.0)
        value = value.to(tl.float32)
        for j in tl.static_range(J):
            z_j = tl.load(slots + j * D + column, mask=column < D, other=0.0).to(tl.float32)
            dot = tl.sum(value * z_j[None, :], axis=1)
            total += tl.where((slot == j)[None, :], dot[:, None], 0.0)
    inside = (t < count)[:, None] & (slot < J)[None, :]
    tl.store(dots + row[:, None] * J + slot[None, :], total, mask=inside)


def tile(J: int) -> dict:
    """How the programs that keep a number per slot are cut, for a launch. ValueError for more slots
    than fit a program's registers."""
    if J > MOST_SLOTS:
        raise ValueError(f"{J} slots are more than {MOST_SLOTS}")
    return {"J": J, "SLOTS": power_of_2(J), "num_warps": 4}


@operator
def _segment_sums(
    x: Tensor, w: Tensor, start: Tensor, length: Tensor, most: int, padded: bool
) -> tuple[Tensor, Tensor]:
    (B, S), J, D = start.shape, w.shape[2], x.shape[2]
    sums = x.new_empty(B, S, J, D, dtype=torch.float32)
    mass = x.new_empty(B, S, J, dtype=torch.float32)
    grid = B * S, cdiv(D, BLOCK.value)
    launch(segment_sums_kernel, grid, x, w, start, length, sums, mass, D, **tile(J))
    return sums, mass


@operator
def _segment_combine(
    c: Tensor, z: Tensor, start: Tensor, length: Tensor, most: int, padded: bool, dtype: torch.dtype
) -> Tensor:
    B, S, J, D = z.shape
    y = (c.new_zeros if padded else c.new_empty)((*c.shape[:2], D), dtype=dtype)
    grid = B * S, cdiv(D, BLOCK.value)
    launch(segment_combine_kernel, grid, c, z, start, length, y, D, J=J, num_warps=4)
    return y


@operator
def _segment_dots(
    x: Tensor, z: Tensor, start: Tensor, length: Tensor, most: int, padded: bool
) -> Tensor:
    B, S, J, D = z.shape
    dots = (x.new_zeros if padded else x.new_empty)((*x.shape[:2], J), dtype=torch.float32)
    grid = B * S, cdiv(most, TIME.value)
    launch(segment_dots_kernel, grid, x, z, start, length, dots, D, **tile(J))
    return dots


def _sums_gradients(ctx, dsums, dmass):
    x, w, *where = (*ctx.saved_tensors, *ctx.rest)
    # Each token's share of dM is dM itself: a combination of one slot per segment, J wide.
    ones = dmass.new_ones(*w.shape[:2], 1)
    share = _segment_combine(ones, dmass[:, :, None, :], *where, torch.float32)
    dx, dw = _segment_combine(w, dsums, *where, x.dtype), _segment_dots(x, dsums, *where) + share
    return dx, dw, None, None, None, None


def _combine_gradients(ctx, dy):
    c, z, *where, _ = (*ctx.saved_tensors, *ctx.rest)
    dc, dz = _segment_dots(dy, z, *where), _segment_sums(dy, c, *where)[0]
    return dc, dz, None, None, None, None, None


_segment_sums.register_autograd(_sums_gradients, setup_context=keep_inputs)
_segment_combine.register_autograd(_combine_gradients, setup_context=keep_inputs)


def segment_sums(x_BTD: Tensor, w_BTJ: Tensor, plan: SegmentPlan) -> tuple[Tensor, Tensor]:
    """Triton dispatch -> sums (B, S, J, D) and weights (B, S, J), both fp32."""
    where = plan.start_BS, plan.length_BS, plan.segment_length, plan.padded
    return _segment_sums(x_BTD, w_BTJ, *where)


def segment_combine(c_BTJ: Tensor, z_BSJD: Tensor, plan: SegmentPlan) -> Tensor:
    """Triton combine -> y (B, T, D) in z's type; 0 for tokens in no segment."""
    where = plan.start_BS, plan.length_BS, plan.segment_length, plan.padded
    return _segment_combine(c_BTJ, z_BSJD, *where, z_BSJD.dtype)


def soft_moe_v3(x_BTD: Tensor, phi_DJ: Tensor, run_slots: Callable, valid_BT=None) -> Tensor:
    """Steel-LLM's layer: softmax over time into the slots, softmax over slots back, not causal
    (Puigcerver et al. 2024, algorithm 1).

    The tokens are L2-normalised by scaling their logits and dispatch weights, so the normalised x
    is never written. phi: normalised and scaled. run_slots: (B, J, D) -> (B, J, D).
    """
    (B, T, _), J = x_BTD.shape, phi_DJ.shape[1]
    kind = wide(x_BTD.dtype)
    norm_BT1 = torch.linalg.vector_norm(x_BTD, dim=-1, keepdim=True, dtype=kind).clamp_min(1e-12)
    # Padded to a multiple of 8 columns: six bf16 columns are 12 bytes, and rows that are not
    # 16-byte aligned keep cuBLAS from its fast kernels.
    phi = F.pad(phi_DJ, (0, -J % 8)).to(x_BTD.dtype)
    over_time = logits_BTJ = (x_BTD @ phi)[..., :J].to(kind) / norm_BT1
    if valid_BT is not None:  # a row of padding alone stays finite
        over_time = logits_BTJ.masked_fill(~valid_BT[..., None], torch.finfo(kind).min)
    plan = even_segments(B, T, SPLIT, x_BTD.device)
    sums, _ = segment_sums(x_BTD, over_time.softmax(dim=1) / norm_BT1, plan)
    z_BJD = run_slots(sums.sum(dim=1).to(x_BTD.dtype))
    z_BSJD = z_BJD[:, None].expand(-1, plan.start_BS.shape[1], -1, -1)
    return segment_combine(logits_BTJ.softmax(dim=-1), z_BSJD, plan)
