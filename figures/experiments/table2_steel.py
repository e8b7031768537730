"""Steel in all the ways that `table2` compares, and what every row shares: data, optimizer, precision.

All rows compute as one rank does under FSDP2: parameters and activations in bf16, a master copy and AdamW's moments in
fp32.

Shapes: B batch, T time, N tokens (B·T), D width, X all heads of a fused projection, E experts, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from types import MethodType

import torch
import torch.nn.functional as F
from torch import nn

from steel.config import ModelConfig
from steel.kernels import OPERATIONS, Choice, choose, install, sizes_of
from steel.model.build import build, decoder_layers

from .table2_rows import Row

FUSED = ("rms_norm", "rope", "swiglu", "linear_cross_entropy", "soft_moe")


# -- the original's style: separate operators, as its scripts and transformers' models of the time had them ------------


def seed_rms_norm(x, weight, eps: float, residual=None):
    """Upcast, square, mean, scale, downcast, weight: six passes over memory."""
    s = x if residual is None else x + residual
    wide = s.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(dim=-1, keepdim=True) + eps)
    y = (weight * wide.to(s.dtype)).to(s.dtype)
    return y if residual is None else (y, s)


def seed_rope(qkv_BTXC, cos, sin, query_heads: int, key_heads: int):
    """Queries and keys turned one after the other by a concatenated half, tables in the activations' type."""
    query, key, value = qkv_BTXC.split(
        [query_heads, key_heads, qkv_BTXC.shape[2] - query_heads - key_heads], dim=2
    )
    cos, sin = (torch.cat((table, table), dim=-1).to(qkv_BTXC.dtype) for table in (cos, sin))

    def turn(x):
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-second, first), dim=-1) * sin

    return turn(query), turn(key), value


def seed_linear_cross_entropy(x_ND, weight_VD, targets_N, z_loss: float = 0.0) -> torch.Tensor:
    """All logits at once, and once more in fp32; summed over targets."""
    assert not z_loss
    return F.cross_entropy(
        F.linear(x_ND, weight_VD).float(), targets_N, ignore_index=-100, reduction="sum"
    )


def _loop_over_experts(self, x_END: torch.Tensor) -> torch.Tensor:
    """One expert after the other, each with its matrices apart: what a ModuleList of MLPs does."""
    outputs = []
    for x_ND, gate_up, down in zip(x_END, self.gate_up_proj, self.down_proj, strict=True):
        f = gate_up.shape[1] // 2
        hidden = F.silu(x_ND @ gate_up[:, :f]) * (x_ND @ gate_up[:, f:])
        d = x_ND.shape[1]
        outputs.append(
            F.silu(hidden @ down[:, :d]) * (hidden @ down[:, d:]) if self.double else hidden @ down
        )
    return torch.stack(outputs)


def _masked_attention(self, query, key, value, mask):
    """scaled_dot_product_attention with an explicit causal mask: what Table 2 calls PyTorch attention."""
    T = query.shape[2]
    causal = torch.ones(T, T, dtype=torch.bool, device=query.device).tril()[None, None]
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=causal, scale=self.head_dim**-0.5
    ).transpose(1, 2)


SEEDS = {
    "rms_norm": seed_rms_norm,
    "rope": seed_rope,
    "linear_cross_entropy": seed_linear_cross_entropy,
}


# -- Steel -------------------------------------------------------------------------------------------------------------


class Steel:
    """The model of a row with its pieces put in. `notes` and `kernels` say what was really used."""

    def __init__(
        self,
        shape: ModelConfig,
        row: Row,
        device: torch.device,
        dtype: torch.dtype,
        *,
        batch: int,
        length: int,
        backend: str,
        choices: dict | None = None,
    ):
        self.model = build(shape, device=str(device), dtype=dtype, seed=1).train()
        self.fused_adamw = row.pieces["adamw"] == "fused"
        choice = self._choice(
            row, device, dtype, batch, length, choices if choices is not None else {}
        )
        self.kernels, self.notes = dict(choice.names), list(choice.notes)
        install(self.model, choice)
        self.kernels |= {"experts": row.pieces["experts"], "adamw": row.pieces["adamw"]}
        for module in self.model.modules():
            kind = type(module).__name__
            if kind == "SteelExperts" and row.pieces["experts"] == "loop":
                module.forward = MethodType(_loop_over_experts, module)
            if kind == "SteelAttention" and row.pieces["attention"] == "mask":
                module._attend = MethodType(_masked_attention, module)
                self.kernels["attention"] = "mask"
        if row.pieces["compile"]:
            for layer in decoder_layers(self.model):
                layer.compile(backend=backend)

    def _choice(self, row: Row, device, dtype, batch: int, length: int, cache: dict) -> Choice:
        """Each operation settled once per process and size: the start-up checks are not part of a row's time."""
        wanted = {op: row.pieces[op] for op in (*FUSED, "attention")}
        sizes = sizes_of(self.model.config, batch=batch, length=length, documents=False)
        choice = Choice({"experts": "reference"})
        for op, name in wanted.items():
            own = name in ("seed", "mask")
            known = sizes if op == "linear_cross_entropy" else replace(sizes, vocab_size=0)
            key = (op, name, known, dtype)
            if key not in cache:
                asked = dict.fromkeys(OPERATIONS, "reference") | ({} if own else {op: name})
                cache[key] = choose(
                    asked, device=device, dtype=dtype, compiled=row.pieces["compile"], sizes=sizes
                )
            found = cache[key]
            choice.names[op] = "seed" if name == "seed" else found.names[op]
            choice.hooks |= found.hooks
            choice.notes += found.notes
            if name == "seed":
                choice.hooks["rope_qkv" if op == "rope" else op] = SEEDS[op]
        return choice

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Take weights by Steel's names."""
        self.model.load_state_dict(state)

    def backward(self, tokens_BT: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
        """Forward and backward of the mean loss [nats], which is returned; gradients are added up."""
        return backward(self.model, tokens_BT, targets_BT)

    def gradients(self) -> dict[str, torch.Tensor]:
        """Gradients by Steel's parameter names."""
        return gradients(self.model)

    def close(self) -> None:
        """Nothing outside the model was changed."""


def backward(model: nn.Module, tokens_BT: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
    """Forward and backward of the mean loss [nats], which is returned; gradients are added up."""
    position = torch.arange(tokens_BT.shape[1], device=tokens_BT.device).expand_as(tokens_BT)
    given = {"position_ids": position, "shift_labels": targets_BT}
    loss = model(tokens_BT, **given, num_items_in_batch=targets_BT.numel()).loss
    loss.backward()
    return loss.detach()


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    """Gradients by parameter name."""
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


# -- what all rows share -----------------------------------------------------------------------------------------------


class MasterAdamW:
    """AdamW on fp32 copies of the parameters, with clipping: as FSDP2 with bf16 parameters, on one rank."""

    def __init__(self, parameters: list[nn.Parameter], fused: bool, lr: float = 3e-4):
        self.parameters = [p for p in parameters if p.requires_grad]
        self.master = [p.detach().float().clone().requires_grad_() for p in self.parameters]
        which = {"fused": True} if fused else {"foreach": True}
        self.adamw = torch.optim.AdamW(
            self.master, lr=lr, betas=(0.9, 0.95), weight_decay=0.05, **which
        )

    @torch.no_grad()
    def step(self) -> None:
        """Clip to norm 1, update, write the parameters back, drop their gradients."""
        for master, p in zip(self.master, self.parameters, strict=True):
            master.grad = torch.zeros_like(master) if p.grad is None else p.grad.float()
            p.grad = None
        torch.nn.utils.clip_grad_norm_(self.master, 1.0, foreach=True)
        self.adamw.step()
        torch._foreach_copy_([p.data for p in self.parameters], self.master)
        self.adamw.zero_grad(set_to_none=True)


@torch.no_grad()
def enliven(model: nn.Module) -> None:
    """Weights under which every part speaks: v3's feed-forward is born dead, and a comparison of zeros proves nothing.

    Norm weights and biases leave their special values; the experts of v3, which see inputs of norm 1 averaged over the
    sequence, get weights large enough to answer.
    """
    generator = torch.Generator().manual_seed(11)
    for p in model.parameters():
        if p.ndim == 1 and p.numel() > 1:
            p.add_(0.2 * torch.randn(p.shape, generator=generator).to(p))
    for module in model.modules():
        if type(module).__name__ == "SteelSoftMoEV3":
            module.scale.fill_(module.phi.shape[0] ** 0.5)
            for weight in (module.experts.gate_up_proj, module.experts.down_proj):
                weight.mul_(3.0 / weight.float().std())
