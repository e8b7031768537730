"""What a run costs before it starts: parameters, FLOPs, bytes, days and money, in closed form (no torch).

    cfg = steel.config.load("steel-1b")
    count_parameters(cfg.model)["total"]                            1122922770
    flops_per_token(cfg.model, 2048, "executed_causal").total       FLOPs of one trained token
    print(render(plan(cfg, gpu="H800", num_gpus=8)))

Letters: D width, f width of one expert, L layers, H heads, K key/value heads, h head width, V vocabulary, E routed
experts, P slots per expert, J = E P slots, C segment length, T sequence length, N parameters.

A FLOP is one multiplication or one addition inside a matrix product; elementwise work is left out, as every published
MFU leaves it out. The backward pass costs twice the forward pass. Recomputation (activation checkpointing, the second
pass of flash attention) is time but not useful work, and is left out too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from ..config import Config, ModelConfig, UserError
from .hardware import CNY_PER_USD, GIB, MIB, PRICE_DATE, SECONDS_PER_DAY, gpu, money

CONVENTIONS = ("executed_causal", "executed_full", "seed", "six_n")
SLOTTED = ("soft_moe_v2", "soft_moe_v3")  # experts see one set of slots per sequence
_FFN = ("dense", "soft_moe_v1", *SLOTTED, "causal_soft_moe", "top_k_moe", "none")


# -- parameters --------------------------------------------------------------------------------------------------------


def expert_parameters(model: ModelConfig) -> int:
    """Weights of one expert: 3Df for SwiGLU, 4Df for two SwiGLU layers D -> f -> D, which share no gate."""
    matrices = {"swiglu": 3, "double_swiglu": 4}.get(model.expert)
    if matrices is None:
        raise UserError(f"model.expert must be swiglu or double_swiglu, not '{model.expert}'")
    return matrices * model.hidden_size * model.intermediate_size


def _head_dim(model: ModelConfig) -> int:
    return model.head_dim or model.hidden_size // model.num_attention_heads


def _check(model: ModelConfig) -> None:
    if model.source != "steel":
        raise UserError(
            "the planner needs the shape in the preset (model.source: steel), not a transformers folder"
        )
    if model.feed_forward not in _FFN:
        raise UserError(
            f"model.feed_forward must be one of {', '.join(_FFN)}, not '{model.feed_forward}'"
        )


def _experts(model: ModelConfig) -> int:
    """Experts stored per layer, shared ones included."""
    if model.feed_forward == "none":
        return 0
    if model.feed_forward == "dense":
        return 1
    return model.num_experts + _shared_experts(model)


def _shared_experts(model: ModelConfig) -> int:
    return model.num_shared_experts if model.feed_forward in ("causal_soft_moe", "top_k_moe") else 0


def _router_parameters(model: ModelConfig) -> int:
    D, E, J = model.hidden_size, model.num_experts, model.num_experts * model.slots_per_expert
    return {
        "soft_moe_v1": D * E + E,  # a linear gate with bias
        "soft_moe_v2": D * J,  # one score matrix for dispatch and combine
        "soft_moe_v3": D * J + 1,  # phi and its scale
        "causal_soft_moe": 3 * D * J
        + 2 * J,  # phi_d, phi_c, prior b (J, D), rho, g (one each per slot)
        "top_k_moe": D * E,
    }.get(model.feed_forward, 0)


def count_parameters(model: ModelConfig) -> dict[str, int]:
    """Parameters by component, the same numbers as the built model's tensors.

    Keys: embedding, lm_head (0 when tied), attention, experts, router, norms, total, non_embedding (total without
    embedding and lm_head) and active_per_token: weights that multiply a vector belonging to one token during training.
    Experts behind slots see averages of tokens, so they are not in it; neither is the embedding, which is only read.
    Raises UserError for an unknown feed-forward or expert.
    """
    _check(model)
    D, L, V = model.hidden_size, model.num_hidden_layers, model.vocab_size
    q_width, kv_width = (
        model.num_attention_heads * _head_dim(model),
        model.num_key_value_heads * _head_dim(model),
    )
    attention = (
        2 * D * q_width + 2 * D * kv_width + (q_width + 2 * kv_width if model.qkv_bias else 0)
    )
    count = {
        "embedding": V * D,
        "lm_head": 0 if model.tie_word_embeddings else V * D,
        "attention": L * attention,
        "experts": L * _experts(model) * expert_parameters(model),
        "router": L * _router_parameters(model),
        "norms": L * (D if model.feed_forward == "none" else 2 * D) + D,
    }
    if model.qk_norm:
        count["norms"] += L * 2 * _head_dim(model)
    count["total"] = sum(count.values())
    count["non_embedding"] = count["total"] - count["embedding"] - count["lm_head"]
    idle = L * (_experts(model) - experts_per_token(model)) * expert_parameters(model)
    count["active_per_token"] = count["non_embedding"] + V * D - idle
    return count


def experts_per_token(model: ModelConfig) -> int:
    """Experts per layer that a token itself goes through; experts behind slots do not count."""
    own = {"dense": 1, "soft_moe_v1": model.num_experts, "top_k_moe": model.top_k}
    return own.get(model.feed_forward, 0) + _shared_experts(model)


# -- FLOPs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flops:
    """FLOPs of one trained token by component [FLOPs/token]."""

    convention: str
    forward: dict[str, float]
    backward: dict[str, float]

    @property
    def total(self) -> float:
        """Forward and backward [FLOPs/token]."""
        return sum(self.forward.values()) + sum(self.backward.values())

    @property
    def by_component(self) -> dict[str, float]:
        """Forward plus backward, by component [FLOPs/token]."""
        return {key: value + self.backward[key] for key, value in self.forward.items()}


def _slots_per_token(model: ModelConfig, T: int) -> float:
    """Slot vectors that experts process, per token of the sequence [1]."""
    J = model.num_experts * model.slots_per_expert
    if model.feed_forward in SLOTTED:
        return J / T
    return J / min(model.segment_length, T) if model.feed_forward == "causal_soft_moe" else 0.0


def _routing_flops(model: ModelConfig, T: int) -> float:
    """Router scores, dispatch and combine of one layer, forward [FLOPs/token] (soft-MoE: 2DJ for each product)."""
    D, E, J, C = (
        model.hidden_size,
        model.num_experts,
        model.num_experts * model.slots_per_expert,
        model.segment_length,
    )
    return {
        "soft_moe_v1": 4 * D * E,  # scores, weighted sum
        "soft_moe_v2": 6 * D * J,  # scores, dispatch, combine
        "soft_moe_v3": 6 * D * J,
        # two score matrices, segment sums, combine; the decayed sum over T/C earlier segments as a matrix product
        "causal_soft_moe": 8 * D * J + 2 * J * math.ceil(T / C) * (D + 1) / C,
        "top_k_moe": 2 * D * E,
    }.get(model.feed_forward, 0)


def flops_per_token(
    model: ModelConfig, sequence_length: int, convention: str = "executed_causal"
) -> Flops:
    """FLOPs that one token costs in training, by component.

    executed_causal  every matrix product once, attention scores over the causal half (T/2 keys per query on average)
    executed_full    the same with the full T x T score matrix, as PaLM's appendix B and most MFU figures count
    seed             what the original's speed monitor reports: 6N with the embedding, attention at 5/3 of its cost
    six_n            6N with the embedding, without attention (Kaplan et al. 2020 would leave the embedding out)
    """
    _check(model)
    if convention not in CONVENTIONS:
        raise UserError(
            f"unknown FLOP convention '{convention}'; use one of {', '.join(CONVENTIONS)}"
        )
    count, L, T = count_parameters(model), model.num_hidden_layers, sequence_length
    q_width = model.num_attention_heads * _head_dim(model)
    if convention in ("seed", "six_n"):
        forward = {"parameters": 2.0 * count["total"]}
        backward = {"parameters": 4.0 * count["total"]}
        if convention == "seed":
            # lit_gpt counts "trainable" and "frozen" weights apart and adds attention to both: 3 + 2 passes, not 3
            attention = 4.0 * L * model.hidden_size * T
            forward["attention scores"], backward["attention scores"] = attention, 4 * attention
        return Flops(convention, forward, backward)
    biases = (
        L * (q_width + 2 * model.num_key_value_heads * _head_dim(model)) if model.qkv_bias else 0
    )
    expert_runs = experts_per_token(model) + _slots_per_token(model, T)
    keys = T if convention == "executed_full" else T / 2
    forward = {
        "attention projections": 2.0 * (count["attention"] - biases),
        "attention scores": 4.0 * L * q_width * keys,
        "experts": 2.0 * L * expert_runs * expert_parameters(model),
        "routing": 1.0 * L * _routing_flops(model, T),
        "lm_head": 2.0 * model.vocab_size * model.hidden_size,
    }
    return Flops(convention, forward, {key: 2 * value for key, value in forward.items()})


def mfu(model: ModelConfig, sequence_length: int, tokens_per_second: float, gpu_name: str,
        convention: str = "executed_causal") -> float:  # fmt: skip
    """Model FLOPs utilisation of one GPU at `tokens_per_second` per GPU [1]. Above 1 the claim cannot be true."""
    return (
        flops_per_token(model, sequence_length, convention).total
        * tokens_per_second
        / gpu(gpu_name).peak
    )


# -- memory ------------------------------------------------------------------------------------------------------------

RUNTIME = 1.5 * GIB  # CUDA context, cuBLAS workspace, NCCL buffers: an assumption
CHUNK = 4096  # tokens whose logits the chunked linear-cross-entropy holds at a time


def activation_bytes(model: ModelConfig, sequence_length: int, precision: str = "bf16",
                     kernels: str = "fused") -> float:  # fmt: skip
    """Estimate: bytes that one block keeps per token for its backward pass.

    Inputs of every matrix product and every norm, with flash attention (no T x T matrix): two norms (in and out, 4D),
    q, k, v, attention output, and per expert run 3f (SwiGLU) or 3f + 2D (double). `kernels="eager"` adds what PyTorch
    keeps when nothing is fused: the projections before RoPE, activated gates, normalised copies in float32. In float32
    the eager form agrees with what autograd keeps on a CPU within 5 % (tests/train), but for top_k_moe, which
    pads uneven experts.
    """
    width = 2 if precision == "bf16" else 4
    D, f, J = model.hidden_size, model.intermediate_size, model.num_experts * model.slots_per_expert
    qk_width = (model.num_attention_heads + model.num_key_value_heads) * _head_dim(model)
    double, eager = model.expert == "double_swiglu", kernels == "eager"
    one_expert = (4 if eager else 3) * f + (3 if eager else 2) * D * double
    runs = experts_per_token(model) + _slots_per_token(model, sequence_length)
    elements = (
        (4 if model.feed_forward != "none" else 2) * D
        + (3 if eager else 2) * qk_width
        + runs * one_expert
    )
    elements += {
        "soft_moe_v1": runs * D,  # every expert's output waits for the gradient of its weight
        "top_k_moe": 3 * runs * D,  # and so do gathered inputs and sorted outputs
        "causal_soft_moe": 5
        * D
        * _slots_per_token(model, sequence_length),  # sums, states, normalised slots
        "soft_moe_v3": D,  # the normalised input
    }.get(model.feed_forward, 0)
    routing = 4 * (2 * J + 2) if model.feed_forward in (*SLOTTED, "causal_soft_moe") else 0
    fp32_norms = (16 if precision == "bf16" else 8) * D + 8 if eager else 0
    return elements * width + routing + fp32_norms + 4 * model.num_attention_heads


def memory(model: ModelConfig, *, num_gpus: int = 1, sharding: str = "full", micro_batch_size: int = 1,
           sequence_length: int = 2048, precision: str = "bf16", activation_checkpointing: bool = False,
           kernels: str = "fused", head: str = "chunked", gpus_per_node: int = 8) -> dict[str, float]:  # fmt: skip
    """Peak bytes of ONE GPU by component: parameters, gradients, optimizer, gathered, activations, logits, runtime.

    Float32 master weights, float32 gradients and two float32 AdamW moments (16 bytes per parameter), divided by the
    ranks that share them: full and grad_op all, hybrid one node, ddp none. "gathered" is the compute-type copy in
    flight: two blocks and the largest matrix (full, hybrid), the whole model (grad_op, ddp). "logits": eager keeps bf16
    logits, their float32 copy and its gradient (10 bytes each); chunked holds CHUNK tokens at a time (8 bytes each).
    """
    if sharding not in ("full", "grad_op", "hybrid", "ddp"):
        raise UserError(f"unknown sharding '{sharding}'; use full, grad_op, hybrid or ddp")
    if head not in ("chunked", "eager") or kernels not in ("fused", "eager"):
        raise UserError("head must be chunked or eager, kernels fused or eager")
    count, tokens = count_parameters(model), micro_batch_size * sequence_length
    N, D, V, L = count["total"], model.hidden_size, model.vocab_size, model.num_hidden_layers
    width = 2 if precision == "bf16" else 4
    ranks = {"ddp": 1, "hybrid": min(num_gpus, gpus_per_node)}.get(sharding, num_gpus)
    block = (N - count["embedding"] - count["lm_head"]) / max(L, 1)
    if sharding in ("full", "hybrid"):
        gathered = width * (2 * block + V * D)
    else:
        gathered = width * N
    layer = tokens * activation_bytes(model, sequence_length, precision, kernels)
    kept = layer + (L - 1) * tokens * D * width if activation_checkpointing else L * layer
    logits = 10 * tokens * V if head == "eager" else 8 * min(tokens, CHUNK) * V
    parts = {
        "parameters": 4 * N / ranks,
        "gradients": 4 * N / ranks,
        "optimizer": 8 * N / ranks,
        "gathered": gathered,
        "activations": kept
        + 3 * tokens * D * width,  # embedding output, last norm's input and output
        "logits": logits * (1 if precision == "bf16" else 0.8 if head == "eager" else 1),
        "runtime": RUNTIME,
    }
    parts["total"] = sum(parts.values())
    return parts


# -- days and money ----------------------------------------------------------------------------------------------------


def days(flops: float, gpu_name: str, num_gpus: int, mfu: float) -> float:
    """Wall time for `flops` on `num_gpus` at a utilisation of `mfu` [days]; stops come on top."""
    if not 0 < mfu <= 1:
        raise UserError(f"mfu must lie in (0, 1], not {mfu}")
    if num_gpus < 1:
        raise UserError(f"num_gpus must be at least 1, not {num_gpus}")
    return flops / (gpu(gpu_name).peak * num_gpus * mfu * SECONDS_PER_DAY)


@dataclass(frozen=True)
class Plan:
    """One run on paper. Everything `render` prints, with units in the names."""

    preset: str
    gpu: str
    num_gpus: int
    tokens: float
    tokens_per_step: int
    steps: int
    accumulation: int
    mfu: float
    mfu_source: str
    parameters: dict[str, int]
    flops: dict[str, Flops]
    total_flops: float
    tokens_per_second_per_gpu: float
    days: float
    gpu_hours: float
    usd: float
    memory_bytes: dict[str, float]
    gpu_memory_bytes: float
    checkpoint_bytes: float
    advice: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether the estimated peak leaves a tenth of the GPU's memory free."""
        return self.memory_bytes["total"] <= 0.9 * self.gpu_memory_bytes


def plan(cfg: Config, gpu_name: str = "H800", num_gpus: int = 8, *, tokens: float = 0, mfu: float = 0,
         kernels: str = "fused", head: str = "chunked") -> Plan:  # fmt: skip
    """Reckon a pretraining run of `cfg` (its model, data.sequence_length and train section).

    tokens 0 means steps x batch x sequence; mfu 0 means the GPU's default. Raises UserError for an unknown GPU, a
    number outside its range, or a batch smaller than one sequence per GPU.
    """
    card, T, batch = gpu(gpu_name), cfg.data.sequence_length, cfg.train.batch_size
    if num_gpus < 1:
        raise UserError(f"num_gpus must be at least 1, not {num_gpus}")
    if batch < num_gpus:
        raise UserError(
            f"train.batch_size {batch} is less than one sequence for each of {num_gpus} GPUs; raise it"
        )
    share, source = (mfu, "given") if mfu else (card.mfu, f"assumed ({card.mfu_source})")
    per_step = batch * T
    tokens = tokens or cfg.train.steps * per_step
    flops = {name: flops_per_token(cfg.model, T, name) for name in CONVENTIONS}
    needed = tokens * flops["executed_causal"].total
    length = days(needed, card.name, num_gpus, share)
    micro = min(cfg.train.micro_batch_size, math.ceil(batch / num_gpus))
    settings = {
        "num_gpus": num_gpus, "sharding": cfg.train.sharding, "sequence_length": T, "precision": cfg.train.precision,
        "activation_checkpointing": cfg.train.activation_checkpointing, "kernels": kernels, "head": head,
    }  # fmt: skip
    used = memory(cfg.model, micro_batch_size=micro, **settings)
    result = Plan(
        preset=cfg.preset, gpu=card.name, num_gpus=num_gpus, tokens=tokens, tokens_per_step=per_step,
        steps=math.ceil(tokens / per_step), accumulation=math.ceil(batch / (micro * num_gpus)), mfu=share,
        mfu_source=source, parameters=count_parameters(cfg.model), flops=flops, total_flops=needed,
        tokens_per_second_per_gpu=tokens / (length * SECONDS_PER_DAY * num_gpus), days=length,
        gpu_hours=length * 24 * num_gpus, usd=money(length * 24 * num_gpus, card.name), memory_bytes=used,
        gpu_memory_bytes=card.memory, checkpoint_bytes=12 * count_parameters(cfg.model)["total"],
    )  # fmt: skip
    return (
        result
        if result.fits
        else replace(result, advice=_advice(cfg.model, micro, settings, card.memory))
    )


def _advice(model: ModelConfig, micro: int, settings: dict, limit: float) -> list[str]:
    """What to change when the estimate does not fit: the largest micro-batch, then checkpointing, then more GPUs."""
    for checkpointing in (settings["activation_checkpointing"], True):
        for size in range(micro, 0, -1):
            trial = settings | {"activation_checkpointing": checkpointing}
            if memory(model, micro_batch_size=size, **trial)["total"] <= 0.9 * limit:
                change = f"train.micro_batch_size={size}"
                return [change + (" train.activation_checkpointing=true" if checkpointing else "")]
    return [
        "no micro-batch fits: use more GPUs with train.sharding=full, or a GPU with more memory"
    ]


def render(plan: Plan) -> str:
    """The plan as plain text, at most 100 columns, ready to print."""
    count, used, total = plan.parameters, plan.memory_bytes, plan.memory_bytes["total"]
    unit = "CPU" if plan.gpu == "CPU" else "GPU"
    parts = ("embedding", "lm_head", "attention", "experts", "router", "norms")
    lines = [f"Plan for {plan.preset or 'a model'} on {plan.num_gpus} x {plan.gpu}", ""]
    lines.append(
        f"Parameters        {count['total']:>16,}   active per token {count['active_per_token']:,}"
    )
    lines += [
        f"  {name:<15} {count[name]:>16,}   {count[name] / count['total']:6.1%}"
        for name in parts
        if count[name]
    ]
    lines += ["", "GFLOP per trained token (forward + backward), by convention"]
    lines += [f"  {name:<15} {flops.total / 1e9:>16.3f}" for name, flops in plan.flops.items()]
    lines += [
        "",
        f"Memory per {unit}, estimated: {total / GIB:.1f} of {plan.gpu_memory_bytes / GIB:.0f} GiB",
    ]
    lines += [f"  {name:<15} {used[name] / MIB:>12,.0f} MiB" for name in used if name != "total"]
    lines += [f"  DOES NOT FIT with a tenth to spare; try: {hint}" for hint in plan.advice]
    lines += [
        "",
        f"Checkpoint        {plan.checkpoint_bytes / MIB:,.0f} MiB on disk (weights and two moments, float32)",
        f"Tokens            {plan.tokens:.4g} = {plan.steps:,} steps of {plan.tokens_per_step:,} tokens "
        f"(accumulation {plan.accumulation})",
        f"FLOPs             {plan.total_flops:.3g} (executed, causal)",
        f"Throughput        {plan.tokens_per_second_per_gpu:,.0f} tokens/s per {unit} at MFU {plan.mfu:.1%}",
        f"                  MFU: {plan.mfu_source}",
        f"Time              {_duration(plan.days)} = {plan.gpu_hours:,.1f} {unit} hours, without stops",
        f"Money             {plan.usd:,.2f} USD = {plan.usd * CNY_PER_USD:,.2f} CNY",
        f"                  at {gpu(plan.gpu).usd_per_hour:.2f} USD per {unit} hour, "
        f"an assumption of {PRICE_DATE} (plan_hardware.py)",
    ]
    return "\n".join(lines)


def _duration(length: float) -> str:
    if length >= 1:
        return f"{length:.1f} days"
    return f"{length * 24:.1f} hours" if length * 24 >= 1 else f"{length * 1440:.1f} minutes"
