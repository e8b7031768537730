"""Steel-LLM's two soft mixtures that read the whole sequence, v2 and v3: a historical ablation.

Shapes: B batch, T time, D model width, E experts, P slots per expert, J = E·P slots.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from .feed_forward import SteelExperts, router_softmax


def root_mean_square_normalize(x: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """x / sqrt(mean(x²) + eps) over the last axis, without a weight."""
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)


def soft_moe_v3(x_BTD, phi_DJ, run_slots, valid_BT=None) -> torch.Tensor:
    """Unit tokens into slots by a softmax over time, `run_slots` on them, back by one over slots."""
    x_BTD = F.normalize(x_BTD, dim=-1)
    logits_BTJ = x_BTD @ phi_DJ
    dispatch_BTJ = softmax_over_time(logits_BTJ, valid_BT)
    return mix(x_BTD, dispatch_BTJ, router_softmax(logits_BTJ), run_slots)


class SteelSoftMoEV3(nn.Module):
    """The layer Steel-LLM shipped: Puigcerver et al. 2024 (Soft MoE), Algorithm 1, on the whole row.

    NOT CAUSAL: the dispatch softmax runs over all T positions, so outputs at t depend on tokens
    after t. And born dead: it feeds the experts unit-norm inputs (norm 1, not sqrt(D)), which
    averaging shrinks further. Kept as the original had it; `soft_moe_normalize_slots`
    RMS-normalises the slots and starts the scale at sqrt(D), which revives it.

    Parameters: phi (D, J), scale (1,), stacked experts.
    """

    soft_moe_v3 = staticmethod(soft_moe_v3)  # a built model may get another implementation here

    def __init__(self, config) -> None:
        super().__init__()
        self.normalize_slots = config.soft_moe_normalize_slots
        slots = config.num_experts * config.slots_per_expert
        self.phi = nn.Parameter(torch.empty(config.hidden_size, slots))
        self.scale = nn.Parameter(torch.empty(1))
        self.experts = SteelExperts(config, config.num_experts)

    def forward(self, x_BTD: torch.Tensor, context=None, cache_layer=None) -> torch.Tensor:
        phi_DJ = self.scale * F.normalize(self.phi, dim=0)
        valid_BT = context.valid_BT if context is not None else None
        return self.soft_moe_v3(x_BTD, phi_DJ, partial(run_slots, self), valid_BT)


class SteelSoftMoEV2(nn.Module):
    """Steel-LLM's second try, its two softmaxes on the wrong axes: dispatch over slots, combine over
    time.

    NOT CAUSAL: each slot is a plain sum over all tokens, weighted by how much the token prefers it,
    and what a token gets back depends on how strongly later tokens ask for the slot. Its loss
    "would not come down to normal".

    Parameters: score (D, J), stacked experts.
    """

    def __init__(self, config) -> None:
        super().__init__()
        self.normalize_slots = config.soft_moe_normalize_slots
        slots = config.num_experts * config.slots_per_expert
        self.score = nn.Parameter(torch.empty(config.hidden_size, slots))
        self.experts = SteelExperts(config, config.num_experts)

    def forward(self, x_BTD: torch.Tensor, context=None, cache_layer=None) -> torch.Tensor:
        logits_BTJ = x_BTD @ self.score
        dispatch_BTJ = router_softmax(logits_BTJ)
        valid_BT = context.valid_BT if context is not None else None
        if valid_BT is not None:
            dispatch_BTJ = dispatch_BTJ * valid_BT[..., None]
        combine_BTJ = softmax_over_time(logits_BTJ, valid_BT)
        return mix(x_BTD, dispatch_BTJ, combine_BTJ, partial(run_slots, self))


def softmax_over_time(logits_BTJ: torch.Tensor, valid_BT=None) -> torch.Tensor:
    """Softmax over positions in at least fp32, padding left out."""
    logits_BTJ = logits_BTJ.to(torch.promote_types(logits_BTJ.dtype, torch.float32))
    if valid_BT is not None:  # the least number, not -inf: a row of padding alone stays finite
        least = torch.finfo(logits_BTJ.dtype).min
        logits_BTJ = logits_BTJ.masked_fill(~valid_BT[..., None], least)
    return logits_BTJ.softmax(dim=1)


def mix(x_BTD, dispatch_BTJ, combine_BTJ, run_slots) -> torch.Tensor:
    """Average tokens into slots, run each expert on its slots, hand the slots back to the tokens."""
    slots_BJD = dispatch_BTJ.to(x_BTD.dtype).transpose(1, 2) @ x_BTD
    return combine_BTJ.to(x_BTD.dtype) @ run_slots(slots_BJD)


def run_slots(layer, slots_BJD: torch.Tensor) -> torch.Tensor:
    """Slots through a layer's experts, RMS-normalised first if the layer says so: (B, J, D)."""
    if layer.normalize_slots:
        slots_BJD = root_mean_square_normalize(slots_BJD)
    return run_slot_experts(layer.experts, slots_BJD)


def run_slot_experts(experts: SteelExperts, slots_BJD: torch.Tensor) -> torch.Tensor:
    """Slot j through expert j // P; any leading axes, (…, J, D) -> (…, J, D)."""
    *lead, J, D = slots_BJD.shape
    E = experts.num_experts
    per_expert = slots_BJD.reshape(-1, E, J // E, D).transpose(0, 1).reshape(E, -1, D)
    return experts(per_expert).view(E, -1, J // E, D).transpose(0, 1).reshape(*lead, J, D)
