"""The drawings of chapter 19: what a sentence hangs on, what the ledger holds, two runs that differ in one bit, and
the smallest difference that seeds can see. Each function returns a figure in house style."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.patches import FancyBboxPatch

from .audit import CODE, LOG, NOTHING, QUOTE, RESTS, SUMS, Number
from .style import (
    FURNACE,
    GRID,
    INK,
    OKABE_ITO,
    ON_PALE,
    PALE,
    PAPER,
    SLATE,
    STEEL,
    arrow,
    axis_units,
    blank,
    figure,
    footer,
    label_line,
)

SMALL = 7.5
COLOURS = {
    CODE: STEEL,
    LOG: OKABE_ITO["purple"],
    SUMS: OKABE_ITO["green"],
    QUOTE: OKABE_ITO["orange"],
    NOTHING: GRID,
}


def chain():
    """From a machine to a sentence, and where somebody else may ask whether it is so."""
    fig, ax = figure(2.75)
    blank(ax, (0, 100), (0, 41))
    box = {"boxstyle": "round,pad=0,rounding_size=0.8", "ec": "none"}
    boxes = [  # x, width, title, what it holds
        (
            0,
            19,
            "what it starts from",
            "settings, seed, data\ncode and packages\nprocessor, threads",
        ),
        (26.5, 14.5, "a run", "weights after\nevery step"),
        (48.5, 14.5, "a log", "a header, and\na line a step"),
        (70.5, 12, "a figure,\na table", ""),
        (90, 10, "a\nsentence", ""),
    ]
    for x, wide, title, holds in boxes:
        ax.add_patch(FancyBboxPatch((x, 19), wide, 13, fc=PALE, **box))
        middle = x + wide / 2
        ax.text(middle, 29.6 if holds else 25.5, title, ha="center", va="center", fontsize=8.2,
                color=ON_PALE, weight="bold")  # fmt: skip
        ax.text(middle, 23.6, holds, ha="center", va="center", fontsize=7, color=ON_PALE)
    for (x, wide, *_), (to, *_) in zip(boxes, boxes[1:], strict=False):
        arrow(ax, (x + wide + 0.6, 25.5), (to - 0.6, 25.5), STEEL, 1.3)
    ax.add_patch(
        FancyBboxPatch((66, 36), 21, 5, fc="none", boxstyle=box["boxstyle"], ec=SLATE, lw=1)
    )
    ax.text(76.5, 38.4, "what others wrote", ha="center", va="center", fontsize=SMALL, color=INK)
    arrow(ax, (87.6, 38.3), (95, 32.6), SLATE, 1.2, -0.25)
    asked = [  # x of the question, words, x of where it points
        (13, "does the same start\ngive the same run?", 22.8),
        (38, "and if it is killed\non the way?", 33.7),
        (62, "what must it hold\nfor somebody else?", 55.7),
        (87, "does the sentence say\nwhat the log says?", 86.3),
    ]
    for x, words, to in asked:
        ax.text(x, 5.8, words, ha="center", va="center", fontsize=SMALL, color=FURNACE)
        arrow(ax, (x, 9.4), (to, 18.2), FURNACE, 1.0)
    return fig


def ledger(rests: dict[str, dict[str, int]], numbers: list[Number]):
    """Claims by chapter and by what they rest on; and how wrong a number may be before anything objects."""
    fig, (left, right) = figure(4.5, ncols=2, width_ratios=(1.25, 1))
    chapters = list(rests)
    for row, chapter in enumerate(reversed(chapters)):
        at = 0
        for kind, colour in COLOURS.items():
            many = rests[chapter].get(kind, 0)
            left.barh(row, many, left=at, color=colour, height=0.72, lw=0)
            at += many
    left.set(
        yticks=range(len(chapters)), yticklabels=[c.partition("_")[0] for c in reversed(chapters)]
    )
    left.tick_params(axis="y", length=0, labelsize=7)
    left.set_ylim(-0.7, len(chapters) - 0.3)
    left.grid(False, axis="y")
    left.grid(True, axis="x")
    axis_units(left, x="claims", title="By chapter, and what CI does about them")
    for k, (kind, colour) in enumerate(COLOURS.items()):
        for text, x, tint in (("■", 0, colour), (RESTS[kind], 12, INK)):
            left.annotate(text, (0, 0), (x, -42 - 12 * k), "axes fraction", "offset points", color=tint,
                          fontsize=SMALL, va="center", annotation_clip=False)  # fmt: skip
    groups = {"quotation": ("seed", "paper"), "computed": ("computed",), "from a log": ("log",)}
    colours = dict(zip(groups, (OKABE_ITO["orange"], STEEL, SLATE), strict=True))
    x = np.logspace(-3, math.log10(2), 90)
    for name, kinds in groups.items():
        slack = np.array([n.slack for n in numbers if n.kind in kinds])
        y = [100 * np.mean(slack < wrong) for wrong in x]
        right.plot(100 * x, y, color=colours[name])
    heights = {"quotation": (0.13, 86), "computed": (0.12, 58), "from a log": (1.2, 36)}
    for name, (at, y) in heights.items():
        right.text(at, y, name, color=colours[name], fontsize=8.5, va="center")
    right.set(xscale="log", ylim=(0, 102), xlim=(0.1, 200), xticks=[0.1, 1, 10, 100])
    right.set_xticklabels(["0.1", "1", "10", "100"])
    right.minorticks_off()
    axis_units(right, x="a number is wrong by (%)", y="A check objects (% of the numbers)")
    return fig


def twins(rows: list[dict], every: int, falls: int, doubles: float):
    """Distance of all weights from the unchanged run, change by change, under two optimizers.

    rows: figures/runs/bits.json, weights every `every` steps. falls: step from which the rate falls. doubles: steps in
    which Muon's distance doubles before that.
    """
    fig, axes = figure(3.6, ncols=2, sharey=True)
    for ax, optimizer in zip(axes, ("adamw", "muon"), strict=True):
        for row in rows:
            if row["optimizer"] != optimizer or row["equal"] or not any(row["weights"]):
                continue
            kind = row["change"].partition(" ")[0]
            colour = {"bit": FURNACE, "seed": SLATE, "bf16": OKABE_ITO["purple"]}.get(kind, STEEL)
            y = np.array([v or math.nan for v in row["weights"][::2]])
            at = np.arange(len(y)) * 2 * every
            ax.plot(at, y, color=colour, lw=1.1, zorder=3 if kind == "bit" else 2)
        end = (len(rows[0]["weights"]) - 1) * every
        ax.set(yscale="log", xlim=(0, end), ylim=(2e-8, 6), xticks=range(0, end + 1, 100))
        ax.axvline(falls, color=SLATE, lw=0.7, ls=":")
        ax.set_xlabel("step")
        ax.minorticks_off()
        ax.text(end - 3, 2.1, "another seed", fontsize=SMALL, color=SLATE, ha="right")
    left, right = axes
    axis_units(left, x="step", title="AdamW", y="distance of all weights (share of their size)")
    right.set_title("Muon\n")
    right.text(397, 0.3, "bf16", fontsize=SMALL, color=OKABE_ITO["purple"], ha="right", va="top")
    left.text(397, 0.045, "bf16", fontsize=SMALL, color=OKABE_ITO["purple"], ha="right", va="top")
    ground = {"fc": PAPER, "ec": "none", "pad": 1}
    for y, words, colour in (
        (1.3e-6, "one bit of one weight", FURNACE),
        (4e-7, "the same sums in another order", STEEL),
    ):
        left.text(395, y, words, fontsize=SMALL, color=colour, ha="right", bbox=ground)
    left.text(falls - 4, 4e-8, "rate falls", fontsize=SMALL, color=SLATE, ha="right")
    right.text(
        182, 9e-4, f"twice as far\nevery {doubles:.0f} steps", fontsize=SMALL, color=INK, ha="right"
    )
    return fig


def power(lines: dict[str, tuple[float, int]], found: dict[str, float], needed):
    """The smallest difference that n seeds see four times in five, with pairs and without, and what five seeds found.

    lines: label → (scatter of one difference [nats/token], degrees of freedom per seed but one). found: label →
    difference of five seeds [nats/token]. needed(n, freedom): in scatters.
    """
    fig, ax = figure(3.1)
    n = list(range(2, 61))
    for (label, (scatter, each)), colour in zip(lines.items(), (STEEL, SLATE), strict=True):
        y = [needed(k, each * (k - 1)) * scatter for k in n]
        ax.plot(n, y, color=colour)
        place = {"xytext": (4, 9)} if each == 2 else {"xytext": (-4, -9), "ha": "right"}
        label_line(ax, n[12], y[12], label, colour, **place)
    for label, difference in found.items():
        side = ("left", 7) if difference > 0.08 else ("right", -7)  # where no line runs
        ax.plot([5], [difference], "o", color=FURNACE, ms=4.5, zorder=5)
        ax.annotate(label, (5, difference), textcoords="offset points", xytext=(side[1], 0), fontsize=SMALL, ha=side[0],
                    va="center", color=FURNACE, bbox={"fc": PAPER, "ec": "none", "pad": 1})  # fmt: skip
    ax.set(xscale="log", yscale="log", xlim=(2, 62), ylim=(0.0085, 0.45))
    ax.set_xticks([2, 3, 5, 10, 20, 40, 60], ["2", "3", "5", "10", "20", "40", "60"])
    ax.set_yticks([0.01, 0.03, 0.1, 0.3], ["0.01", "0.03", "0.1", "0.3"])
    ax.minorticks_off()
    axis_units(ax, x="seeds of each arm", y="difference (nats per token)")
    footer(fig, "figures/runs/soft-moe-tuned.json; lines: scatter of causal minus one expert")
    return fig
