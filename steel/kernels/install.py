"""Put the chosen implementations into a built model, and take them out again.

    install(model, choose("auto", device=device, dtype=torch.bfloat16, compiled=cfg.compile, say=print))

The model's own code stays self-contained, because it is copied into saved folders. Its modules therefore name the
operations that may be exchanged as static methods (`SteelRMSNorm.rms_norm`, `SteelHead.linear_cross_entropy`, …) and
call them through `self`: an instance attribute of that name takes the place of the reference. No `forward` is touched,
so hooks, activation checkpointing and compilation see the module as before. Parameters, names and saved files do not
change.
"""

from __future__ import annotations

import inspect
from functools import partial

import torch
from torch import nn

from .select import Choice
from .soft_moe import soft_moe_v3


def install(model: nn.Module, choice: Choice) -> dict[str, int]:
    """Exchange the operations of `model` in place; returns how many modules of each class changed."""
    uninstall(model)
    changed: dict[str, int] = {}
    hooks = {name: f for name, f in _hooks(choice).items() if f is not None}
    for module in model.modules():
        for name, function in hooks.items():
            if _has_hook(module, name):
                setattr(module, name, function)
                kind = type(module).__name__.removeprefix("FSDP")
                changed[kind] = changed.get(kind, 0) + 1
    return changed


def uninstall(model: nn.Module) -> None:
    """Give every module back the functions of its class."""
    for module in model.modules():
        for name in HOOKS:
            if _has_hook(module, name):
                module.__dict__.pop(name, None)


def _has_hook(module: nn.Module, name: str) -> bool:
    """Whether the module's class offers this operation for exchange."""
    found = inspect.getattr_static(type(module), name, module)
    return isinstance(found, staticmethod) or (name == "attention_form" and found is None)


HOOKS = (
    "rms_norm",
    "rope_qkv",
    "swiglu",
    "linear_cross_entropy",
    "soft_moe_v3",
    "segment_sums",
    "segment_combine",
    "top_k_experts",
    "attention_form",
)


def _hooks(choice: Choice) -> dict:
    """Attribute of a module -> what takes its place (None: nothing)."""

    def of(op, function=None):
        if choice.names.get(op, "reference") == "reference":
            return None
        return function or choice.functions[op]

    primitives = choice.functions.get("soft_moe")
    picked = choice.functions.get("attention")
    return {
        "rms_norm": of(
            "rms_norm",
            lambda x, w, eps, residual=None: choice.functions["rms_norm"](
                x, w, eps, residual, _compute_type(x)
            ),
        ),
        "rope_qkv": of("rope"),
        "swiglu": of("swiglu"),
        "linear_cross_entropy": of("linear_cross_entropy"),
        "soft_moe_v3": of("soft_moe", partial(soft_moe_v3, primitives)),
        "segment_sums": of(
            "soft_moe",
            lambda x, w, plan: primitives.segment_sums(
                x, w, plan.segment_length, (plan.start_BS, plan.length_BS)
            ),
        ),
        "segment_combine": of(
            "soft_moe",
            lambda c, z, plan: primitives.segment_combine(
                c, z, plan.segment_length, (plan.start_BS, plan.length_BS)
            ),
        ),
        "top_k_experts": of("experts", partial(_top_k, choice)),
        "attention_form": of("attention", picked and picked.form),
    }


def _compute_type(x: torch.Tensor) -> torch.dtype:
    """What a linear layer would compute x in: autocast's type where it is on. A norm that feeds linear layers may write
    that type at once, which saves the pass that casts."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _top_k(choice, x_ND, weights_NK, chosen_NK, own):
    x_ND = x_ND.to(_compute_type(x_ND))
    with torch.autocast(x_ND.device.type, enabled=False):
        return choice.experts(
            x_ND, weights_NK, chosen_NK, own.gate_up_proj, own.down_proj, own.swiglu, own.double
        )
