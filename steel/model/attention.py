"""Causal self-attention with grouped queries, RoPE, packed documents and a KV cache.

Shapes: B batch, T query time, K key time (past + T), D model width, H query heads, G key/value
heads, C head width.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def rms_norm(x: torch.Tensor, weight_D: torch.Tensor, eps: float, residual=None):
    """x / sqrt(mean(x²) + eps) · weight over the last axis; with a residual (norm of the sum, sum)."""
    total = x if residual is None else x + residual
    y = F.rms_norm(total, weight_D.shape, weight_D.to(total.dtype), eps)
    return y if residual is None else (y, total)


class SteelRMSNorm(nn.Module):
    """`rms_norm` with its weight (Zhang & Sennrich 2019); statistics in at least fp32."""

    rms_norm = staticmethod(rms_norm)  # a built model may get another implementation here

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None):
        return self.rms_norm(x, self.weight, self.eps, residual)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"


def rope_tables(
    position_ids_BT: torch.Tensor, head_dim: int, theta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of the rotary angles (Su et al. 2021), (B, T, 1, head_dim / 2), fp32.

    Computed from integers on each call: bf16 cannot hold angles past a few hundred, and a model
    built on the meta device then has no buffer to re-fill.
    """
    exponents = (
        torch.arange(0, head_dim, 2, device=position_ids_BT.device, dtype=torch.float32) / head_dim
    )
    angles = position_ids_BT[..., None, None].float() * (1.0 / theta**exponents)
    return angles.cos(), angles.sin()


def apply_rope(x_BTHC: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the halves of each head; arithmetic in fp32 (or wider), result in x's dtype."""
    first, second = x_BTHC.chunk(2, dim=-1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.to(x_BTHC.dtype)


def rope_qkv(qkv_BTXC: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, H: int, G: int):
    """X = H + 2G fused heads -> rotated query (B, T, H, C) and key (B, T, G, C), and value."""
    qk, value = qkv_BTXC.split([H + G, G], dim=2)
    return *apply_rope(qk, cos, sin).split([H, G], dim=2), value


def starts_from_ends(document_ends: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """(B, T) bool on the host: True where another document of the row starts.

    document_ends: (N,) int64 on the host, a tensor or an array: exclusive ends in the flattened
    (B·T) tokens, ascending, row ends included. Raises ValueError for ends of another batch.
    """
    B, T = shape
    document_ends = torch.as_tensor(document_ends)
    row_ends = torch.arange(1, B + 1) * T
    if not len(document_ends) or int(document_ends[-1]) != B * T:
        raise ValueError(f"document_ends must end with B·T = {B * T}")
    starts = torch.zeros(B * T + 1, dtype=torch.bool)
    starts[document_ends] = True
    if not bool(starts[row_ends].all()):
        raise ValueError(f"document_ends must hold the end of every row, multiples of {T}")
    starts[row_ends] = False
    return starts[:-1].view(B, T)


def starts_from_positions(
    position_ids_BT: torch.Tensor, valid_BK: torch.Tensor | None, past: int
) -> torch.Tensor:
    """(B, T) bool on the host: position 0 after earlier tokens of the row. Waits for the device."""
    starts_BT, T = position_ids_BT == 0, position_ids_BT.shape[1]
    if valid_BK is not None:
        earlier_BT = (valid_BK.cumsum(dim=1) - valid_BK.long())[:, -T:] > 0
        return (starts_BT & valid_BK[:, -T:] & earlier_BT).cpu()
    starts_BT = starts_BT.cpu()
    if past == 0:
        starts_BT[:, 0] = False
    return starts_BT


def ends_from_starts(starts_BT: torch.Tensor) -> torch.Tensor:
    """The inverse of `starts_from_ends`."""
    starts_BT = starts_BT.clone()
    starts_BT[:, 0] = True
    starts = starts_BT.flatten().nonzero()[:, 0]
    return torch.cat((starts[1:], starts.new_tensor([starts_BT.numel()])))


def attention_mask(
    query_length: int,
    past_length: int,
    valid_BK: torch.Tensor | None,
    document_BT: torch.Tensor | None,
    device: torch.device,
) -> torch.Tensor | None:
    """Boolean mask (B, 1, T, K), True where a query may look; None for plain causal attention.

    Built once per forward and shared by all layers. A padding query sees itself, so that no softmax
    is empty.
    """
    if valid_BK is None and document_BT is None and (past_length == 0 or query_length == 1):
        return None
    key_length = past_length + query_length
    query_T1 = torch.arange(past_length, key_length, device=device)[:, None]
    key_1K = torch.arange(key_length, device=device)[None, :]
    mask = (key_1K <= query_T1)[None, None]
    if document_BT is not None:
        assert past_length == 0
        mask = mask & (document_BT[:, None, :, None] == document_BT[:, None, None, :])
    if valid_BK is not None:
        mask = (mask & valid_BK[:, None, None, :]) | (key_1K == query_T1)[None, None]
    return mask


class SteelAttention(nn.Module):
    """Multi-head attention; one fused projection holds queries, keys and values, in that order.

    forward(x_BTD, context) -> (B, T, D). The context holds `cos`, `sin` of `rope_tables` and the
    `mask`: a tensor, None for plain causal attention, or an object whose `attend(query, key, value,
    scale)` computes (B, T, H, C) itself.
    """

    rope_qkv = staticmethod(rope_qkv)  # a built model may get another implementation here

    def __init__(self, config, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.num_heads = config.num_attention_heads
        self.num_kv_heads = config.num_key_value_heads
        # Read by transformers' attention functions.
        self.num_key_value_groups = self.num_heads // self.num_kv_heads
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        heads = self.num_heads + 2 * self.num_kv_heads
        self.qkv_proj = nn.Linear(config.hidden_size, heads * self.head_dim, bias=config.qkv_bias)
        self.o_proj = nn.Linear(self.num_heads * self.head_dim, config.hidden_size, bias=False)
        self.o_proj.role = "write"
        self.q_norm = SteelRMSNorm(self.head_dim, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = SteelRMSNorm(self.head_dim, config.rms_norm_eps) if config.qk_norm else None

    def forward(self, x_BTD: torch.Tensor, context, past_key_values=None) -> torch.Tensor:
        B, T, _ = x_BTD.shape
        H, G = self.num_heads, self.num_kv_heads
        qkv = self.qkv_proj(x_BTD).view(B, T, H + 2 * G, self.head_dim)
        if self.q_norm is not None:
            query, key, value = qkv.split([H, G, G], dim=2)
            qkv = torch.cat((self.q_norm(query), self.k_norm(key), value), dim=2)
        parts = self.rope_qkv(qkv, context.cos, context.sin, H, G)
        query, key, value = (part.transpose(1, 2) for part in parts)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        out_BTHC = self._attend(query, key, value, context.mask)
        return self.o_proj(out_BTHC.reshape(B, T, H * self.head_dim))

    def _attend(self, query, key, value, mask) -> torch.Tensor:
        if hasattr(mask, "attend"):
            return mask.attend(query, key, value, self.scaling)
        implementation = self.config._attn_implementation
        if implementation not in (None, "sdpa", "eager"):
            attend = ALL_ATTENTION_FUNCTIONS[implementation]
            return attend(self, query, key, value, mask, scaling=self.scaling, dropout=0.0)[0]
        grouped = self.num_key_value_groups > 1
        # Grouped heads as they are: the CUDA flash path takes them, others fall to the slow one.
        native = grouped and mask is None and query.is_cuda
        if grouped and not native:
            key = key.repeat_interleave(self.num_key_value_groups, dim=1)
            value = value.repeat_interleave(self.num_key_value_groups, dim=1)
        if implementation == "eager":
            return self._eager(query, key, value, mask).transpose(1, 2)
        settings = {"is_causal": mask is None and query.shape[2] > 1, "scale": self.scaling}
        attend = F.scaled_dot_product_attention
        out = attend(query, key, value, attn_mask=mask, enable_gqa=native, **settings)
        return out.transpose(1, 2)

    def _eager(self, query, key, value, mask) -> torch.Tensor:
        """The textbook form, scores in view; the reference the fused kernels are tested against."""
        scores = (query @ key.transpose(-1, -2)) * self.scaling
        T, K = scores.shape[-2:]
        if mask is None:
            mask = torch.ones(T, K, dtype=torch.bool, device=scores.device).tril(K - T)
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        else:
            scores = scores + mask
        wide = torch.promote_types(scores.dtype, torch.float32)
        return scores.softmax(dim=-1, dtype=wide).to(value.dtype) @ value
