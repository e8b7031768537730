"""The rows of `table2`: which model, which implementation of each piece, in which order.

Every row names what it compares itself with (`base`). Rows of one shape start from the same weights and see the same
tokens, so their losses must agree; rows of different shapes are variants, compared by speed alone.

Letters in the ids: A the original's style, one piece exchanged at a time; B this project, all on, one piece left out,
and other shapes; C peers on a dense twin of equal parameters; D operations by themselves; E the paper's own Table 2
shape.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from figures.known_runs import published
from steel.config import ModelConfig

# The dense twin stores as many weights as the six double experts: 6 · 4 · 448 = 3 · 3584.
STEEL_1B = published("steel-1b").model
SHAPES = {
    "v3": STEEL_1B,
    "v3-14x128": replace(STEEL_1B, num_attention_heads=14, num_key_value_heads=14),
    "v1": replace(STEEL_1B, feed_forward="soft_moe_v1"),
    "causal": replace(
        STEEL_1B, feed_forward="causal_soft_moe", num_experts=5, num_shared_experts=1
    ),
    "causal-14x128": replace(
        STEEL_1B,
        feed_forward="causal_soft_moe",
        num_experts=5,
        num_shared_experts=1,
        num_attention_heads=14,
        num_key_value_heads=14,
    ),
    "dense": replace(STEEL_1B, feed_forward="dense", expert="swiglu", intermediate_size=3584),
    "qwen-1.8b": published("qwen-1.8b").model,
}
MICRO_BATCH, LENGTH = 8, 2048  # sequences, tokens: the original's
TOY_MICRO_BATCH, TOY_LENGTH = 2, 64

# What a piece can be. seed: the original's style, written again here; the other names are those of steel.kernels.
SEED = {
    "rms_norm": "seed",
    "rope": "seed",
    "swiglu": "reference",
    "linear_cross_entropy": "seed",
    "soft_moe": "reference",
    "experts": "loop",
    "attention": "reference",
    "adamw": "foreach",
    "compile": False,
}
TRITON = {
    "rms_norm": "triton",
    "rope": "triton",
    "swiglu": "triton",
    "linear_cross_entropy": "triton",
    "soft_moe": "triton",
    "experts": "bmm",
    "attention": "auto",
    "adamw": "fused",
    "compile": False,
}
# All on: the compiler fuses what is elementwise, own kernels do head and soft mixture (as `select.automatic` says).
ON = {
    **TRITON,
    "rms_norm": "reference",
    "rope": "reference",
    "swiglu": "reference",
    "compile": True,
}
PAPER = {**SEED, "rope": "triton", "linear_cross_entropy": "triton"}
PLAIN = {
    **ON,
    "linear_cross_entropy": "reference",
    "soft_moe": "reference",
    "attention": "reference",
}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    id: str
    title: str
    shape: str
    pieces: dict = field(default_factory=dict)
    engine: str = "steel"
    """steel; a peer of `table2_peers`: hf, hf_liger, hf_compile, nanochat_like, torchtitan_like; or micro."""
    base: str = ""
    """Id of the row that it is compared with; empty: none."""
    seconds: float = 60.0
    """Longest that it may take [s]."""
    published: dict = field(default_factory=dict)
    """What somebody published for the same thing, for the reader; not compared."""

    @property
    def group(self) -> str:
        """A, B, C, D or E."""
        return self.id[0]


def _one(id: str, title: str, **pieces) -> Row:
    """The original's style with these pieces exchanged."""
    return Row(id, title, "v3", SEED | pieces, base="A.eager")


def _paper(
    experiment: int, title: str, tokens_per_s: int, gigabytes: int, pieces: dict, base: str = ""
) -> Row:
    published = {
        "source": f"paper, Table 2, experiment {experiment}, 8 x A100 with FSDP",
        "tokens_per_s": tokens_per_s,
        "memory_gb": gigabytes,
    }
    return Row(f"E.{experiment}", title, "qwen-1.8b", pieces, base=base, published=published)


# In the order in which they run: what matters most comes first, and the first row comes once more at the end.
ROWS = (
    Row("A.eager", "v3 as the original wrote it", "v3", SEED),
    Row("B.on", "v3, all on", "v3", ON, base="A.eager", seconds=90),
    Row("C.hf", "transformers Qwen2, eager", "dense", engine="hf"),
    Row("B.dense", "dense twin, all on", "dense", ON, base="C.hf", seconds=80),
    Row("B.triton", "v3, own kernels, no compiler", "v3", TRITON, base="A.eager"),
    Row("B.compile", "v3, compiler alone", "v3", PLAIN, base="A.eager", seconds=80),
    Row("C.liger", "transformers Qwen2 + Liger-Kernel", "dense", engine="hf_liger", base="C.hf"),
    Row(
        "C.compile",
        "transformers Qwen2, model compiled",
        "dense",
        engine="hf_compile",
        base="C.hf",
        seconds=120,
    ),
    _one("A.ce", "+ chunked linear-cross-entropy", linear_cross_entropy="triton"),
    _one("A.norm", "+ fused RMSNorm and residual", rms_norm="triton"),
    _one("A.bmm", "+ stacked experts", experts="bmm"),
    _one("A.rope", "+ fused RoPE", rope="triton"),
    _one("A.moe", "+ stacked experts, own dispatch and combine", experts="bmm", soft_moe="triton"),
    _one("A.attention", "+ attention picked by the probe", attention="auto"),
    _one("A.adam", "+ fused AdamW", adamw="fused"),
    Row("D.operations", "each operation by itself", "v3", engine="micro"),
    Row("B.causal", "causal soft-MoE (1 + 5), all on", "causal", ON, base="B.on", seconds=80),
    Row("B.v3-14x128", "v3 with 14 heads of 128, all on", "v3-14x128", ON, base="B.on"),
    Row(
        "B.causal-14x128",
        "the recommended preset: causal, 14 x 128",
        "causal-14x128",
        ON,
        base="B.on",
    ),
    Row("B.v1", "v1: every token through six experts, all on", "v1", ON, base="B.on", seconds=80),
    Row(
        "C.torchtitan",
        "torchtitan's style: blocks compiled, loss in 8 chunks",
        "dense",
        engine="torchtitan_like",
        base="C.hf",
        seconds=80,
    ),
    Row(
        "C.nanochat",
        "nanochat's style: whole model compiled",
        "dense",
        engine="nanochat_like",
        base="C.hf",
        seconds=120,
    ),
    _paper(8, "Qwen-1.8B: masked SDPA, nothing fused", 10_500, 75, SEED | {"attention": "mask"}),
    _paper(1, "Qwen-1.8B: flash attention, fused RoPE and CE", 13_400, 65, PAPER, base="E.8"),
    _paper(
        7, "Qwen-1.8B: and fused RMSNorm", 15_000, 66, PAPER | {"rms_norm": "triton"}, base="E.8"
    ),
    Row("D.attention", "attention by head width", "v3", engine="micro", seconds=80),
    Row("D.head", "head and loss by themselves", "dense", engine="micro"),
    Row(
        "B.on-ce",
        "all on but the chunked loss",
        "v3",
        ON | {"linear_cross_entropy": "seed"},
        base="B.on",
    ),
    Row(
        "B.on-moe",
        "all on but dispatch and combine",
        "v3",
        ON | {"soft_moe": "reference"},
        base="B.on",
    ),
    Row(
        "B.on-attention",
        "all on but the picked attention",
        "v3",
        ON | {"attention": "reference"},
        base="B.on",
    ),
    Row(
        "B.triton-norm",
        "own kernels but RMSNorm",
        "v3",
        TRITON | {"rms_norm": "seed"},
        base="B.triton",
    ),
    Row("B.triton-rope", "own kernels but RoPE", "v3", TRITON | {"rope": "seed"}, base="B.triton"),
    Row("A.again", "the first row again, for drift", "v3", SEED, base="A.eager"),
)
BY_ID = {row.id: row for row in ROWS}


def shape_of(row: Row, toy: bool) -> ModelConfig:
    """The model of a row; toy: the same kind at a size that a CPU trains in a fraction of a second."""
    shape = SHAPES[row.shape]
    if not toy:
        return shape
    wide = shape.num_attention_heads in (14, 16)
    dense = shape.feed_forward == "dense"
    heads = 2 if wide else 4
    return replace(
        shape,
        vocab_size=512,
        hidden_size=64,
        intermediate_size=96 if dense else 16,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=64 // heads,
        segment_length=16,
    )
