"""Shapes that the planner is held to: the seeds', and small ones of every kind."""

from figures.known_runs import published
from steel.config import ModelConfig, preset_names

STEEL, QWEN = published("steel-1b").model, published("qwen-1.8b").model
SHAPES = (*preset_names(), "qwen-1.8b", "tinyllama")
VARIANTS = (
    "dense",
    "soft_moe_v1",
    "soft_moe_v2",
    "soft_moe_v3",
    "causal_soft_moe",
    "top_k_moe",
    "none",
)


def small(**changes) -> ModelConfig:
    """A shape in which no two components have the same size by accident."""
    base = {
        "vocab_size": 211,
        "hidden_size": 48,
        "intermediate_size": 20,
        "num_hidden_layers": 3,
        "num_experts": 5,
    }
    base |= {
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "num_shared_experts": 0,
        "segment_length": 8,
    }
    return ModelConfig(**base | changes)
