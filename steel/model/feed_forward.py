"""Feed-forward layers that see one token at a time: SwiGLUs, stacked experts, v1, top-k routing.

All feed-forward layers are called alike: forward(x_BTD, context, cache_layer) -> (B, T, D), and
those of this file look at neither the context nor the cache.

Shapes: B batch, T time, N tokens (B·T flattened), D model width, F expert width, E experts, K
experts chosen per token.
"""

import torch
import torch.nn.functional as F
from torch import nn


def swiglu(pair: torch.Tensor) -> torch.Tensor:
    """silu(a) · b of the two halves of the last axis (Shazeer 2020, SwiGLU)."""
    a, b = pair.chunk(2, dim=-1)
    return F.silu(a) * b


class SteelDenseFeedForward(nn.Module):
    """One SwiGLU (D→F→D), or Steel-LLM's double one: a second gate on the way back, silu(W₃h)·(W₄h).

    Weights: gate_up_proj holds [gate; up]; down_proj is (D, F), or [gate; down] (2D, F) if double.
    """

    swiglu = staticmethod(swiglu)  # a built model may get another implementation here

    def __init__(self, config) -> None:
        super().__init__()
        d, f = config.hidden_size, config.intermediate_size
        self.double = config.expert == "double_swiglu"
        self.gate_up_proj = nn.Linear(d, 2 * f, bias=False)
        self.down_proj = nn.Linear(f, 2 * d if self.double else d, bias=False)
        self.down_proj.role = "write_gated" if self.double else "write_hidden"

    def forward(self, x_BTD: torch.Tensor, context=None, cache_layer=None) -> torch.Tensor:
        out = self.down_proj(self.swiglu(self.gate_up_proj(x_BTD)))
        return self.swiglu(out) if self.double else out


class SteelExperts(nn.Module):
    """`count` experts with stacked weights: two batched matrix products instead of a loop.

    gate_up_proj (E, D, 2F) holds [gate | up]; down_proj is (E, F, D), or (E, F, 2D) = [gate | down]
    when double. forward(x_END) -> (E, N, D): row e of the input goes through expert e.
    """

    swiglu = staticmethod(swiglu)  # a built model may get another implementation here

    def __init__(self, config, count: int) -> None:
        super().__init__()
        d, f = config.hidden_size, config.intermediate_size
        self.num_experts = count
        self.double = config.expert == "double_swiglu"
        self.gate_up_proj = nn.Parameter(torch.empty(count, d, 2 * f))
        self.down_proj = nn.Parameter(torch.empty(count, f, 2 * d if self.double else d))

    def forward(self, x_END: torch.Tensor) -> torch.Tensor:
        out = torch.bmm(self.swiglu(torch.bmm(x_END, self.gate_up_proj)), self.down_proj)
        return self.swiglu(out) if self.double else out

    def every(self, x_ND: torch.Tensor) -> torch.Tensor:
        """All tokens through all experts, (E, N, D)."""
        return self(x_ND.expand(self.num_experts, *x_ND.shape))


class SteelSoftMoEV1(nn.Module):
    """Steel-LLM's first try: every token through every expert, weighted by a softmax gate: causal,
    at the cost of E experts. Parameters: router Linear(D, E) with bias, stacked experts.
    """

    def __init__(self, config) -> None:
        super().__init__()
        self.router = nn.Linear(config.hidden_size, config.num_experts)
        self.router.role = "route"
        self.experts = SteelExperts(config, config.num_experts)

    def forward(self, x_BTD: torch.Tensor, context=None, cache_layer=None) -> torch.Tensor:
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
        weights_NE = router_softmax(self.router(x_ND))
        out_ND = torch.einsum("end,ne->nd", self.experts.every(x_ND), weights_NE.to(x_ND.dtype))
        return out_ND.view(x_BTD.shape)


def router_softmax(logits: torch.Tensor) -> torch.Tensor:
    """Softmax over the last axis in at least fp32."""
    return logits.softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def top_k_experts(x_ND, weights_NK, chosen_NK, experts: SteelExperts) -> torch.Tensor:
    """Σ_k weights[n, k] · expert[chosen[n, k]](x[n]) -> (N, D).

    Tokens are sorted by expert into one padded batch each, (E, rows of the busiest expert, D).
    """
    N, K = chosen_NK.shape
    flat = chosen_NK.reshape(-1)
    order = flat.argsort(stable=True)  # assignments grouped by expert
    counts_E = torch.bincount(flat, minlength=experts.num_experts)
    starts_E = counts_E.cumsum(0) - counts_E
    expert, token = flat[order], order // K
    row = torch.arange(N * K, device=flat.device) - starts_E[expert]
    grid = x_ND.new_zeros(experts.num_experts, int(counts_E.max()), x_ND.shape[-1])
    grid = grid.index_put((expert, row), x_ND[token])
    out = experts(grid)[expert, row] * weights_NK.reshape(-1)[order, None]
    return torch.zeros_like(x_ND).index_add(0, token, out.to(x_ND.dtype))


class SteelTopKMoE(nn.Module):
    """Sparse mixture (Shazeer et al. 2017): each token visits K of E routed experts, renormalised.

    Shared experts see every token. No capacity and no dropped tokens, so decoding one token at a
    time computes what the full forward does.

    forward(x_BTD, context) -> (B, T, D), and in training the Switch load-balancing term
    E · Σ_e share_e · probability_e (Fedus et al. 2022, eq. 4; 1 when even), else None.
    """

    top_k_experts = staticmethod(top_k_experts)  # a built model may get another implementation here

    def __init__(self, config) -> None:
        super().__init__()
        self.experts_per_token = config.experts_per_token
        self.router = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.router.role = "route"
        self.experts = SteelExperts(config, config.num_experts)
        shared = config.num_shared_experts
        self.shared = SteelExperts(config, shared) if shared else None

    def forward(self, x_BTD: torch.Tensor, context=None, cache_layer=None):
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
        probability_NE = router_softmax(self.router(x_ND))
        weights_NK, chosen_NK = probability_NE.topk(self.experts_per_token, dim=-1)
        weights_NK = weights_NK / weights_NK.sum(dim=-1, keepdim=True)
        out_ND = self.top_k_experts(x_ND, weights_NK.to(x_ND.dtype), chosen_NK, self.experts)
        if self.shared is not None:
            out_ND = out_ND + self.shared.every(x_ND).sum(dim=0)
        valid_BT = context.valid_BT if context is not None else None
        balance = load_balance(probability_NE, chosen_NK, valid_BT) if self.training else None
        return out_ND.view(x_BTD.shape), balance


def load_balance(probability_NE, chosen_NK, valid_BT) -> torch.Tensor:
    """The term of `SteelTopKMoE`, over the tokens that are no padding."""
    real_N1 = torch.ones_like(probability_NE[:, :1])
    if valid_BT is not None:
        real_N1 = valid_BT.reshape(-1, 1).to(probability_NE.dtype)
    count = real_N1.sum().clamp_min(1)
    visits_NK = real_N1.expand_as(chosen_NK).flatten()
    visits_E = torch.zeros_like(probability_NE[0]).index_add(0, chosen_NK.flatten(), visits_NK)
    share_E = visits_E / (count * chosen_NK.shape[1])
    return len(share_E) * (share_E * (probability_NE * real_N1).sum(dim=0) / count).sum()
