"""A soft mixture of experts that keeps the arrow of time: slots are fed by completed segments.

With x_t the normalised input, segment s(t) = ⌊t / C⌋ from the document's start, slots j = 1..J:

    w[t,j] = exp(cap(<x_t, phi_d[j]>))                    cap(a) = 15 tanh(a / 15)
    N[s,j] = Σ_{t in s} w[t,j] x_t        M[s,j] = Σ_{t in s} w[t,j]
    n[0,j] = 0,  n[s,j] = γ_j n[s-1,j] + N[s-1,j]         (m likewise from M), γ_j = σ(g_j)
    u[s,j] = rms((π_j b_j + n[s,j]) / (π_j + m[s,j]))     π_j = exp(ρ_j)
    z[s,j] = expert_{⌊j/P⌋}(u[s,j])
    y_t    = Σ shared experts (x_t) + Σ_j softmax_j(cap(<x_t, phi_c[j]>)) z[s(t),j]

y_t reads x_t and segments that ended before it: no token sees a later one, and slot experts run
once per C tokens. Accumulators are fp32 (or wider). Decoding carries (n, m, N, M, z, count) per
row; see `SteelCacheLayer.slots`.

Shapes: B batch, T time, S segments, C segment length, D model width, J = E·P slots.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from .feed_forward import make_experts, router_softmax
from .soft_moe import root_mean_square_normalize, run_slot_experts

CAP = 15.0


@dataclass
class SegmentPlan:
    """Where each token lies in the grid of segments (B, S, C); made once per forward on the host.

    `cell_BT` is None when token t lies in cell t of every row (training without packing or
    padding).
    """

    num_segments: int
    segment_length: int
    start_BS: torch.Tensor | None = None  # first token of each segment among all B·T, int32
    length_BS: torch.Tensor | None = None  # tokens of each segment, int32
    padded: bool = False  # whether some tokens lie in no segment
    cell_BT: torch.Tensor | None = None  # index into S·C, and S·C itself (a spare cell) for padding
    document_BS: torch.Tensor | None = None  # document each segment belongs to
    last_B: torch.Tensor | None = None  # segment in which the row's last real token lies
    count_B: torch.Tensor | None = None  # tokens in the open segment after this forward
    complete_B: torch.Tensor | None = None  # True where the last real token filled its segment
    any_complete: bool = True  # on the host: a decoding step asks the device once, not per layer

    def to(self, device: torch.device) -> "SegmentPlan":
        """The same plan with its tensors on `device`; nobody waits for the copies."""
        moved = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, torch.Tensor)
        }
        return replace(self, **moved)


def plan_segments(
    shape: tuple[int, int],
    length: int,
    starts_BT: torch.Tensor | None = None,
    valid_BT: torch.Tensor | None = None,
    count_B: torch.Tensor | None = None,
) -> SegmentPlan:
    """Lay the tokens of a batch out in segments of `length` tokens; all tensors on the host.

    starts_BT: True where another document of the row starts (None: none does). valid_BT: False on
    padding, which lies in no segment (None: no padding). count_B: tokens of each row's open segment
    that are already in the cache (None: an empty cache); documents start on an empty cache only.
    """
    B, T = shape
    if starts_BT is None and valid_BT is None and count_B is None:
        start_S = torch.arange(0, T, length, dtype=torch.int32)
        length_S = (T - start_S).clamp_max(length)
        start_BS = T * torch.arange(B, dtype=torch.int32)[:, None] + start_S
        return SegmentPlan(len(start_S), length, start_BS, length_S.expand(B, -1))
    assert starts_BT is None or count_B is None
    valid = torch.ones(B, T, dtype=torch.bool) if valid_BT is None else valid_BT
    starts = torch.zeros(B, T, dtype=torch.bool) if starts_BT is None else starts_BT
    before_B1 = torch.zeros(B, 1, dtype=torch.long) if count_B is None else count_B[:, None]
    seen = valid.cumsum(dim=1)
    base = torch.where(starts, seen - 1, -before_B1).cummax(dim=1).values
    offset = seen - 1 - base  # tokens of the document before this one, modulo what the cache holds
    begins = valid & (offset % length == 0)
    segment = (begins.cumsum(dim=1) - 1 + (before_B1 > 0).long()).clamp_min(0)
    num_segments = int(segment.max()) + 1
    started = torch.zeros(B, num_segments, dtype=torch.long)
    started.scatter_add_(1, segment, starts.long())
    any_valid = valid.any(dim=1)
    count = torch.where(any_valid, (offset[:, -1] + 1) % length, before_B1[:, 0])
    start_BS, length_BS = segment_spans(segment, valid, num_segments)
    return SegmentPlan(
        num_segments,
        length,
        start_BS,
        length_BS,
        padded=valid_BT is not None,
        cell_BT=torch.where(valid, segment * length + offset % length, num_segments * length),
        document_BS=started.cumsum(dim=1),
        last_B=segment[:, -1],
        count_B=count,
        complete_B=any_valid & (count == 0),
    )


def segment_spans(segment_BT, valid_BT, num_segments: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First of all B·T tokens (B·T for none) and number of tokens of each segment, (B, S) int32.

    The tokens of a segment stand side by side: padding lies left or right of them, in no segment.
    """
    B, T = segment_BT.shape
    segment_BT = torch.where(valid_BT, segment_BT, num_segments)
    t_BT = torch.arange(B * T).view(B, T)
    zeros = torch.zeros(B, num_segments + 1, dtype=torch.long)
    length = zeros.scatter_add(1, segment_BT, torch.ones_like(t_BT))
    start = (zeros + B * T).scatter_reduce(1, segment_BT, t_BT, "amin")
    return start[:, :-1].int().contiguous(), length[:, :-1].int().contiguous()


def plan_step(length: int, valid_BT: torch.Tensor | None, count_B: torch.Tensor) -> SegmentPlan:
    """The plan of one decoding step: each row adds a token to its open segment (padding adds none)."""
    adds_B = torch.ones_like(count_B) if valid_BT is None else valid_BT[:, -1].long()
    count_B = count_B + adds_B
    full_B = (count_B == length) & adds_B.bool()
    counts = {"count_B": count_B % length, "complete_B": full_B}
    return SegmentPlan(1, length, **counts, any_complete=bool(full_B.any()))


def segment_sums(x_BTD, weight_BTJ, plan: SegmentPlan) -> tuple[torch.Tensor, torch.Tensor]:
    """N[s,j] = Σ_{t in s} w[t,j] x_t (B, S, J, D) and M (B, S, J), in the weights' type."""
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
    """The layer of this module's formulas. Parameters: dispatch, combine (D, J), prior (J, D),
    prior_weight (J,) = ρ, decay (J,) = g, stacked slot experts (E) and, if any, shared experts.

    forward(x_BTD, context, cache_layer) -> (B, T, D). `context.plan` says where documents start and
    padding lies (None: one document per row, no padding); `cache_layer.slots` is read, and replaced
    by the state after these tokens.
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
            plan = plan_segments((B, T), self.segment_length).to(x_BTD.device)
        dispatch_BTJ, combine_BTJ = self._router_logits(x_BTD)
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

    def _router_logits(self, x_BTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Dispatch and combine logits (B, T, J), in at least fp32 and within ±15.

        Bounded logits need no running maximum before the exponential. Both routers are one product,
        padded to a multiple of 8 columns: rows of bf16 must be aligned to 16 bytes to be fast.
        """
        J = self.dispatch.shape[1]
        spare = self.dispatch.new_zeros(x_BTD.shape[-1], -2 * J % 8)
        weight = torch.cat((self.dispatch, self.combine, spare), dim=1).to(x_BTD.dtype)
        wide = torch.promote_types(x_BTD.dtype, torch.float32)
        logits = CAP * torch.tanh((x_BTD @ weight).to(wide) / CAP)
        return logits[..., :J], logits[..., J : 2 * J]

    def _slot_outputs(self, n: torch.Tensor, m: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Sums n (…, J, D) and weights m (…, J) -> slot outputs z (…, J, D)."""
        pi_J = self.prior_weight.to(n.dtype).exp()
        mean = (pi_J[:, None] * self.prior.to(n.dtype) + n) / (pi_J + m)[..., None]
        return run_slot_experts(self.experts, root_mean_square_normalize(mean).to(dtype))

    def _segments(self, x_BTD, weight_BTJ, combine_BTJ, state, plan, keep):
        """The parallel form over a grid of segments; returns the new decode state when `keep`."""
        with full_precision(x_BTD):
            N, M = self.segment_sums(x_BTD, weight_BTJ, plan)
            if state is not None:
                N = torch.cat((N[:, :1] + state["N"][:, None], N[:, 1:]), dim=1)
                M = torch.cat((M[:, :1] + state["M"][:, None], M[:, 1:]), dim=1)
            n, m = self._decayed(N, M, state, plan)
        z_BSJD = self._slot_outputs(n, m, x_BTD.dtype)
        mixed = self.segment_combine(combine_BTJ, z_BSJD, plan)
        return mixed, self._export(N, M, n, m, plan, x_BTD) if keep else None

    def _decayed(self, N, M, state, plan):
        """n[s] = Σ_{s' < s, same document} γ^(s-1-s') N[s'], a product with a lower triangle."""
        B, S = N.shape[:2]
        index = torch.arange(S, device=N.device)
        power_SS = index[:, None] - 1 - index[None, :]
        log_gamma_J = F.logsigmoid(self.decay.to(N.dtype))
        matrix = (power_SS.clamp_min(0) * log_gamma_J[:, None, None]).exp() * (power_SS >= 0)
        matrix = matrix.expand(B, -1, -1, -1)
        if plan.document_BS is not None:
            same = plan.document_BS[:, :, None] == plan.document_BS[:, None, :]
            matrix = matrix * same[:, None]
        n = torch.einsum("bjst,btjd->bsjd", matrix, N)
        m = torch.einsum("bjst,btj->bsj", matrix, M)
        if state is not None:  # a state follows one document alone
            carry_SJ = (index[:, None] * log_gamma_J).exp()
            n = n + carry_SJ[..., None] * state["n"][:, None]
            m = m + carry_SJ * state["m"][:, None]
        return n, m

    def _export(self, N, M, n, m, plan, x_BTD):
        """Decode state after this forward: the open segment's sums, or a fold of one completed."""
        B, T, _ = x_BTD.shape
        if plan.last_B is None:
            last = torch.full((B,), plan.num_segments - 1, device=N.device)
            count = torch.full((B,), T % self.segment_length, device=N.device)
            complete = count == 0
        else:
            last, count, complete = plan.last_B, plan.count_B, plan.complete_B
        row = torch.arange(B, device=N.device)
        sums = {"n": n, "m": m, "N": N, "M": M}
        open_state = {name: value[row, last] for name, value in sums.items()} | {"count": count}
        state = self._fold(open_state, complete)
        state["z"] = self._slot_outputs(state["n"], state["m"], x_BTD.dtype)
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
        """Add one token per row to its open segment; slot experts run if a row completed one."""
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
        # Rows that completed none get the same z as before.
        state["z"] = self._slot_outputs(state["n"], state["m"], x_B1D.dtype)
        return state

    def _empty_state(self, B: int, D: int, x: torch.Tensor) -> dict[str, torch.Tensor]:
        J = self.decay.shape[0]
        wide = torch.promote_types(x.dtype, torch.float32)
        n, m = x.new_zeros(B, J, D, dtype=wide), x.new_zeros(B, J, dtype=wide)
        count = torch.zeros(B, dtype=torch.long, device=x.device)
        z = self._slot_outputs(n, m, x.dtype)
        return {"n": n, "m": m, "N": n, "M": m, "count": count, "z": z}


def full_precision(x: torch.Tensor):
    """Autocast switched off: sums over many tokens stay in the type that they are written in."""
    kind = x.device.type
    return torch.autocast(kind if kind != "meta" else "cpu", enabled=False)


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
