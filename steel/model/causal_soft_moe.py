"""A soft mixture of experts that keeps the arrow of time: slots are fed by completed segments.

With x_t the normalised input, segment s(t) = ⌊t / C⌋ from the document's start, slots j = 1..J:

    w[t,j] = exp(cap(<x_t, phi_d[j]>))                    cap(a) = 15 tanh(a / 15)
    N[s,j] = Σ_{t in s} w[t,j] x_t        M[s,j] = Σ_{t in s} w[t,j]
    n[0,j] = 0,  n[s,j] = γ_j n[s-1,j] + N[s-1,j]         (m likewise from M), γ_j = σ(g_j)
    u[s,j] = rms((π_j b_j + n[s,j]) / (π_j + m[s,j]))     π_j = exp(ρ_j)
    z[s,j] = expert_{⌊j/P⌋}(u[s,j])
    y_t    = Σ shared experts (x_t) + Σ_j softmax_j(cap(<x_t, phi_c[j]>)) z[s(t),j]

y_t reads x_t and segments that ended before it: no token sees a later one, and slot experts run
once per C tokens. Accumulators are fp32 (or wider). Decoding carries (n, m, N, M, z, count) of each
row's open segment in `SteelCacheLayer.slots`.

Shapes: B batch, T time, S segments, C segment length, D model width, J = E·P slots.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from .attention import send
from .feed_forward import SteelExperts, router_softmax
from .soft_moe import root_mean_square_normalize, run_slot_experts

CAP = 15.0


@dataclass
class SegmentPlan:
    """Where each token lies in the grid of segments (B, S, C); made once per forward on the host."""

    num_segments: int
    segment_length: int
    count_B: torch.Tensor | None = None  # tokens in each row's open segment after this forward
    done_R: torch.Tensor | None = None  # the rows whose last real token filled its segment
    last_B: torch.Tensor | None = None  # segment in which the row's last real token lies
    start_BS: torch.Tensor | None = None  # first token of each segment among all B·T, int32
    length_BS: torch.Tensor | None = None  # tokens of each segment, int32
    padded: bool = False  # whether some tokens lie in no segment
    # Index into S·C, and S·C itself (a spare cell) for padding; None: token t is in cell t.
    cell_BT: torch.Tensor | None = None
    document_BS: torch.Tensor | None = None  # document each segment belongs to; None: one a row

    def to(self, device: torch.device) -> "SegmentPlan":
        """The same plan with its tensors on `device`; nobody waits for the copies."""
        tensors = {name: t for name, t in vars(self).items() if isinstance(t, torch.Tensor)}
        return replace(self, **{name: send(t, device) for name, t in tensors.items()})


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
    even = starts_BT is None and valid_BT is None and count_B is None
    padded = valid_BT is not None
    valid_BT = torch.ones(B, T, dtype=torch.bool) if valid_BT is None else valid_BT
    starts_BT = torch.zeros(B, T, dtype=torch.bool) if starts_BT is None else starts_BT
    count_B = torch.zeros(B, dtype=torch.long) if count_B is None else count_B
    seen_BT = valid_BT.cumsum(dim=1)
    base_BT = torch.where(starts_BT, seen_BT - 1, -count_B[:, None]).cummax(dim=1).values
    # Tokens of the document before this one, modulo what the cache holds.
    offset_BT = seen_BT - 1 - base_BT
    begins_BT = valid_BT & (offset_BT % length == 0)
    segment_BT = (begins_BT.cumsum(dim=1) - 1 + (count_B[:, None] > 0).long()).clamp_min(0)
    S = int(segment_BT.max()) + 1
    document_BS = torch.zeros(B, S, dtype=torch.long)
    document_BS.scatter_add_(1, segment_BT, starts_BT.long())
    some_B = valid_BT.any(dim=1)
    count_B = torch.where(some_B, (offset_BT[:, -1] + 1) % length, count_B)
    done_R = (some_B & (count_B == 0)).nonzero()[:, 0]
    plan = SegmentPlan(S, length, count_B, done_R, segment_BT[:, -1])
    plan.start_BS, plan.length_BS = segment_spans(segment_BT, valid_BT, S)
    plan.padded = padded
    if not even:
        plan.cell_BT = torch.where(valid_BT, segment_BT * length + offset_BT % length, S * length)
        plan.document_BS = document_BS.cumsum(dim=1)
    return plan


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
    return SegmentPlan(1, length, count_B % length, full_B.nonzero()[:, 0])


def to_grid(x: torch.Tensor, plan: SegmentPlan) -> torch.Tensor:
    """(B, T, X) -> (B, S, C, X); cells without a token hold zeros."""
    B, T, X = x.shape
    S, C = plan.num_segments, plan.segment_length
    if plan.cell_BT is None:
        return (F.pad(x, (0, 0, 0, S * C - T)) if S * C > T else x).reshape(B, S, C, X)
    grid = x.new_zeros(B, S * C + 1, X)
    return grid.scatter(1, plan.cell_BT[..., None].expand_as(x), x)[:, :-1].view(B, S, C, X)


def segment_sums(x_BTD, weight_BTJ, plan: SegmentPlan) -> tuple[torch.Tensor, torch.Tensor]:
    """N[s,j] = Σ_{t in s} w[t,j] x_t (B, S, J, D) and M (B, S, J), in the weights' type."""
    x_BSCD = to_grid(x_BTD, plan).to(weight_BTJ.dtype)
    weight_BSCJ = to_grid(weight_BTJ, plan)
    return torch.einsum("bscj,bscd->bsjd", weight_BSCJ, x_BSCD), weight_BSCJ.sum(dim=2)


def segment_combine(combine_BTJ, z_BSJD, plan: SegmentPlan) -> torch.Tensor:
    """y_t = Σ_j c[t,j] z[s(t),j] in z's type, (B, T, D)."""
    combine_BSCJ = to_grid(combine_BTJ.to(z_BSJD.dtype), plan)
    y = torch.einsum("bscj,bsjd->bscd", combine_BSCJ, z_BSJD).flatten(1, 2)
    if plan.cell_BT is None:
        return y[:, : combine_BTJ.shape[1]]
    cell_BT = plan.cell_BT.clamp_max(y.shape[1] - 1)
    return y.gather(1, cell_BT[..., None].expand(-1, -1, y.shape[2]))


class SteelCacheLayer(DynamicLayer):
    """A growing key/value cache that also carries `slots`: named tensors, batch axis first.

    What reorders, repeats or selects batch rows (beams included) does the same to the slots. Slots
    are sums over the past and cannot be rolled back: `crop` refuses, and `is_croppable` tells
    assisted generation so.
    """

    is_croppable = False
    slots: dict[str, torch.Tensor] | None = None

    def _map_slots(self, function) -> None:
        if self.slots is not None:
            self.slots = {name: function(value) for name, value in self.slots.items()}

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        super().reorder_cache(beam_idx)
        self._map_slots(lambda value: value.index_select(0, beam_idx.to(value.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._map_slots(lambda value: value.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self._map_slots(lambda value: value[indices.to(value.device)])

    def reset(self) -> None:
        # Dropped, not zeroed: some transformers 5 releases would keep the old length.
        self.keys = self.values = self.slots = None
        self.is_initialized = False

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove != 0:
            raise ValueError("crop: a causal soft MoE's sums over the past cannot drop tokens")


def with_slots(cache: Cache, num_layers: int) -> Cache:
    """Let an empty `DynamicCache` carry slot state, in place; ValueError for another cache."""
    if all(isinstance(layer, SteelCacheLayer) for layer in cache.layers) and cache.layers:
        return cache
    if not isinstance(cache, DynamicCache) or cache.get_seq_length() > 0:
        given = f"{type(cache).__name__} of {cache.get_seq_length()} tokens"
        remedy = "an empty DynamicCache or None"
        raise ValueError(f"past_key_values: causal_soft_moe starts with {remedy}, not a {given}")
    cache.layers = [SteelCacheLayer() for _ in range(num_layers)]
    cache.layer_class_to_replicate = None
    return cache


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
        self.experts = SteelExperts(config, config.num_experts)
        shared = config.num_shared_experts
        self.shared = SteelExperts(config, shared) if shared else None

    def forward(self, x_BTD: torch.Tensor, context=None, cache_layer=None) -> torch.Tensor:
        B, T, D = x_BTD.shape
        plan = context.plan if context is not None else None
        if plan is None:
            plan = plan_segments((B, T), self.segment_length).to(x_BTD.device)
        dispatch_BTJ, combine_BTJ = self._router_logits(x_BTD)
        weight_BTJ, combine_BTJ = dispatch_BTJ.exp(), router_softmax(combine_BTJ)
        slots = cache_layer.slots if cache_layer is not None else None
        if T == 1 and slots is not None:  # the row's open segment gets one token more
            if context.valid_BT is not None:
                weight_BTJ = weight_BTJ * context.valid_BT[:, -1:, None]
            mixed_BTD = combine_BTJ.to(x_BTD.dtype) @ slots["z"]
            weight_BJ1 = weight_BTJ.transpose(1, 2)
            N = slots["N"] + weight_BJ1 * x_BTD.to(weight_BJ1.dtype)
            state = {**slots, "N": N, "M": slots["M"] + weight_BJ1}
        else:
            mixed_BTD, state = self._segments(x_BTD, weight_BTJ, combine_BTJ, slots, plan)
            if cache_layer is not None:
                row = torch.arange(B, device=x_BTD.device)
                state = {name: value[row, plan.last_B] for name, value in state.items()}
        if cache_layer is not None:
            cache_layer.slots = self._close(state, plan, x_BTD.dtype)
        if self.shared is None:
            return mixed_BTD
        return mixed_BTD + self.shared.every(x_BTD.reshape(B * T, D)).sum(dim=0).view(B, T, D)

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
        """Sums n (…, J, D) and weights m (…, J, 1) -> slot outputs z (…, J, D)."""
        pi_J1 = self.prior_weight.to(n.dtype).exp()[:, None]
        mean = (pi_J1 * self.prior.to(n.dtype) + n) / (pi_J1 + m)
        return run_slot_experts(self.experts, root_mean_square_normalize(mean).to(dtype))

    def _segments(self, x_BTD, weight_BTJ, combine_BTJ, slots, plan):
        """The parallel form: y of a grid of segments, and the state that each of them reads."""
        with full_precision(x_BTD):
            N, M = self.segment_sums(x_BTD, weight_BTJ, plan)
            M = M[..., None]
            if slots is not None:  # the first segment holds tokens already
                N = torch.cat((N[:, :1] + slots["N"][:, None], N[:, 1:]), dim=1)
                M = torch.cat((M[:, :1] + slots["M"][:, None], M[:, 1:]), dim=1)
            n, m = self._decayed(N, M, slots, plan)
        z_BSJD = self._slot_outputs(n, m, x_BTD.dtype)
        state = {"n": n, "m": m, "N": N, "M": M, "z": z_BSJD}
        return self.segment_combine(combine_BTJ, z_BSJD, plan), state

    def _decayed(self, N, M, slots, plan):
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
        n, m = (torch.einsum("bjst,btjd->bsjd", matrix, sums) for sums in (N, M))
        if slots is not None:  # a state follows one document alone
            carry_SJ1 = (index[:, None] * log_gamma_J).exp()[..., None]
            n, m = n + carry_SJ1 * slots["n"][:, None], m + carry_SJ1 * slots["m"][:, None]
        return n, m

    def _close(self, state, plan, dtype):
        """In rows that filled a segment: n <- γ n + N, N <- 0 (m, M likewise), and z follows."""
        state = {**state, "count": plan.count_B}
        done_R = plan.done_R
        if len(done_R) == 0:
            return state
        gamma_J1 = torch.sigmoid(self.decay.to(state["n"].dtype))[:, None]
        n, m = (gamma_J1 * state[a][done_R] + state[b][done_R] for a, b in (("n", "N"), ("m", "M")))
        z = self._slot_outputs(n, m, dtype)
        for name, rows in {"n": n, "m": m, "z": z}.items():
            state[name] = state[name].index_copy(0, done_R, rows)
        for name in ("N", "M"):
            state[name] = state[name].index_fill(0, done_R, 0.0)
        return state


def full_precision(x: torch.Tensor):
    """Autocast switched off: sums over many tokens stay in the type that they are written in."""
    kind = x.device.type
    return torch.autocast(kind if kind != "meta" else "cpu", enabled=False)
