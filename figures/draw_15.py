"""The drawings of chapter 15: the way of a pair, where pairs part, and what they move. Each function returns a
figure in house style."""

from __future__ import annotations

import numpy as np
from matplotlib.patches import FancyBboxPatch

from figures.style import (
    FURNACE,
    GRID,
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


def parting(rows: list[tuple[str, str, str, float, float]]):
    """Where pairs part: what both answers share in grey, then the chosen one above and the rejected one below.

    rows: (name, chosen, rejected, probability of each one's first token that differs).
    """
    fig, ax = figure(2.7)
    step, left = 3.45, 22.5
    blank(ax, (0, 101), (-2.6 * len(rows) + 1.4, 1.1))
    for r, (name, chosen, rejected, *chances) in enumerate(rows):
        y = -2.6 * r
        ax.text(0, y, name, va="center", fontsize=8.5, color=INK, linespacing=1.2)
        fork = next(i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b)
        for i in range(fork):
            _token(ax, left + step * i, y, chosen[i], PAPER, GRID, SLATE)
        sides = ((chosen, 0.5, STEEL, "chosen"), (rejected, -0.5, FURNACE, "rejected"))
        for (said, up, color, side), chance in zip(sides, chances, strict=True):
            for i in range(fork, len(said)):
                fill, ink = (color, PAPER) if i == fork else (PAPER, color)
                _token(ax, left + step * i + 0.9, y + up, said[i], fill, color, ink)
            x = left + step * len(said) + 1.4
            words = f"{chance:.2f}  {'' if r else side}"
            ax.text(x, y + up, words, va="center", fontsize=8, color=color)
    return fig


def _token(ax, x: float, y: float, text: str, fill: str, edge: str, ink: str) -> None:
    """A small box with one token; x is its left side, y its middle."""
    shape = "round,pad=0,rounding_size=0.15"
    ax.add_patch(
        FancyBboxPatch((x, y - 0.41), 3.05, 0.82, boxstyle=shape, fc=fill, ec=edge, lw=0.9)
    )
    ax.text(x + 1.52, y, text, ha="center", va="center_baseline", fontsize=7.5, color=ink)


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
    left.plot([0, 0], [-0.15, len(rows) - 0.5], color=SLATE, lw=0.8, zorder=0)  # under the label
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


def said(rows: list[tuple[str, list, list, list]], gain: str, unit: str) -> str:
    """The alternative text of `moved_and_gained`: of each row the ranges over seeds."""

    def span(values: list) -> str:
        return f"{min(values):.1f} to {max(values):.1f}"

    words = [
        f"{name}: chosen moved {span(chosen)} nats, rejected {span(rejected)}; {gain} {span(gained)} {unit}"
        for name, chosen, rejected, gained in rows
    ]
    return "A row a recipe, ranges over seeds. " + ". ".join(words) + "."
