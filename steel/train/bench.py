"""How fast is one training step here? The trainer's own loop on made-up tokens, phase by phase.

    steel bench step --preset steel-1b-causal --accumulation 2 --out step.json
    steel bench step --preset cpu

Model, kernels, compilation, optimizer and loop are those of `steel pretrain` with the same preset; only the data is
drawn from a Zipf law and nothing is saved. Under torchrun every rank takes part, and rank 0 reports.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..config import Config, UserError, load
from ..data.batch import Batch, positions
from ..machine import peak_memory_bytes
from ..runlog import atomic_write
from .build import make_model
from .device import describe
from .loop import Stage, State, train_step
from .metrics import Speed, token_flops
from .optim import build_optimizers
from .parallel import World, check_batch, join_world
from .pretrain import next_token_loss

PHASES = ("data", "forward_backward", "update")


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
    say: Callable[[str], None] | None = None,
) -> dict:
    """Time `steps` optimizer steps of cfg after `warmup`; returns the report and, with `out`, writes it as JSON.

    accumulation: micro-batches per step and rank (cfg.train.batch_size is replaced; 0 keeps it). Times in seconds,
    tokens/s over all ranks, memory of this process or its GPU in bytes. Raises UserError for a batch that does not
    divide and for a device that is not there.
    """
    if device not in ("auto", "cuda", "cpu"):
        raise UserError(f"--device {device}: choose auto, cuda or cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here; use --device cpu")
    world = join_world() if device != "cpu" else World()
    if accumulation:
        cfg.train.batch_size = cfg.train.micro_batch_size * accumulation * world.size
    check_batch(cfg.train, world)
    cfg.train.steps, cfg.train.checkpoint_every, cfg.train.async_checkpoint = (
        warmup + steps,
        0,
        False,
    )
    began = time.monotonic()
    model = make_model(cfg, world)
    built = time.monotonic() - began
    flops, loss_fn = token_flops(cfg), next_token_loss(cfg.train.z_loss)
    stage = Stage("bench", cfg.train, model, _batches(cfg, world), loss_fn)
    state = State(build_optimizers(model, cfg.train), Speed(world, flops))
    rows = [_one(stage, state, world) for _ in range(warmup + steps)]
    report = _report(cfg, world, rows, warmup, flops, built)
    if world.is_main and out is not None:
        atomic_write(Path(out), json.dumps(report, indent=1) + "\n")
    if world.is_main and say is not None:
        say(render(report))
    return report


def _batches(cfg: Config, world: World):
    """batch_fn of the loop: the same few Zipf batches over and over, another set on each rank."""
    B, T = cfg.train.batch_size // world.size, cfg.data.sequence_length
    kept = zipf_batches(2, B, T, cfg.model.vocab_size, world.device, seed=cfg.seed + world.rank)
    ends = None
    if cfg.data.mask_documents:  # three documents to a row, as packed text has
        in_row = [*range(max(2, T // 3), T, max(2, T // 3)), T]
        ends = torch.tensor([row * T + end for row in range(B) for end in in_row])
    position = positions(None if ends is None else ends.numpy(), B, T).to(world.device)
    batches = [Batch(tokens, targets, position, ends) for tokens, targets in kept]
    return lambda step: batches[step % len(batches)].split(max(1, cfg.train.micro_batch_size))


def _one(stage: Stage, state: State, world: World) -> dict:
    """Seconds of one step, whole and by phase; the loop reads the loss, so the device is done when it returns."""
    before = state.speed.phases(6)
    began = time.monotonic()
    logged = train_step(stage, state, world)
    if world.device.type == "cuda":
        torch.cuda.synchronize()
        if state.step == 1:
            torch.cuda.reset_peak_memory_stats()
    seconds = time.monotonic() - began
    phases = state.speed.phases(6)
    return {
        "step": seconds,
        "loss": logged["loss"],
        **{name: phases.get(name, 0.0) - before.get(name, 0.0) for name in PHASES},
    }


def _report(
    cfg: Config, world: World, rows: list[dict], warmup: int, flops: dict, built: float
) -> dict:
    timed = rows[warmup:]
    median = {name: statistics.median(row[name] for row in timed) for name in ("step", *PHASES)}
    tokens = cfg.train.batch_size * cfg.data.sequence_length
    rate = tokens / median["step"]
    facts = describe(world.device)
    over = {"peak": facts["peak_flops"], "measured": facts["matmul_flops"]}
    cuda = world.device.type == "cuda"
    return {
        "kind": "step",
        "preset": cfg.preset,
        "config_hash": cfg.hash(),
        "device": facts,
        "ranks": world.size,
        "parameters": None if world.size > 1 else cfg_parameters(cfg),
        "tokens_per_step": tokens,
        "micro_batch": cfg.train.micro_batch_size,
        "sequence_length": cfg.data.sequence_length,
        "accumulation": cfg.train.batch_size // (cfg.train.micro_batch_size * world.size) or 1,
        "settings": {
            "precision": cfg.train.precision,
            "compile": cfg.train.compile,
            "kernels": cfg.train.kernels,
            "mask_documents": cfg.data.mask_documents,
            "optimizer": cfg.train.optimizer,
        },
        "seconds": {name: round(value, 5) for name, value in median.items()},
        "slowest_step_s": round(max(row["step"] for row in timed), 5),
        "first_step_s": round(rows[0]["step"], 2),
        "build_s": round(built, 2),
        "tokens_per_s": round(rate, 1),
        "tokens_per_s_per_gpu": round(rate / world.size, 1),
        "flops_per_token": flops,
        "mfu": {
            name: {
                what: round(value * rate / world.size / speed, 4) if speed else None
                for what, speed in over.items()
            }
            for name, value in flops.items()
        },
        "memory_bytes": {
            "allocated": torch.cuda.max_memory_allocated() if cuda else None,
            "reserved": torch.cuda.max_memory_reserved() if cuda else peak_memory_bytes(),
        },
        "losses": [round(row["loss"], 5) for row in rows],
    }


def cfg_parameters(cfg: Config) -> int | None:
    """Parameters by the planner, None for a shape that it cannot read."""
    from ..plan import count_parameters

    try:
        return count_parameters(cfg.model)["total"]
    except UserError:
        return None


def render(report: dict) -> str:
    """The report in a few lines."""
    seconds, mfu = report["seconds"], report["mfu"]
    device, where = report["device"]["name"], report["ranks"]
    lines = [
        f"{report['preset']} on {where} x {device}: {report['tokens_per_s']:,.0f} tokens/s",
        f"step              {1e3 * seconds['step']:.1f} ms for {report['tokens_per_step']:,} tokens: "
        + ", ".join(f"{name.replace('_', ' + ')} {1e3 * seconds[name]:.1f}" for name in PHASES),
        f"first step        {report['first_step_s']} s with compilation, after {report['build_s']} s of building",
    ]
    for name, share in mfu.items():
        over = f"{share['peak']:.1%} of the peak, " if share["peak"] is not None else ""
        lines.append(
            f"MFU {name:<14}{over}{share['measured']:.1%} of the matrix-product rate measured here"
        )
    memory = report["memory_bytes"]
    lines.append(
        f"memory            {(memory['allocated'] or memory['reserved']) / 2**30:.2f} GiB at the peak"
    )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Command line of this module, for torchrun; `steel bench step` is the same."""
    parser = argparse.ArgumentParser(
        prog="python -m steel.train.bench", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--preset", default="", help="steel-1b-causal on a GPU, cpu elsewhere")
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    args = parser.parse_args(argv)
    cuda = args.device != "cpu" and torch.cuda.is_available()
    try:
        bench_step(
            load(args.preset or ("steel-1b-causal" if cuda else "cpu"), args.overrides),
            steps=args.steps,
            accumulation=args.accumulation,
            device=args.device,
            out=args.out,
            say=print,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
