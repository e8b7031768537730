"""The drawings of chapter 18: four ways out of a folder, rounding against leads, the price of a token, a distribution,
its tail, and characters that arrive in pieces. Each function returns a figure in house style."""

from __future__ import annotations

import numpy as np
from matplotlib.patches import FancyBboxPatch

from figures.style import (
    FURNACE,
    INK,
    MIDDLE,
    OKABE_ITO,
    ON_PALE,
    PALE,
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
FILES = (
    ("model.safetensors", "weights"),
    ("config.json", "shape, name of the class"),
    ("*.py", "the class itself"),
    ("tokenizer.json", "vocabulary, cut, merges"),
    ("chat_template.jinja", "how turns are written"),
    ("generation_config.json", "where to stop"),
)
WAYS = (
    ("export hf", "transformers, if it trusts your code", "the whole folder"),
    ("export hf --as llama", "transformers and others, with a class of theirs", "the folder without code"),
    ("export gguf", "llama.cpp and what is built on it", "one file"),
    ("serve", "whoever can speak HTTP", "text, piece by piece"),
)  # fmt: skip


def _box(ax, x: float, y: float, w: float, h: float, fill: str, edge: str = "none") -> None:
    shape = "round,pad=0,rounding_size=0.8"
    ax.add_patch(FancyBboxPatch((x, y), w, h, boxstyle=shape, fc=fill, ec=edge, lw=1.0))


def ways_out():
    """A model folder, and the four ways in which `steel` lets it leave."""
    fig, ax = figure(3.1)
    blank(ax, (0, 100), (0, 47))
    _box(ax, 0, 1, 37, 44, "none", STEEL)
    ax.text(1.5, 41.6, "a model folder", fontsize=9, color=STEEL)
    for i, (name, what) in enumerate(FILES):
        y = 34.2 - 6.4 * i
        _box(ax, 1.5, y, 34, 5.3, MIDDLE if i == 0 else PALE)
        ax.text(2.6, y + 2.6, name, fontsize=SMALL, color=ON_PALE, va="center")
        ax.text(34.4, y + 2.6, what, fontsize=6.6, color=ON_PALE, va="center", ha="right")
    for i, (how, reader, what) in enumerate(WAYS):
        y = 35.5 - 11.3 * i
        arrow(ax, (37.6, 23 + 0.28 * (y - 18)), (58, y + 4), STEEL, bend=0.0)
        ax.text(59, y + 6.2, f"steel {how}", fontsize=8, color=STEEL, va="center")
        ax.text(59, y + 2.9, reader, fontsize=SMALL, color=INK, va="center")
        ax.text(59, y - 0.1, f"gets {what}", fontsize=6.8, color=SLATE, va="center")
    return fig


def rounding(margin, moved, changed, name: str):
    """Each position of held-out text: how far apart the two likeliest tokens are, and how far rounding moves them.

    margin, moved: nats of logits; changed: whether the likeliest token is another afterwards.
    """
    fig, ax = figure(3.0)
    margin, moved, changed = (np.asarray(a) for a in (margin, moved, changed))
    same = np.flatnonzero(~changed)
    some = same[:: max(1, len(same) // 300)]
    ax.plot(margin[some], moved[some], ".", color=STEEL, ms=2.6, alpha=0.55, mew=0)
    ax.plot(margin[changed], moved[changed], "o", color=FURNACE, ms=3.6, mew=0)
    low, high = 1e-3, 9
    ax.plot([low, high], [low, high], color=SLATE, lw=0.9, ls=":")
    ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(4e-4, 0.8))
    label_line(ax, 0.4, 0.4, "as large as the lead", SLATE, xytext=(8, 0), fontsize=SMALL)
    ax.text(1.2e-3, 0.38, "another token is the likeliest afterwards", color=FURNACE, fontsize=8)
    axis_units(ax, x="lead of the likeliest token before rounding (nats)",
               y=f"how much {name} moves that lead (nats)")  # fmt: skip
    return fig


def decoding(cached, whole, start: int, batches: dict[int, float]):
    """Left: CPU milliseconds of each token. Right: tokens a CPU second for rows decoded together."""
    fig, (left, right) = figure(2.7, ncols=2, width_ratios=(1.5, 1))
    for seconds, colour, name in ((whole, SLATE, "whole text again"), (cached, STEEL, "cache")):
        smooth = [1e3 * float(np.median(seconds[i : i + 16])) for i in range(0, len(seconds), 16)]
        at = [start + i + 8 for i in range(0, len(seconds), 16)]
        left.plot(at, smooth, color=colour)
        label_line(left, at[-1], max(smooth[-4:]), name, colour, xytext=(-2, 8), ha="right")
    left.set_ylim(0, None)
    axis_units(left, x="tokens before it", y="CPU time of the next token (ms)")
    rows, speed = list(batches), list(batches.values())
    right.plot(rows, speed, "o-", color=STEEL)
    right.plot(rows, [speed[0] * n for n in rows], color=SLATE, lw=0.9, ls=":")
    label_line(right, rows[2], speed[0] * rows[2], "if rows were free", SLATE,
               xytext=(-6, 4), ha="right", fontsize=SMALL)  # fmt: skip
    right.set(xscale="log", yscale="log", xticks=rows, xticklabels=rows)
    right.minorticks_off()
    axis_units(right, x="answers at once", y="tokens a CPU second")
    footer(fig, "one core of a machine with other work; CPU time, not wall time")
    return fig


def tail(
    labels: list[tuple[str, bool]], top, curves: dict[float, np.ndarray], kept: dict[float, int]
):
    """Left: the likeliest tokens, (label, whether it is whole text). Right: mass of the n likeliest by temperature."""
    fig, (left, right) = figure(3.1, ncols=2, width_ratios=(1, 1.25))
    y = np.arange(len(labels))[::-1]
    colours = [STEEL if whole else FURNACE for _, whole in labels]
    left.barh(y, [100 * p for p in top], color=colours, height=0.72)
    left.set(yticks=y, yticklabels=[label for label, _ in labels])
    left.tick_params(axis="y", length=0, labelsize=SMALL)
    left.grid(False, axis="y")
    axis_units(left, x="probability (%)")
    shades = (STEEL, OKABE_ITO["green"], OKABE_ITO["purple"])
    for lines, ((T, curve), colour) in enumerate(zip(curves.items(), shades)):
        right.plot(np.arange(1, len(curve) + 1), 100 * curve, color=colour)
        right.plot(kept[T], 100 * curve[kept[T] - 1], "o", color=colour, ms=4)
        note = f"{kept[T]} tokens at T = {T:g}"
        right.text(len(curve) * 0.9, 27 - 9 * lines, note, color=colour, fontsize=8, ha="right")
    right.text(len(curve) * 0.9, 36, "nine tenths are held by", color=SLATE, fontsize=8, ha="right")
    right.axhline(90, color=SLATE, lw=0.9, ls=":")
    right.set(xscale="log", ylim=(0, 106), xlim=(1, len(curve)))
    axis_units(right, x="the likeliest tokens together", y="their mass (%)")
    return fig


def fragments(pieces: list[tuple[bytes, str, str]]):
    """Tokens of a sentence: their bytes, what each says alone, and what a stream sends when it comes."""
    fig, ax = figure(1.7)
    wide = [0.9 + 0.78 * len(raw) for raw, _, _ in pieces]
    scale = 88 / sum(wide)
    blank(ax, (0, 100), (0, 27))
    rows = ((19.5, "bytes"), (10.5, "alone"), (1.5, "sent"))
    for y, name in rows:
        ax.text(0, y + 3, name, fontsize=SMALL, color=SLATE, va="center")
    x = 9.5
    for (raw, alone, sent), width in zip(pieces, wide):
        w, broken = scale * width, "\ufffd" in alone
        texts = (raw.hex(" ").upper(), alone.replace("\ufffd", "?"), sent)
        for (y, name), text in zip(rows, texts):
            torn = broken and name == "alone"
            fill = "none" if torn else MIDDLE if name == "sent" else PALE
            if text:
                _box(ax, x, y, w - 0.7, 6, fill, FURNACE if torn else "none")
            ax.text(x + (w - 0.7) / 2, y + 2.9, text, fontsize=6 if name == "bytes" else 8.5,
                    color=FURNACE if torn else ON_PALE, va="center", ha="center")  # fmt: skip
        x += w
    return fig
