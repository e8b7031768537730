"""Low-rank updates (LoRA, Hu et al. 2021): the blocks' matrices stay, W + factor · B A is trained.

The package `peft` puts A (r, in) and B (out, r) beside every `Linear`; a model folder gets the sum,
so that whoever opens it needs neither.
"""

import torch
from torch import Tensor, nn

from ..config import needs
from ..model.build import decoder_layers


def add_lora(model: nn.Module, rank: int, alpha: float, seed: int) -> None:
    """Freeze the causal LM (or that in `model.lm`) but for new A and B of its blocks' `Linear`s.

    B starts at zero, so the model says what it said; A is drawn from `seed`. Stacked experts are no
    `Linear` and stay as they are. Raises UserError without peft.
    """
    with needs("lora_rank", "peft"):
        from peft import LoraConfig, inject_adapter_in_model
    causal_lm = getattr(model, "lm", model)
    blocks = {id(m) for layer in decoder_layers(causal_lm) for m in layer.modules()}
    linear = [
        name
        for name, module in causal_lm.named_modules()
        if isinstance(module, nn.Linear) and id(module) in blocks
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(
            LoraConfig(r=rank, lora_alpha=alpha, target_modules=linear), causal_lm
        )
    model.lora_factor = alpha / rank


def merged(weights: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
    """A state dict under the names that it had before `add_lora`, with the updates added."""
    plain = {}
    for name, weight in weights.items():
        if ".lora_" in name:
            continue
        stem = name.removesuffix("base_layer.weight")
        if stem != name:
            low, high = (weights[f"{stem}lora_{side}.default.weight"] for side in "AB")
            weight = weight + factor * (high @ low)
        plain[name.replace(".base_layer.", ".")] = weight
    return plain
