"""The drawings of chapter 03: the way of a document through a recipe, what became of planted damage, what the
original's recipe keeps, who gets the blame, and what an operator costs. Each function returns a figure."""

from __future__ import annotations

from collections import Counter

import numpy as np
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle

from figures.style import (
    FURNACE,
    INK,
    OKABE_ITO,
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

DARK = "#202a34"
LOG = "figures/runs/clean-compare.json: samples of ten sources"


# -- the way of a document ---------------------------------------------------------------------------------------------

STATIONS = (
    ("mappers", "text → text", "fix_unicode\nclean_html\nnormalise_whitespace"),
    ("filters", "text → keep, or reason", "text_length_filter\nletter_ratio\nchar_repetition"),
    ("scorers", "text → numbers", "language_scores\nquality_scores"),
)


def way_of_a_document():
    """Mappers, filters, scorers from left to right; below each, what it leaves for a reader to check."""
    fig, ax = figure(2.7)
    blank(ax, (0, 100), (0, 40))
    ax.text(0, 25, "a document", va="center", fontsize=8.5, color=INK)
    arrow(ax, (13.5, 25), (17.4, 25))
    left = 18
    for name, what, examples in STATIONS:
        style = {"boxstyle": "round,pad=0,rounding_size=0.8", "fc": PAPER, "ec": INK, "lw": 1}
        ax.add_patch(FancyBboxPatch((left, 15.5), 21, 19, **style))
        ax.text(left + 10.5, 37.4, name, ha="center", va="center", fontsize=9, color=INK)
        ax.text(left + 10.5, 31.6, what, ha="center", va="center", fontsize=7.2, color=SLATE)
        middle = {"ha": "center", "va": "center", "linespacing": 1.5}
        ax.text(left + 10.5, 23, examples, fontsize=7, color=INK, **middle)
        arrow(ax, (left + 21.4, 25), (left + 24.9, 25))
        left += 25.5
    ax.text(95, 25, "kept", va="center", fontsize=8.5, color=INK)
    for x, color, words in (
        (28.5, SLATE, "changed: before and after\nof the first few"),
        (54, FURNACE, "removed: the document as it was,\nwhich operator, value and limit"),
        (79.5, SLATE, "nothing leaves:\nnumbers in the meta"),
    ):
        arrow(ax, (x, 15), (x, 8.6), color)
        ax.text(x, 7.4, words, ha="center", va="top", fontsize=7.6, color=color, linespacing=1.2)
    return fig


# -- what became of planted damage -------------------------------------------------------------------------------------

KINDS = {
    "symbols": "only symbols",
    "mojibake": "read in the wrong encoding",
    "repetition": "a piece over and over",
    "too_short": "a field of a word or none",
    "html": "wrapped in HTML",
}


def fates(counts: Counter):
    """Bands from each kind of damage to what became of it; counts: (kind, fate) -> documents."""
    fig, ax = figure(3.3)
    ends = [e for e in dict.fromkeys(e for _, e in counts) if e.startswith("removed")]
    ends += ["mended in part", "kept as it was"]
    heights = {e: sum(n for (_, end), n in counts.items() if end == e) for e in ends}
    total, gap = sum(counts.values()), 3.0
    right, y = {}, 0.0
    for e in ends:
        right[e] = y
        y += heights[e] + gap
    tall, left, y = y - gap, {}, 0.0
    spread = (tall - total) / (len(KINDS) - 1)
    for k in KINDS:
        left[k] = y
        y += sum(n for (kind, _), n in counts.items() if kind == k) + spread
    starts, targets = dict(left), dict(right)
    s = np.linspace(0, 1, 30)
    ease = s * s * (3 - 2 * s)
    for k in KINDS:
        for e in ends:
            if n := counts[k, e]:
                a, b = starts[k], targets[e]
                line = a + (b - a) * ease
                points = np.concatenate([np.c_[20 + 40 * s, line], np.c_[60 - 40 * s, (line + n)[::-1]]])  # fmt: skip
                bad = not e.startswith("removed")
                ax.add_patch(Polygon(points, fc=FURNACE if bad else STEEL, alpha=0.45, lw=0))
                starts[k] += n
                targets[e] += n
    for k, at in left.items():
        n = sum(v for (kind, _), v in counts.items() if kind == k)
        ax.add_patch(Rectangle((19, at), 1, n, fc=DARK, lw=0))
        ax.text(18, at + n / 2, f"{KINDS[k]}  {n}", ha="right", va="center", fontsize=8, color=INK)
    for e, at in right.items():
        ax.add_patch(Rectangle((60, at), 1, heights[e], fc=DARK, lw=0))
        ax.text(62, at + heights[e] / 2, f"{heights[e]}  {e}", va="center", fontsize=8, color=INK)
    blank(ax, (-9, 96), (tall + 1, -1))
    return fig


# -- what the original keeps -------------------------------------------------------------------------------------------

BLAMED = {
    "special_characters_filter": ("special characters", FURNACE),
    "words_num_filter": ("number of words", OKABE_ITO["orange"]),
    "average_line_length_filter": ("line length", OKABE_ITO["sky"]),
    "alphanumeric_filter": ("letters, at most 90 %", OKABE_ITO["green"]),
}


def kept(rows: list[dict]):
    """One bar for each source: kept, and removed by operator, of the documents that the original's recipe was given."""
    rows = sorted(rows, key=lambda r: (r["cleaned"], -r["kept"] / r["documents"]), reverse=False)
    fig, ax = figure(3.3)
    for y, row in enumerate(rows):
        whole, at = row["documents"], 0.0
        parts = [("kept", row["kept"], STEEL)]
        parts += [(n, row["removed"].get(n, 0), tint) for n, (_, tint) in BLAMED.items()]
        parts.append(("other", whole - sum(p[1] for p in parts), SLATE))
        for _, n, tint in parts:
            ax.barh(y, 100 * n / whole, left=at, height=0.6, color=tint, lw=0)
            at += 100 * n / whole
        word = f"{100 * row['kept'] / whole:.0f}"
        share = 100 * row["kept"] / whole
        ax.text(share - 1, y, word, ha="right", va="center", fontsize=7.5, color=PAPER)
    ax.set_yticks(range(len(rows)), [r["source"] + ("" if r["cleaned"] else " *") for r in rows])
    ax.set(xlim=(0, 116), ylim=(-0.6, len(rows) + 0.9), xticks=range(0, 101, 20))
    ax.grid(False)
    ax.tick_params(axis="y", length=0)
    named = [("kept", STEEL), *BLAMED.values(), ("other", SLATE)]
    for x, (word, tint) in zip((0, 11, 36, 60, 76, 105), named, strict=True):
        ax.barh(len(rows) + 0.2, 2, left=x, height=0.5, color=tint, lw=0)
        ax.text(x + 2.8, len(rows) + 0.2, word, va="center", fontsize=7.5, color=INK)
    axis_units(ax, x="of the documents (%);  * not cleaned in 2024, as if it had been")
    footer(fig, LOG + ", recipe original without deduplication")
    return fig


# -- who gets the blame ------------------------------------------------------------------------------------------------


def blame(first: Counter, alone: Counter, documents: int):
    """Each filter in the recipe's order: what it removes in its place, and what it would remove alone."""
    fig, ax = figure(2.9)
    names = [name for name in alone if alone[name] >= 0.002 * documents]
    for y, name in enumerate(reversed(names)):
        a, b = 100 * first[name] / documents, 100 * alone[name] / documents
        ax.plot([a, b], [y, y], color=SLATE, lw=1)
        ax.plot([a], [y], "o", ms=6, color=STEEL)
        ax.plot([b], [y], "o", ms=6, color=FURNACE)
        ax.text(b + 1.2, y, f"{b:.0f}", va="center", fontsize=8, color=FURNACE)
        if b - a > 3:
            ax.text(a - 1.2, y, f"{a:.0f}", va="center", ha="right", fontsize=8, color=STEEL)
    ax.set_yticks(range(len(names)), [n.removesuffix("_filter") for n in reversed(names)])
    ax.set(ylim=(-0.6, len(names) - 0.2), xlim=(-4, 1.15 * 100 * max(alone.values()) / documents))
    ax.tick_params(axis="y", length=0)
    top = len(names) - 1
    most = max(names, key=lambda n: alone[n] - first[n])
    at = top - names.index(most)
    label_line(ax, 100 * first[most] / documents, at, "in its place", STEEL, xytext=(0, 9), ha="center")  # fmt: skip
    label_line(ax, 100 * alone[most] / documents, at, "alone", FURNACE, xytext=(0, 9), ha="center")
    axis_units(ax, x="of the documents removed (%)")
    footer(fig, LOG + ", the seven that were cleaned, recipe original; filters in its order")
    return fig


# -- what an operator costs --------------------------------------------------------------------------------------------


def cost(seconds: Counter, removed: Counter, documents: int, megabytes: float):
    """CPU milliseconds per megabyte of each operator of recipe original, dearest first, and what it removed."""
    fig, ax = figure(3.4)
    names = [name for name, s in seconds.most_common(12)]
    for y, name in enumerate(reversed(names)):
        ms = 1000 * seconds[name] / megabytes
        ax.barh(y, ms, height=0.6, color=PALE if name.endswith("_mapper") else STEEL, lw=0)
        percent = 100 * removed[name] / documents
        share = f"   removes {percent:.0f} %" if percent >= 0.5 else ""
        ax.text(ms, y, f"  {ms:.0f}{share}", va="center", fontsize=8, color=INK)
    ax.set_yticks(range(len(names)), list(reversed(names)))
    ax.set(ylim=(-0.6, len(names) - 0.4), xlim=(0, 1.35 * 1000 * max(seconds.values()) / megabytes))
    ax.grid(False)
    ax.tick_params(axis="y", length=0)
    axis_units(ax, x="CPU milliseconds for a megabyte of text; pale: mappers, dark: filters")
    footer(fig, LOG + ", nine of text, one process on a busy machine")
    return fig
