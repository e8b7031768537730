"""The drawings of chapter 07: three tries at a mixture, who sees whom, how loud a layer is, what the future is worth,
and the layer that keeps time. Each function returns a figure in house style."""

from __future__ import annotations

import numpy as np
from matplotlib.patches import FancyBboxPatch, Rectangle

from figures.experiments.verdicts import paired
from figures.style import (
    FURNACE,
    HEAT,
    INK,
    OKABE_ITO,
    PAPER,
    SEMANTIC,
    SLATE,
    STEEL,
    arrow,
    axis_units,
    blank,
    figure,
    footer,
    label_line,
)  # fmt: skip

TOKENS, EXPERTS = SEMANTIC["tokens"], SEMANTIC["experts"]
SMALL = 7.5
COLOURS = {
    "v1": SLATE,
    "v2": SLATE,
    "v3": FURNACE,
    "v3 awake": OKABE_ITO["purple"],
    "causal": STEEL,
}


def _box(ax, x, y, w, h, text="", color=INK, fill=False, size=8.0) -> None:
    """A rounded box with its lower left corner at (x, y)."""
    ax.add_patch(FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0,rounding_size=0.08", ec=color, lw=1.1,
                                fc=color if fill else "none", alpha=0.85 if fill else 1))  # fmt: skip
    if text:
        middle, ink = (x + w / 2, y + h / 2), PAPER if fill else color
        ax.text(*middle, text, ha="center", va="center", fontsize=size, color=ink)


# -- three tries -------------------------------------------------------------------------------------------------------


def three_tries():
    """v1, v2 and v3 in one row each: tokens, dispatch, slots, experts, combine, tokens; the softmax axis outlined."""
    fig, ax = figure(5.0)
    T, J, side, pitch = 5, 3, 0.3, 3.1
    draw = np.random.default_rng(4).normal(size=(T, J)) * 1.1
    over = lambda axis: np.exp(draw) / np.exp(draw).sum(axis=axis, keepdims=True)  # noqa: E731
    x = {"in": 0.0, "dispatch": 1.35, "slots": 3.55, "experts": 4.75, "combine": 6.35, "out": 8.4}
    slot_y = lambda row, j: row - 0.34 - 0.6 * j  # noqa: E731

    def tokens(left, row):
        for t in range(T):
            ax.add_patch(
                Rectangle((left, row - 0.38 * t), 0.5, side, color=TOKENS, alpha=0.85, lw=0)
            )

    def weights(left, row, shares, axis):
        for t in range(T):
            for j in range(J):
                cell = (left + 0.38 * j, row - 0.38 * t)
                ax.add_patch(
                    Rectangle(cell, side, side, fc=STEEL, alpha=0.12 + 0.88 * shares[t, j], lw=0)
                )
        at, size = (left + 0.33, row - 0.38 * (T - 1) - 0.05), (side + 0.1, 0.38 * T + 0.02)
        if axis:
            at, size = (left - 0.05, row - 0.38 * 1 - 0.05), (0.38 * J + 0.02, side + 0.1)
        ax.add_patch(Rectangle(at, *size, fill=False, ec=FURNACE, lw=1.5))
        ax.text(left + 0.53, row + 0.45, "softmax over " + ("slots" if axis else "tokens"), ha="center",
                fontsize=SMALL, color=FURNACE)  # fmt: skip

    for n, name in enumerate(("v1", "v2", "v3")):
        row = -n * pitch
        ax.text(-1.05, row - 0.62, name, fontsize=12, color=INK, va="center")
        tokens(x["in"], row)
        tokens(x["out"], row)
        for j in range(J):
            _box(ax, x["experts"], slot_y(row, j) - 0.22, 0.85, 0.44, f"$f_{j + 1}$", EXPERTS)
        if n == 0:
            for t in range(T):
                for j in range(J):
                    ends = [0.55, x["experts"]], [row - 0.38 * t + 0.15, slot_y(row, j)]
                    ax.plot(*ends, color=TOKENS, lw=0.6, alpha=0.6)
            said = "every token through every expert"
            ax.text(2.6, row + 0.45, said, ha="center", fontsize=SMALL, color=SLATE)
            weights(x["combine"], row, over(1), 1)
            ax.texts[-1].set_text("softmax over experts")
        else:
            weights(x["dispatch"], row, over(n % 2), n % 2)
            weights(x["combine"], row, over(1 - n % 2), 1 - n % 2)
            arrow(ax, (0.6, row - 0.62), (1.2, row - 0.62))
            for j in range(J):
                slot = (x["slots"], slot_y(row, j) - 0.17)
                ax.add_patch(Rectangle(slot, 0.34, 0.34, fc="none", ec=TOKENS, lw=1.4))
                arrow(ax, (x["slots"] + 0.4, slot_y(row, j)), (x["experts"] - 0.05, slot_y(row, j)))
            arrow(ax, (2.6, row - 0.62), (3.4, row - 0.62))
        arrow(ax, (x["experts"] + 0.9, row - 0.94), (x["combine"] - 0.15, row - 0.94))
        arrow(ax, (x["combine"] + 1.25, row - 0.62), (x["out"] - 0.1, row - 0.62))
    top = 1.05
    middles = {"in": 0.25, "dispatch": 0.53, "slots": 0.17, "experts": 0.42, "combine": 0.53, "out": 0.25}  # fmt: skip
    for key, middle in middles.items():
        word = {"in": "tokens", "out": "tokens"}.get(key, key)
        ax.text(x[key] + middle, top, word, ha="center", fontsize=8.5, color=INK)
    for n in (1, 2):
        ax.plot([-1.1, 9.0], [0.95 - n * pitch] * 2, color=SLATE, lw=0.4)
    blank(ax, (-1.2, 9.1), (-2 * pitch - 1.95, 1.4))
    return fig


# -- who sees whom -----------------------------------------------------------------------------------------------------


def leak_maps(maps: dict, sentence: str, titles: dict):
    """Influence of the token below (column) on the output at the token left (row), each map by its own largest entry;
    exactly zero is blank."""
    fig, axes = figure(3.6, ncols=len(maps))
    _draw_maps(fig, axes, maps, sentence, titles)
    return fig


def who_reads_whom(maps: dict, sentence: str, titles: dict):
    """The two ways from the hammer to the comma, attention's and the slots', and beside them what `leak_maps` draws."""
    fig, (ax, *axes) = figure(4.1, wide=True, ncols=1 + len(maps))
    comma, hammer = sentence.index("，"), sentence.index("锤")
    for t, letter in enumerate(sentence):
        ax.add_patch(Rectangle((t - 0.42, 0), 0.84, 0.9, color=TOKENS, alpha=0.85, lw=0))
        ax.text(t, 0.45, letter, ha="center", va="center", fontsize=10, color=PAPER)
        if t != hammer:
            ax.plot([t, 7], [0.95, 2.9], color=TOKENS, lw=0.6, alpha=0.5)
        if t < comma:
            arrow(ax, (t, -0.1), (comma - 0.15, -0.1), SLATE, bend=0.45)
    _box(ax, 5.6, 2.95, 2.8, 0.9, "a slot", EXPERTS)
    arrow(ax, (hammer, 0.95), (8.1, 2.9), FURNACE, 1.6)
    arrow(ax, (5.9, 2.9), (comma, 0.98), FURNACE, 1.6)
    ax.plot([comma + 0.5] * 2, [-0.15, -2.1], color=INK, lw=3)
    arrow(ax, (hammer, -0.1), (comma + 0.68, -1.3), SLATE, bend=-0.3)
    ax.text(
        5.5, 4.2, "the window: every slot reads every token", ha="center", fontsize=8, color=FURNACE
    )
    ax.text(5.5, -2.8, "the locked door: attention's mask", ha="center", fontsize=8, color=INK)
    ax.set_title("two ways from the hammer\nto the comma", fontsize=9.5)
    blank(ax, (-0.7, 11.7), (-3.5, 4.7))
    _draw_maps(fig, axes, maps, sentence, titles)
    return fig


def _draw_maps(fig, axes, maps: dict, sentence: str, titles: dict) -> None:
    """A map of `maps` on each of `axes`, and one bar of colours."""
    T = len(sentence)
    for ax, (name, map_TT) in zip(axes, maps.items(), strict=True):
        shown = np.log10(np.where(map_TT > 0, map_TT, np.nan))
        image = ax.imshow(
            shown - np.nanmax(shown), cmap=HEAT, vmin=-3, vmax=0, interpolation="nearest"
        )
        ax.step(np.arange(T) + 0.5, np.arange(T) - 0.5, where="pre", color=FURNACE, lw=1.6)
        ax.set_title(f"{titles[name]}\nlargest entry {_power(float(map_TT.max()))}", fontsize=9.5)
        ax.set_xticks(range(T), sentence, fontsize=10)
        ax.set_yticks(range(T), sentence, fontsize=10)
        ax.tick_params(length=0)
        ax.set_xlabel("token that is changed")
        ax.grid(False)
    axes[0].set_ylabel("position that is read")
    bar = fig.colorbar(image, ax=list(axes), shrink=0.72, pad=0.02, ticks=[-3, -2, -1, 0])
    bar.ax.set_yticklabels(["≤ 0.001", "0.01", "0.1", "1"])
    bar.set_label("of the largest entry; blank: exactly zero", fontsize=8)
    bar.outline.set_visible(False)


def sci(value: float) -> str:
    """Two numbers a reader can say: 4 × 10⁻¹⁰."""
    digits, power = f"{value:.0e}".split("e")
    return f"{digits}\u00a0×\u00a010" + str(int(power)).translate(
        str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    )


def _power(value: float) -> str:
    digits, power = f"{value:.0e}".split("e")
    return f"{value:.1f}" if -2 < int(power) < 3 else rf"${digits}\times10^{{{int(power)}}}$"


# -- born dead ---------------------------------------------------------------------------------------------------------


def loudness(depth: dict, rows: dict, source: str):
    """Left: fresh layers of Steel's width by depth. Right: runs of `rows` (variant -> rows of an ablation)."""
    fig, axes = figure(2.9, ncols=2)
    for name, ratios in depth.items():
        axes[0].semilogy(range(1, len(ratios) + 1), ratios, color=COLOURS[name])
        shift = {"v1": 9, "v3": 9, "v3 awake": -9}[name]
        label_line(
            axes[0], len(ratios), ratios[-1], name, COLOURS[name], xytext=(-2, shift), ha="right"
        )
    axes[0].axhline(2**-24, color=INK, lw=0.7, ls=(0, (4, 3)))
    axes[0].text(1, 2**-24 * 1.6, "lost in fp32", fontsize=SMALL, color=INK)
    axes[0].set(xticks=[1, 6, 12, 18])
    axis_units(
        axes[0], x="layer", title="At birth, width 1,792", y="feed-forward over residual (RMS)"
    )
    for name, found in rows.items():
        curves = np.array([[np.exp(np.mean(np.log(v))) for _, v in r["ratio"]] for r in found])
        steps = [step for step, _ in found[0]["ratio"]]
        for curve in curves:
            axes[1].semilogy(steps, curve, color=COLOURS[name], lw=1.2)
        shift = {"causal": 11, "v3 awake": 1, "v3": -9}[name]
        last = np.exp(np.log(curves[:, -1]).mean())
        label_line(axes[1], steps[-1], last, name, COLOURS[name], xytext=(5, shift))
    axes[1].set(xlim=(0, 690), xticks=[0, 250, 500])
    axis_units(
        axes[1],
        x="training step",
        title="In training, width 64, three seeds",
        y="geometric mean over layers",
    )
    for ax in axes:
        ax.set_ylim(1e-10, 10)
        ax.set_yticks([1e-9, 1e-6, 1e-3, 1], ["$10^{-9}$", "$10^{-6}$", "$10^{-3}$", "1"])
    footer(fig, source)
    return fig


def stairs(*values) -> str:
    """The loss of loudness as a staircase in text: RMS after each step, factor lost, bar on a logarithmic scale."""
    steps = (
        "input, after RMSNorm",
        "F.normalize",
        "averaged into slots",
        "the first gate",
        "the second gate",
    )
    lines, before = [], None
    for step, value in zip(steps, values, strict=True):
        rms = value.square().mean().sqrt().item()
        lost = f"÷ {float(f'{before / rms:.2g}'):,g}" if before else ""
        lines.append(f"{step:21}{rms:8.0e}  {lost:10}{'█' * round(3 * (10 + np.log10(rms)))}")
        before = rms
    return "\n".join(lines)


# -- one loss, three numbers -------------------------------------------------------------------------------------------


def three_losses(rows: dict, source: str):
    """Each model against its own teacher-forced loss: what the same predictions cost on prefixes and from a cache."""
    fig, ax = figure(2.9)
    for at, (name, found) in enumerate(reversed(rows.items())):
        for key, mark, shift in (("prefix_loss", "o", 0.13), ("cached_loss", "s", -0.13)):
            cost = paired([r[key] for r in found], [r["paired_loss"] for r in found])
            if cost.mean < 1e-3:
                ax.plot(0, at, mark, color=COLOURS[name], ms=6, mfc=PAPER)
                continue
            how = {"fmt": mark, "color": COLOURS[name], "mfc": PAPER, "ms": 6, "lw": 1.2}
            ax.errorbar(cost.mean, at + shift, xerr=cost.half, **how)
            spread = [r[key] - r["paired_loss"] for r in found]
            ax.plot(spread, [at + shift] * len(found), "o", color=COLOURS[name], ms=2.5, mew=0)
            ax.text(cost.mean, at + shift + (0.17 if shift > 0 else -0.2), f"{cost.mean:+.2f}", fontsize=SMALL,
                    ha="center", va="bottom" if shift > 0 else "top", color=COLOURS[name])  # fmt: skip
        if found[0]["prefix_loss"] - found[0]["paired_loss"] < 1e-3:
            ax.text(0.025, at, "both zero", fontsize=SMALL, va="center", color=COLOURS[name])
    ax.axvline(0, color=INK, lw=0.8)
    ax.set(
        yticks=range(len(rows)),
        yticklabels=list(reversed(rows)),
        ylim=(-0.6, len(rows) - 0.35),
        xlim=(-0.05, 1.02),
    )
    last = paired(*([r[k] for r in rows["v3 awake"]] for k in ("cached_loss", "paired_loss"))).mean
    top = len(rows) - 1 - list(rows).index("v3 awake")
    ax.annotate("from its prefix", (0.08, top + 0.13), (0.2, top + 0.3), fontsize=8, va="center", color=INK,
                arrowprops={"arrowstyle": "-", "color": SLATE, "lw": 0.6, "shrinkB": 5})  # fmt: skip
    ax.annotate("from a cache", (last, top - 0.13), (last, top + 0.38), fontsize=8, ha="center", color=INK,
                arrowprops={"arrowstyle": "-", "color": SLATE, "lw": 0.6, "shrinkB": 5})  # fmt: skip
    ax.grid(axis="x")
    ax.grid(False, axis="y")
    axis_units(ax, x="loss minus the same model's teacher-forced loss (nats/token)")
    footer(fig, source)
    return fig


# -- the layer that keeps time -----------------------------------------------------------------------------------------


def two_clocks():
    """The causal layer with its symbols: tokens tick one by one, slots once a segment."""
    fig, ax = figure(4.6)
    C, step, gap, box = 4, 0.62, 0.95, 1.62
    width = C * step
    green = SEMANTIC["memory"]
    y = {"x": 6.0, "N": 4.85, "n": 3.75, "u": 2.65, "z": 1.55, "y": 0.0}
    for s in range(3):
        left = s * (width + gap)
        for t in range(C):
            for key in ("x", "y"):
                at = (left + t * step + 0.06, y[key])
                ax.add_patch(Rectangle(at, step - 0.12, 0.42, color=TOKENS, alpha=0.85, lw=0))
        ax.text(left + width / 2, y["x"] + 0.62, f"segment {s}", ha="center", fontsize=8.5)
        middle = left + box / 2
        _box(ax, left, y["N"], box, 0.5, f"$N_{s},\\ M_{s}$", green)
        _box(ax, left, y["n"], box, 0.5, f"$n_{s},\\ m_{s}$" + ("$= 0$" if s == 0 else ""), green)
        _box(ax, left, y["u"], box, 0.5, f"$u_{s}$", TOKENS)
        _box(ax, left, y["z"], box, 0.5, f"$z_{s} = f_j(u_{s})$", EXPERTS)
        arrow(ax, (middle, y["x"] - 0.05), (middle, y["N"] + 0.55), green)
        arrow(ax, (middle, y["n"] - 0.03), (middle, y["u"] + 0.53), SLATE)
        arrow(ax, (middle, y["u"] - 0.03), (middle, y["z"] + 0.53), SLATE)
        arrow(ax, (middle, y["z"] - 0.03), (middle, y["y"] + 0.47), EXPERTS, 1.3)
        shared = left + 3 * step + step / 2
        arrow(ax, (shared, y["x"] - 0.05), (shared, y["y"] + 0.47), STEEL, 1.3)
        ax.text(shared + 0.09, 3.3, "$f_0$", fontsize=9, color=STEEL)
        own = left + box + 0.11  # the shares of the third token: between the boxes and f0
        ax.plot([own, own], [y["x"] - 0.03, 0.98], color=EXPERTS, lw=0.8)
        arrow(ax, (own, 0.98), (middle + 0.06, 0.98), EXPERTS, 0.8)
        if s < 2:
            ahead = left + width + gap
            arrow(ax, (left + box + 0.03, y["N"] + 0.1), (ahead - 0.04, y["n"] + 0.38), green, 1.3)
            arrow(ax, (left + box + 0.03, y["n"] + 0.15), (ahead - 0.04, y["n"] + 0.15), SLATE)
            below = {"ha": "center", "va": "top", "fontsize": 8.5, "color": SLATE}
            ax.text(ahead - 0.5, y["n"] - 0.02, "$\\times\\,\\gamma$", **below)
    note = {"fontsize": SMALL, "va": "center", "ha": "right"}
    ax.text(-0.2, y["x"] + 0.2, "tokens  $x_t$", **note)
    ax.text(-0.2, 5.62, "weigh  $w_{tj}$", color=green, **note)
    ax.text(-0.2, y["N"] + 0.25, "sums of a segment", color=green, **note)
    ax.text(-0.2, y["n"] + 0.25, "sums of the past", color=green, **note)
    ax.text(-0.2, 3.4, "prior  $\\pi_j b_j$, rms", color=SLATE, **note)
    ax.text(-0.2, y["u"] + 0.25, "slots", color=TOKENS, **note)
    ax.text(-0.2, y["z"] + 0.25, "slot experts, once", color=EXPERTS, **note)
    ax.text(-0.2, 0.98, "share out  $c_{tj}$, by $x_t$", color=EXPERTS, **note)
    ax.text(-0.2, y["y"] + 0.2, "outputs  $y_t$", **note)
    right, said = 2 * (width + gap) + width + 0.2, "shared expert,\nevery token"
    ax.text(right, 3.38, said, fontsize=SMALL, color=STEEL, va="center")
    blank(ax, (-2.25, 3 * width + 2 * gap + 1.35), (-0.15, 6.95))
    return fig
