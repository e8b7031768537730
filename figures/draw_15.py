"""The drawings of chapter 15: the way of a pair, the weight of a pair, and what pairs move. Each function returns a
figure in house style."""

from __future__ import annotations

import numpy as np
from matplotlib.patches import FancyBboxPatch

from figures.style import (
    FURNACE,
    INK,
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


def _box(ax, x: float, y: float, width: float, text: str, color: str = STEEL, height: float = 6.4):
    shape = "round,pad=0,rounding_size=0.9"
    ax.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=shape, fc=PAPER, ec=color, lw=1.2))
    ax.text(
        x + width / 2,
        y + height / 2,
        text,
        ha="center",
        va="center",
        fontsize=SMALL,
        color=INK,
        linespacing=1.2,
    )


def pair_way():
    """One prompt and two answers; a model that learns, one that stands still; four log-probabilities, one margin."""
    fig, ax = figure(2.2)
    blank(ax, (0, 100), (0, 33))
    _box(ax, 0.5, 13, 15, "a prompt", SLATE)
    _box(ax, 21, 21, 18, "the chosen\nanswer")
    _box(ax, 21, 5, 18, "the rejected\nanswer", FURNACE)
    arrow(ax, (15.8, 17.4), (20.6, 23))
    arrow(ax, (15.8, 15), (20.6, 9.4))
    for y, sign, color in ((21, "+", STEEL), (5, "−", FURNACE)):
        arrow(ax, (39.3, y + 3.2), (44.6, y + 3.2))
        text = r"log $\pi$ − log $\pi_0$"
        _box(ax, 45, y, 20, text, color)
        arrow(ax, (65.3, y + 3.2), (71.4, 16.2 + (2 if y > 10 else -2)))
        ax.text(67, y + (5.4 if y > 10 else 0.2), sign, fontsize=11, color=color, ha="center")
    _box(ax, 71.8, 12.8, 11.4, "margin m")
    arrow(ax, (83.5, 16), (86.4, 16))
    _box(ax, 86.8, 12.8, 12.8, "−log σ(βm)", INK)
    ax.text(55, 30.2, r"$\pi$ learns", ha="center", fontsize=8, color=INK)
    ax.text(
        55,
        0.6,
        r"$\pi_0$ stands still: it is read once, before the first step",
        ha="center",
        fontsize=8,
        color=SLATE,
    )
    return fig


def weights(beta: float):
    """The loss of a pair and the share of its gradient that is left, over its margin."""
    margin = np.linspace(-40, 60, 201)
    left = 1 / (1 + np.exp(beta * margin))
    fig, (a, b) = figure(1.9, ncols=2)
    a.plot(margin, np.log1p(np.exp(-beta * margin)), color=STEEL)
    b.plot(margin, left, color=STEEL)
    for ax, y, word in (
        (a, "loss (nats)", ""),
        (b, "weight of a pair", "half before the first step"),
    ):
        ax.axvline(0, color=SLATE, lw=0.8, ls=":")
        axis_units(ax, x="margin (nats)", y=y)
        if word:
            ax.annotate(
                word,
                (0, 0.5),
                (5, 0),
                textcoords="offset points",
                fontsize=8,
                color=SLATE,
                va="center",
            )
    return fig


def _dots(ax, y: float, values: list[float], color: str, label: str = "") -> None:
    """Seeds as small marks, their mean as a large one."""
    ax.plot(values, [y] * len(values), "o", color=color, ms=3.5, alpha=0.55, mec="none")
    mean = float(np.mean(values))
    ax.plot(mean, y, "o", color=color, ms=7, mec=PAPER, mew=0.8)
    if label:
        label_line(ax, mean, y, label, color, xytext=(0, 9), ha="center", fontsize=8)


def moved_and_gained(
    rows: list[tuple[str, list, list, list]],
    gain: str,
    source: str,
    limits=None,
    zero: bool = False,
):
    """What pairs move: log-probabilities on the left, what one wants on the right; small marks are seeds.

    rows: (name, chosen moved [nats], rejected moved [nats], gain), lists over seeds. gain: the right axis's words.
    """
    fig, (left, right) = figure(
        0.85 + 0.42 * len(rows), ncols=2, width_ratios=(1.25, 1), sharey=True
    )
    for y, (_, chosen, rejected, gained) in enumerate(rows):
        first = y == 0
        _dots(left, y - 0.13, chosen, STEEL, "chosen" if first else "")
        _dots(left, y + 0.13, rejected, FURNACE, "rejected" if first else "")
        _dots(right, y, gained, STEEL)
    left.axvline(0, color=SLATE, lw=0.8)
    if zero:
        right.axvline(0, color=SLATE, lw=0.8)
    left.set_yticks(range(len(rows)), [name for name, *_ in rows])
    left.set_ylim(len(rows) - 0.5, -0.8)
    if limits:
        right.set_xlim(*limits)
    axis_units(left, x="log-probability moved by (nats an answer)")
    axis_units(right, x=gain)
    footer(fig, source)
    return fig
