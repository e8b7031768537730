"""Before the first step: will it fit, and what to change if not; and the plan without a device."""

import os
import sys

from ..config import Config, UserError
from ..data.loader import Loader
from ..data.mixture import POOL
from ..data.shards import ShardSet
from ..model.build import build
from ..plan import GIB, MARGIN, advice, memory, memory_settings, plan, render
from .device import available_bytes
from .parallel import World
from .schedule import decay_start, mixture

MOST_PASSES = 4.0
"""Passes over a source beyond which its tokens teach little (Muennighoff et al. 2023) [1]."""


def settings_of(cfg: Config, world: World) -> dict:
    """The planner's `memory` keywords for one rank of this run."""
    kernels = "fused" if cfg.train.compile else "eager"
    return memory_settings(cfg, world.size, kernels=kernels, gpus_per_node=world.local_size)


def memory_report(cfg: Config, world: World) -> dict | None:
    """Estimate one rank's peak memory, for the log; say on stderr what to change if it will not fit.

    Never stops the run: an estimate may be wrong, and running out of memory is one clear line, too.
    None for a shape that the planner cannot read (model.source hf).
    """
    settings, available = settings_of(cfg, world), available_bytes(world)
    try:
        parts = memory(cfg.model, **settings)
    except UserError:
        return None
    fits = parts["total"] <= MARGIN * available
    estimate = {name: round(size) for name, size in parts.items()}
    report = {"estimated_bytes": estimate, "available_bytes": available, "fits": fits}
    if not fits:
        report["advice"] = advice(cfg.model, settings, available)
        need = f"about {parts['total'] / GIB:.1f} GiB a rank are needed"
        there = f"{available / GIB:.1f} GiB are there"
        print(f"memory: {need}, {there}; try: {report['advice']}", file=sys.stderr)
    return report


def dry_run(cfg: Config, gpu: str, num_gpus: int, data: str | os.PathLike | None = None) -> str:
    """What `steel pretrain --dry-run` prints: parameters, memory, tokens, days; no device is touched.

    data: folder of shards; then also how often the run passes over it and over each of its sources,
    with a warning beyond MOST_PASSES. Raises what the planner and the shards raise.
    """
    train, tokens = cfg.train, cfg.train.steps * cfg.train.batch_size * cfg.data.sequence_length
    if cfg.model.source == "hf":
        model = build(cfg.model, device="meta")
        count = sum(p.numel() for p in model.parameters())
        page = f"""Plan for {type(model).__name__} from {cfg.model.path}

Parameters        {count:>16,}
Tokens            {tokens:.4g} = {train.steps:,} steps
States            {16 * count / GIB:.2f} GiB over all ranks (fp32 weights, gradients, moments)
FLOPs             {6.0 * count * tokens:.3g} (6 N per token, embedding included)"""
    else:
        page = render(plan(cfg, gpu, num_gpus))
    page += f"""

Configuration     {cfg.preset or "unnamed"} {cfg.hash()}   {train.optimizer}, {train.schedule}, \
{train.precision}, sharding {train.sharding}"""
    if data is not None:
        shards = ShardSet.open(data)
        there = sum(piece.tokens for piece in shards.pieces)
        page += f"\nData              {there:,} tokens: {tokens / max(there, 1):.2f} passes\n"
        page += render_passes(passes(cfg, shards), decay_start(train.steps, train))
    return page


def passes(cfg: Config, shards: ShardSet) -> dict[str, tuple[float, float]]:
    """How often a new run reads each source: before the learning rate's decay, and in it [passes]."""
    T, rows, steps = cfg.data.sequence_length, cfg.train.batch_size, cfg.train.steps
    loader = Loader(shards, T, rows, cfg.seed, mixture(cfg, shards.sources))
    border = decay_start(steps, cfg.train)
    ends = (steps if border is None else border, steps)
    before, whole = (loader.mixture.drawn(step * rows) for step in ends)
    found = {}
    for source in shards.sources:
        own = sum(piece.samples(T) for piece in shards.pieces if piece.source == source)
        stream, samples = (POOL, loader.samples) if POOL in whole else (source, own)
        first, last = (drawn.get(stream, 0) / max(samples, 1) for drawn in (before, whole))
        found[source] = first, last - first
    return found


def render_passes(found: dict[str, tuple[float, float]], border: int | None) -> str:
    """`passes` as a table, and a line for the sources that are read too often."""
    phases = ("level", "decay", "whole") if border is not None else ("whole",)
    rows = ["Passes          " + "".join(f"{name:>10}" for name in phases)]
    rows[0] += f"   (decay from step {border:,})" if border is not None else ""
    for source, (first, second) in found.items():
        shown = (first, second, first + second)[-len(phases) :]
        rows.append(f"  {source:<14}" + "".join(f"{value:10.2f}" for value in shown))
    if often := [s for s, (first, second) in found.items() if first + second > MOST_PASSES]:
        why = f"past {MOST_PASSES:.0f} passes repeated text is worth less with each"
        line = f"{', '.join(often)}: {why}; lower the weight, or add data"
        rows.append(f"WARNING           {line}")
    return "\n".join(rows)
