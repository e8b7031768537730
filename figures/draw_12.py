"""Drawings of chapter 12: what a ladder is, losses over parameters with their law, rates, and two valleys."""

from __future__ import annotations

import numpy as np

from figures.experiments import laws
from figures.style import FURNACE, INK, OKABE_ITO, SLATE, STEEL, axis_units, figure, label_line

SHADE = 0.16


def ladder(widths: list[int], parameters: list[int]):
    """Rungs and their target side by side: a square's sides are parameters and tokens, its area is the work.

    widths [channels] and parameters of every run, the target last. Inside each square runs its learning rate.
    """
    fig, ax = figure(2.75)
    unit = 1 / parameters[-1]
    x, gap, ends = 0.0, 0.1, []
    for width, n in zip(widths, parameters):
        side, color = n * unit, FURNACE if width == widths[-1] else STEEL
        target = width == widths[-1]
        x += 0.34 if target else 0.0
        ax.fill([x, x + side, x + side, x], [0, 0, side, side], color=color, alpha=SHADE, lw=0)
        edge = {"color": color, "lw": 1, "ls": (0, (4, 2)) if target else "-"}
        ax.plot([x, x + side, x + side, x, x], [0, 0, side, side, 0], **edge)
        rate = [0.0, 0.75 * side, 0.75 * side, 0.0]
        ax.plot([x, x + 0.1 * side, x + 0.7 * side, x + side], rate, color=color, lw=1)
        ax.plot(x + side, 0, "o", color=color, ms=4.5, zorder=4, clip_on=False)
        ax.text(x + side / 2, side + 0.03, f"{width}", ha="center", va="bottom", color=color)
        ends.append((x, x + side))
        x += side + gap
    low, high = ends[0][0], ends[-2][1]
    ax.plot([low, low, high, high], [-0.07, -0.11, -0.11, -0.07], color=INK, lw=0.8)
    for at, text in (
        ((low + high) / 2, "1 · climb: small runs, widths in\nchannels, whole schedules"),
        ((ends[-2][1] + ends[-1][0]) / 2 + 0.02, "2 · fit, and write\nthe forecast down"),
        (sum(ends[-1]) / 2 + 0.08, "3 · train the large one,\ncompare"),
    ):
        ax.text(at, -0.17, text, ha="center", va="top", fontsize=8.5, linespacing=1.25)
    arrow = {"arrowstyle": "->", "color": INK, "lw": 0.9}
    start, stop = (ends[-2][1] + 0.05, 0.3), (ends[-1][0] - 0.05, 0.3)
    ax.annotate("", stop, start, arrowprops=arrow)
    ax.text((start[0] + stop[0]) / 2, 0.34, "$L(x)$", ha="center", va="bottom", color=INK)
    left = ends[-1][1] + 0.05
    ax.annotate("", (left, 1), (left, 0), arrowprops=arrow | {"color": SLATE})
    ax.text(left + 0.03, 0.5, "parameters", rotation=90, va="center", color=SLATE, fontsize=8)
    ax.annotate("", (0.34, 0.62), (0, 0.62), arrowprops=arrow | {"color": SLATE})
    ax.text(0, 0.65, "tokens read", va="bottom", color=SLATE, fontsize=8)
    ax.text(
        0, 0.86, "line inside: learning rate\narea: FLOPs", va="bottom", color=SLATE, fontsize=8
    )
    ax.set(xlim=(-0.05, left + 0.14), ylim=(-0.42, 1.14), aspect="equal")
    ax.axis("off")
    return fig


def rates(tries: list[dict]):
    """Loss over the learning rate, one panel an optimizer, one line a width; the lowest mean of each is ringed.

    Dots are seeds, lines go through their means.
    """
    fig, axes = figure(2.9, ncols=2, sharey=True)
    shades = dict(zip((24, 40, 64), (SLATE, OKABE_ITO["sky"], STEEL)))
    for ax, (optimizer, name) in zip(axes, (("adamw", "AdamW"), ("muon", "Muon"))):
        for width, color in shades.items():
            own = [r for r in tries if (r["optimizer"], r["width"]) == (optimizer, width)]
            ax.plot([r["rate"] for r in own], [r["loss"] for r in own], "o", color=color, ms=2.2)
            at = sorted({r["rate"] for r in own})
            means = [float(np.mean([r["loss"] for r in own if r["rate"] == rate])) for rate in at]
            ax.plot(at, means, color=color)
            low = int(np.argmin(means))
            ax.plot(at[low], means[low], "o", mfc="none", mec=FURNACE, ms=9)
            label_line(ax, at[0], means[0], f"{width}", color, xytext=(-5, 0), ha="right")
        ax.set(xscale="log", xlim=(0.34, 9.5))
        ax.set_xticks([0.5, 1, 2, 4, 8], ["½", "1", "2", "4", "8"])
        ax.minorticks_off()
        y = f"{name}: held-out loss (nats/token)"
        axis_units(ax, x="learning rate (times the pair's)", y=y)
    return fig


def over_parameters(ax, points: list[tuple], f: dict, found: list[float], x: str, others=()):
    """Losses over parameters on logarithmic axes, the law of forecast `f` through `points`, and what came.

    points, others: (parameters, loss) of the rungs that were fitted and of those that were not. found: losses of the
    target, one a seed. Returns the target's place on the axis (thousands of parameters).
    """
    N, loss = (np.array(column) for column in zip(*points))
    at, law, plain = f["at"] / 1e3, laws.Law(**f["law"]), laws.fit(N, loss, floor=0.0)
    grid = np.geomspace(N.min() / 1e3 * 0.93, at * 1.03, 80)
    ax.plot(grid, plain(grid * 1e3), color=SLATE, lw=1, ls=(0, (4, 3)))
    ax.plot(grid, law(grid * 1e3), color=STEEL, lw=1.4)
    for n, y in others:  # beside the own ones, which would hide them
        ax.plot(n / 1e3 * 0.97, y, "o", color=SLATE, ms=3, alpha=0.7, mew=0)
    ax.plot(N / 1e3, loss, "o", color=INK, ms=3.6, mew=0)
    ax.plot([at] * len(found), found, "o", color=FURNACE, ms=4, zorder=4, alpha=0.85, mew=0)
    ax.set(xscale="log", yscale="log")
    ticks = sorted({float(f"{v:.2g}") for v in [*N / 1e3, at]})
    ax.set_xticks(ticks, [f"{v:g}" for v in ticks])
    digits = 1 if loss.max() - min(found) > 1 else 2
    levels = np.round(np.geomspace(min(found), loss.max(), 5), digits)
    ax.set_yticks(levels, [f"{v:g}" for v in levels])
    ax.minorticks_off()
    axis_units(ax, x=x, y="held-out loss (nats/token)")
    return at


def throws(points: list[tuple], forecasts: list[dict], found: list[float]):
    """Left: all seeds' rungs, the first seed's law, and the targets. Right: one forecast and its target a line.

    points: (parameters, loss, whether it belongs to the first seed's ladder).
    """
    fig, (left, right) = figure(3.0, ncols=2, width_ratios=(1.1, 1))
    own, others = ([p[:2] for p in points if p[2] == mine] for mine in (True, False))
    at = over_parameters(left, own, forecasts[0], found, "parameters (thousands)", others)
    label_line(left, at, min(found), "the sixth", FURNACE, xytext=(-7, 3), ha="right")
    label_line(left, own[1][0] / 1e3, own[1][1], "law of seed 1", STEEL, xytext=(7, 5))
    for y, (f, loss) in enumerate(zip(forecasts, found)):
        right.plot(
            [f["low"], f["high"]], [y, y], color=STEEL, lw=3, alpha=0.45, solid_capstyle="butt"
        )
        right.plot(f["loss"], y, "|", color=INK, ms=12, mew=1.5)
        right.plot(loss, y, "o", color=FURNACE, ms=5, zorder=4)
    label_line(right, forecasts[0]["loss"], 0, "forecast", INK, xytext=(0, 12), ha="center")
    label_line(right, found[0], 0, "measured", FURNACE, xytext=(0, -11), ha="center")
    right.set_yticks(range(len(found)), [f"{y + 1}" for y in range(len(found))])
    right.set_ylim(len(found) - 0.6, -0.8)
    right.grid(axis="x")
    axis_units(right, x="the sixth model's held-out loss (nats/token)", y="seed")
    return fig


def real_text(rows: list[dict], f: dict):
    """The ladder on real text in the same way, with the smallest model trained twice as long beside it."""
    fig, ax = figure(2.9)
    sizes = [(r["parameters"]["total"], r["loss"], r["tokens"]) for r in rows]
    points = [(n, loss) for n, loss, tokens in sizes if n < f["at"] and tokens < 5 * n]
    found = [loss for n, loss, _ in sizes if n == f["at"]]
    at = over_parameters(ax, points, f, found, "parameters (thousands)")
    for name, factor, (low, high), alpha in (
        ("seeds", 1.06, (f["low"], f["high"]), 1),
        ("all", 1.16, f["honest"], 0.45),
    ):
        ax.plot(
            [at * factor] * 2, [low, high], color=STEEL, lw=3, alpha=alpha, solid_capstyle="butt"
        )
        place = {"xytext": (0, 8), "ha": "center", "fontsize": 8}
        label_line(ax, at * factor, high, name, STEEL, **place)
    n, loss = next((n, loss) for n, loss, tokens in sizes if tokens > 5 * n)
    ax.plot(n / 1e3, loss, "o", mfc="none", mec=SLATE)
    label_line(ax, n / 1e3, loss, "width 24, twice the tokens", SLATE, xytext=(8, -4))
    label_line(ax, at, found[0], "width 64", FURNACE, xytext=(-7, -4), ha="right")
    return fig


def valleys(N: float, D: float):
    """Loss over parameters at the compute 6ND, one panel a fit; dashed, the budget whose best shape is as good."""
    fig, axes = figure(2.9, ncols=2, sharey=True)
    C, x = 6 * N * D, np.geomspace(3e8, 3e10, 100)
    for ax, law, title in (
        (axes[0], laws.CHINCHILLA, "constants of 2022"),
        (axes[1], laws.CHINCHILLA_REFIT, "the same data fitted again, 2024"),
    ):
        cheap = laws.same_loss(law, N, D)
        ax.plot(x, law(x, C / 6 / x), color=STEEL)
        ax.plot(x, law(x, cheap[2] * C / 6 / x), color=SLATE, lw=1, ls=(0, (4, 3)))
        ax.plot([N, cheap[0]], [law(N, D)] * 2, color=FURNACE, lw=1)
        ax.plot(N, law(N, D), "o", color=FURNACE, zorder=3)
        ax.plot(cheap[0], law(N, D), "o", color=SLATE, mfc="white", zorder=3)
        best = law.optimum(C)
        ax.plot(best[0], law(*best), "o", color=STEEL, mfc="white", zorder=3)
        label_line(ax, N, law(N, D), "Steel", FURNACE, xytext=(-6, -4), ha="right")
        text = f"as good for {cheap[2]:.0%}\nof the FLOPs"
        label_line(ax, cheap[0], law(N, D), text, SLATE, xytext=(0, 22), ha="center")
        place = {"xytext": (0, -12), "ha": "center"}
        label_line(ax, best[0], law(*best), f"{best[0] / 1e9:.1f} B", STEEL, **place)
        ax.set(xscale="log", ylim=(2.1, 2.45))
        ax.set_xticks([3e8, 1e9, 3e9, 1e10, 3e10], ["0.3 B", "1 B", "3 B", "10 B", "30 B"])
        ax.minorticks_off()
        axis_units(ax, x="parameters", y="predicted loss (nats/token)", title=title)
    return fig
