"""Causal self-attention with grouped queries, RoPE, packed documents and a KV cache.

Shapes: B batch, T query time, K key time (past + T), D model width, H query heads, G key/value
heads, C head width; the book writes U for this K and K for this G.
"""

import torch
import torch.nn.functional as F
from torch import nn


def rms_norm(x: torch.Tensor, weight_D: torch.Tensor, eps: float, residual=None):
    """x / sqrt(mean(x²) + eps) · weight over the last axis; with a residual (norm of the sum, sum)."""
    total = x if residual is None else x + residual
    y = F.rms_norm(total, weight_D.shape, weight_D.to(total.dtype), eps)
    return y if residual is None else (y, total)


def send(t: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A host tensor on `device`; nobody waits, which from memory that is not pinned a GPU may."""
    return (t.pin_memory() if device.type == "cuda" else t).to(device, non_blocking=True)


class SteelRMSNorm(nn.Module):
    """`rms_norm` with its weight (Zhang & Sennrich 2019); statistics in at least fp32."""

    rms_norm = staticmethod(rms_norm)  # a built model may get another implementation here

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None):
        return self.rms_norm(x, self.weight, self.eps, residual)


def rope_tables(
    position_ids_BT: torch.Tensor, head_dim: int, theta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of the rotary angles (Su et al. 2021), (B, T, 1, head_dim / 2), fp32.

    Computed from integers on each call: bf16 cannot hold angles past a few hundred, and a model
    built on the meta device then has no buffer to re-fill.
    """
    channel = torch.arange(0, head_dim, 2, device=position_ids_BT.device, dtype=torch.float32)
    angles = position_ids_BT[..., None, None].float() * (1.0 / theta ** (channel / head_dim))
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
    ends, row_ends = torch.as_tensor(document_ends), torch.arange(1, B + 1) * T
    starts = torch.zeros(B * T + 1, dtype=torch.bool)
    starts[ends[ends <= B * T]] = True
    if not bool(starts[row_ends].all()) or int(ends[-1]) != B * T:
        raise ValueError(f"document_ends must hold every row's end, multiples of {T} up to {B * T}")
    starts[row_ends] = False
    return starts[:-1].view(B, T)


def starts_from_positions(position_ids_BT, valid_BK, past: int) -> torch.Tensor:
    """(B, T) bool on the host: position 0 after earlier tokens of the row. Waits for the device."""
    starts_BT, T = position_ids_BT == 0, position_ids_BT.shape[1]
    if valid_BK is not None:
        earlier_BT = (valid_BK.cumsum(dim=1) - valid_BK.long())[:, -T:] > 0
        return (starts_BT & valid_BK[:, -T:] & earlier_BT).cpu()
    starts_BT = starts_BT.cpu()
    starts_BT[:, 0] &= past > 0
    return starts_BT


def ends_from_starts(starts_BT: torch.Tensor) -> torch.Tensor:
    """The inverse of `starts_from_ends`."""
    B, T = starts_BT.shape
    ends = F.pad(starts_BT, (0, 1), value=True)[:, 1:]
    return ends.flatten().nonzero()[:, 0] + 1


def attention_mask(
    T: int, past: int, valid_BK: torch.Tensor | None, starts_BT: torch.Tensor | None, device
) -> torch.Tensor | None:
    """Boolean mask (B, 1, T, past + T), True where a query may look; None for plain causal attention.

    A padding query sees itself, so that no softmax is empty. Documents start on an empty cache only.
    """
    if valid_BK is None and starts_BT is None and (past == 0 or T == 1):
        return None
    query_T1 = torch.arange(past, past + T, device=device)[:, None]
    key_1K = torch.arange(past + T, device=device)[None, :]
    mask = (key_1K <= query_T1)[None, None]
    if starts_BT is not None:
        document_BT = send(starts_BT.cumsum(dim=1), device)
        mask = mask & (document_BT[:, None, :, None] == document_BT[:, None, None, :])
    if valid_BK is not None:
        mask = (mask & valid_BK[:, None, None, :]) | (key_1K == query_T1)[None, None]
    return mask


class SteelAttention(nn.Module):
    """Multi-head attention; one fused projection holds queries, keys and values, in that order.

    forward(x_BTD, context) -> (B, T, D). The context holds `cos`, `sin` of `rope_tables`, the cache
    if there is one, and the `mask`: a tensor, None for plain causal attention, or an object whose
    `attend(query, key, value, scale)` computes (B, T, H, C) itself.
    """

    rope_qkv = staticmethod(rope_qkv)  # a built model may get another implementation here

    def __init__(self, config, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        heads = self.num_heads + 2 * self.num_kv_heads
        self.qkv_proj = nn.Linear(config.hidden_size, heads * self.head_dim, bias=config.qkv_bias)
        self.o_proj = nn.Linear(self.num_heads * self.head_dim, config.hidden_size, bias=False)
        self.o_proj.role = "write"
        self.q_norm = SteelRMSNorm(self.head_dim, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = SteelRMSNorm(self.head_dim, config.rms_norm_eps) if config.qk_norm else None

    def forward(self, x_BTD: torch.Tensor, context) -> torch.Tensor:
        B, T, _ = x_BTD.shape
        H, G = self.num_heads, self.num_kv_heads
        qkv = self.qkv_proj(x_BTD).view(B, T, H + 2 * G, self.head_dim)
        if self.q_norm is not None:
            query, key, value = qkv.split([H, G, G], dim=2)
            qkv = torch.cat((self.q_norm(query), self.k_norm(key), value), dim=2)
        parts = self.rope_qkv(qkv, context.cos, context.sin, H, G)
        query, key, value = (part.transpose(1, 2) for part in parts)
        if context.cache is not None:
            key, value = context.cache.update(key, value, self.layer_idx)
        out_BTHC = self._attend(query, key, value, context.mask)
        return self.o_proj(out_BTHC.reshape(B, T, H * self.head_dim))

    def _attend(self, query, key, value, mask) -> torch.Tensor:
        scale = self.head_dim**-0.5
        if hasattr(mask, "attend"):
            return mask.attend(query, key, value, scale)
        groups = self.num_heads // self.num_kv_heads
        # Grouped heads as they are: the CUDA flash path takes them, others fall to the slow one.
        grouped = query.is_cuda and mask is None and groups > 1
        if groups > 1 and not grouped:
            key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
        causal = mask is None
        if query.shape[2] == 1:  # an `if`: of lengths traced as symbols, a comparison is no bool
            causal = False
        options = {"attn_mask": mask, "is_causal": causal, "scale": scale, "enable_gqa": grouped}
        return F.scaled_dot_product_attention(query, key, value, **options).transpose(1, 2)
