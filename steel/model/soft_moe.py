"""The two soft mixtures of Steel-LLM that read the whole sequence: v2 and v3, kept as a historical ablation.

Shapes: B batch, T time, D model width, E experts, P slots per expert, J = E·P slots.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .feed_forward import make_experts, router_softmax


def root_mean_square_normalize(x: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """x / sqrt(mean(x²) + eps) over the last axis, without a weight."""
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)


class SteelSoftMoEV3(nn.Module):
    """The layer Steel-LLM shipped: Puigcerver et al. 2024 (Soft MoE), Algorithm 1, over the whole sequence.

    NOT CAUSAL: the dispatch softmax runs over all T positions, so outputs at t depend on tokens after t. And born dead:
    it feeds the experts unit-norm inputs (norm 1, not sqrt(D)), which averaging shrinks further. Kept as the original
    had it; `soft_moe_normalize_slots` RMS-normalises the slots and starts the scale at sqrt(D), which revives it.

    Parameters: phi (D, J), scale (1,), stacked experts.
    """

    def __init__(self, config) -> None:
        super().__init__()
        self.num_experts, self.slots = config.num_experts, config.slots_per_expert
        self.normalize_slots = config.soft_moe_normalize_slots
        self.phi = nn.Parameter(torch.empty(config.hidden_size, self.num_experts * self.slots))
        self.scale = nn.Parameter(torch.empty(1))
        self.experts = make_experts(config, self.num_experts)

    def forward(self, x_BTD: torch.Tensor, context=None) -> torch.Tensor:
        x_BTD = F.normalize(x_BTD, dim=-1)
        logits_BTJ = x_BTD @ (self.scale * F.normalize(self.phi, dim=0))
        dispatch_BTJ = softmax_over_time(logits_BTJ, context)
        return run_slots(self, x_BTD, dispatch_BTJ, router_softmax(logits_BTJ))


class SteelSoftMoEV2(nn.Module):
    """Steel-LLM's second try, with the two softmaxes on the wrong axes: dispatch over slots, combine over time.

    NOT CAUSAL: each slot is a plain sum over all tokens, weighted by how much the token prefers it, and what a token
    gets back depends on how strongly later tokens ask for the slot. Its loss "would not come down to normal".

    Parameters: score (D, J), stacked experts.
    """

    def __init__(self, config) -> None:
        super().__init__()
        self.num_experts, self.slots = config.num_experts, config.slots_per_expert
        self.normalize_slots = config.soft_moe_normalize_slots
        self.score = nn.Parameter(torch.empty(config.hidden_size, self.num_experts * self.slots))
        self.experts = make_experts(config, self.num_experts)

    def forward(self, x_BTD: torch.Tensor, context=None) -> torch.Tensor:
        logits_BTJ = x_BTD @ self.score
        dispatch_BTJ = router_softmax(logits_BTJ)
        if context is not None and context.valid_BT is not None:
            dispatch_BTJ = dispatch_BTJ * context.valid_BT[..., None]
        return run_slots(self, x_BTD, dispatch_BTJ, softmax_over_time(logits_BTJ, context))


def softmax_over_time(logits_BTJ: torch.Tensor, context=None) -> torch.Tensor:
    """Softmax over positions in at least fp32, padding left out."""
    logits_BTJ = logits_BTJ.to(torch.promote_types(logits_BTJ.dtype, torch.float32))
    if context is not None and context.valid_BT is not None:
        logits_BTJ = logits_BTJ.masked_fill(~context.valid_BT[..., None], -math.inf)
        logits_BTJ = logits_BTJ.clamp_min(
            torch.finfo(logits_BTJ.dtype).min
        )  # a row of padding alone stays finite
    return logits_BTJ.softmax(dim=1)


def run_slots(layer, x_BTD, dispatch_BTJ, combine_BTJ) -> torch.Tensor:
    """Average tokens into slots, run each expert on its slots, hand the slots back to the tokens."""
    slots_BJD = dispatch_BTJ.to(x_BTD.dtype).transpose(1, 2) @ x_BTD
    if layer.normalize_slots:
        slots_BJD = root_mean_square_normalize(slots_BJD)
    return combine_BTJ.to(x_BTD.dtype) @ run_slot_experts(layer.experts, slots_BJD)


def run_slot_experts(experts, slots_BJD: torch.Tensor) -> torch.Tensor:
    """Slot j through expert j // P; any leading axes, (…, J, D) -> (…, J, D)."""
    *lead, J, D = slots_BJD.shape
    E = experts.num_experts
    per_expert = slots_BJD.reshape(-1, E, J // E, D).transpose(0, 1).reshape(E, -1, D)
    return experts(per_expert).view(E, -1, J // E, D).transpose(0, 1).reshape(*lead, J, D)
