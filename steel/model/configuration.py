"""Configuration of `SteelForCausalLM`.

This file and those that `modeling` imports (`attention`, `feed_forward`, `soft_moe`,
`causal_soft_moe`, `cache`, `loss`) are copied into every saved model folder, so they import only
torch, transformers and each other.
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
# Layers that mix tokens of the whole sequence, later ones included: the historical ablation.
NON_CAUSAL = ("soft_moe_v2", "soft_moe_v3")


class SteelConfig(PreTrainedConfig):
    """Shape of a Steel model: the fields of `steel.config.ModelConfig`, which says what they mean.

    The defaults stand there alone; here every field has to be given, as a saved config.json does.
    Raises TypeError for a missing field and ValueError naming one that cannot be built.
    """

    model_type = "steel"
    keys_to_ignore_at_inference = ["past_key_values"]
    has_no_defaults_at_init = True
    _auto_class = "AutoConfig"

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    feed_forward: str
    expert: str
    num_experts: int
    num_shared_experts: int
    slots_per_expert: int
    segment_length: int
    experts_per_token: int
    balance_loss: float
    soft_moe_normalize_slots: bool
    qkv_bias: bool
    qk_norm: bool
    rope_theta: float
    rms_norm_eps: float
    tie_word_embeddings: bool
    max_position_embeddings: int
    initializer_range: float
    # What transformers asks of a configuration.
    hidden_act: str = "silu"
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs):
        self._check()
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        if self.head_dim % 2:
            self._refuse("head_dim", "must be even for RoPE")
        super().__post_init__(**kwargs)

    def _check(self) -> None:
        least = dict.fromkeys(("vocab_size", "hidden_size", "num_hidden_layers"), 1)
        least |= dict.fromkeys(("num_attention_heads", "num_key_value_heads", "num_experts"), 1)
        least |= dict.fromkeys(("slots_per_expert", "segment_length", "experts_per_token"), 1)
        least |= {"num_shared_experts": 0, "intermediate_size": self.feed_forward != "none"}
        for field, value in least.items():
            if getattr(self, field) < value:
                self._refuse(field, f"must be at least {int(value)}")
        known = {"feed_forward": FEED_FORWARDS, "expert": EXPERTS, "hidden_act": ("silu",)}
        for field, values in known.items():
            if getattr(self, field) not in values:
                self._refuse(field, f"must be one of {', '.join(values)}")
        heads = self.num_attention_heads
        if not self.head_dim and self.hidden_size % heads:
            remedy = f"must be a multiple of num_attention_heads={heads}, or set head_dim"
            self._refuse("hidden_size", remedy)
        if heads % self.num_key_value_heads:
            remedy = f"must be a multiple of num_key_value_heads={self.num_key_value_heads}"
            self._refuse("num_attention_heads", remedy)
        if self.feed_forward == "top_k_moe" and self.experts_per_token > self.num_experts:
            self._refuse("experts_per_token", f"must be at most num_experts={self.num_experts}")

    def _refuse(self, field: str, remedy: str) -> None:
        raise ValueError(f"{field}={getattr(self, field)!r}: {remedy}")
