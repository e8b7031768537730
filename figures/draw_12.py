"""Drawings of chapter 12: what a ladder is, with every run's work as an area."""

from __future__ import annotations

from figures.style import FURNACE, INK, SLATE, STEEL, figure

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
        ax.plot([x, x + 0.05 * side, x + 0.7 * side, x + side], rate, color=color, lw=1)
        ax.plot(x + side, 0, "o", color=color, ms=4.5, zorder=4, clip_on=False)
        ax.text(x + side / 2, side + 0.03, f"{width}", ha="center", va="bottom", color=color)
        ends.append((x, x + side))
        x += side + gap
    low, high = ends[0][0], ends[-2][1]
    ax.plot([low, low, high, high], [-0.07, -0.11, -0.11, -0.07], color=INK, lw=0.8)
    for at, text in (
        ((low + high) / 2, "1 · climb: small runs,\nwhole schedules"),
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
    ax.set(xlim=(-0.05, left + 0.14), ylim=(-0.48, 1.14), aspect="equal")
    ax.axis("off")
    return fig
