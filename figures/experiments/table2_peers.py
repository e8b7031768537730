"""The peers of `table2` on the dense twin: transformers, Liger-Kernel, and two styles of stack.

The twin is Qwen2's architecture, which Steel's dense form is too; weights are carried over, so losses and gradients can
be compared number by number. The two stacks imitate how nanochat and torchtitan arrange such a model (what is
compiled, how the loss is chunked), not their own architectures; a few lines each, written here.

Shapes: B batch, T time, D width, H heads, C head width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from steel.config import ModelConfig
from steel.kernels.attention import backend as attention_backend
from steel.model.build import build

from .table2_rows import Row

PATCHED = (
    "apply_rotary_pos_emb",
    "Qwen2RMSNorm",
    "Qwen2MLP",
)  # what Liger exchanges in transformers' own module


def to_qwen(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Steel's dense weights under Qwen2's names: the fused projections are cut (equal heads, no grouping)."""
    out = {}
    for name, tensor in state.items():
        if "qkv_proj" in name:
            parts = zip(("q_proj", "k_proj", "v_proj"), tensor.chunk(3), strict=True)
            out |= {name.replace("qkv_proj", part): value for part, value in parts}
        elif "gate_up_proj" in name:
            parts = zip(("gate_proj", "up_proj"), tensor.chunk(2), strict=True)
            out |= {name.replace("gate_up_proj", part): value for part, value in parts}
        else:
            out[name] = tensor
    return out


def from_qwen(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The way back, for gradients."""
    out = {}
    for name, tensor in tensors.items():
        if any(f".{part}." in name for part in ("k_proj", "v_proj", "up_proj")):
            continue
        if ".q_proj." in name:
            parts = [
                tensors[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")
            ]
            out[name.replace("q_proj", "qkv_proj")] = torch.cat(parts)
        elif ".gate_proj." in name:
            parts = [tensors[name.replace("gate_proj", part)] for part in ("gate_proj", "up_proj")]
            out[name.replace("gate_proj", "gate_up_proj")] = torch.cat(parts)
        else:
            out[name] = tensor
    return out


class Peer:
    """One peer; the same face as `table2_steel.Steel`. ImportError where a package is missing."""

    fused_adamw = True

    def __init__(
        self,
        shape: ModelConfig,
        row: Row,
        device: torch.device,
        dtype: torch.dtype,
        *,
        backend: str,
        **_,
    ):
        self.kernels, self.notes, self._before = {}, [], {}
        self.kind = row.engine
        if self.kind.startswith("hf"):
            self.model = _transformers_model(shape, device, dtype)
        else:
            with torch.device(device):
                self.model = Stack(shape).to(dtype)
        self.load(build(shape, device=str(device), dtype=dtype, seed=1).state_dict())
        self.model.train()
        if self.kind == "hf_liger":
            self._liger()
        self.call = self.model
        if self.kind in ("hf_compile", "nanochat_like"):
            self.call = torch.compile(self.model, backend=backend, dynamic=False)
        if self.kind == "torchtitan_like":
            for layer in self.model.model.layers:
                layer.compile(backend=backend, fullgraph=True)
            self.chunk_loss = torch.compile(_chunk_loss, backend=backend)

    def _liger(self) -> None:
        from liger_kernel.transformers import apply_liger_kernel_to_qwen2
        from transformers.models.qwen2 import modeling_qwen2

        self._before = {name: getattr(modeling_qwen2, name) for name in PATCHED}
        apply_liger_kernel_to_qwen2(model=self.model)

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Take weights by Steel's names."""
        self.model.load_state_dict(to_qwen(state))

    def backward(self, tokens_BT: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
        """Forward and backward of the mean loss [nats], which is returned; gradients are added up."""
        if self.kind == "torchtitan_like":
            return self._in_chunks(tokens_BT, targets_BT)
        if self.kind == "nanochat_like":
            loss = self.call(tokens_BT, targets_BT)
        else:
            loss = self.call(
                input_ids=tokens_BT,
                labels=targets_BT,
                shift_labels=targets_BT,
                use_cache=False,
                num_items_in_batch=targets_BT.numel(),
            ).loss
        loss.backward()
        return loss.detach()

    def _in_chunks(self, tokens_BT, targets_BT, chunks: int = 8) -> torch.Tensor:
        """The head's loss chunk by chunk along the sequence, each with its backward pass; then the blocks'."""
        hidden = self.model.model(tokens_BT)
        cut = hidden.detach().requires_grad_()
        total = torch.zeros((), device=hidden.device)
        for part, targets in zip(
            cut.chunk(chunks, dim=1), targets_BT.chunk(chunks, dim=1), strict=True
        ):
            loss = self.chunk_loss(part, self.model.lm_head.weight, targets) / targets_BT.numel()
            loss.backward()
            total += loss.detach()
        hidden.backward(cut.grad)
        return total

    def gradients(self) -> dict[str, torch.Tensor]:
        """Gradients by Steel's parameter names."""
        return from_qwen(
            {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        )

    def close(self) -> None:
        """Undo what Liger exchanged in transformers' module, for the rows that follow."""
        if self._before:
            from transformers.models.qwen2 import modeling_qwen2

            for name, value in self._before.items():
                setattr(modeling_qwen2, name, value)


def _transformers_model(shape: ModelConfig, device: torch.device, dtype: torch.dtype) -> nn.Module:
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        rms_norm_eps=shape.rms_norm_eps,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        use_cache=False,
    )
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")


def _chunk_loss(hidden_BTD, weight_VD, targets_BT) -> torch.Tensor:
    logits = F.linear(hidden_BTD, weight_VD).float()
    return F.cross_entropy(
        logits.flatten(0, 1), targets_BT.flatten(), ignore_index=-100, reduction="sum"
    )


# -- a stack in few lines, with Qwen2's parameter names ----------------------------------------------------------------


class Attention(nn.Module):
    """Separate projections, rotation in fp32, scaled_dot_product_attention with cuDNN first."""

    def __init__(self, shape: ModelConfig):
        super().__init__()
        D, self.heads = shape.hidden_size, shape.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(D, D, bias=shape.qkv_bias) for _ in range(3)
        )
        self.o_proj = nn.Linear(D, D, bias=False)

    def forward(self, x_BTD, cos, sin):
        B, T, D = x_BTD.shape
        query, key, value = (
            proj(x_BTD).view(B, T, self.heads, -1)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = (_turn(part, cos, sin).transpose(1, 2) for part in (query, key))
        with attention_backend("cudnn" if x_BTD.is_cuda else "", alone=False):
            out = F.scaled_dot_product_attention(query, key, value.transpose(1, 2), is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(B, T, D))


def _turn(x_BTHC, cos, sin):
    first, second = x_BTHC.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(
        x_BTHC.dtype
    )


class FeedForward(nn.Module):
    """SwiGLU with three matrices."""

    def __init__(self, shape: ModelConfig):
        super().__init__()
        D, f = shape.hidden_size, shape.intermediate_size
        self.gate_proj, self.up_proj = nn.Linear(D, f, bias=False), nn.Linear(D, f, bias=False)
        self.down_proj = nn.Linear(f, D, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Pre-norm block."""

    def __init__(self, shape: ModelConfig):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = FeedForward(shape)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    """Embedding, blocks, last norm: (B, T) tokens -> (B, T, D)."""

    def __init__(self, shape: ModelConfig):
        super().__init__()
        self.theta, self.head_dim = shape.rope_theta, shape.hidden_size // shape.num_attention_heads
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.num_hidden_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)

    def forward(self, tokens_BT):
        rate = self.theta ** (
            -torch.arange(0, self.head_dim, 2, device=tokens_BT.device) / self.head_dim
        )
        angle = (
            torch.arange(tokens_BT.shape[1], device=tokens_BT.device)[None, :, None, None] * rate
        )
        cos, sin = angle.cos(), angle.sin()
        x = self.embed_tokens(tokens_BT)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)


class Stack(nn.Module):
    """The twin: trunk and head. forward(tokens, targets) -> mean loss with all logits at once, in fp32."""

    def __init__(self, shape: ModelConfig):
        super().__init__()
        self.model = Trunk(shape)
        self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)

    def forward(self, tokens_BT, targets_BT):
        return (
            _chunk_loss(self.model(tokens_BT), self.lm_head.weight, targets_BT) / targets_BT.numel()
        )
