"""How fast is one training step here, what does it hold and send, and what would help it?

    steel bench step --preset steel-1b-causal --accumulation 2 --out step.json
    torchrun --nproc-per-node 8 -m steel bench step --preset steel-1b-causal

Model, kernels, compilation, optimizer and loop are those of `steel pretrain` with the same preset;
only the data is drawn from a Zipf law and nothing is saved. Under torchrun every rank takes part.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist

from ..config import Config, UserError
from ..data.batch import Batch, positions
from ..plan import GIB, MARGIN, advice, memory
from ..runlog import write_json
from .build import make_model
from .device import available_bytes, describe, peaks
from .loop import Stage, State, train_step
from .metrics import Speed, executed, token_flops
from .optim import build_optimizers
from .parallel import World, check_batch, join_world
from .preflight import settings_of
from .pretrain import next_token_loss

PHASES = ("data", "forward_backward", "update")
SETTINGS = "precision compile kernels sharding activation_checkpointing optimizer"
COLLECTIVES = {
    "all_gather_into_tensor": "all_gather",
    "all_gather_single": "all_gather",
    "all_reduce": "all_reduce",
    "reduce_scatter_tensor": "reduce_scatter",
    "reduce_scatter_single": "reduce_scatter",
}
FASTER = {
    "ddp": "no weight is ever gathered",
    "grad_op": "a micro-batch gathers every weight once, not twice",
    "hybrid": "weights are gathered inside a node only",
}
"""Ways to spread a model from fastest to smallest, before `full`, and what they spare."""


def zipf_batches(
    count: int, B: int, T: int, vocabulary: int, device: torch.device, seed: int = 1
) -> list[tuple]:
    """`count` pairs (tokens, targets), each (B, T) int64, drawn from p(rank) ∝ 1 / (rank + 2.7)."""
    generator = torch.Generator().manual_seed(seed)
    weights = 1.0 / (torch.arange(vocabulary, dtype=torch.float64) + 2.7)
    edges = weights.cumsum(0) / weights.sum()
    draws = torch.rand(count, B, T + 1, generator=generator, dtype=torch.float64)
    tokens = torch.searchsorted(edges, draws).clamp_max(vocabulary - 1).to(device)
    return [(t[:, :-1].contiguous(), t[:, 1:].contiguous()) for t in tokens]


def bench_step(
    cfg: Config,
    *,
    steps: int = 8,
    warmup: int = 3,
    accumulation: int = 1,
    device: str = "auto",
    out: Path | str | None = None,
) -> dict | None:
    """Time `steps` optimizer steps of cfg after `warmup`, then count what one more sends.

    accumulation: micro-batches per step and rank (cfg.train.batch_size is replaced; 0 keeps it).
    Returns the report, and writes it to `out` as JSON, on the main rank; None on the others. Times
    in seconds, tokens/s over all ranks, memory of this process or its GPU in bytes, bytes that one
    rank sends in a step. Raises UserError for a batch that does not divide and for a device that is
    not there.
    """
    if device not in ("auto", "cuda", "cpu"):
        raise UserError(f"--device {device}: choose auto, cuda or cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here; use --device cpu")
    world, rows = join_world() if device != "cpu" else World(), cfg.train.batch_size
    if accumulation:
        cfg.train.batch_size = cfg.train.micro_batch_size * accumulation * world.size
    check_batch(cfg.train, world)
    cfg.train.steps = warmup + steps + 1
    began = time.monotonic()
    model = make_model(cfg, world)
    built = time.monotonic() - began
    loss_fn = next_token_loss(cfg.train.z_loss)
    stage = Stage("bench", cfg.train, model, _batches(cfg, world), loss_fn)
    state = State(build_optimizers(model, cfg.train), Speed(world))
    timed = [_one(stage, state, world) for _ in range(warmup + steps)]
    with counted_bytes() as sent:
        train_step(stage, state, world)
    if not world.is_main:
        return None
    settings = {name: getattr(cfg.train, name) for name in SETTINGS.split()}
    report = {
        "kind": "step",
        "preset": cfg.preset,
        "config_hash": cfg.hash(),
        "device": describe(world.device),
        "ranks": world.size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "micro_batch": cfg.train.micro_batch_size,
        "sequence_length": cfg.data.sequence_length,
        "settings": {**settings, "mask_documents": cfg.data.mask_documents},
        "first_step_s": round(timed[0]["step"], 2),
        "build_s": round(built, 2),
        "losses": [round(row["loss"], 5) for row in timed],
        "sent_bytes": sent,
    }
    report |= _speeds(cfg, world, timed[warmup:], report["device"])
    held = peaks(world)
    report["memory_bytes"] = held.get("peak_gpu_memory_bytes", held["peak_memory_bytes"])
    report["advice"] = _advice(cfg, world, max(rows // world.size, 1), report["memory_bytes"])
    if out is not None:
        write_json(out, report)
    return report


def _batches(cfg: Config, world: World) -> Callable[[int], list[Batch]]:
    """batch_fn of the loop: the same few Zipf batches over and over, another set on each rank."""
    B, T = cfg.train.batch_size // world.size, cfg.data.sequence_length
    kept = zipf_batches(2, B, T, cfg.model.vocab_size, world.device, seed=cfg.seed + world.rank)
    ends = None
    if cfg.data.mask_documents:  # three documents to a row, as packed text has
        in_row = [*range(max(2, T // 3), T, max(2, T // 3)), T]
        ends = torch.tensor([row * T + end for row in range(B) for end in in_row])
    position = positions(None if ends is None else ends.numpy(), B, T).to(world.device)
    batches = [Batch(tokens, targets, position, ends) for tokens, targets in kept]
    return lambda step: batches[step % len(batches)].split(cfg.train.micro_batch_size)


def _one(stage: Stage, state: State, world: World) -> dict:
    """What one step logs, and its seconds, whole ("step") and by phase."""
    state.speed, began = Speed(world), time.monotonic()
    logged = train_step(stage, state, world)
    if world.cuda:
        torch.cuda.synchronize()
        if state.step == 1:
            torch.cuda.reset_peak_memory_stats()
    return {**logged, "step": time.monotonic() - began, **state.speed.phases(6)}


def _speeds(cfg: Config, world: World, timed: list[dict], device: dict) -> dict:
    """Medians over the timed steps, tokens/s, and MFU over the peak and over the measured rate."""
    median = {name: statistics.median(row[name] for row in timed) for name in ("step", *PHASES)}
    tokens = cfg.train.batch_size * cfg.data.sequence_length
    rate, share = tokens / median["step"] / world.size, timed[-1].get("attention_share", 1.0)
    flops = executed(token_flops(cfg), share)
    tops = {"peak": device["peak_flops"], "measured": device["matmul_flops"]}

    def over_tops(work: float) -> dict:
        return {over: round(work * rate / top, 4) if top else None for over, top in tops.items()}

    return {
        "tokens_per_step": tokens,
        "accumulation": max(1, cfg.train.batch_size // (cfg.train.micro_batch_size * world.size)),
        "seconds": {name: round(value, 5) for name, value in median.items()},
        "slowest_step_s": round(max(row["step"] for row in timed), 5),
        "tokens_per_s": round(rate * world.size, 1),
        "tokens_per_s_per_gpu": round(rate, 1),
        "attention_share": round(share, 4),
        "flops_per_token": flops,
        "mfu": {name: over_tops(work) for name, work in flops.items()},
    }


def _advice(cfg: Config, world: World, rows: int, peak: int) -> list[str]:
    """Settings that should be faster here, or make it fit: by the planner's formula times the ratio
    of the measured peak to its estimate. rows: sequences per rank and step of the real run."""
    here, limit = settings_of(cfg, world), available_bytes(world)
    try:
        ratio = peak / memory(cfg.model, **here)["total"]
    except UserError:  # a shape that the planner cannot read
        return []
    found, micro = [], here["micro_batch_size"]
    real = here | {"accumulation": max(1, rows // micro)}

    def fits(**change) -> str:
        """How much is needed, where it fits; else empty."""
        size = memory(cfg.model, **real | change)["total"] * ratio
        return f"fits, about {size / GIB:.1f} GiB" if size <= MARGIN * limit else ""

    if not fits():
        return [f"memory is short for the whole batch: {advice(cfg.model, real, limit / ratio)}"]
    while micro * 2 <= rows and fits(micro_batch_size=micro * 2, accumulation=rows // (micro * 2)):
        micro *= 2
    if micro > here["micro_batch_size"]:
        room = fits(micro_batch_size=micro, accumulation=rows // micro)
        found.append(f"train.micro_batch_size={micro} {room}: larger products")
    if cfg.train.activation_checkpointing and (room := fits(activation_checkpointing=False)):
        found.append(f"train.activation_checkpointing=false {room}: nothing is computed twice")
    for sharding, why in FASTER.items():
        if world.size == 1 or sharding == cfg.train.sharding:
            break
        possible = sharding != "hybrid" or world.local_size < world.size
        if possible and (room := fits(sharding=sharding)):
            found.append(f"train.sharding={sharding} {room}: {why}")
            break
    return found


@contextlib.contextmanager
def counted_bytes() -> Iterator[dict[str, int]]:
    """Bytes that this rank sends through torch.distributed's collectives inside, by kind.

    They are those of the ring algorithms: (W-1)/W of the whole for a gather or a scatter, twice
    that for a reduction to all.
    """
    sent = dict.fromkeys(COLLECTIVES.values(), 0)
    originals = {name: getattr(dist, name) for name in COLLECTIVES if hasattr(dist, name)}

    def counting(name: str):
        def call(*args, **kwargs):
            given = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
            size = max(t.numel() * t.element_size() for t in given)
            ranks = dist.get_world_size(kwargs.get("group"))
            times = 2 if name == "all_reduce" else 1
            sent[COLLECTIVES[name]] += times * size * (ranks - 1) // ranks
            with mock.patch.multiple(dist, **originals):  # one may be made of another
                return originals[name](*args, **kwargs)

        return call

    with mock.patch.multiple(dist, **{name: counting(name) for name in originals}):
        yield sent


def render(report: dict) -> str:
    """The report in a few lines."""
    seconds, sent = report["seconds"], sum(report["sent_bytes"].values())
    phases = ", ".join(f"{name.replace('_', ' + ')} {1e3 * seconds[name]:.1f}" for name in PHASES)
    step = f"{1e3 * seconds['step']:.1f} ms for {report['tokens_per_step']:,} tokens: {phases}"
    first = f"{report['first_step_s']} s with compilation, after {report['build_s']} s of building"
    rows = [("step", step), ("first step", first)]
    for name, share in report["mfu"].items():
        over = f"{share['peak']:.1%} of the peak, " if share["peak"] is not None else ""
        measured = f"{share['measured']:.1%} of the matrix-product rate measured here"
        rows.append((f"MFU {name}", over + measured))
    rows.append(("memory", f"{report['memory_bytes'] / GIB:.2f} GiB at the peak"))
    if report["ranks"] > 1:
        rate = f"{sent / 2**20:,.1f} MiB a step, {sent / seconds['step'] / 1e9:.2f} GB/s on average"
        how = f"accumulation {report['accumulation']}, sharding {report['settings']['sharding']}"
        rows.append(("sent per rank", f"{rate} ({how})"))
    rows += [("try", line) for line in report["advice"]]
    title = f"{report['preset']} on {report['ranks']} x {report['device']['name']}"
    lines = [f"{title}: {report['tokens_per_s']:,.0f} tokens/s"]
    return "\n".join(lines + [f"{name:<18}{text}" for name, text in rows])
