"""Figures of chapter 09: a micro-batch's operations, Table 2 as differences, the roofline, the chunked loss, a step."""

from __future__ import annotations

import numpy as np
from matplotlib.patches import Rectangle

from .style import FURNACE, GRID, INK, PAPER, SEMANTIC, SLATE, STEEL, figure, label_line

MEMORY = SEMANTIC["memory"]


def _arrow(ax, start, end, color=INK, width=1.0, size=7):
    how = {"arrowstyle": "-|>", "color": color, "lw": width, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=how | {"mutation_scale": size})


PRODUCTS = {"q, k, v", "attention", "out", "experts", "head"}


def _boxes(ax, x, y, names, bar):
    """A row of boxes from x on, between y and y + 8, each with an arrow from the memory at `bar` and one back."""
    for k, name in enumerate(names):
        left, middle = x + 11 * k, x + 11 * k + 5
        if name == "…":
            ax.text(middle, y + 4, name, ha="center", va="center")
            continue
        edge = STEEL if name in PRODUCTS else FURNACE
        ax.add_patch(Rectangle((left, y), 10, 8, fc=PAPER, ec=edge, lw=1.4))
        ax.text(middle, y + 4, name, ha="center", va="center", fontsize=8.5)
        _arrow(ax, (middle - 1.6, bar - 0.4), (middle - 1.6, y + 8.4), SLATE)
        _arrow(ax, (middle + 1.6, y + 8.4), (middle + 1.6, bar - 0.4), SLATE)


def operations():
    """The operations of one micro-batch, each of which fetches from memory and stores there; below, one norm."""
    fig, ax = figure(4.4)
    ax.set(xlim=(-0.5, 98.5), ylim=(-31, 43))
    ax.axis("off")
    block = ["norm", "q, k, v", "RoPE", "attention", "out", "norm", "mixture", "experts", "gates"]
    rows = (
        (0, 15, block, 33, "memory of an H100: 80 GB, 3.35 TB/s", "× 18 layers"),
        (0, -24, ["norm", "head", "loss"], -5, "the same", "once"),
        (
            38.5,
            -24,
            ["float32", "square", "…", "gain"],
            -5,
            "one norm, line by line",
            "eight kernels",
        ),
        (88, -24, ["norm"], -5, "or fused", "one"),
    )
    for x, y, names, bar, above, below in rows:
        end = x + 11 * len(names) - 1
        ax.add_patch(Rectangle((x, bar), end - x, 6, fc=MEMORY, ec="none", alpha=0.22))
        ax.text((x + end) / 2, bar + 3, above, ha="center", va="center", fontsize=8.5)
        _boxes(ax, x, y, names, bar)
        ax.plot([x, x, end, end], [y - 1.4, y - 2.4, y - 2.4, y - 1.4], color=INK, lw=0.8)
        ax.text((x + end) / 2, y - 3.4, below, ha="center", va="top", fontsize=8.5)
    ax.text(0, 5.4, "matrix products and attention", color=STEEL, fontsize=8.5)
    ax.text(40, 5.4, "everything else", color=FURNACE, fontsize=8.5)
    ax.text(98, 5.4, "and then back, last to first", ha="right", fontsize=8.5)
    return fig


def table_2(pairs, microseconds, error, predicted):
    """Left: µs per token that a switch of Table 2 saves, and the count. Right: four runs that form a square."""
    fig, (ax, side) = figure(2.9, ncols=2, width_ratios=(1.55, 1))
    for row, (name, (slow, fast)) in enumerate(reversed(pairs.items())):
        gain, doubt = microseconds[slow] - microseconds[fast], error[slow] + error[fast]
        ax.barh(row, gain, color=SLATE, height=0.5, alpha=0.75)
        ax.plot([gain - doubt, gain + doubt], [row, row], color=INK, linewidth=1.4)
        if name in predicted:
            ax.plot(predicted[name], row, "D", color=FURNACE, markersize=5.5)
    ax.set(yticks=range(5), yticklabels=list(reversed(pairs)), xlim=(0, 21.5))
    ax.set(xticks=range(0, 21, 5), xlabel="µs per token saved")
    ax.plot(9.6, 1.0, "s", color=SLATE, clip_on=False)
    label_line(ax, 9.6, 1.0, "the paper's measurement")
    ax.plot(9.6, 0.4, "D", color=FURNACE, markersize=5.5)
    label_line(ax, 9.6, 0.4, "counted bytes, A100", FURNACE)
    ax.grid(axis="x"), ax.grid(False, axis="y")
    corners = {1: (0, 1), 5: (1, 1), 4: (0, 0), 7: (1, 0)}
    for number, (x, y) in corners.items():
        side.text(
            x,
            y,
            f"exp. {number}\n{microseconds[number]:.1f} µs",
            ha="center",
            va="center",
            fontsize=8.5,
            bbox={"fc": PAPER, "ec": SLATE, "boxstyle": "round,pad=0.35"},
        )
    for slow, fast in ((1, 5), (4, 7), (1, 4), (5, 7)):
        (x, y), (u, v) = corners[slow], corners[fast]
        start, end = (
            (x + 0.27 * (u - x), y + 0.24 * (v - y)),
            (x + 0.73 * (u - x), y + 0.76 * (v - y)),
        )
        _arrow(side, start, end, STEEL)
        gain, level = f"−{microseconds[slow] - microseconds[fast]:.2f}", u != x
        where = {"ha": "center", "va": "bottom"} if level else {"ha": "left", "va": "center"}
        side.text(
            (x + u) / 2 + 0.05 * (not level),
            (y + v) / 2 + 0.04 * level,
            gain,
            color=STEEL,
            fontsize=8.5,
            **where,
        )
    side.text(0.5, 1.42, "RMSNorm in CUDA →", ha="center", fontsize=8, color=SLATE)
    down = {"rotation": 90, "va": "center", "ha": "center", "fontsize": 8, "color": SLATE}
    side.text(-0.46, 0.5, "← not sharded", **down)
    side.set(xlim=(-0.55, 1.4), ylim=(-0.35, 1.55))
    side.axis("off")
    return fig


def roofline(bandwidth, peaks, moving, standing, ordinary=66.9e12):
    """moving: {name: (operations per byte before, after)}; standing: {name: operations per byte}.

    ordinary: an H100's float32 FLOP/s outside of the tensor cores (data sheet), the roof of what is no matrix product.
    """
    fig, (ax, lanes) = figure(4.5, nrows=2, sharex=True, height_ratios=(1.55, 1))
    x = np.logspace(-1.4, 3.85, 200)

    def roof(i, gpu="H100"):
        return min(i * bandwidth[gpu], peaks[gpu]) / 1e12

    for gpu, color in (("A100-80G", SLATE), ("H100", STEEL)):
        ax.plot(x, [roof(i, gpu) for i in x], color=color)
        label_line(ax, x[-1], peaks[gpu] / 1e12, gpu.split("-")[0], color)
    low = np.logspace(np.log10(ordinary / bandwidth["H100"]), 3.85, 2)
    ax.plot(low, [ordinary / 1e12] * 2, color=FURNACE, ls=(0, (4, 2)), lw=1.3)
    label_line(ax, low[-1], ordinary / 1e12, "H100, not\ntensor cores", FURNACE)
    for name, (intensity, shift, side) in standing.items():
        ax.plot(intensity, roof(intensity), "o", color=STEEL, zorder=4)
        label_line(ax, intensity, roof(intensity), name, STEEL, xytext=shift, ha=side)
    for row, (name, (before, after)) in enumerate(moving.items()):
        for where, y, axes in ((before, roof(before), ax), (before, -row, lanes)):
            axes.plot(where, y, "o", mfc=PAPER, mec=FURNACE, markersize=5, zorder=4)
        for y, axes in ((roof(after), ax), (-row, lanes)):
            axes.plot(after, y, "o", color=FURNACE, markersize=5, zorder=5)
        _arrow(lanes, (before * 1.1, -row), (after * 0.9, -row), FURNACE)
        lanes.text(
            after * 1.25, -row, f"{name}  {before:.2f} → {after:.2f}", va="center", fontsize=8.5
        )
    ticks = [0.1, 1, 10, 100, 1000]
    names = ["0.1", "1", "10", "100", "1,000"]
    ax.set(xscale="log", yscale="log", xlim=(0.05, 7000), ylim=(0.15, 2500))
    ax.set(yticks=ticks, yticklabels=names)
    ax.set_title("TFLOP/s that the machine allows (a bound, not a measurement)")
    lanes.set(ylim=(-len(moving) + 0.4, 0.6), yticks=[], xlabel="operations per byte")
    lanes.set(xticks=ticks, xticklabels=names)
    lanes.grid(False), lanes.spines["left"].set_visible(False)
    ax.minorticks_off(), lanes.minorticks_off()
    return fig


def chunked_loss(rows, tokens, whole_GB, chunks_GB):
    """Above: a window slides over tokens × vocabulary. Below: GB alive, operator by operator."""
    fig, (ax, below) = figure(4.7, nrows=2, height_ratios=(1.2, 1))
    ax.set(xlim=(-22, 104), ylim=(-13, 59))
    ax.axis("off")
    count, height = -(-tokens // rows), 50.0
    step, now = height / count, 2
    for k in range(count):
        y = height - (k + 1) * step
        here = k == now
        face = FURNACE if here else PAPER
        style = {"ls": "solid" if here else (0, (2, 2)), "lw": 1.4 if here else 0.7}
        ax.add_patch(
            Rectangle(
                (0, y),
                84,
                step - 1,
                fc=face,
                alpha=0.4 if here else 1,
                ec=FURNACE if here else SLATE,
                **style,
            )
        )
        text = f"{rows:,} × 151,936 logits, then their gradient, in the same buffer"
        done = "used and overwritten" if k < now else "not made yet"
        ax.text(
            42,
            y + step / 2 - 0.5,
            text if here else done,
            ha="center",
            va="center",
            fontsize=8,
            color=INK if here else SLATE,
        )
        ax.add_patch(
            Rectangle(
                (-9, y), 4, step - 1, fc=SEMANTIC["tokens"], alpha=0.9 if here else 0.3, ec="none"
            )
        )
    _arrow(ax, (87, height - 2 * step), (87, height - 3 * step - 3), FURNACE, 1.6, 11)
    ax.text(88.5, height - 2.5 * step - 2, "slides", color=FURNACE, fontsize=8.5, va="center")
    ax.text(-7, height + 2, "x, dx", ha="center", fontsize=8, color=SEMANTIC["tokens"])
    ax.text(42, height + 2, f"{tokens:,} tokens × 151,936 words", ha="center", fontsize=8)
    ax.text(-11, height / 2, "tokens", rotation=90, va="center", ha="right", fontsize=8)
    ax.add_patch(Rectangle((0, -9), 84, 5, fc=MEMORY, alpha=0.6, ec="none"))
    ax.text(
        42,
        -6.5,
        "W and the sum of dW: every chunk adds to all of it",
        ha="center",
        va="center",
        fontsize=8,
    )
    for live, color in ((whole_GB, SLATE), (chunks_GB, STEEL)):
        place = np.linspace(0, 1, len(live))
        below.step(place, live, where="post", color=color)
        top = int(np.argmax(live))
        below.text(
            place[top] + 0.01, live[top] + 0.9, f"{live[top]:.1f} GB", color=color, fontsize=8.5
        )
    below.text(0.31, 21.6, "all logits at once", color=SLATE, fontsize=8.5, ha="right")
    below.text(0.55, 8.6, f"{count} chunks", color=STEEL, fontsize=8.5)
    below.set(xlim=(0, 1), ylim=(0, 34), xticks=[0, 1])
    below.set_xticklabels(["forward begins", "backward ends"])
    below.set_title("GB alive beyond inputs, operator by operator")
    return fig


def waterfall(fused, written, groups, peak_ms):
    """One micro-batch, part after part; pale where it is written line by line.

    groups: (label, colour, keys). peak_ms: what its FLOPs take at the full peak; a mark shows 60 % of it.
    """
    fig, ax = figure(4.0)
    left = 0.0
    for row, (_, color, keys) in enumerate(groups):
        width, before = (sum(part[k] for k in keys) for part in (fused, written))
        if before > width + 0.05:
            ax.barh(-row, before, left=left, color=color, height=0.62, alpha=0.25)
        ax.barh(-row, width, left=left, color=color, height=0.62)
        text = f"{width:.1f}" + (f"  (line by line {before:.0f})" if before > width + 0.05 else "")
        ground = {"fc": PAPER, "ec": "none", "pad": 0.8}
        label_line(ax, left + max(width, before), -row, text, bbox=ground)
        if row:
            ax.plot([left, left], [-row + 0.31, -row + 0.69], color=GRID, lw=0.8)
        left += width
    last = len(groups)
    ax.barh(-last, left, color=INK, height=0.62)
    label_line(
        ax,
        left,
        -last,
        f"{left:.0f} ms: {16_384 / left:.0f}k tokens/s, {peak_ms / left:.0%} of the peak",
    )
    ax.axvline(peak_ms / 0.6, color=FURNACE, lw=1, ls=(0, (3, 2)), zorder=0)
    ax.text(
        peak_ms / 0.6 + 2,
        0.62,
        "60 % of the peak would end here",
        color=FURNACE,
        fontsize=8,
        va="center",
    )
    ax.set(yticks=[-r for r in range(last + 1)], yticklabels=[g[0] for g in groups] + ["together"])
    ax.set(xlim=(0, 240), ylim=(-last - 0.5, 1.0))
    ax.set_xlabel("ms per micro-batch of 16,384 tokens, one H100 (estimate)")
    ax.grid(False)
    ax.grid(axis="x")
    return fig


def measured(rows, device):
    """Rows of a report of `figures.experiments.table2` that passed its test of equality, by tokens/s."""
    fig, ax = figure(0.8 + 0.19 * len(rows))
    speed = [row["tokens_per_s"]["accumulation_8"] / 1e3 for row in rows]
    colors = [STEEL if row["engine"] == "steel" else SLATE for row in rows]
    ax.barh(range(len(rows)), speed, color=colors, height=0.7)
    for y, value in enumerate(speed):
        label_line(ax, value, y, f"{value:.1f}k")
    ax.set(yticks=range(len(rows)), yticklabels=[row["title"] for row in rows])
    ax.set(xlim=(0, 1.15 * max(speed)), ylim=(len(rows) - 0.4, -0.6))
    ax.set_xlabel(f"thousand tokens/s, accumulation 8, {device}")
    ax.grid(False)
    return fig
