"""Put the chosen implementations into a built model, and take them out again.

    install(model, choose("auto", device=device, dtype=torch.bfloat16, compiled=cfg.compile, say=print))

The model's own code stays self-contained, because it is copied into saved folders; so the exchange happens from
outside, after construction (and before `fully_shard` and `compile`): a module gets another method as an attribute.
Parameters, names and saved files do not change. Modules are told by the name of their class, so nothing of
`steel.model` is imported here; a model without such classes is left as it is, and so is a module that would get
references only.

Shapes: B batch, T time, D model width, H query heads, G key/value heads, C head width, E experts.
"""

from __future__ import annotations

from types import MethodType

import torch
import torch.nn.functional as F
from torch import nn

from . import attention
from .select import Choice
from .soft_moe import soft_moe_v3, spans_of


def install(model: nn.Module, choice: Choice) -> dict[str, int]:
    """Exchange the methods of `model` in place; returns how many modules of each class changed."""
    uninstall(model)
    changed: dict[str, int] = {}
    for module in model.modules():
        exchanged = {}
        for method, make, needs in METHODS.get(_original_name(module), ()):
            if any(choice.names.get(op, "reference") != "reference" for op in needs):
                exchanged[method] = make(module, choice)
        exchanged = {
            method: function for method, function in exchanged.items() if function is not None
        }
        for method, function in exchanged.items():
            setattr(module, method, MethodType(function, module))
        if exchanged:
            changed[_original_name(module)] = changed.get(_original_name(module), 0) + 1
    return changed


def uninstall(model: nn.Module) -> None:
    """Give every module back the methods of its class."""
    for module in model.modules():
        for method, *_ in METHODS.get(_original_name(module), ()):
            module.__dict__.pop(method, None)


def _original_name(module: nn.Module) -> str:
    """Name of the class as written; FSDP2 prefixes the classes of the modules it wraps."""
    return type(module).__name__.removeprefix("FSDP")


def _compute_type(x: torch.Tensor) -> torch.dtype:
    """What a linear layer would compute x in: autocast's type where it is on. A norm that feeds linear layers may write
    that type at once, which saves the pass that casts."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _norm(module, choice: Choice):
    rms_norm = choice.rms_norm

    def forward(self, x):
        return rms_norm(x, self.weight, self.eps, dtype=_compute_type(x))

    return forward


def _layer(module, choice: Choice):
    """The addition after attention and the norm after it, in one pass. (The addition after the feed-forward is left:
    the norm that follows it belongs to the next layer.)"""
    if module.mlp is None:
        return None
    rms_norm = choice.rms_norm
    cached = type(module.mlp).__name__.endswith("SteelCausalSoftMoE")

    def forward(self, x_BTD, context, past_key_values=None):
        attended = self.self_attn(self.input_layernorm(x_BTD), context, past_key_values)
        norm = self.post_attention_layernorm
        h_BTD, x_BTD = rms_norm(attended, norm.weight, norm.eps, x_BTD, _compute_type(x_BTD))
        if past_key_values is not None and cached:
            return x_BTD + self.mlp(h_BTD, context, past_key_values.layers[self.layer_idx])
        return x_BTD + self.mlp(h_BTD, context)

    return forward


def _attention(module, choice: Choice):
    if module.q_norm is not None:
        return None  # QK-norm stands between projection and rotation: left to the model's own code
    rope = choice.rope

    def forward(self, x_BTD, context, past_key_values=None):
        B, T, _ = x_BTD.shape
        H, G = self.num_heads, self.num_kv_heads
        qkv = self.qkv_proj(x_BTD).view(B, T, H + 2 * G, self.head_dim)
        query, key, value = (
            part.transpose(1, 2) for part in rope(qkv, context.cos, context.sin, H, G)
        )
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        out_BTHC = self._attend(query, key, value, context.mask)
        return self.o_proj(out_BTHC.reshape(B, T, H * self.head_dim))

    return forward


def _dense(module, choice: Choice):
    gate = choice.swiglu

    def forward(self, x_BTD, context=None):
        out = self.down_proj(gate(self.gate_up_proj(x_BTD)))
        return gate(out) if self.double else out

    return forward


def _experts(module, choice: Choice):
    gate = choice.swiglu

    def forward(self, x_END):
        out = torch.bmm(gate(torch.bmm(x_END, self.gate_up_proj)), self.down_proj)
        return gate(out) if self.double else out

    return forward


def _head(module, choice: Choice):
    linear_cross_entropy = choice.linear_cross_entropy

    def forward(self, x, targets=None, z_loss=0.0):
        if targets is None:
            return F.linear(x, self.weight, self.bias)
        return linear_cross_entropy(
            x.reshape(-1, x.shape[-1]), self.weight, targets.reshape(-1), z_loss
        )

    return forward


def _run_experts(experts, slots: torch.Tensor) -> torch.Tensor:
    """Slot j through expert j // P: (B, J, D) -> (B, J, D)."""
    B, J, D = slots.shape
    E = experts.num_experts
    out = experts(slots.view(B, E, J // E, D).transpose(0, 1).reshape(E, -1, D))
    return out.view(E, B, J // E, D).transpose(0, 1).reshape(B, J, D)


def _soft_moe_v3(module, choice: Choice):
    if module.normalize_slots:
        return None  # the revived variant is a teaching experiment: the model's own code
    primitives = choice.soft_moe

    def forward(self, x_BTD, context=None):
        phi = self.scale * F.normalize(self.phi, dim=0)
        valid_BT = context.valid_BT if context is not None else None
        return soft_moe_v3(
            primitives, x_BTD, phi, lambda slots: _run_experts(self.experts, slots), valid_BT
        )

    return forward


def _causal_segments(module, choice: Choice):
    """The parallel form in training and scoring; with a cache the model's own code runs."""
    primitives = choice.soft_moe
    own = type(module)._segments

    def segments(self, x_BTD, weight_BTJ, combine_BTJ, state, plan, keep):
        if state is not None or keep:
            return own(self, x_BTD, weight_BTJ, combine_BTJ, state, plan, keep)
        C, spans = self.segment_length, None
        if plan.cell_BT is not None:
            spans = plan.__dict__.get("spans")  # the plan is shared by all layers: found once
            if spans is None:
                spans = plan.__dict__["spans"] = spans_of(plan.cell_BT, plan.num_segments, C)
        sums, mass = primitives.segment_sums(x_BTD, weight_BTJ, C, spans)
        n, m = self._decayed(sums, mass, None, plan)
        z_BSJD = self._slot_outputs(n, m, x_BTD.dtype)
        return primitives.segment_combine(combine_BTJ, z_BSJD, C, spans), None

    return segments


def _top_k(module, choice: Choice):
    """Grouped products instead of a batch padded to the busiest expert."""
    experts, gate = choice.experts, choice.swiglu

    def visit(self, x_ND, weights_NK, chosen_NK):
        own = self.experts
        x_ND = x_ND.to(_compute_type(x_ND))
        with torch.autocast(x_ND.device.type, enabled=False):
            return experts(
                x_ND, weights_NK, chosen_NK, own.gate_up_proj, own.down_proj, gate, own.double
            )

    return visit


def _attend(module, choice: Choice):
    """The attention that the probe picked; the model's own code with a cache and for masks of another kind."""
    chosen, own = choice.attention, type(module)._attend

    def attend_chosen(self, query, key, value, mask):
        if isinstance(mask, attention.Documents):
            return attention.attend(chosen.documents, query, key, value, self.scaling, mask)
        if self.config._attn_implementation not in (None, "sdpa"):
            return own(self, query, key, value, mask)
        square = query.shape[2] == key.shape[2] > 1
        if mask is None and square and chosen.plain in attention.PACKAGES:
            return attention.attend(chosen.plain, query, key, value, self.scaling)
        if not square or chosen.plain in attention.PACKAGES:
            return own(self, query, key, value, mask)
        with attention.backend(chosen.plain if mask is None else chosen.documents, alone=False):
            return own(self, query, key, value, mask)

    return attend_chosen


def _documents(module, choice: Choice):
    """Packed documents in the form that the picked attention reads, instead of the dense mask."""
    name, own = choice.attention.documents, type(module)._context
    if name == "reference" or name in attention.SDPA:
        return None

    def context(self, x_BTD, given_mask, position_ids, cache, past):
        made = own(self, x_BTD, given_mask, position_ids, cache, past)
        packed = made.mask is not None and given_mask is None and past == 0
        if packed and self.config._attn_implementation in (None, "sdpa"):
            made.mask = attention.documents_for(name, position_ids)
        return made

    return context


# Class name -> (method, maker of the new one, the operations it would use).
METHODS = {
    "SteelRMSNorm": (("forward", _norm, ("rms_norm",)),),
    "SteelDecoderLayer": (("forward", _layer, ("rms_norm",)),),
    "SteelAttention": (("forward", _attention, ("rope",)), ("_attend", _attend, ("attention",))),
    "SteelModel": (("_context", _documents, ("attention",)),),
    "SteelDenseFeedForward": (("forward", _dense, ("swiglu",)),),
    "SteelExperts": (("forward", _experts, ("swiglu",)),),
    "SteelTopKMoE": (("_visit", _top_k, ("experts",)),),
    "SteelHead": (("forward", _head, ("linear_cross_entropy",)),),
    "SteelSoftMoEV3": (("forward", _soft_moe_v3, ("soft_moe",)),),
    "SteelCausalSoftMoE": (("_segments", _causal_segments, ("soft_moe",)),),
}
