"""Bytes of one rank in training, in closed form, and the change that makes a run fit."""

import math

from ..config import Config, ModelConfig, UserError
from .count import attention_widths, count_parameters, feed_forward_cost
from .hardware import GIB

RUNTIME = 1.5 * GIB  # CUDA context, cuBLAS workspace, NCCL buffers: an assumption
CHUNK = 4096  # tokens whose logits the chunked linear-cross-entropy holds at a time
MARGIN = 0.9  # of the memory there is: an estimate should leave a tenth free


def activation_bytes(
    model: ModelConfig, sequence_length: int, precision: str = "bf16", kernels: str = "fused"
) -> float:
    """Estimate: bytes that one block keeps per token for its backward pass.

    Inputs of every matrix product and every norm, with flash attention (no T x T matrix): two norms
    (in and out, 4D), q, k, v, attention output, and per expert run 3f (SwiGLU) or 3f + 2D (double).
    `kernels="eager"` adds what PyTorch keeps when nothing is fused: the projections before RoPE,
    activated gates, normalised copies in float32. In float32 the eager form agrees with what
    autograd keeps on a CPU within 5 % (tests/plan), but for top_k_moe, which pads uneven experts.
    """
    width, eager = 2 if precision == "bf16" else 4, kernels == "eager"
    D, f, double = model.hidden_size, model.intermediate_size, model.expert == "double_swiglu"
    cost = feed_forward_cost(model, sequence_length)
    one_expert = (4 if eager else 3) * f + (3 if eager else 2) * D * double
    elements = (4 if model.feed_forward != "none" else 2) * D + cost.expert_runs * one_expert
    elements += (3 if eager else 2) * sum(attention_widths(model)) + cost.kept
    # dispatch and combine weights and their two normalisers, in float32
    slots = model.num_experts * model.slots_per_expert
    routing = 4 * (2 * slots + 2) if cost.slots_per_token else 0
    fp32_norms = (16 if precision == "bf16" else 8) * D + 8 if eager else 0
    return elements * width + routing + fp32_norms + 4 * model.num_attention_heads


def memory(
    model: ModelConfig,
    *,
    num_gpus: int = 1,
    sharding: str = "full",
    micro_batch_size: int = 1,
    accumulation: int = 1,
    sequence_length: int = 2048,
    precision: str = "bf16",
    activation_checkpointing: bool = False,
    kernels: str = "fused",
    head: str = "chunked",
    gpus_per_node: int = 8,
) -> dict[str, float]:
    """Peak bytes of ONE GPU by component; the keys are those of the dict below, and total.

    parameters, gradients and optimizer are float32 (master weights and AdamW's two moments: 16 bytes
    per parameter), divided by the ranks that share them: full and grad_op all, hybrid one node, ddp
    none. Between the micro-batches of a step FSDP holds whole gradients, however finely it shards:
    with `accumulation` above 1 they are not divided.
    "gathered" is the copy in the compute type: one unit per block and one for the rest (embedding,
    last norm, head). full and hybrid hold that rest and two blocks at a time, grad_op and ddp all;
    one GPU a copy of all in bf16, none in fp32. "logits": eager as PyTorch's cross-entropy has them in
    float32 (logits, log-softmax, its gradient: 12 bytes each); chunked holds CHUNK tokens at a time.
    """
    if sharding not in ("full", "grad_op", "hybrid", "ddp"):
        raise UserError(f"unknown sharding '{sharding}'; use full, grad_op, hybrid or ddp")
    if head not in ("chunked", "eager") or kernels not in ("fused", "eager"):
        raise UserError("head must be chunked or eager, kernels fused or eager")
    count, tokens = count_parameters(model), micro_batch_size * sequence_length
    N, D, V, L = count["total"], model.hidden_size, model.vocab_size, model.num_hidden_layers
    width = 2 if precision == "bf16" else 4
    ranks = {"ddp": 1, "hybrid": min(num_gpus, gpus_per_node)}.get(sharding, num_gpus)
    rest = count["embedding"] + count["lm_head"] + D
    if num_gpus > 1 and sharding in ("full", "hybrid"):
        gathered = width * (rest + 2 * (N - rest) / max(L, 1))
    else:
        gathered = width * N if num_gpus > 1 or precision == "bf16" else 0
    layer = tokens * activation_bytes(model, sequence_length, precision, kernels)
    kept = layer + (L - 1) * tokens * D * width if activation_checkpointing else L * layer
    parts = {
        "parameters": 4 * N / ranks,
        "gradients": 4 * N / (ranks if accumulation == 1 else 1),
        "optimizer": 8 * N / ranks,
        "gathered": gathered,
        # and the embedding's output, the last norm's input and output
        "activations": kept + 3 * tokens * D * width,
        "logits": 12 * tokens * V if head == "eager" else 8 * min(tokens, CHUNK) * V,
        "runtime": RUNTIME,
    }
    parts["total"] = sum(parts.values())
    return parts


def memory_settings(cfg: Config, num_gpus: int, **given) -> dict:
    """`memory`'s keywords for pretraining cfg on num_gpus; `given` ones win."""
    rows = math.ceil(cfg.train.batch_size / num_gpus)
    micro = min(cfg.train.micro_batch_size, rows)
    return {
        "num_gpus": num_gpus,
        "sharding": cfg.train.sharding,
        "micro_batch_size": micro,
        "accumulation": math.ceil(rows / micro),
        "sequence_length": cfg.data.sequence_length,
        "precision": cfg.train.precision,
        "activation_checkpointing": cfg.train.activation_checkpointing,
    } | given


def advice(model: ModelConfig, settings: dict, limit: float) -> str:
    """What to change so that memory(model, **settings) leaves a tenth of `limit` [bytes] free.

    The change that costs least time: a smaller micro-batch, then recomputation, then more GPUs.
    """
    rows = settings["micro_batch_size"] * settings["accumulation"]
    for recompute in sorted({settings["activation_checkpointing"], True}):
        micro = settings["micro_batch_size"]
        while micro:
            trial = {"micro_batch_size": micro, "accumulation": math.ceil(rows / micro)}
            trial = settings | trial | {"activation_checkpointing": recompute}
            if memory(model, **trial)["total"] <= MARGIN * limit:
                change = f"train.micro_batch_size={micro}"
                return change + (" train.activation_checkpointing=true" if recompute else "")
            micro //= 2
    return "no micro-batch fits: use more GPUs with train.sharding=full, or a smaller model"
