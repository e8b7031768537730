"""What a run costs before it starts: FLOPs, bytes, days and money, on one page.

cfg = steel.config.load("steel-1b")
print(render(plan(cfg, "H800", 8)))
"""

from dataclasses import dataclass

from ..config import Config, UserError
from .count import CONVENTIONS, Flops, count_parameters, flops_per_token
from .hardware import CNY_PER_USD, GIB, GPU, PRICE_DATE, SECONDS_PER_DAY, gpu
from .memory import MARGIN, advice, memory, memory_settings


def days(flops: float, gpu_name: str, num_gpus: int, mfu: float) -> float:
    """Wall time for `flops` on `num_gpus` at a utilisation of `mfu` [days]; stops come on top."""
    if not 0 < mfu <= 1:
        raise UserError(f"mfu must lie in (0, 1], not {mfu}")
    if num_gpus < 1:
        raise UserError(f"num_gpus must be at least 1, not {num_gpus}")
    return flops / (gpu(gpu_name).peak * num_gpus * mfu * SECONDS_PER_DAY)


@dataclass(frozen=True)
class Plan:
    """One run on paper, with units in the names."""

    cfg: Config
    card: GPU
    num_gpus: int
    accumulation: int
    """Micro-batches per step."""
    tokens: float
    mfu: float
    flops: dict[str, Flops]
    """FLOPs of one trained token by convention."""
    total_flops: float
    """Executed causal FLOPs of the whole run."""
    days: float
    """Wall time without stops."""
    gpu_hours: float
    """Over all GPUs."""
    usd: float
    """Rent at the assumed price."""
    memory_bytes: dict[str, float]
    advice: str
    """What to change when the estimated peak does not leave a tenth of the memory free, else empty."""


def plan(
    cfg: Config,
    gpu_name: str = "H800",
    num_gpus: int = 8,
    *,
    tokens: float = 0,
    mfu: float = 0,
    document_length: float = 0,
) -> Plan:
    """Reckon a pretraining run of `cfg` (its model, data.sequence_length and train section).

    tokens 0 means steps x batch x sequence; mfu 0 means the GPU's default. document_length: mean
    tokens of a document, which makes attention cheaper where data.mask_documents is set; 0 counts
    whole rows. Raises UserError for an unknown GPU, a number outside its range, or a batch smaller
    than one sequence per GPU.
    """
    card, T, batch = gpu(gpu_name), cfg.data.sequence_length, cfg.train.batch_size
    if batch < num_gpus:
        problem = f"train.batch_size {batch} is less than one sequence for each of {num_gpus} GPUs"
        raise UserError(f"{problem}; raise it")
    length = document_length if cfg.data.mask_documents else 0
    flops = {name: flops_per_token(cfg.model, T, name, length) for name in CONVENTIONS}
    tokens, mfu = tokens or cfg.train.steps * batch * T, mfu or card.mfu
    total = tokens * flops["executed_causal"].total
    time = days(total, card.name, num_gpus, mfu)
    settings = memory_settings(cfg, num_gpus)
    used = memory(cfg.model, **settings)
    fits = used["total"] <= MARGIN * card.memory
    return Plan(
        cfg=cfg,
        card=card,
        num_gpus=num_gpus,
        accumulation=settings["accumulation"],
        tokens=tokens,
        mfu=mfu,
        flops=flops,
        total_flops=total,
        days=time,
        gpu_hours=time * 24 * num_gpus,
        usd=time * 24 * num_gpus * card.usd_per_hour,
        memory_bytes=used,
        advice="" if fits else advice(cfg.model, settings, card.memory),
    )


def render(plan: Plan) -> str:
    """The plan as plain text, at most 100 columns, ready to print."""
    cfg, card, count = plan.cfg, plan.card, count_parameters(plan.cfg.model)
    unit = "CPU" if card.name == "CPU" else "GPU"
    source = f"assumed ({card.mfu_source})" if plan.mfu == card.mfu else "given"
    per_step = cfg.train.batch_size * cfg.data.sequence_length
    speed = plan.tokens / (plan.days * SECONDS_PER_DAY * plan.num_gpus)
    parts = [
        f"  {name:<15} {count[name]:>16,}   {count[name] / count['total']:6.1%}"
        for name in ("embedding", "lm_head", "attention", "experts", "router", "norms")
        if count[name]
    ]
    work = [f"  {name:<15} {flops.total / 1e9:>16.3f}" for name, flops in plan.flops.items()]
    used = [f"  {name:<15} {size / 2**20:>12,.0f} MiB" for name, size in plan.memory_bytes.items()]
    if plan.advice:
        used.append(f"  DOES NOT FIT with a tenth to spare; try: {plan.advice}")
    return f"""Plan for {cfg.preset or "a model"} on {plan.num_gpus} x {card.name}

Parameters        {count["total"]:>16,}   active per token {count["active_per_token"]:,}
{chr(10).join(parts)}

GFLOP per trained token (forward + backward), by convention
{chr(10).join(work)}

Memory per {unit}, estimated; there are {card.memory / GIB:.0f} GiB
{chr(10).join(used)}

Checkpoint        {12 * count["total"] / 2**20:,.0f} MiB on disk (weights and two moments, float32)
Tokens            {plan.tokens:.4g} = {plan.tokens / per_step:,.0f} steps of {per_step:,} tokens \
(accumulation {plan.accumulation})
FLOPs             {plan.total_flops:.3g} (executed, causal)
Throughput        {speed:,.0f} tokens/s per {unit} at MFU {plan.mfu:.1%}
                  MFU: {source}
Time              {_duration(plan.days)} = {plan.gpu_hours:,.1f} {unit} hours, without stops
Money             {plan.usd:,.2f} USD = {plan.usd * CNY_PER_USD:,.2f} CNY
                  at {card.usd_per_hour:.2f} USD per {unit} hour, \
an assumption of {PRICE_DATE} (plan/hardware.yaml)"""


def _duration(length: float) -> str:
    units = {"days": length, "hours": length * 24, "minutes": length * 1440}
    unit = next((name for name, count in units.items() if count >= 1), "minutes")
    return f"{units[unit]:.1f} {unit}"
