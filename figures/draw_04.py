"""The drawings of chapter 04: the stations between clean documents and a mixture, the S-curve and what was measured on
it, what each threshold finds and spoils, matches with an exam by length, and passes per source. Each function returns
a figure in house style."""

from __future__ import annotations

import numpy as np
from matplotlib.patches import FancyBboxPatch

from figures.style import (
    FURNACE,
    INK,
    OKABE_ITO,
    PAPER,
    SLATE,
    STEEL,
    arrow,
    axis_units,
    blank,
    figure,
    label_line,
)

GREEN, PURPLE = OKABE_ITO["green"], OKABE_ITO["purple"]

STATIONS = (
    ("exact", "equal, but for\nwidth, case, blanks", "128-bit hash"),
    ("near", "share most of their\nruns of characters", "MinHash, bands"),
    ("exam", "hold a long run\nof a question", "longest match"),
    ("mix", "how often is each\nsource read?", "quotas, passes"),
)


def stations():
    """Documents pass four questions; below, what leaves at each of them."""
    fig, ax = figure(2.7)
    blank(ax, (0, 100), (0, 40))
    ax.text(0.3, 24, "clean\ndocuments\nof all\nsources", va="center", fontsize=8, color=INK)
    leaves = (
        "copies",
        "copies with\nsmall changes",
        "questions that\nthe model would\nremember",
        "",
    )
    for k, ((name, question, how), out) in enumerate(zip(STATIONS, leaves, strict=True)):
        x = 14 + 19.5 * k
        shape = "round,pad=0,rounding_size=0.8"
        ax.add_patch(FancyBboxPatch((x, 17), 15.5, 14, boxstyle=shape, fc=PAPER, ec=INK, lw=1))
        ax.text(x + 7.75, 34, name, ha="center", va="center", fontsize=9.5, color=STEEL)
        middle = {"ha": "center", "va": "center", "linespacing": 1.25}
        ax.text(x + 7.75, 26, question, fontsize=7.2, color=INK, **middle)
        ax.text(x + 7.75, 19.6, how, fontsize=7, color=SLATE, **middle)
        arrow(ax, (x - 3.6, 24), (x - 0.4, 24))
        if out:
            arrow(ax, (x + 7.75, 16.6), (x + 7.75, 10), FURNACE)
            ax.text(
                x + 7.75,
                9,
                out,
                ha="center",
                va="top",
                fontsize=7.4,
                color=FURNACE,
                linespacing=1.2,
            )
    arrow(ax, (14 + 19.5 * 3 + 15.9, 24), (91.5, 24))
    ax.text(92.3, 24, "what a\nmodel\nreads", va="center", fontsize=8, color=INK)
    return fig


def s_curves(curves, floor: float):
    """curves: [(bands, rows, predicted (x, y), measured (x, y))]. floor: the recipe's threshold."""
    fig, ax = figure(2.9)
    places = ((0.30, 0.86), (0.47, 0.66), (1.0, 0.45))
    for (count, rows, line, points), color, at in zip(
        curves, (SLATE, STEEL, PURPLE), places, strict=True
    ):
        ax.plot(*line, color=color)
        ax.plot(*points, "o", color=color, markersize=4.5)
        ax.text(*at, f"{count} bands of {rows}", color=color, fontsize=8.5, ha="right")
    ax.axvline(floor, color=FURNACE, lw=1, ls="dotted")
    ax.text(floor - 0.01, 0.3, "threshold\nof the recipe", color=FURNACE, fontsize=7.5, ha="right")
    ax.set(xlim=(0.1, 1.01), ylim=(-0.03, 1.05))
    axis_units(
        ax, x="Jaccard similarity of the pair", y="share of pairs that agree in a whole band"
    )
    return fig


def found_and_spoiled(rows):
    """rows: {method: [(setting, recall, precision)]}: recall against precision, one line a method."""
    fig, ax = figure(2.9)
    for (name, points), color in zip(rows.items(), (STEEL, FURNACE), strict=True):
        settings, recall, precision = zip(*points, strict=True)
        ax.plot(recall, precision, "o-", color=color, lw=1.2)
        ends = (0, 1, 3, 4) if color == FURNACE else (0, len(points) // 2, len(points) - 1)
        for k in ends:
            right = recall[k] > 99.9
            ax.annotate(
                settings[k],
                (recall[k], precision[k]),
                xytext=(6, 0 if color == STEEL else -3)
                if right
                else (0, 6 if color == STEEL else -6),
                textcoords="offset points",
                ha="left" if right else "center",
                va="center" if right else "bottom" if color == STEEL else "top",
                fontsize=7.5,
                color=color,
            )
        middle = len(points) // 2
        ax.annotate(
            name,
            (recall[middle], precision[middle]),
            xytext=(-8, -16) if color == FURNACE else (-8, 7),
            textcoords="offset points",
            ha="right",
            fontsize=8.5,
            color=color,
        )
    ax.set(xlim=(92, 100.6), ylim=(55, 104), xticks=range(92, 101, 2))
    axis_units(ax, x="copies that are removed (%)", y="removed documents that are copies (%)")
    return fig


def by_length(lines, planted):
    """lines: {language: (lengths, innocent %, half copied %)}; a line each, dotted for what was planted."""
    fig, axes = figure(2.6, ncols=2, sharey=True)
    for ax, (language, (lengths, innocent, copied)) in zip(axes, lines.items(), strict=True):
        ax.plot(lengths, copied, color=STEEL)
        ax.plot(lengths, innocent, color=FURNACE)
        ax.axvline(13, color=SLATE, lw=0.8, ls="dotted")
        ax.set(xlim=(8, 34), ylim=(-3, 106))
        ax.text(13.4, 101, "13", color=SLATE, fontsize=7.5)
        ax.text(
            33.5,
            88,
            f"half of it planted ({planted[language][0]})",
            color=STEEL,
            fontsize=8,
            ha="right",
        )
        ax.text(
            33.5,
            78,
            f"never planted ({planted[language][1]})",
            color=FURNACE,
            fontsize=8,
            ha="right",
        )
        axis_units(
            ax, x="characters that count as a copy", title=language, y="questions accused (%)"
        )
    return fig


def passes(sources, lines, most: float):
    """sources in order of size; lines: {name: passes of each}. most: beyond it repetition teaches little."""
    fig, ax = figure(3.1)
    at = np.arange(len(sources))
    for (name, values), color in zip(lines.items(), (STEEL, GREEN, FURNACE), strict=True):
        ax.plot(at, values, "o-", color=color, lw=1.2)
        label_line(ax, at[-1], values[-1], name, color)
    ax.axhline(most, color=SLATE, lw=0.8, ls="dotted")
    ax.text(0, most * 1.06, f"{most:.0f} passes", color=SLATE, fontsize=7.5)
    ax.set(yscale="log", xticks=at, xlim=(-0.3, len(sources) + 1.2))
    ax.set_xticklabels(sources, rotation=35, ha="right", fontsize=7.5)
    ticks = (1, 2, 5, 10, 20, 50)
    ax.set_yticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    axis_units(ax, y="passes over the source in one run")
    return fig
