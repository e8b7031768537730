"""Configuration of `SteelForCausalLM`.

This file and those that `modeling` imports (`attention`, `feed_forward`, `soft_moe`, `causal_soft_moe`, `cache`,
`loss`) are copied into every saved model folder, so they import only torch, transformers and each other.
"""

from transformers import PreTrainedConfig

FEED_FORWARDS = (
    "dense",
    "soft_moe_v1",
    "soft_moe_v2",
    "soft_moe_v3",
    "causal_soft_moe",
    "top_k_moe",
    "none",
)
EXPERTS = ("swiglu", "double_swiglu")
# Layers that mix tokens of the whole sequence, later ones included: kept as the historical ablation only.
NON_CAUSAL = ("soft_moe_v2", "soft_moe_v3")


class SteelConfig(PreTrainedConfig):
    """Shape of a Steel model. Every field has a default; `check_fields` refuses what cannot be built.

    Sizes are counts of elements; `intermediate_size` is the width f of ONE expert (or of the dense feed-forward).
    Raises `ValueError` naming the field, at construction.
    """

    model_type = "steel"
    keys_to_ignore_at_inference = ["past_key_values"]
    _auto_class = "AutoConfig"

    vocab_size: int = 151936  # V
    hidden_size: int = 1792  # d
    intermediate_size: int = 448  # f, width of one expert
    num_hidden_layers: int = 18
    num_attention_heads: int = 32  # H
    num_key_value_heads: int | None = (
        None  # None: as many as query heads; fewer is grouped-query attention
    )
    head_dim: int | None = None  # None: hidden_size / num_attention_heads
    feed_forward: str = "causal_soft_moe"  # one of FEED_FORWARDS
    expert: str = "swiglu"  # one of EXPERTS
    num_experts: int = 5  # E, experts behind the router or the slots
    num_shared_experts: int = (
        1  # experts every token passes, beside the E (causal_soft_moe, top_k_moe)
    )
    slots_per_expert: int = 1  # p
    segment_length: int = 64  # C, tokens averaged before a slot expert runs (causal_soft_moe)
    experts_per_token: int = (
        2  # routed experts per token (top_k_moe); `top_k=` is accepted for it, see __post_init__
    )
    balance_loss: float = 0.01  # weight of the load-balancing term in training (top_k_moe)
    soft_moe_normalize_slots: bool = (
        False  # v2, v3: RMS-normalise slot inputs (revives the layer; not the original)
    )
    qkv_bias: bool = True
    qk_norm: bool = False  # RMSNorm on each head of queries and keys before RoPE
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 2048
    initializer_range: float = (
        0.02  # standard deviation of embedding and head; see `modeling._init_weights`
    )
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs):
        # Not stored under the name top_k: transformers would read that as a sampling parameter of `generate`.
        self.experts_per_token = kwargs.pop("top_k", None) or self.experts_per_token
        self.head_dim = self.head_dim or None
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        self.check_fields()
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        super().__post_init__(**kwargs)

    def check_fields(self) -> None:
        """Raise `ValueError` that names the field, its value and the remedy."""
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
        ):
            _require(self, name, getattr(self, name) >= 1, "must be at least 1")
        if self.head_dim is None:
            _require(
                self,
                "hidden_size",
                self.hidden_size % self.num_attention_heads == 0,
                f"must be a multiple of num_attention_heads={self.num_attention_heads}, or set head_dim",
            )
        head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        _require(self, "head_dim", head_dim % 2 == 0, f"must be even for RoPE (here {head_dim})")
        _require(
            self,
            "num_attention_heads",
            self.num_attention_heads % self.num_key_value_heads == 0,
            f"must be a multiple of num_key_value_heads={self.num_key_value_heads}",
        )
        _require(
            self,
            "feed_forward",
            self.feed_forward in FEED_FORWARDS,
            f"must be one of {', '.join(FEED_FORWARDS)}",
        )
        _require(self, "expert", self.expert in EXPERTS, f"must be one of {', '.join(EXPERTS)}")
        _require(
            self, "hidden_act", self.hidden_act == "silu", "must be silu: SwiGLU is defined with it"
        )
        if self.feed_forward != "none":
            _require(self, "intermediate_size", self.intermediate_size >= 1, "must be at least 1")
        if self.feed_forward not in ("none", "dense"):
            self._check_experts()

    def _check_experts(self) -> None:
        _require(self, "num_experts", self.num_experts >= 1, "must be at least 1")
        if self.feed_forward in ("soft_moe_v2", "soft_moe_v3", "causal_soft_moe"):
            _require(self, "slots_per_expert", self.slots_per_expert >= 1, "must be at least 1")
        if self.feed_forward in ("causal_soft_moe", "top_k_moe"):
            _require(
                self, "num_shared_experts", self.num_shared_experts >= 0, "must not be negative"
            )
        if self.feed_forward == "causal_soft_moe":
            _require(
                self,
                "segment_length",
                isinstance(self.segment_length, int) and self.segment_length >= 1,
                "must be at least 1: slots are fed by completed segments of that many tokens",
            )
        if self.feed_forward == "top_k_moe":
            _require(
                self,
                "experts_per_token",
                1 <= self.experts_per_token <= self.num_experts,
                f"(top_k) must lie in 1..num_experts={self.num_experts}",
            )


def _require(config: SteelConfig, field: str, holds: bool, remedy: str) -> None:
    if not holds:
        raise ValueError(f"{field}={getattr(config, field)!r}: {remedy}")
