"""Parameters and FLOPs of a network in closed form, the same numbers as the built model's.

Letters: D width, f width of one expert, L layers, H heads, K key/value heads, h head width,
V vocabulary, E routed experts, P slots per expert, J = E P slots, C segment length, T sequence
length, N parameters.

A FLOP is one multiplication or one addition inside a matrix product; elementwise work is left out,
as every published MFU leaves it out. The backward pass costs twice the forward pass. Recomputation
(activation checkpointing, the second pass of flash attention) and columns that only align a matrix
(of the causal router) are time but not useful work, and are left out too.
"""

import math
from dataclasses import dataclass

from ..config import ModelConfig, UserError
from .hardware import gpu

CONVENTIONS = ("executed_causal", "executed_full", "seed", "six_n")


@dataclass(frozen=True)
class FeedForwardCost:
    """What the feed-forward of one layer holds and does."""

    stored: int = 0
    """Experts whose weights exist, shared ones included."""
    per_token: int = 0
    """Experts that a token itself passes; experts behind slots do not count."""
    slots_per_token: float = 0.0
    """Slot vectors that experts process, per token of the sequence [1]."""
    router: int = 0
    """Weights of the router."""
    routing: float = 0.0
    """Router scores, dispatch and combine, forward [FLOPs/token]; 2DJ a product."""
    kept: float = 0.0
    """What the backward pass needs beside the experts' own activations [elements/token]."""

    @property
    def expert_runs(self) -> float:
        """Vectors that pass an expert, per token [1]."""
        return self.per_token + self.slots_per_token


def feed_forward_cost(model: ModelConfig, sequence_length: int = 1) -> FeedForwardCost:
    """The cost of model.feed_forward. UserError for an unknown one."""
    D, E, shared = model.hidden_size, model.num_experts, model.num_shared_experts
    T = sequence_length
    J, C, K = E * model.slots_per_expert, min(model.segment_length, T), model.experts_per_token
    # The decayed sum of the causal layer goes over the T/C segments before.
    causal = 8 * D * J + 2 * J * math.ceil(T / C) * (D + 1) / C
    costs = {
        "none": (),
        "dense": (1, 1),
        # a linear gate with bias; every expert's output waits for its weight
        "soft_moe_v1": (E, E, 0, D * E + E, 4 * D * E, E * D),
        # one score matrix for dispatch and combine
        "soft_moe_v2": (E, 0, J / T, D * J, 6 * D * J),
        # phi and its scale; the normalised input is kept
        "soft_moe_v3": (E, 0, J / T, D * J + 1, 6 * D * J, D),
        # phi_d, phi_c, prior (J, D), rho and g per slot; sums, states and normalised slots are kept
        "causal_soft_moe": (E + shared, shared, J / C, 3 * D * J + 2 * J, causal, 5 * D * J / C),
        # gathered inputs and sorted outputs are kept
        "top_k_moe": (E + shared, K + shared, 0, D * E, 2 * D * E, 3 * (K + shared) * D),
    }
    if model.feed_forward not in costs:
        raise UserError(f"model.feed_forward has no '{model.feed_forward}'")
    return FeedForwardCost(*costs[model.feed_forward])


def expert_parameters(model: ModelConfig) -> int:
    """Weights of one expert: 3Df for SwiGLU, 4Df for two SwiGLU layers, which share no gate."""
    matrices = {"swiglu": 3, "double_swiglu": 4}.get(model.expert)
    if matrices is None:
        raise UserError(f"model.expert must be swiglu or double_swiglu, not '{model.expert}'")
    return matrices * model.hidden_size * model.intermediate_size


def attention_widths(model: ModelConfig) -> tuple[int, int]:
    """Widths of all queries together, H h, and of all keys together, K h [channels]."""
    head_dim = model.head_dim or model.hidden_size // model.num_attention_heads
    return model.num_attention_heads * head_dim, model.num_key_value_heads * head_dim


def count_parameters(model: ModelConfig) -> dict[str, int]:
    """Parameters by component, the same numbers as the built model's tensors.

    Keys: embedding, lm_head (0 when tied), attention, experts, router, norms, total, non_embedding
    (total without embedding and lm_head) and active_per_token: weights that multiply a vector
    belonging to one token during training. Experts behind slots see averages of tokens, so they are
    not in it; neither is the embedding, which is only read.
    Raises UserError for an unknown feed-forward or expert, and for a transformers folder.
    """
    if model.source != "steel":
        raise UserError("the planner needs the shape in the preset (model.source: steel)")
    D, L, V = model.hidden_size, model.num_hidden_layers, model.vocab_size
    q_width, kv_width = attention_widths(model)
    cost, expert = feed_forward_cost(model), expert_parameters(model)
    bias = q_width + 2 * kv_width if model.qkv_bias else 0
    norms = D if model.feed_forward == "none" else 2 * D
    if model.qk_norm:
        norms += 2 * q_width // model.num_attention_heads
    count = {
        "embedding": V * D,
        "lm_head": 0 if model.tie_word_embeddings else V * D,
        "attention": L * (2 * D * q_width + 2 * D * kv_width + bias),
        "experts": L * cost.stored * expert,
        "router": L * cost.router,
        "norms": L * norms + D,
    }
    count["total"] = sum(count.values())
    count["non_embedding"] = count["total"] - count["embedding"] - count["lm_head"]
    idle = L * (cost.stored - cost.per_token) * expert
    count["active_per_token"] = count["non_embedding"] + V * D - idle
    return count


@dataclass(frozen=True)
class Flops:
    """FLOPs of one trained token by component [FLOPs/token]."""

    forward: dict[str, float]
    by_component: dict[str, float]
    """Forward and backward."""

    @property
    def total(self) -> float:
        """Forward and backward [FLOPs/token]."""
        return sum(self.by_component.values())


def flops_per_token(
    model: ModelConfig,
    sequence_length: int,
    convention: str = "executed_causal",
    document_length: float = 0,
) -> Flops:
    """FLOPs that one token costs in training, by component.

    executed_causal  every matrix product once, attention scores only for the keys that the causal
                     mask leaves: T/2 a query on average, or document_length/2 when documents of
                     that many tokens do not see each other
    executed_full    the same with the full T x T score matrix, as PaLM's appendix B and most MFU
                     figures count
    seed             what the original's speed monitor reports: 6N with the embedding, attention at
                     5/3 of its cost
    six_n            6N with the embedding, without attention (Kaplan et al. 2020 would leave the
                     embedding out)
    """
    if convention not in CONVENTIONS:
        valid = ", ".join(CONVENTIONS)
        raise UserError(f"unknown FLOP convention '{convention}'; use one of {valid}")
    count, L, T = count_parameters(model), model.num_hidden_layers, sequence_length
    q_width, kv_width = attention_widths(model)
    if convention in ("seed", "six_n"):
        forward, both = {"parameters": 2.0 * count["total"]}, {"parameters": 6.0 * count["total"]}
        if convention == "seed":
            # lit_gpt counts "trainable" and "frozen" weights apart and adds attention to both:
            # 3 + 2 passes instead of 3
            forward["attention scores"] = 4.0 * L * model.hidden_size * T
            both["attention scores"] = 5 * forward["attention scores"]
        return Flops(forward, both)
    biases = L * (q_width + 2 * kv_width) if model.qkv_bias else 0
    keys = T if convention == "executed_full" else min(document_length or T, T) / 2
    cost = feed_forward_cost(model, T)
    forward = {
        "attention projections": 2.0 * (count["attention"] - biases),
        "attention scores": 4.0 * L * q_width * keys,
        "experts": 2.0 * L * cost.expert_runs * expert_parameters(model),
        "routing": 1.0 * L * cost.routing,
        "lm_head": 2.0 * model.vocab_size * model.hidden_size,
    }
    return Flops(forward, {key: 3 * value for key, value in forward.items()})


def mfu(
    model: ModelConfig,
    sequence_length: int,
    tokens_per_second: float,
    gpu_name: str,
    convention: str = "executed_causal",
) -> float:
    """Model FLOPs utilisation of one GPU at `tokens_per_second` per GPU [1].

    Above 1 the claim cannot be true.
    """
    work = flops_per_token(model, sequence_length, convention).total
    return work * tokens_per_second / gpu(gpu_name).peak
