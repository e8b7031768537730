"""Configuration of `SteelForCausalLM`.

This file and those that `modeling` imports are copied into every saved model folder, so they import
only torch, transformers and each other.
"""

from transformers import PreTrainedConfig

FEED_FORWARDS = "dense soft_moe_v1 soft_moe_v2 soft_moe_v3 causal_soft_moe top_k_moe none".split()
EXPERTS = ["swiglu", "double_swiglu"]
CHOICES = {"feed_forward": FEED_FORWARDS, "expert": EXPERTS, "hidden_act": ["silu"]}
AT_LEAST_ONE = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads num_experts "
    "slots_per_expert segment_length experts_per_token"
).split()
# Layers that mix tokens of the whole sequence, later ones included: the historical ablation.
NON_CAUSAL = ("soft_moe_v2", "soft_moe_v3")


class SteelConfig(PreTrainedConfig):
    """Shape of a Steel model: the fields of `steel.config.ModelConfig`, which says what they mean.

    The defaults stand there alone; here every field has to be given, as a saved config.json does.
    Raises TypeError for a missing field and ValueError naming one that cannot be built.
    """

    model_type = "steel"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]
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
        for field in AT_LEAST_ONE:
            self._require(field, getattr(self, field) >= 1, "must be at least 1")
        for field, known in CHOICES.items():
            remedy = f"must be one of {', '.join(known)}"
            self._require(field, getattr(self, field) in known, remedy)
        self._require("num_shared_experts", self.num_shared_experts >= 0, "must be at least 0")
        enough = self.intermediate_size >= 1 or self.feed_forward == "none"
        self._require("intermediate_size", enough, "must be at least 1")
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        remedy = f"must be a multiple of num_key_value_heads={groups}"
        self._require("num_attention_heads", heads % groups == 0, remedy)
        remedy = f"must be a multiple of num_attention_heads={heads}, or set head_dim"
        self._require("hidden_size", self.head_dim or self.hidden_size % heads == 0, remedy)
        few = self.experts_per_token <= self.num_experts or self.feed_forward != "top_k_moe"
        self._require("experts_per_token", few, f"must be at most num_experts={self.num_experts}")
        self.head_dim = self.head_dim or self.hidden_size // heads
        self._require("head_dim", self.head_dim % 2 == 0, "must be even for RoPE")
        super().__post_init__(**kwargs)

    def _require(self, field: str, fits: bool, remedy: str) -> None:
        if not fits:
            raise ValueError(f"{field}={getattr(self, field)!r}: {remedy}")
