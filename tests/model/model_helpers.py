"""Tiny models and the ways of running them that must agree."""

import dataclasses

import torch

from steel.config import ModelConfig
from steel.model import SteelConfig, SteelForCausalLM, steel_config

VOCABULARY = 67
CAUSAL = ["dense", "none", "soft_moe_v1", "causal_soft_moe", "top_k_moe"]
NON_CAUSAL = ["soft_moe_v2", "soft_moe_v3"]
SEGMENT = 4  # tokens; short, so that a few dozen tokens cross many boundaries


def tiny(feed_forward: str, expert: str = "swiglu", **changes) -> SteelConfig:
    """A 3-layer configuration with grouped queries, shared experts and two slots per expert."""
    fields = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "feed_forward": feed_forward,
        "expert": expert,
        "num_experts": 3,
        "num_shared_experts": 1,
        "slots_per_expert": 2,
        "segment_length": SEGMENT,
        "experts_per_token": 2,
        "rope_theta": 10_000.0,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
    }
    shape = ModelConfig(**fields)
    more = {name: value for name, value in changes.items() if not hasattr(shape, name)}
    changes = {name: value for name, value in changes.items() if name not in more}
    return steel_config(dataclasses.replace(shape, **changes), **more)


def perturb(model: torch.nn.Module, amount: float = 0.3, seed: int = 1) -> torch.nn.Module:
    """Move every parameter by noise of its own order, so that no term is negligible by its initial value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            parameter.add_(amount * noise * parameter.std(correction=0).clamp_min(0.1))
    return model


def train_briefly(model: torch.nn.Module, steps: int = 25, seed: int = 2) -> torch.nn.Module:
    """A few AdamW steps on a copying task in the model's own precision: weights a real run would pass through."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(steps):
        half = torch.randint(0, VOCABULARY, (8, 12), generator=generator)
        tokens = torch.cat((half, half), dim=1)
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def double_model(
    config: SteelConfig, weights: str = "perturbed", seed: int = 0
) -> SteelForCausalLM:
    """An fp64 model in evaluation mode with `random`, `perturbed` or briefly `trained` weights."""
    torch.manual_seed(seed)
    model = SteelForCausalLM(config).double().eval()
    if weights == "perturbed":
        perturb(model)
    if weights == "trained":
        train_briefly(model)
    return model


def random_tokens(batch: int, time: int, seed: int = 3) -> torch.Tensor:
    return torch.randint(
        0, VOCABULARY, (batch, time), generator=torch.Generator().manual_seed(seed)
    )


def prefill_then_steps(model, tokens: torch.Tensor, prefill: int, chunk: int = 1) -> torch.Tensor:
    """Logits (B, T, V) from a cached prefill of `prefill` tokens, then `chunk` tokens at a time."""
    parts, cache, at = [], None, 0
    with torch.no_grad():
        while at < tokens.shape[1]:
            size = prefill if at == 0 and prefill else chunk
            out = model(tokens[:, at : at + size], past_key_values=cache, use_cache=True)
            parts.append(out.logits)
            cache, at = out.past_key_values, at + size
    return torch.cat(parts, dim=1)
