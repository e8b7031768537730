"""The drawings of chapter 08: the arms side by side, one gate and two, birth, and what the seeds tell.
Each function returns a figure in house style."""

from __future__ import annotations

import numpy as np
from matplotlib.patches import FancyBboxPatch, Rectangle

from figures.experiments.reading import ASKED, BUDGETS
from figures.style import (
    FURNACE,
    GRID,
    INK,
    OKABE_ITO,
    PAPER,
    SEMANTIC,
    SLATE,
    STEEL,
    arrow,
    axis_units,
    figure,
    footer,
    label_line,
)  # fmt: skip

TOKENS, EXPERTS = SEMANTIC["tokens"], SEMANTIC["experts"]
SMALL = 7.5
COLOURS = {
    "dense": SLATE,
    "one expert": OKABE_ITO["sky"],
    "causal": STEEL,
    "placebo": FURNACE,
    "top-2": OKABE_ITO["green"],
    "two gates": OKABE_ITO["purple"],
}


def _canvas(height: float, xlim, ylim, **more):
    fig, ax = figure(height, **more)
    ax.set(xlim=xlim, ylim=ylim)
    ax.axis("off")
    return fig, ax


def _box(ax, x, y, w, h, text="", color=INK, fill=0.0, size=8.0, style="solid") -> None:
    shape = "round,pad=0,rounding_size=0.06"
    if fill:
        ax.add_patch(
            FancyBboxPatch((x, y), w, h, boxstyle=shape, fc=color, ec="none", alpha=fill, lw=0)
        )
    ax.add_patch(FancyBboxPatch((x, y), w, h, boxstyle=shape, fc="none", ec=color, lw=1.1, ls=style))  # fmt: skip
    if text:
        ax.text(x + w / 2, y + h / 2, text, ha="center", va="center", fontsize=size, color=INK)


# -- the arms ----------------------------------------------------------------------------------------------------------


def arms():
    """One row per arm: a token, the feed-forward it could meet, what fills the slots, its work."""
    fig, ax = _canvas(4.6, (-2.35, 11.75), (-2.3, 10.3))
    left, wide, pitch, high = 3.2, 0.72, 0.8, 0.78
    top = 9.75
    for x, word, ha in (
        (-2.35, "arm", "left"),
        (0.25, "token", "center"),
        (left + 2.4, "feed-forward", "center"),
        (8.55, "weights that one\ntoken pays for", "left"),
    ):
        ax.text(x, top, word, fontsize=8.5, color=SLATE, ha=ha, va="center")
    rows = (
        ("dense", "6 of 6"),
        ("one expert", "1 of 1"),
        ("top-2", "2 of 6"),
        ("causal", "1 of 6, and 5 shared\namong C tokens"),
        ("placebo", "the same"),
        ("two gates", "6 of 6"),
    )
    for n, (name, price) in enumerate(rows):
        y = 7.9 - 1.95 * n
        ax.text(-2.35, y + high / 2, name, fontsize=10.5, color=INK, va="center")
        ax.text(8.55, y + high / 2, price, fontsize=8.5, color=INK, va="center")
        ax.add_patch(Rectangle((0.05, y + 0.2), 0.4, 0.4, color=TOKENS, alpha=0.9, lw=0))
        at = lambda j: left + pitch * j  # noqa: B023, E731
        middle = y + high / 2
        if name in ("dense", "two gates"):
            words = (
                "one layer, six times as wide"
                if name == "dense"
                else "narrower, with a second gate"
            )
            _box(ax, left, y, 5 * pitch + wide, high, words, EXPERTS, 0.35)
            arrow(ax, (0.55, middle), (left - 0.08, middle), TOKENS, 1.4)
            continue
        for j in range(6):
            met = j == 0 if name != "top-2" else j in (1, 4)
            absent = name == "one expert" and j > 0
            slots = name in ("causal", "placebo") and j > 0
            if absent:
                continue
            label = "shared" if name in ("causal", "placebo") and j == 0 else ""
            fill = 0.35 if met else 0.0
            _box(ax, at(j), y, wide, high, label, EXPERTS if met or slots else SLATE, fill, 6.5,
                 style="solid" if met or slots else (0, (2, 2)))  # fmt: skip
            if slots:
                square = Rectangle((at(j) + 0.18, y + 0.2), 0.36, 0.36, fc=TOKENS if name == "causal" else "none",
                                   ec=TOKENS, alpha=0.55 if name == "causal" else 1, lw=1.0)  # fmt: skip
                ax.add_patch(square)
        if name == "top-2":
            ax.text(1.65, middle + 0.32, "router", fontsize=SMALL, color=INK, ha="center")
            arrow(ax, (0.55, middle), (1.4, middle), TOKENS, 1.4)
            ax.plot([1.55], [middle], marker="D", color=TOKENS, ms=6)
            ax.plot(
                [1.65, 2.3, at(1) + wide / 2], [middle, y - 0.35, y - 0.35], color=TOKENS, lw=1.2
            )
            ax.plot([at(1) + wide / 2, at(4) + wide / 2], [y - 0.35] * 2, color=TOKENS, lw=1.2)
            for j in (1, 4):
                arrow(ax, (at(j) + wide / 2, y - 0.35), (at(j) + wide / 2, y - 0.04), TOKENS, 1.4)
        else:
            arrow(ax, (0.55, middle), (left - 0.08, middle), TOKENS, 1.4)
        if name in ("causal", "placebo"):
            y_line = y - 0.42
            if name == "causal":
                for k in range(8):
                    ax.add_patch(
                        Rectangle(
                            (0.05 + 0.3 * k, y_line - 0.12),
                            0.22,
                            0.22,
                            color=TOKENS,
                            alpha=0.45,
                            lw=0,
                        )
                    )
                ax.plot([2.5, at(5) + wide / 2], [y_line, y_line], color=TOKENS, lw=1.0, alpha=0.7)
                for j in range(1, 6):
                    arrow(ax, (at(j) + wide / 2, y_line), (at(j) + wide / 2, y - 0.03), TOKENS)
                ax.text(
                    8.55,
                    y_line - 0.12,
                    "slots: averages of the past",
                    fontsize=SMALL,
                    color=TOKENS,
                    va="center",
                )
            else:
                ax.text(
                    8.55,
                    y_line - 0.02,
                    "slots: nothing in them",
                    fontsize=SMALL,
                    color=TOKENS,
                    va="center",
                )
    return fig


# -- one gate and two --------------------------------------------------------------------------------------------------


def gates(volume, heard: dict, slope: dict, source: str):
    """Left: the two layers at equal weights, box widths to scale. Right: output against input, double logarithmic."""
    fig, axes = figure(3.7, wide=True, ncols=2, width_ratios=(1.35, 1))
    ax = axes[0]
    ax.set(xlim=(-6.6, 8.4), ylim=(-0.6, 10.4))
    ax.axis("off")
    for middle, name, inner, twice in ((-3.4, "one gate", 2.4, 1), (3.9, "two gates", 1.8, 2)):
        width = 1.6  # of D
        colour = STEEL if twice == 2 else SLATE
        ax.text(middle, 10.0, name, ha="center", fontsize=10.5, color=colour)
        _box(ax, middle - width / 2, 0.2, width, 0.6, "$x$", TOKENS)
        ax.text(
            middle + width / 2 + 0.15, 0.5, "width $D$", fontsize=SMALL, color=SLATE, va="center"
        )
        _box(ax, middle - inner - 0.1, 2.2, inner, 0.6, "$a$", INK, size=8.5)
        _box(ax, middle + 0.1, 2.2, inner, 0.6, "$b$", INK, size=8.5)
        _box(ax, middle - inner / 2, 4.0, inner, 0.6, "silu$(a)\\,b$", FURNACE, 0.25, 7.5)
        ax.text(
            middle + inner / 2 + 0.15, 4.3, "width $F$", fontsize=SMALL, color=SLATE, va="center"
        )
        arrow(ax, (middle, 0.85), (middle, 2.1))
        ax.text(middle + 0.15, 1.45, "$2 D F$ weights", fontsize=SMALL, color=SLATE, va="center")
        for side in (-1, 1):
            arrow(ax, (middle + side * (inner / 2 + 0.1), 2.85), (middle + side * inner / 4, 3.93))
        if twice == 1:
            arrow(ax, (middle, 4.65), (middle, 9.0 - 0.35))
            ax.text(middle + 0.15, 6.4, "$F D$ weights", fontsize=SMALL, color=SLATE, va="center")
        else:
            arrow(ax, (middle, 4.65), (middle, 6.1))
            ax.text(middle + 0.15, 5.3, "$2 F D$ weights", fontsize=SMALL, color=SLATE, va="center")
            for side, letter in ((-1, "$c$"), (1, "$d$")):
                _box(ax, middle + (0.1 if side > 0 else -width - 0.1), 6.2, width, 0.6, letter)
                arrow(
                    ax, (middle + side * (width / 2 + 0.1), 6.85), (middle + side * width / 4, 8.6)
                )
        text = "" if twice == 1 else "silu$(c)\\,d$"
        ax.text(
            middle + width / 2 + 0.15,
            8.95,
            "$y$, width $D$",
            fontsize=SMALL,
            color=SLATE,
            va="center",
        )
        _box(ax, middle - width / 2, 8.65, width, 0.6, text,
             FURNACE if twice == 2 else TOKENS, 0.25 if twice == 2 else 0, 7.5)  # fmt: skip
    ax = axes[1]
    for number, color, name in ((1, SLATE, "one gate"), (2, STEEL, "two gates")):
        ax.loglog(volume, heard[number], color=color)
        label_line(
            ax, volume[-1], heard[number][-1], f"{name}\nslope {slope[number][-1]:.2f}", color
        )
        label_line(ax, volume[0], heard[number][0], f"slope {slope[number][0]:.2f}", color,
                   xytext=(0, 24) if number == 1 else (18, 2))  # fmt: skip
    ax.axvline(1.0, color=INK, lw=0.8, ls=(0, (4, 3)))
    ax.annotate(
        "after\nRMSNorm", (1.0, 3e-14), xytext=(4, 0), textcoords="offset points", fontsize=8
    )
    ax.set(xlim=(7e-4, 3e4), ylim=(1e-15, 1e10), xticks=[1e-3, 1e-2, 1e-1, 1, 10, 100])
    ax.set_yticks([1e-12, 1e-8, 1e-4, 1, 1e4, 1e8])
    ax.minorticks_off()
    axis_units(ax, x="RMS of the input", y="RMS of the output")
    footer(fig, source)
    return fig


# -- birth -------------------------------------------------------------------------------------------------------------


def birth(born: dict):
    """Share of the stream that each layer's feed-forward adds at birth; born: (expert, width, std) -> ratios."""
    fig, axes = figure(2.9, ncols=2, sharey=True)
    for ax, expert in zip(axes, ("swiglu", "double_swiglu"), strict=True):
        for width in (64, 256):
            for std, color in ((None, STEEL), (0.02, SLATE)):
                curve = born[expert, width, std]
                style = "-" if width == 256 else (0, (4, 2))
                ax.semilogy(range(1, 25), curve, color=color, ls=style)
                if std:
                    label_line(
                        ax,
                        24,
                        curve[-1],
                        f"D = {width}",
                        SLATE,
                        xytext=(5, 3 if width == 256 else -6),
                    )
        ax.set(xlim=(1, 31), xticks=[1, 8, 16, 24], ylim=(3e-6, 2))
        ax.set_xlabel("layer")
        label_line(ax, 24, born[expert, 256, None][-1], "ours", STEEL)
    axes[0].set_title("one gate\nfeed-forward over stream (RMS)")
    axes[1].set_title("two gates\n")
    return fig


def woken(runs: dict, steps: list[int]):
    """Left: how loud the last layer is in the first steps. Right: held-out loss at the end, a dot per seed.

    runs: (arm, std) -> list of (loudness by evaluation, losses by evaluation), one a seed.
    """
    fig, axes = figure(3.3, ncols=2, width_ratios=(1.25, 1))
    look = {("dense", None): (SLATE, "-"), ("dense", 0.02): (SLATE, (0, (3, 2))),
            ("two gates", None): (STEEL, "-"), ("two gates", 0.02): (STEEL, (0, (3, 2)))}  # fmt: skip
    names = ("one gate, ours", "one gate, 0.02", "two gates, ours", "two gates, 0.02")
    for name, (key, (color, style)) in zip(names, look.items(), strict=True):
        for seed, (loud, _) in enumerate(runs[key]):
            axes[0].semilogy(steps, loud, color=color, ls=style, lw=1.1, alpha=0.8,
                             label="" if seed else name)  # fmt: skip
    axes[0].set(xticks=steps[::2], ylim=(6e-5, 2))
    axis_units(axes[0], x="step", y="last layer over stream (RMS)")
    fig.legend(loc="outside lower center", ncol=4, fontsize=SMALL, handlelength=2.4)
    for at, (key, (color, _)) in enumerate(look.items()):
        last = [losses[-1] for _, losses in runs[key]]
        axes[1].plot(
            [at] * len(last), last, "o", color=color, ms=5, mfc=color if key[1] is None else PAPER
        )
    axes[1].set(xlim=(-0.5, 3.5), xticks=range(4),
                xticklabels=["one gate\nours", "one gate\n0.02", "two gates\nours", "two gates\n0.02"])  # fmt: skip
    axes[1].tick_params(axis="x", labelsize=7)
    axis_units(axes[1], y=f"held-out loss after {steps[-1]} steps (nats/token)")
    return fig


# -- what the seeds tell -----------------------------------------------------------------------------------------------


def outcome(losses: dict, found: dict, source: str):
    """Left: mean held-out loss of each arm at three budgets. Right: every difference that was asked, at the three.

    losses: budget -> arm -> losses, one a seed.
    """
    fig, axes = figure(4.6, wide=True, ncols=2, width_ratios=(1, 1.35))
    ax = axes[0]
    means = {arm: [float(np.mean(losses[k][arm])) for k in BUDGETS] for arm in losses["tokens"]}
    for arm, line in means.items():
        ax.plot(range(3), line, "o-", color=COLOURS[arm], ms=5, lw=1.6)
    for k in range(3):
        best = min(means, key=lambda arm: means[arm][k])  # noqa: B023
        ax.plot([k], [means[best][k]], "o", ms=12, mfc="none", mec=INK, mew=1.0)
        if k < 2:  # at the last budget the labels of the lines say it
            level = [arm for arm in means if means[arm][k] < means[best][k] + 0.005]
            ax.annotate(", ".join(level), (k, means[best][k]), xytext=(0, -15), textcoords="offset points",
                        ha="center", fontsize=8.5, color=INK)  # fmt: skip
    low, high = min(min(v) for v in means.values()), max(max(v) for v in means.values())
    at, step = -np.inf, (high - low) / 15
    for arm in sorted(
        means, key=lambda arm: means[arm][2]
    ):  # labels apart where the lines end together
        at = max(at + step, means[arm][2])
        ax.plot([2.05, 2.14], [means[arm][2], at], color=COLOURS[arm], lw=0.5)
        label_line(ax, 2.14, at, f"{arm} {means[arm][2]:.2f}", COLOURS[arm], xytext=(2, 0))
    ax.set(xlim=(-0.3, 2.95), ylim=(low - 2.2 * step, max(high, at) + step), xticks=range(3),
           xticklabels=[f"equal\n{name}" for name in BUDGETS.values()])  # fmt: skip
    axis_units(ax, y="held-out loss (nats/token)")
    ax = axes[1]
    marks = {"tokens": "o", "flops": "s", "seconds": "^"}
    pairs = [pair for pair in ASKED if pair in found["tokens"]]
    widest = max(abs(one.difference.mean) for found_ in found.values() for one in found_.values())
    for row, (a, b) in enumerate(reversed(pairs)):
        if row % 2:
            ax.axhspan(row - 0.5, row + 0.5, color=GRID, alpha=0.45, lw=0)
        for k, budget in enumerate(BUDGETS):
            one, y = found[budget][a, b], row + 0.28 * (1 - k)
            color = COLOURS[a]
            ax.errorbar(one.difference.mean, y, xerr=one.difference.half, fmt=marks[budget], color=color, ms=6,
                        lw=1.3, mfc=color if one.established else PAPER)  # fmt: skip
            if row == len(pairs) - 1:  # the marks mean the same in every row
                ax.annotate(BUDGETS[budget], (1.0, y), xycoords=("axes fraction", "data"), fontsize=8, va="center",
                            color=INK, xytext=(4, 0), textcoords="offset points")  # fmt: skip
    ax.axvline(0, color=INK, lw=0.9)
    ax.set(
        yticks=range(len(pairs)),
        yticklabels=[f"{a}\nminus {b}" for a, b in reversed(pairs)],
        ylim=(-0.55, len(pairs) - 0.45),
    )
    ax.tick_params(axis="y", labelsize=8.5, length=0)
    ax.grid(False, axis="y")
    low, high = ax.get_xlim()
    ax.set_xlim(max(low, -3.5 * widest), min(high, 3.5 * widest))
    ax.text(
        0.0, 1.015, "← the first is better", fontsize=SMALL, color=SLATE, transform=ax.transAxes
    )
    ax.text(
        1.0,
        1.015,
        "the second is better →",
        fontsize=SMALL,
        color=SLATE,
        ha="right",
        transform=ax.transAxes,
    )
    axis_units(ax, x="difference of held-out loss (nats/token)", y="")
    footer(fig, source)
    return fig
