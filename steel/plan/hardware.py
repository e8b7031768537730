"""Machines, prices and published runs that `steel.plan.planner` reckons with. Plain data: edit it for your own offer.

Peaks are the vendors' dense bf16 tensor figures (half of the number that is printed "with sparsity"). Prices are an
assumption, not a quotation: the middle of public on-demand offers at `PRICE_DATE`, which spread by a factor of 2.5 for
the same GPU. MFU defaults are round numbers inside the span of the published runs named beside them, counted as
executed causal FLOPs; your own measured value is always better.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from ..config import ModelConfig, UserError

PRICE_DATE = "2026-05"
CNY_PER_USD = 7.2  # assumption, like the prices
GIB, MIB = 2**30, 2**20
SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class GPU:
    """One accelerator, or two CPU cores."""

    name: str
    peak: float
    """Dense bf16 peak [FLOP/s]; fp32 for CPU."""
    memory: float
    """Memory [bytes]."""
    usd_per_hour: float
    """Rent per GPU and hour [USD], an assumption as of PRICE_DATE."""
    mfu: float
    """Assumed share of the peak that training reaches, executed causal FLOPs [1]."""
    mfu_source: str


_A = "Table 2 of Steel 47 %, TinyLlama 52 %, HammerLLM 39 %"
_H = "torchtitan 33-39 %, llm-foundry 42 %, nanochat 50 %"
GPUS = {
    gpu.name: gpu
    for gpu in (
        GPU("H800", 989.5e12, 80 * GIB, 3.0, 0.35, _H),
        GPU("H100", 989.5e12, 80 * GIB, 3.0, 0.40, _H),
        GPU("H200", 989.5e12, 140 * GIB, 4.0, 0.40, _H),
        GPU("A100-80G", 312e12, 80 * GIB, 1.5, 0.45, _A),
        GPU("A100-40G", 312e12, 40 * GIB, 1.2, 0.45, _A),
        GPU("A800", 312e12, 80 * GIB, 1.5, 0.45, _A),
        GPU("4090", 165.2e12, 24 * GIB, 0.5, 0.35, "a guess: no published run of this size"),
        GPU("CPU", 0.1e12, 8 * GIB, 0.08, 0.30, "a guess for two cores in fp32: measure yours"),
    )
}


def gpu(name: str) -> GPU:
    """The table's entry, by a name that ignores case. Raises UserError for a GPU that is not in it."""
    for key, value in GPUS.items():
        if key.lower() == name.lower():
            return value
    close = difflib.get_close_matches(name.upper(), GPUS, n=1, cutoff=0.3)
    hint = f"did you mean '{close[0]}'? " if close else ""
    raise UserError(
        f"unknown GPU '{name}'; {hint}known: {', '.join(GPUS)} (steel/train/plan_hardware.py)"
    )


def money(gpu_hours: float, gpu_name: str, currency: str = "USD") -> float:
    """Rent for `gpu_hours` [GPU hours] in USD or CNY, at the assumed prices of PRICE_DATE."""
    if currency not in ("USD", "CNY"):
        raise UserError(f"unknown currency '{currency}'; use USD or CNY")
    usd = gpu_hours * gpu(gpu_name).usd_per_hour
    return usd * CNY_PER_USD if currency == "CNY" else usd


# -- published runs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What somebody published about a training run: enough to check a plan against."""

    name: str
    model: ModelConfig
    sequence_length: int
    gpu: str
    num_gpus: int
    tokens_per_second: float
    """Per GPU, as published or as days and tokens imply [tokens/s]."""
    tokens: float
    """Tokens of the whole run, 0 where only a speed was published [tokens]."""
    source: str

    @property
    def days(self) -> float:
        """Length of the whole run [days]; 0 where only a speed was published."""
        return self.tokens / (self.tokens_per_second * self.num_gpus * SECONDS_PER_DAY)


def _llama(
    hidden: int, width: int, layers: int, heads: int, kv: int, vocabulary: int, **other
) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=width, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv, feed_forward="dense",
        **{"qkv_bias": False, "tie_word_embeddings": False} | other,
    )  # fmt: skip


STEEL_1B = ModelConfig(
    vocab_size=151_936, hidden_size=1792, intermediate_size=448, num_hidden_layers=18, num_attention_heads=32,
    num_key_value_heads=32, feed_forward="soft_moe_v3", expert="double_swiglu", num_experts=6, qkv_bias=True,
    tie_word_embeddings=False,
)  # fmt: skip
QWEN_1_8B = _llama(2048, 5504, 24, 16, 16, 151_936, qkv_bias=True)
TINYLLAMA = _llama(2048, 5632, 22, 32, 4, 32_000)
HAMMERLLM = _llama(2048, 5632, 22, 32, 4, 105_789)
MINILLM_0_2B = _llama(1024, 2752, 12, 8, 8, 64_793, tie_word_embeddings=True)
MINILLM_1_1B = _llama(2048, 5632, 22, 32, 4, 64_793, tie_word_embeddings=True)


def _speed(tokens: float, days: float, num_gpus: int) -> float:
    return tokens / (days * SECONDS_PER_DAY * num_gpus)


STEEL_TOKENS = 1_070_000 * 512 * 2048

RUNS = (
    Run("Steel, 8×H800", STEEL_1B, 2048, "H800", 8, _speed(STEEL_TOKENS, 30, 8), STEEL_TOKENS,
        "README: about 30 days; paper: 1.07M steps of 512 × 2048 tokens"),
    Run("Steel, 8×A100", STEEL_1B, 2048, "A100-80G", 8, _speed(STEEL_TOKENS, 60, 8), STEEL_TOKENS,
        "README: about 60 days for the whole run; the real run used both machines"),
    Run("Table 2, slowest", QWEN_1_8B, 2048, "A100-80G", 8, 10_500, 0, "paper, Table 2, experiment 8"),
    Run("Table 2, fastest", QWEN_1_8B, 2048, "A100-80G", 8, 15_000, 0, "paper, Table 2, experiment 7"),
    Run("TinyLlama 1.1B", TINYLLAMA, 2048, "A100-40G", 16, 24_000, 0, "README: 24k tokens/s per A100-40G, MFU 56 %"),
    Run("HammerLLM 1.4B", HAMMERLLM, 2048, "A100-80G", 8, 16_000, 0, "README: 16k tokens/s per GPU"),
    Run("MiniLLM 0.2B, 14B", MINILLM_0_2B, 1024, "A800", 4, _speed(14e9, 20 / 24, 4), 14e9, "README: 20 h"),
    Run("MiniLLM 0.2B, 64B", MINILLM_0_2B, 1024, "A800", 4, _speed(64e9, 3.79, 4), 64e9, "README: 3.79 days"),
    Run("MiniLLM 1.1B, 64B", MINILLM_1_1B, 896, "A800", 8, _speed(64e9, 1, 8), 64e9, "README: 1 day"),
)  # fmt: skip
