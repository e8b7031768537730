"""Figures of chapter 11: a training step, a checkpoint's life, a step of FSDP, planned memory, two schedules."""

from __future__ import annotations

import math

from matplotlib.patches import FancyBboxPatch

from .style import (
    FURNACE,
    GRID,
    INK,
    OKABE_ITO,
    PAPER,
    SEMANTIC,
    SLATE,
    STEEL,
    axis_units,
    figure,
    label_line,
)

WIRE, HELD = SEMANTIC["communication"], SEMANTIC["memory"]
UNITS = 3  # two blocks and the rest, in the drawing
FORWARD, BACKWARD, GATHER, SCATTER = (
    1.0,
    2.0,
    0.7,
    1.4,
)  # lengths; fp32 gradients are twice bf16 weights


def _canvas(height: float, width: float, depth: float):
    fig, ax = figure(height)
    ax.set(xlim=(0, width), ylim=(0, depth))
    ax.axis("off")
    return fig, ax


def _box(ax, x, y, w, h, text, edge=STEEL, face=PAPER, size=8.0, color=INK, style="solid"):
    shape = "round,pad=0,rounding_size=0.8"
    ax.add_patch(FancyBboxPatch((x, y), w, h, boxstyle=shape, fc=face, ec=edge, lw=1.2, ls=style))
    ax.text(x + w / 2, y + h / 2, text, ha="center", va="center", fontsize=size, color=color)


def _arrow(ax, start, end, color=INK, bend=0.0):
    how = {"arrowstyle": "-|>", "color": color, "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
    how["connectionstyle"] = f"arc3,rad={bend}"
    ax.annotate("", end, start, arrowprops=how)


def training_step():
    """One step on two ranks: what goes in, what is added up, what stays behind."""
    fig, ax = _canvas(2.75, 100, 41)
    ax.text(0, 38, "step s", fontsize=9, color=INK, weight="bold")
    for y, rank in ((25, 0), (12, 1)):
        _box(
            ax, 0.5, y, 13.5, 9, f"rank {rank}\nits rows of\nbatch s", SEMANTIC["tokens"], size=7.5
        )
        for k in (0, 1):
            _box(ax, 20 + 13 * k, y, 11, 9, "forward\nbackward", size=7.5)
            ax.text(
                25.5 + 13 * k, y + 10, f"micro-batch {k + 1}", fontsize=7, ha="center", color=SLATE
            )
        _arrow(ax, (14, y + 4.5), (20, y + 4.5))
        _arrow(ax, (31, y + 4.5), (33, y + 4.5))
        _arrow(ax, (44, y + 4.5), (49, 27 if y > 20 else 19))
    _box(
        ax,
        49,
        15,
        15,
        16,
        "sum of losses\nsum of gradients\nsum of tokens\n\ndivide, clip",
        WIRE,
        size=7.5,
    )
    _box(ax, 69, 15, 13, 16, "optimizer\n\nrate of\nstep s", size=7.5)
    _box(ax, 87, 15, 12.5, 16, "weights,\nmoments\n\nof step s + 1", HELD, size=7.5)
    _arrow(ax, (64, 23), (69, 23))
    _arrow(ax, (82, 23), (87, 23))
    ax.plot([93.5, 93.5, 7], [31, 38.5, 38.5], color=SLATE, lw=1.1)
    _arrow(ax, (7, 38.5), (7, 34.3), SLATE)
    ax.text(50, 39.2, "next step", fontsize=7.5, color=SLATE, ha="center", va="bottom")
    _box(ax, 84, 0, 16, 8, "a folder: what\nis in it?", FURNACE, size=7.5, style="dashed")
    _arrow(ax, (93.5, 15), (93.5, 8.9), FURNACE)
    ax.text(82, 4, "every so many steps", fontsize=7.5, color=FURNACE, ha="right", va="center")
    return fig


def checkpoint_life():
    """Write, hash, rename, keep, rename, delete; and what a kill leaves at each place."""
    fig, ax = _canvas(2.5, 100, 38.5)
    stages = [
        (0.5, 19, ".step-00000005.tmp", "tensors of every rank", SLATE, "dashed"),
        (26, 19, ".step-00000005.tmp", "+ state, hashes\non disk (fsync)", SLATE, "dashed"),
        (52, 19, "step-00000005", "whole: its name\nis the proof", HELD, "solid"),
        (80.5, 19, ".step-00000005.old", "files are removed", SLATE, "dashed"),
    ]
    for x, w, name, what, edge, style in stages:
        ax.text(
            x + w / 2, 37.5, name, fontsize=7.5, ha="center", color=edge if edge != SLATE else INK
        )
        _box(ax, x, 25, w, 11, what, edge, size=7.5, style=style)
    for (x, w, *_), (to, *_), word in zip(stages, stages[1:], ("write", "rename", "rename")):
        _arrow(ax, (x + w, 30.5), (to, 30.5))
        ax.text(
            (x + w + to) / 2,
            24 if "\n" in word else 26.2,
            word,
            fontsize=7,
            ha="center",
            va="top",
            color=INK,
        )
    found = (
        "swept away;\nthe run goes on from\nthe one before",
        "swept away;\nthe one before",
        "the run goes on\nfrom here",
        "swept away;\na newer one is there",
    )
    for (x, w, *_), text in zip(stages, found):
        ax.plot(x + w / 2, 18, "x", color=FURNACE, ms=7, mew=2)
        ax.text(x + w / 2, 15, text, fontsize=7.5, ha="center", va="top", color=INK)
    ax.text(0, 18, "killed here:", fontsize=7.5, color=FURNACE, va="center")
    note = "kept for good: every keep_every steps, and the last one before the decay"
    ax.text(61.5, 4.0, note, fontsize=7.5, ha="center", color=HELD)
    return fig


def schedule(sharding: str) -> dict[str, list]:
    """Lanes of two micro-batches, each [(begin, end, label)]; blocks are gathered one ahead, the rest first of all."""
    compute, wire, weights, gradients = [], [], [], []
    free = now = 0.0
    rest = UNITS - 1
    waiting, first = None, {}  # a reduction goes behind the next gather; when a gradient began
    for micro in (0, 1):
        opened = {rest: now}
        passes = [(u, FORWARD, "F") for u in range(UNITS)]
        passes += [(u, BACKWARD, "B") for u in reversed(range(UNITS))]
        begins = max(free, now)
        if sharding != "ddp":
            opened[rest], free = begins, begins + 2 * GATHER
            wire.append((begins, free, "gather"))
            begins = free
        for unit, length, kind in passes:
            ready = 0.0
            again = unit == rest and kind == "B" and sharding == "full"
            if again:
                weights.append((opened[rest], now, rest))
                begins = now
            if again or (
                unit != rest and sharding != "ddp" and (kind == "F" or sharding == "full")
            ):
                opened[unit] = max(free, begins)
                free = ready = opened[unit] + GATHER * (2 if unit == rest else 1)
                wire.append((opened[unit], free, "gather"))
            if waiting is not None:
                free = _reduce(wire, gradients, waiting, max(free, waiting[1]), sharding, first)
                waiting = None
            begins = max(now, ready)
            now = begins + length
            compute.append((begins, now, f"{kind}{'h' if unit == rest else unit + 1}"))
            if unit != rest and (sharding == "full" or (sharding == "grad_op" and kind == "B")):
                weights.append((opened[unit], now, unit))
            if kind == "B":
                first.setdefault(unit, now)
                waiting = (unit, now) if micro == 1 and unit != rest else None
        if sharding != "ddp":
            weights.append((opened[rest], now, rest))
    free = _reduce(wire, gradients, waiting, max(free, now), sharding, first)
    free = _reduce(wire, gradients, (rest, now), free, sharding, first)  # the embedding's come last
    if sharding == "ddp":
        weights = [(0.0, free, unit) for unit in range(UNITS)]
    return {"compute": compute, "wire": wire, "weights": weights, "gradients": gradients}


def _reduce(wire, gradients, waiting, at, sharding, first) -> float:
    """A unit's gradients travel; until then they are whole. When the wire is free again."""
    end = at + SCATTER * (2 if sharding == "ddp" else 1) * (2 if waiting[0] == UNITS - 1 else 1)
    wire.append((at, end, "reduce"))
    gradients.append((first[waiting[0]], end, waiting[0]))
    return end


def fsdp_step():
    """One step of full, grad_op and ddp: compute, wire, and what is whole on a rank meanwhile."""
    fig, ax = figure(4.9)
    ax.axis("off")
    notes = {
        "full": "weights come twice a micro-batch",
        "grad_op": "once a micro-batch, and stay until their backward",
        "ddp": "never: every rank keeps all",
    }
    for row, (name, note) in enumerate(notes.items()):
        top, lanes = -6.6 * row, schedule(name)
        ax.text(0, top + 2.0, name, fontsize=9, weight="bold", color=INK, va="center")
        ax.text(3.2, top + 2.0, note, fontsize=8, color=SLATE, va="center")
        words = {"compute": 0.8, "wire": -0.35, "whole weights": -1.5, "whole gradients": -2.95}
        for word, lane in words.items():
            ax.text(-0.4, top + lane, word, fontsize=7.5, color=SLATE, ha="right", va="center")
        for begin, end, label in lanes["compute"]:
            tint = {"color": STEEL, "alpha": 1 if label[0] == "B" else 0.62, "ec": PAPER, "lw": 0.8}
            ax.barh(top + 0.8, end - begin, left=begin, height=0.95, **tint)
            middle = (begin + end) / 2
            ax.text(middle, top + 0.78, label, fontsize=7, color=PAPER, ha="center", va="center")
        for begin, end, label in lanes["wire"]:
            tint = {"color": WIRE, "alpha": 0.5 if label == "gather" else 1, "ec": PAPER, "lw": 0.8}
            ax.barh(top - 0.35, end - begin, left=begin, height=0.95, **tint)
        for kind, lane, tint in (("weights", -1.15, 1), ("gradients", -2.5, 0.5)):
            for begin, end, unit in lanes[kind]:
                y = top + lane - 0.35 * unit - (0.1 if unit == UNITS - 1 else 0)
                high = 0.45 if unit == UNITS - 1 else 0.28
                ax.barh(y, end - begin, left=begin, height=high, color=HELD, alpha=tint, lw=0)
        last = max(end for _, end, _ in lanes["wire"])
        ax.text(last + 0.2, top - 0.35, "reduce", fontsize=7.5, color=INK, va="center")
        if name == "grad_op":
            ax.text(3.0, top - 0.35, "gather", fontsize=7.5, color=INK, va="center")
        border = lanes["compute"][2 * UNITS - 1][1]
        ax.plot([border] * 2, [top - 3.5, top + 1.4], color=GRID, lw=1)
    for x, number in ((5.5, 1), (17, 2)):
        ax.text(x, 3.2, f"micro-batch {number}", fontsize=8, ha="center", color=INK)
    ax.set(xlim=(-6.4, 30.5), ylim=(-16.9, 3.7))
    return fig


PARTS = {
    "parameters": STEEL,
    "gradients": SEMANTIC["tokens"],
    "optimizer": HELD,
    "gathered": WIRE,
    "activations": SLATE,
    "logits": OKABE_ITO["purple"],
}


def memory_bars(bars: dict[str, dict[str, float]]):
    """`plan.memory` of several ways to spread a model, label by label."""
    fig, ax = figure(2.7)
    for row, parts in enumerate(reversed(bars.values())):
        left = 0.0
        for part, colour in PARTS.items():
            ax.barh(row, parts[part] / 2**30, left=left, color=colour, height=0.66)
            left += parts[part] / 2**30
        label_line(ax, left, row, f"{parts['total'] / 2**30:.0f} GiB with the runtime", INK)
    labels = [*reversed(bars)]
    ax.set(
        yticks=range(len(labels)), yticklabels=labels, xlim=(0, 84), ylim=(-0.6, len(labels) + 0.6)
    )
    ax.plot([80, 80], [-0.6, len(labels) - 0.4], color=INK, lw=1, ls="--")
    label_line(ax, 80, 1.5, "80 GiB", INK, ha="right", xytext=(-4, 0))
    ax.set_xlabel("GiB on each GPU")
    ax.grid(False)
    names = {"gathered": "bf16 copies", "optimizer": "moments", "parameters": "weights"}
    for x, (part, colour) in zip((1.5, 13.5, 26.5, 40, 55.5, 70.5), PARTS.items()):
        ax.plot(x, len(labels) + 0.2, "s", color=colour, markersize=6, clip_on=False)
        label_line(ax, x, len(labels) + 0.2, names.get(part, part))
    return fig


def schedules():
    """A cosine, and warm-up, stable, decay with the two futures of its last checkpoint before the fall."""
    from steel.config import TrainConfig
    from steel.train.schedule import decay_start, learning_rate_factor

    fig, ax = figure(2.3)

    def line(schedule: str, steps: int, first: int, colour: str, **how):
        share = {"schedule": schedule, "warmup_steps": 40, "decay_fraction": 200 / steps}
        cfg = TrainConfig(steps=steps, min_learning_rate_ratio=0.0, **share)
        x = range(first, steps + 1)
        ax.plot(x, [learning_rate_factor(s, steps, cfg) for s in x], color=colour, **how)
        return decay_start(steps, cfg)

    line("cosine", 1000, 0, SLATE)
    line("wsd", 1500, 800, STEEL, ls=(0, (4, 2)))
    fork = line("wsd", 1000, 0, STEEL)
    ax.plot([fork], [1], "o", color=HELD, ms=8, zorder=5)
    label_line(ax, fork, 1.13, "kept for good", HELD, ha="center", xytext=(0, 0))
    label_line(ax, 300, 1.08, "warm-up, stable", STEEL, ha="center", xytext=(0, 0))
    label_line(ax, 470, 0.52, "cosine", SLATE, ha="right", xytext=(0, 0))
    label_line(ax, 925, 0.5, "decay now,\non another mixture", STEEL)
    label_line(ax, 1150, 1.08, "more data", STEEL, ha="center", xytext=(0, 0))
    label_line(ax, 1425, 0.5, "decay later", STEEL)
    ax.set(xlim=(0, 1680), ylim=(0, 1.22), xticks=[], yticks=[0, 1], yticklabels=["0", "peak"])
    axis_units(ax, x="step", y="learning rate")
    return fig


def shortened(line: str) -> str:
    """A drill's line as it fits into a table: without what torch says of its sockets, and its remedy's second half."""
    said = line.removeprefix("steel: ")
    if " lost another rank" in said:
        return (
            said.partition(" (")[0]
            + "; …; start all ranks again: the run goes on from its newest checkpoint"
        )
    return said


def micro_batch(cfg, wire: float, sharding: str, seconds: float, ranks: int = 8) -> float:
    """Seconds of one micro-batch on an ideal wire [bytes/s], unit by unit; `seconds` is its compute alone.

    Embedding and head are one unit, gathered before the first lookup (and by full once more before the backward
    pass) with nothing beside it; a block is gathered while the one before it computes.
    """
    from steel.plan import count_parameters, flops_per_token

    sizes, layers = count_parameters(cfg.model), cfg.model.num_hidden_layers
    rest = sizes["embedding"] + sizes["lm_head"]
    travel = 2 * (ranks - 1) / ranks / wire  # of one parameter in bf16
    flops = flops_per_token(cfg.model, cfg.data.sequence_length).total
    head = seconds * 6 * sizes["lm_head"] / flops
    block, gather = (seconds - head) / layers, travel * (sizes["total"] - rest) / layers

    def through(now: float, share: float) -> float:
        arrived = started = now  # when the wire is free; when the unit before began to compute
        for _ in range(layers):
            arrived = max(arrived, started) + gather
            started = max(now, arrived)
            now = started + share * block
        return now

    now = through(travel * rest, 1 / 3) + head / 3
    if sharding == "grad_op":
        return now + 2 / 3 * seconds
    return through(now + travel * rest + head * 2 / 3, 2 / 3)


def line_of_the_wire(preset: str = "steel-1b-causal") -> float:
    """GB/s at which a forward pass of a preset on H800s lasts as long as its weights travel."""
    from steel.config import load
    from steel.plan import count_parameters, flops_per_token, gpu

    cfg, card = load(preset), gpu("H800")
    tokens = cfg.train.micro_batch_size * cfg.data.sequence_length
    size = count_parameters(cfg.model)["total"]
    rate = flops_per_token(cfg.model, cfg.data.sequence_length).total / size  # k
    line = 6 / rate * card.peak * card.mfu / tokens * 7 / 8  # from n > 6/k C/B (W-1)/W
    seconds = tokens * rate * size / (card.peak * card.mfu)
    assert math.isclose(line, 3 * 2 * size * 7 / 8 / seconds)
    for how, times in (("grad_op", 1), ("full", 2)):  # far above the line only the rest is left
        open_ = micro_batch(cfg, 1e12, how, seconds) - seconds
        sizes = count_parameters(cfg.model)
        rest = times * 2 * 7 / 8 * (sizes["embedding"] + sizes["lm_head"]) / 1e12
        assert rest <= open_ < 1.2 * rest, (how, open_, rest)
        assert micro_batch(cfg, 0.4 * line, how, seconds) > 1.3 * seconds
    return line / 1e9


def grad_op_costs() -> float:
    """GiB that grad_op plans beyond full on eight GPUs, for the claim in the text."""
    from steel.config import load
    from steel.plan import memory, memory_settings

    cfg = load("steel-1b-causal")
    both = (
        memory(cfg.model, **memory_settings(cfg, 8, sharding=how)) for how in ("grad_op", "full")
    )
    more, less = (parts["total"] for parts in both)
    return (more - less) / 2**30
