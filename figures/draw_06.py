"""The drawings of chapter 06: a decoder block with nine places for a bug, a moved clock, who may look where, four
agreements, and which test finds which bug. Each function returns a figure in house style."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

from figures.style import (
    FURNACE,
    INK,
    PAPER,
    SEMANTIC,
    SLATE,
    STEEL,
    axis_units,
    blank,
    figure,
    label_line,
)

SMALL = 7.5
GREEN = SEMANTIC["memory"]


# -- a block -----------------------------------------------------------------------------------------------------------


def _box(ax, x, y, w, text, weights=True, color=STEEL, h=0.62) -> None:
    """A box centred on (x, y): filled when it holds weights."""
    ax.add_patch(FancyBboxPatch((x - w / 2, y - h / 2), w, h, boxstyle="round,pad=0,rounding_size=0.1", lw=1.1,
                                ec=color, fc=color if weights else PAPER, zorder=3))  # fmt: skip
    ink = PAPER if weights else color
    ax.text(x, y - 0.02, text, ha="center", va="center", fontsize=8, color=ink, zorder=4)


def _path(ax, *points, color=SLATE, lw=1.1) -> None:
    """A line through the points with an arrow at its end."""
    xs, ys = zip(*points[:-1])
    ax.plot(xs, ys, color=color, lw=lw, solid_capstyle="butt", zorder=1)
    style = {"arrowstyle": "-|>", "color": color, "lw": lw, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", points[-1], points[-2], arrowprops=style | {"mutation_scale": 8}, zorder=2)


def _bug(ax, x, y, letter) -> None:
    ax.add_patch(Circle((x, y), 0.2, color=FURNACE, lw=0, zorder=5))
    ax.text(x, y - 0.015, letter, ha="center", va="center", fontsize=7.5, color=PAPER, zorder=6)


def block():
    """The decoder on the left, one of its blocks on the right, shapes on the arrows, a letter where each bug sits."""
    fig, ax = figure(5.6)
    shape = {"fontsize": SMALL, "color": SLATE, "va": "center"}

    ax.text(1.2, 10.35, "tokens  (B, T)", ha="center", va="center", fontsize=8.5)
    left = {9.35: ("embed_tokens", True), 4.1: ("norm", True), 3.05: ("tied head", True)}
    for y, (text, weights) in left.items():
        _box(ax, 1.2, y, 1.9, text, weights)
    ax.add_patch(FancyBboxPatch((0.25, 5.3), 1.9, 2.6, boxstyle="round,pad=0,rounding_size=0.1", lw=1.1,
                                ec=STEEL, fc="none", zorder=3))  # fmt: skip
    ax.text(1.2, 6.6, "block\n× L", ha="center", va="center", fontsize=9.5, color=STEEL)
    for start, end in (
        (10.15, 9.66),
        (9.04, 7.9),
        (5.3, 4.41),
        (3.79, 3.36),
        (2.74, 2.1),
        (1.6, 1.0),
    ):
        _path(ax, (1.2, start), (1.2, end))
    ax.text(1.3, 8.5, "(B, T, D)", **shape)
    ax.text(1.3, 4.85, "(B, T, D)", **shape)
    ax.text(1.2, 1.85, "logits  (B, T, V)", ha="center", va="center", fontsize=8.5)
    _box(ax, 1.2, 0.68, 1.9, "loss: next token", False, SLATE)
    _bug(ax, 2.2, 0.95, "i")
    for end in ((3.05, 10.6), (3.05, 0.3)):
        ax.plot(
            [2.15, end[0]],
            [7.9 if end[1] > 5 else 5.3, end[1]],
            color=SLATE,
            lw=0.6,
            ls=(0, (3, 3)),
        )
    ax.add_patch(Rectangle((3.05, 0.3), 8.95, 10.3, fill=False, ec=SLATE, lw=0.6, ls=(0, (3, 3))))

    stream, q, k, v = 3.6, 6.2, 8.0, 9.6
    _path(ax, (stream, 10.6), (stream, 0.3), color=STEEL, lw=2.4)
    ax.text(stream + 0.14, 10.27, "x  (B, T, D)", fontsize=8, color=STEEL, va="center")
    for y in (4.0, 1.0):
        ax.add_patch(Circle((stream, y), 0.2, ec=STEEL, fc=PAPER, lw=1.2, zorder=4))
        ax.text(stream, y - 0.02, "+", ha="center", va="center", fontsize=10, color=STEEL, zorder=5)

    # attention: read, project, turn, remember, look, write
    _path(ax, (stream, 9.5), (4.2, 9.5))
    _box(ax, 4.8, 9.5, 1.2, "RMSNorm")
    _path(ax, (5.4, 9.5), (6.75, 9.5))
    _box(ax, 7.9, 9.5, 2.3, "qkv_proj")
    for lane, at in ((q, 7.0), (k, 7.9), (v, 8.8)):
        _path(ax, (at, 9.19), (at, 8.95), (lane, 8.95), (lane, {q: 7.91, k: 7.91, v: 6.72}[lane]))
    ax.text(q - 0.1, 8.45, "q  (B, T, H, C)", ha="right", **shape)
    ax.text(k - 0.1, 8.45, "k  (B, T, K, C)", ha="right", **shape)
    ax.text(v + 0.1, 8.45, "v  (B, T, K, C)", **shape)
    _box(ax, q, 7.6, 1.1, "rope", False)
    _box(ax, k, 7.6, 1.1, "rope", False)
    _path(ax, (10.35, 7.6), (8.55, 7.6))
    _path(ax, (7.45, 7.6), (6.75, 7.6))
    ax.text(10.45, 7.6, "positions\n(B, T)", fontsize=8, va="center")
    _bug(ax, 11.7, 7.6, "c")
    _path(ax, (k, 7.29), (k, 6.72))
    _box(ax, (k + v) / 2, 6.4, 2.7, "cache: append", False, GREEN)
    for lane in (k, v):
        _path(ax, (lane, 6.09), (lane, 5.42))
    ax.text(k - 0.1, 5.75, "(B, U, K, C)", ha="right", **shape)
    ax.text(v + 0.1, 5.75, "(B, U, K, C)", **shape)
    _path(ax, (q, 7.29), (q, 5.42))
    _box(ax, 7.9, 5.1, 4.5, r"attend:  softmax($q\cdot k\,/\sqrt{C}$) $v$", False)
    _bug(ax, 5.75, 5.42, "f")
    _bug(ax, 6.2 + 0.02, 4.78, "g")
    _path(ax, (10.75, 5.1), (10.15, 5.1))
    ax.text(10.8, 5.1, "mask\n(B, T, U)", fontsize=8, va="center")
    for n, letter in enumerate("abde"):
        _bug(ax, 10.98 + 0.44 * (n % 2), 4.5 - 0.46 * (n // 2), letter)
    _path(ax, (7.9, 4.79), (7.9, 4.0), (6.5, 4.0))
    ax.text(8.0, 4.25, "(B, T, H, C)", **shape)
    _box(ax, 5.8, 4.0, 1.4, "o_proj")
    _path(ax, (5.1, 4.0), (stream + 0.2, 4.0))
    ax.text(4.45, 4.2, "(B, T, D)", ha="center", **shape)

    # feed-forward: read, widen through a gate, write
    _path(ax, (stream, 2.6), (4.2, 2.6))
    _box(ax, 4.8, 2.6, 1.2, "RMSNorm")
    _path(ax, (5.4, 2.6), (6.15, 2.6))
    _box(ax, 7.05, 2.6, 1.8, "gate_up_proj")
    _path(ax, (7.95, 2.75), (9.35, 2.75))
    _path(ax, (7.95, 2.45), (9.35, 2.45))
    ax.text(8.63, 2.97, "gate (B, T, F)", ha="center", **shape)
    ax.text(8.63, 2.2, "up (B, T, F)", ha="center", **shape)
    _box(ax, 10.25, 2.6, 1.8, "silu(gate) · up", False)
    _path(ax, (10.25, 2.29), (10.25, 1.0), (6.6, 1.0))
    _box(ax, 5.85, 1.0, 1.5, "down_proj")
    _path(ax, (5.1, 1.0), (stream + 0.2, 1.0))
    _bug(ax, 6.62, 1.32, "h")
    ax.text(4.45, 1.2, "(B, T, D)", ha="center", **shape)
    blank(ax, (0.1, 12.05), (0.15, 10.75))
    return fig


# -- a clock in the wrong type -----------------------------------------------------------------------------------------


def moved(angle_type, table_type, C=56, theta=1e6, T=2048):
    """Score of one (query, key) pair, five tokens apart, at every place of a sequence."""
    q_C, k_C = torch.randn(2, C, generator=torch.Generator().manual_seed(0))
    k_C, speed = q_C + k_C / 2, 1 / theta ** (torch.arange(0, C, 2) / C)

    def turn(x_C, p_T):
        angle = (p_T[:, None].to(angle_type) * speed.to(angle_type)).float()
        cos, sin = angle.cos().to(table_type), angle.sin().to(table_type)
        a, b = x_C.chunk(2)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

    p_T = torch.arange(5, T)
    return (turn(q_C, p_T) * turn(k_C, p_T - 5)).sum(-1) / C**0.5


def clock():
    """(figure, name -> largest change of the score [nats]) for angles and tables in fp32 or bf16."""
    wide, half = torch.float32, torch.bfloat16
    truth = moved(torch.float64, torch.float64)[0]
    curves = {
        "angles in bf16": (moved(half, wide), FURNACE),
        "fp32 angles,\ncosines in bf16": (moved(wide, half), SLATE),
        "all in fp32": (moved(wide, wide), STEEL),
    }
    fig, ax = figure(2.7)
    worst = {}
    for name, (score_T, color) in curves.items():
        change = (score_T - truth).abs().numpy()
        worst[name.replace("\n", " ")] = float(change.max())
        edges = range(0, len(change) - 11, 12)  # the largest of each dozen of positions
        peaks = [change[at : at + 12].max() for at in edges]
        ax.semilogy([5 + at for at in edges], peaks, color=color, lw=1.1)
        label_line(ax, 2048, float(np.median(peaks[-40:])), name, color)
    ax.set(
        xlim=(0, 2700),
        xticks=[0, 256, 512, 1024, 2048],
        ylim=(1e-8, 5),
        yticks=[1e-7, 1e-5, 1e-3, 0.1],
    )
    ax.set_yticklabels(["$10^{-7}$", "$10^{-5}$", "0.001", "0.1"])
    ax.minorticks_off()
    axis_units(ax, x="position of the pair (tokens)", y="change of the attention score (nats)")
    return fig, worst


# -- who may look where ------------------------------------------------------------------------------------------------


def masks(look):
    """The masks that `look` makes for one text, a packed row and a padded row of eight tokens."""
    T, pad = 8, 3
    one, packed = torch.arange(T)[None], torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2]])
    valid = torch.tensor([[0] * pad + [1] * (T - pad)])
    padded = (valid.cumsum(1) - 1).clamp_min(0)
    cases = (
        ("one text", "炉火红了师傅举锤", one, None),
        ("packed: two documents", "炉火红了。锤子响", packed, None),
        ("padded on the left", "···炉火红了。", padded, valid),
    )
    fig, axes = figure(2.5, ncols=3)
    for ax, (title, text, position, valid_BU) in zip(axes, cases):
        may_TU = look(position, 0, valid_BU)[0]
        for t in range(T):
            for u in range(T):
                filling = valid_BU is not None and t < pad
                color = SLATE if filling else STEEL
                ax.add_patch(Rectangle((u - 0.44, t - 0.44), 0.88, 0.88, lw=0.5, ec=SLATE, alpha=1,
                                       fc=color if may_TU[t, u] else "none"))  # fmt: skip
        if title.startswith("packed"):
            for at in ([4.5, 4.5], [-0.6, 7.6]), ([-0.6, 7.6], [4.5, 4.5]):
                ax.plot(*at, color=FURNACE, lw=1.3)
        blank(ax, (-0.7, T - 0.3), (T - 0.3, -0.7))
        ax.set_aspect("equal")
        ax.set_xticks(range(T), text, fontsize=9.5)
        ax.set_yticks(range(T), text, fontsize=9.5)
        ax.xaxis.tick_top()
        ax.tick_params(length=0, pad=1)
        ax.set_title(title, fontsize=9, loc="center", pad=6)
    axes[0].set_ylabel("token that looks")
    return fig


# -- the four agreements -----------------------------------------------------------------------------------------------


PITCH = 1.3  # from token to token, so that a frame of one leaves a gap to the next


def _row(ax, y, text, begin=0, filling=0) -> None:
    """One call: a frame around a cell a token, from column `begin` on, the first `filling` of them in grey."""
    left, width = begin * PITCH - 0.5, (len(text) - 1) * PITCH + 1
    ax.add_patch(FancyBboxPatch((left, y - 0.5), width, 1, boxstyle="round,pad=0.09,rounding_size=0.15", lw=1,
                                ec=INK, fc="none", zorder=3))  # fmt: skip
    for at, letter in enumerate(text):
        x, color = (begin + at) * PITCH, SLATE if at < filling else STEEL
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, lw=0, fc=color))
        ax.text(x, y, letter, ha="center", va="center", fontsize=9, color=PAPER)


def agreements():
    """Four panels: the calls that must give the same logits, and what the logits of a token may depend on."""
    one, two = "炉火红了师傅举锤", ("炉火红了。", "锤子响")
    fig, axes = figure(3.0, nrows=2, ncols=2)
    titles = ("cached = full", "padded = alone", "packed = separate", "future = 0")
    for ax, title in zip(axes.flat, titles):
        blank(ax, (-0.8, 7 * PITCH + 0.8), (3.9, -0.8))
        ax.set_aspect("equal")
        ax.set_title(title, fontsize=9, loc="center", pad=4)
    cached, padded, packed, future = axes.flat
    for ax in (cached, padded, packed):
        ax.text(3.5 * PITCH, 1.25, "=", ha="center", va="center", fontsize=12, color=INK)

    _row(cached, 0, one)
    _row(cached, 2.5, one[:4])
    for at in range(4, 8):
        _row(cached, 2.5, one[at], at)
    for at, name in ((1.5, "prefill"), (5.5, "single steps")):
        cached.text(at * PITCH, 3.5, name, ha="center", va="center", fontsize=8, color=SLATE)

    _row(padded, 0, "···" + two[0], filling=3)
    _row(padded, 2.5, two[0], 3)

    _row(packed, 0, "".join(two))
    packed.plot([4.5 * PITCH] * 2, [-0.75, 0.75], color=FURNACE, lw=1.8, zorder=4)
    _row(packed, 2.5, two[0])
    _row(packed, 2.5, two[1], 5)

    t = 4
    _row(future, 0, one[t], t)
    future.text((t - 0.7) * PITCH, 0, "logits", ha="right", va="center", fontsize=8, color=SLATE)
    _row(future, 2.9, one)
    for u in range(8):
        xs, ys = np.array([u, t + 0.09 * (u - t)]) * PITCH, np.array([2.3, 0.62])
        color, dash = (STEEL, "-") if u <= t else (FURNACE, (0, (2, 2)))
        future.plot(xs, ys, color=color, lw=1.1, ls=dash, solid_capstyle="butt")
        if u > t:
            future.text(0.6 * xs[0] + 0.4 * xs[1], 0.6 * ys[0] + 0.4 * ys[1], "×", ha="center", va="center",
                        fontsize=12, color=FURNACE)  # fmt: skip
    return fig


# -- the grid ----------------------------------------------------------------------------------------------------------

HEADINGS = {
    "equals Qwen2": "equals\nQwen2",
    "starts at ln V": "starts\nat ln V",
    "every weight moves": "every weight\nmoves",
    "memorises": "memorises",
    "cached = full": "cached\n= full",
    "padded = alone": "padded\n= alone",
    "packed = separate": "packed\n= separate",
    "future = 0": "future\n= 0",
}


def grid(verdicts: dict):
    """name of a bug -> {test: does it object}: orange where a test objects, with a rim where no other does, a count
    under each column."""
    tests = list(HEADINGS)
    fig, ax = figure(4.2)
    for row, objects in enumerate(verdicts.values()):
        for column, test in enumerate(tests):
            alone = objects[test] and sum(objects.values()) == 1
            edge, lw = (INK, 2.2) if alone else (SLATE, 0.6)
            ax.add_patch(Rectangle((column - 0.44, row - 0.42), 0.88, 0.84, lw=lw, edgecolor=edge,
                                   facecolor=FURNACE if objects[test] else PAPER))  # fmt: skip
    foot = len(verdicts)
    for column, test in enumerate(tests):
        found = sum(objects[test] for objects in verdicts.values())
        ax.text(column, foot + 0.05, f"{found}", ha="center", va="center", fontsize=9.5, color=INK)
    blank(ax, (-0.55, len(tests) - 0.45), (foot + 0.5, -0.5))
    ax.set_yticks(range(foot + 1), [*verdicts, "bugs found"])
    ax.set_xticks(range(len(tests)), HEADINGS.values(), fontsize=7.5)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    return fig
