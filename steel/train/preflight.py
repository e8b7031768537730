"""Before the first step: will it fit, and what to change if not; and the plan without a device."""

from __future__ import annotations

import os
import sys

import torch

from ..config import Config, UserError
from ..plan import GIB, MARGIN, advice, memory, memory_settings, plan, render
from .parallel import World


def memory_report(cfg: Config, world: World) -> dict | None:
    """Estimate one rank's peak memory, for the log; say on stderr what to change if it will not fit.

    Never stops the run: an estimate may be wrong, and running out of memory is one clear line, too.
    None for a shape that the planner cannot read (model.source hf).
    """
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    kernels = "fused" if cfg.train.compile else "eager"
    settings = memory_settings(cfg, world.size, kernels=kernels, gpus_per_node=ranks)
    try:
        parts = memory(cfg.model, **settings)
    except UserError:
        return None
    available = available_bytes(world, ranks)
    report = {
        "estimated_bytes": {name: round(size) for name, size in parts.items()},
        "available_bytes": available,
        "fits": parts["total"] <= MARGIN * available,
    }
    if not report["fits"]:
        report["advice"] = advice(cfg.model, settings, available)
        need = f"about {parts['total'] / GIB:.1f} GiB a rank are needed"
        there = f"{available / GIB:.1f} GiB are there"
        print(f"memory: {need}, {there}; try: {report['advice']}", file=sys.stderr)
    return report


def available_bytes(world: World, ranks: int) -> int:
    """Memory of this rank: its GPU's, or its share of the machine's [bytes]."""
    if world.device.type == "cuda":
        return torch.cuda.get_device_properties(world.device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // max(ranks, 1)


def dry_run(cfg: Config, gpu: str, num_gpus: int, data: str | os.PathLike | None = None) -> str:
    """What `steel pretrain --dry-run` prints: parameters, memory, tokens, days; no device is touched.

    data: folder of shards; then also how often the run passes over it. Raises what the planner and
    the shards raise.
    """
    lines = [_plan_of_folder(cfg) if cfg.model.source == "hf" else render(plan(cfg, gpu, num_gpus))]
    train = cfg.train
    lines += [
        "",
        f"Configuration     {cfg.preset or 'unnamed'} {cfg.hash()}   {train.optimizer}, {train.schedule}, "
        f"{train.precision}, sharding {train.sharding}",
    ]
    if data is not None:
        from ..data.shards import ShardSet

        tokens = sum(piece.tokens for piece in ShardSet.open(data).pieces)
        wanted = train.steps * train.batch_size * cfg.data.sequence_length
        lines.append(f"Data              {tokens:,} tokens: {wanted / max(tokens, 1):.2f} passes")
    return "\n".join(lines)


def _plan_of_folder(cfg: Config) -> str:
    from ..model.build import build

    model = build(cfg.model, device="meta")
    count = sum(p.numel() for p in model.parameters())
    tokens = cfg.train.steps * cfg.train.batch_size * cfg.data.sequence_length
    return "\n".join(
        [
            f"Plan for {type(model).__name__} from {cfg.model.path}",
            "",
            f"Parameters        {count:>16,}",
            f"Tokens            {tokens:.4g} = {cfg.train.steps:,} steps",
            f"States            {16 * count / GIB:.2f} GiB over all ranks (fp32 weights, gradients, moments)",
            f"FLOPs             {6.0 * count * tokens:.3g} (6 N per token, embedding included)",
        ]
    )
