"""A soft mixture of experts that keeps the arrow of time: shared experts plus slots fed by completed segments.

With x_t the normalised input, segment s(t) = ⌊t / C⌋ counted from the start of its document, slots j = 1..J:

    w[t,j] = exp(cap(<x_t, phi_d[j]>))                    cap(a) = 15 tanh(a / 15)
    N[s,j] = Σ_{t in s} w[t,j] x_t        M[s,j] = Σ_{t in s} w[t,j]
    n[0,j] = 0,  n[s,j] = γ_j n[s-1,j] + N[s-1,j]         (m likewise from M), γ_j = σ(g_j)
    u[s,j] = rms((π_j b_j + n[s,j]) / (π_j + m[s,j]))     π_j = exp(ρ_j)
    z[s,j] = expert_{⌊j/P⌋}(u[s,j])
    y_t    = Σ shared experts (x_t) + Σ_j softmax_j(cap(<x_t, phi_c[j]>)) z[s(t),j]

y_t reads x_t and segments that ended before it: no token sees a later one, and slot experts run once per C tokens.
Accumulators are fp32 (or wider). Decoding carries (n, m, N, M, z, count) per row; see `SteelCacheLayer.slots`.

Shapes: B batch, T time, S segments, C segment length, D model width, J = E·P slots.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .feed_forward import make_experts, router_softmax
from .soft_moe import root_mean_square_normalize, run_slot_experts

CAP = 15.0


@dataclass
class SegmentPlan:
    """Where each token lies in the grid of segments (B, S, C); built once per forward, the same for all layers.

    `cell_BT` is None when token t lies in cell t of every row (training without packing or padding).
    """

    num_segments: int
    segment_length: int
    start_BS: torch.Tensor | None = None  # first token of each segment, int32; T where it has none
    length_BS: torch.Tensor | None = None  # tokens of each segment, int32
    padded: bool = False  # whether some tokens lie in no segment
    cell_BT: torch.Tensor | None = None  # index into S·C, and S·C itself (a spare cell) for padding
    document_BS: torch.Tensor | None = None  # document each segment belongs to
    last_B: torch.Tensor | None = None  # segment in which the row's last real token lies
    count_B: torch.Tensor | None = None  # tokens in the open segment after this forward
    complete_B: torch.Tensor | None = None  # True where the last real token filled its segment
    any_complete: bool = (
        True  # on the host, so that a decoding step knows without asking the device per layer
    )


def plan_segments(
    shape: tuple[int, int],
    length: int,
    position_ids_BT: torch.Tensor | None,
    valid_BT: torch.Tensor | None,
    count_B: torch.Tensor | None,
    packed: bool,
) -> SegmentPlan:
    """Lay the tokens of a batch out in segments of `length` tokens.

    A document starts where position_ids is 0 (only looked at when `packed`, which needs an empty cache); padding is
    skipped; `count_B` tokens of each row's open segment are already in the cache (None: an empty cache).
    """
    B, T = shape
    device = position_ids_BT.device
    if not packed and valid_BT is None and count_B is None:
        start_S = torch.arange(0, T, length, device=device, dtype=torch.int32)
        length_S = (T - start_S).clamp_max(length)
        return SegmentPlan(len(start_S), length, start_S.expand(B, -1), length_S.expand(B, -1))
    assert not packed or count_B is None
    valid = torch.ones(B, T, dtype=torch.bool, device=device) if valid_BT is None else valid_BT
    before_B1 = (
        torch.zeros(B, 1, dtype=torch.long, device=device) if count_B is None else count_B[:, None]
    )
    starts = valid & (position_ids_BT == 0) if packed else torch.zeros_like(valid)
    seen = valid.cumsum(dim=1)
    base = torch.where(starts, seen - 1, -before_B1).cummax(dim=1).values
    offset = seen - 1 - base  # tokens of the document before this one, modulo what the cache holds
    begins = valid & (offset % length == 0)
    segment = begins.cumsum(dim=1) - 1 + (before_B1 > 0).long()
    segment = segment.clamp_min(0)
    num_segments = int(segment.max()) + 1
    cell = torch.where(valid, segment * length + offset % length, num_segments * length)
    started = torch.zeros(B, num_segments, dtype=torch.long, device=device)
    started.scatter_add_(1, segment, starts.long())
    any_valid = valid.any(dim=1)
    count = torch.where(any_valid, (offset[:, -1] + 1) % length, before_B1[:, 0])
    start_BS, length_BS = segment_spans(segment, valid, num_segments)
    return SegmentPlan(
        num_segments,
        length,
        start_BS,
        length_BS,
        valid_BT is not None,
        cell,
        started.cumsum(dim=1),
        segment[:, -1],
        count,
        any_valid & (count == 0),
    )


def segment_spans(segment_BT, valid_BT, num_segments: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First token (T if there is none) and number of tokens of each segment, both (B, S) int32.

    The tokens of a segment stand side by side: padding is left or right of them, and shares a segment with none.
    """
    B, T = segment_BT.shape
    segment_BT = torch.where(valid_BT, segment_BT, num_segments)
    t_BT = torch.arange(T, device=segment_BT.device).expand(B, T)
    zeros = torch.zeros(B, num_segments + 1, dtype=torch.long, device=segment_BT.device)
    length = zeros.scatter_add(1, segment_BT, torch.ones_like(t_BT))
    start = (zeros + T).scatter_reduce(1, segment_BT, t_BT, "amin")
    return start[:, :-1].int().contiguous(), length[:, :-1].int().contiguous()


def plan_step(length: int, valid_BT: torch.Tensor | None, count_B: torch.Tensor) -> SegmentPlan:
    """The plan of one decoding step: each row adds a token to its open segment (padding adds none)."""
    adds_B = torch.ones_like(count_B) if valid_BT is None else valid_BT[:, -1].long()
    count_B = count_B + adds_B
    complete_B = (count_B == length) & adds_B.bool()
    return SegmentPlan(
        1,
        length,
        count_B=count_B % length,
        complete_B=complete_B,
        any_complete=bool(complete_B.any()),
    )


def segment_sums(x_BTD, weight_BTJ, plan: SegmentPlan) -> tuple[torch.Tensor, torch.Tensor]:
    """N[s,j] = Σ_{t in s} w[t,j] x_t (B, S, J, D) and M[s,j] = Σ_{t in s} w[t,j] (B, S, J), in the weights' type."""
    to_grid = _ToGrid(plan, x_BTD.shape[1])
    x_grid = to_grid(x_BTD).to(weight_BTJ.dtype)
    weight_grid = to_grid(weight_BTJ)
    return torch.einsum("bscj,bscd->bsjd", weight_grid, x_grid), weight_grid.sum(dim=2)


def segment_combine(combine_BTJ, z_BSJD, plan: SegmentPlan) -> torch.Tensor:
    """y_t = Σ_j c[t,j] z[s(t),j] in z's type, (B, T, D)."""
    to_grid = _ToGrid(plan, combine_BTJ.shape[1])
    combine_grid = to_grid(combine_BTJ.to(z_BSJD.dtype))
    return to_grid.back(torch.einsum("bscj,bsjd->bscd", combine_grid, z_BSJD))


class SteelCausalSoftMoE(nn.Module):
    """The layer of this module's formulas. Parameters: dispatch, combine (D, J), prior (J, D), prior_weight (J,) = ρ,
    decay (J,) = g, stacked slot experts (E) and, if any, shared experts.

    forward(x_BTD, context, cache_layer) -> (B, T, D). `context.plan` says where documents start and padding lies (None:
    one document per row, no padding); `cache_layer.slots` is read, and replaced by the state after these tokens.
    """

    segment_sums = staticmethod(segment_sums)  # a built model may get other implementations here
    segment_combine = staticmethod(segment_combine)

    def __init__(self, config) -> None:
        super().__init__()
        d, slots = config.hidden_size, config.num_experts * config.slots_per_expert
        self.segment_length = config.segment_length
        self.dispatch = nn.Parameter(torch.empty(d, slots))
        self.combine = nn.Parameter(torch.empty(d, slots))
        self.prior = nn.Parameter(torch.empty(slots, d))
        self.prior_weight = nn.Parameter(torch.empty(slots))
        self.decay = nn.Parameter(torch.empty(slots))
        self.experts = make_experts(config, config.num_experts)
        self.shared = (
            make_experts(config, config.num_shared_experts) if config.num_shared_experts else None
        )

    def forward(self, x_BTD: torch.Tensor, context=None, cache_layer=None) -> torch.Tensor:
        B, T, D = x_BTD.shape
        plan = context.plan if context is not None else None
        if plan is None:
            position_BT = torch.arange(T, device=x_BTD.device).expand(B, T)
            plan = plan_segments((B, T), self.segment_length, position_BT, None, None, packed=False)
        wide = torch.promote_types(x_BTD.dtype, torch.float32)
        # One product for both routers; logits in fp32, bounded by ±15, so the exponential needs no running maximum.
        logits = x_BTD @ torch.cat((self.dispatch, self.combine), dim=1).to(x_BTD.dtype)
        logits = CAP * torch.tanh(logits.to(wide) / CAP)
        dispatch_BTJ, combine_BTJ = logits.chunk(2, dim=-1)
        weight_BTJ, combine_BTJ = dispatch_BTJ.exp(), router_softmax(combine_BTJ)
        state = cache_layer.slots if cache_layer is not None else None
        if cache_layer is not None and T == 1:
            state = state or self._empty_state(B, D, x_BTD)
            mixed = combine_BTJ.to(x_BTD.dtype) @ state["z"]
            cache_layer.slots = self._step(x_BTD, weight_BTJ[:, 0], state, context)
        else:
            mixed, new_state = self._segments(
                x_BTD, weight_BTJ, combine_BTJ, state, plan, cache_layer is not None
            )
            if cache_layer is not None:
                cache_layer.slots = new_state
        if self.shared is None:
            return mixed
        return mixed + self.shared.every(x_BTD.reshape(B * T, D)).sum(dim=0).view(B, T, D)

    def _slot_outputs(self, n: torch.Tensor, m: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Sums n (…, J, D) and weights m (…, J) -> slot outputs z (…, J, D)."""
        pi_J = self.prior_weight.to(n.dtype).exp()
        mean = (pi_J[:, None] * self.prior.to(n.dtype) + n) / (pi_J + m)[..., None]
        return run_slot_experts(self.experts, root_mean_square_normalize(mean).to(dtype))

    def _segments(self, x_BTD, weight_BTJ, combine_BTJ, state, plan, keep):
        """The parallel form over a grid of segments; continues from `state`, returns the new one when `keep`."""
        N, M = self.segment_sums(x_BTD, weight_BTJ, plan)
        if state is not None:
            N = torch.cat((N[:, :1] + state["N"][:, None], N[:, 1:]), dim=1)
            M = torch.cat((M[:, :1] + state["M"][:, None], M[:, 1:]), dim=1)
        n, m = self._decayed(N, M, state, plan)
        z_BSJD = self._slot_outputs(n, m, x_BTD.dtype)
        mixed = self.segment_combine(combine_BTJ, z_BSJD, plan)
        T = x_BTD.shape[1]
        return mixed, self._export(N, M, n, m, plan, T, x_BTD.dtype) if keep else None

    def _decayed(self, N, M, state, plan):
        """n[s] = Σ_{s' < s, same document} γ^(s-1-s') N[s'] as one product with a strictly lower triangular matrix."""
        S = N.shape[1]
        index = torch.arange(S, device=N.device)
        power_SS = index[:, None] - 1 - index[None, :]
        log_gamma_J = F.logsigmoid(self.decay.to(N.dtype))
        matrix = (power_SS.clamp_min(0) * log_gamma_J[:, None, None]).exp() * (power_SS >= 0)
        if plan.document_BS is not None:
            same = plan.document_BS[:, :, None] == plan.document_BS[:, None, :]
            matrix = matrix[None] * same[:, None]
            n, m = (
                torch.einsum("bjst,btjd->bsjd", matrix, N),
                torch.einsum("bjst,btj->bsj", matrix, M),
            )
        else:
            n, m = (
                torch.einsum("jst,btjd->bsjd", matrix, N),
                torch.einsum("jst,btj->bsj", matrix, M),
            )
        if state is not None:
            carry_SJ = (
                index[:, None] * log_gamma_J
            ).exp()  # packing is read on an empty cache only
            n = n + carry_SJ[..., None] * state["n"][:, None]
            m = m + carry_SJ * state["m"][:, None]
        return n, m

    def _export(self, N, M, n, m, plan, T, dtype):
        """Decode state after this forward: the open segment's sums, or a fold of the one just completed."""
        B, S = N.shape[:2]
        if plan.last_B is None:
            last = torch.full((B,), S - 1, device=N.device)
            count = torch.full((B,), T % self.segment_length, device=N.device)
            complete = count == 0
        else:
            last, count, complete = plan.last_B, plan.count_B, plan.complete_B
        row = torch.arange(B, device=N.device)
        open_state = {
            "n": n[row, last],
            "m": m[row, last],
            "N": N[row, last],
            "M": M[row, last],
            "count": count,
        }
        state = self._fold(open_state, complete)
        state["z"] = self._slot_outputs(state["n"], state["m"], dtype)
        return state

    def _fold(self, state, complete_B):
        """Where a segment is complete: n <- γ n + N, N <- 0 (m, M likewise)."""
        gamma_J = torch.sigmoid(self.decay.to(state["n"].dtype))
        done = complete_B[:, None]
        done3 = complete_B[:, None, None]
        n, m, N, M = (state[name] for name in "nmNM")
        return {
            **state,
            "n": torch.where(done3, gamma_J[:, None] * n + N, n),
            "m": torch.where(done, gamma_J * m + M, m),
            "N": torch.where(done3, 0.0, N),
            "M": torch.where(done, 0.0, M),
        }

    def _step(self, x_B1D, weight_BJ, state, context):
        """Add one token per row to its open segment; run the slot experts only if some row completed one."""
        plan = context.plan
        if context.valid_BT is not None:
            weight_BJ = weight_BJ * context.valid_BT[:, -1:]
        state = {
            **state,
            "N": state["N"] + weight_BJ[..., None] * x_B1D.to(weight_BJ.dtype),
            "M": state["M"] + weight_BJ,
            "count": plan.count_B,
        }
        if not plan.any_complete:
            return state
        state = self._fold(state, plan.complete_B)
        state["z"] = self._slot_outputs(
            state["n"], state["m"], x_B1D.dtype
        )  # of other rows: the same as before
        return state

    def _empty_state(self, B: int, D: int, x: torch.Tensor) -> dict[str, torch.Tensor]:
        J = self.decay.shape[0]
        wide = torch.promote_types(x.dtype, torch.float32)
        n, m = x.new_zeros(B, J, D, dtype=wide), x.new_zeros(B, J, dtype=wide)
        count = torch.zeros(B, dtype=torch.long, device=x.device)
        return {
            "n": n,
            "m": m,
            "N": n,
            "M": m,
            "count": count,
            "z": self._slot_outputs(n, m, x.dtype),
        }


class _ToGrid:
    """Moves (B, T, X) into the grid (B, S, C, X) and back; cells without a token hold zeros."""

    def __init__(self, plan: SegmentPlan, T: int) -> None:
        self.cell_BT, self.shape, self.T = plan.cell_BT, (plan.num_segments, plan.segment_length), T

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        B, (S, C) = x.shape[0], self.shape
        if self.cell_BT is None:
            if S * C != self.T:
                x = F.pad(x, (0, 0, 0, S * C - self.T))
            return x.reshape(B, S, C, -1)
        grid = x.new_zeros(B, S * C + 1, x.shape[-1])
        index = self.cell_BT[..., None].expand_as(x)
        return grid.scatter(1, index, x)[:, :-1].view(B, S, C, -1)

    def back(self, grid: torch.Tensor) -> torch.Tensor:
        B, (S, C) = grid.shape[0], self.shape
        flat = grid.reshape(B, S * C, -1)
        if self.cell_BT is None:
            return flat[:, : self.T]
        index = self.cell_BT.clamp_max(S * C - 1)[..., None].expand(-1, -1, flat.shape[-1])
        return flat.gather(1, index)
