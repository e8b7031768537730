"""The drawings of chapter 10: the path of a token, a permutation on a grid, an epoch that grows, quotas, and a run as
it was read. Each function returns a figure in house style."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import FancyBboxPatch, Rectangle

from figures.style import (
    FURNACE,
    GRID,
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

SMALL = 7.5
PALE, DARK, ON_DARK, ON_PALE = (
    "#d3e1ea",
    "#2b5876",
    "#fbfaf6",
    "#202a34",
)  # the same in light and dark pages
SOURCES = ("#34668a", OKABE_ITO["sky"], OKABE_ITO["orange"], OKABE_ITO["vermillion"])


# -- the path of a token -----------------------------------------------------------------------------------------------

SHUFFLED = (5, 0, 3, 6, 2, 7, 4, 1)


def path_of_a_token():
    """Documents, shards, order, batch, ranks; and the three things that may happen on the way."""
    fig, ax = figure(2.75)
    blank(ax, (0, 100), (0, 41))
    titles = ((8, "documents"), (29, "shards"), (53, "order"), (73.5, "batch"), (92, "ranks"))
    notes = ("of any length", "one line of tokens,\ncut into samples", "which sample\ncomes when",
             "the next four\nof the order", "one process a GPU,\neach takes its rows")  # fmt: skip
    for (x, word), note in zip(titles, notes):
        ax.text(x, 39, word, ha="center", fontsize=9, color=INK)
        ax.text(x, 36.6, note, ha="center", va="top", fontsize=SMALL, color=SLATE, linespacing=1.15)

    def sample(x, y, number, width=4.6):
        ax.add_patch(Rectangle((x, y), width, 3.4, fc=SOURCES[number // 4], ec=PAPER, lw=0.8))
        ax.text(
            x + width / 2,
            y + 1.6,
            str(number),
            ha="center",
            va="center",
            fontsize=7.5,
            color=ON_DARK if number < 4 else ON_PALE,
        )

    for top, colour, widths in ((26.5, SOURCES[0], (13, 6, 9)), (16, SOURCES[1], (8, 14, 5))):
        for k, width in enumerate(widths):
            ax.add_patch(Rectangle((1, top - 2.5 * k), width, 1.7, color=colour, lw=0))
    for y, first in ((23.6, 0), (13.1, 4)):
        for k in range(4):
            sample(20 + 4.6 * k, y, first + k)
        arrow(ax, (15.5, y + 1.7), (19.4, y + 1.7))
    for t, number in enumerate(SHUFFLED):  # two columns of an epoch
        x, y = 48.3 + 4.8 * (t // 4), 25.4 - 3.9 * (t % 4)
        sample(x, y, number)
        side = {"x": x - 0.5, "ha": "right"} if t < 4 else {"x": x + 5.1, "ha": "left"}
        ax.text(y=y + 1.6, s=str(t), va="center", fontsize=6.5, color=SLATE, **side)
    arrow(ax, (39, 25.3), (45.4, 22.5))
    arrow(ax, (39, 14.8), (45.4, 17.6))
    for row, number in enumerate(SHUFFLED[4:]):
        sample(71.2, 25.4 - 3.9 * row, number)
    arrow(ax, (60.5, 20.5), (70, 20.5))
    for rank, y in ((0, 25.4), (1, 13.7)):
        shape = "round,pad=0,rounding_size=0.8"
        ax.add_patch(
            FancyBboxPatch((85.3, y - 4.2), 13.4, 9, boxstyle=shape, fc="none", ec=INK, lw=1)
        )
        ax.text(92, y + 3, f"rank {rank}", ha="center", va="center", fontsize=SMALL, color=INK)
        for k, number in enumerate(SHUFFLED[4 + rank :: 2]):
            sample(86.9 + 5.4 * k, y - 2.9, number)
        arrow(ax, (76.6, 20.5), (84.6, y + 0.3))
    for x, y, word in (
        (8, 9.2, "new texts arrive"),
        (65, 12.2, "kill -9"),
        (92, 7.6, "other number\nof GPUs"),
    ):
        ax.text(
            x, y - 2.7, word, ha="center", va="top", fontsize=8, color=FURNACE, linespacing=1.15
        )
        arrow(ax, (x, y - 2.2), (x, y + (6.6 if x == 65 else 1.2)), FURNACE)
    shape = "round,pad=0,rounding_size=0.8"
    ax.add_patch(
        FancyBboxPatch(
            (30, 0.6), 27, 6.4, boxstyle=shape, fc=PAPER, ec=FURNACE, lw=1.2, ls="dashed"
        )
    )
    question = "checkpoint: what must it\nremember of all this?"
    ax.text(43.5, 3.8, question, ha="center", va="center", fontsize=SMALL, color=INK)
    return fig


# -- a permutation on a grid -------------------------------------------------------------------------------------------


def slide(
    cells: np.ndarray, sides: tuple[int, int], number: int, key: int, scramble: Callable
) -> np.ndarray:
    """(row, column) pairs after one round: even rounds slide columns along the rows, odd rounds rows."""
    a, b = sides
    moved = cells.copy()
    for one in moved:
        if number % 2 == 0:
            one[0] = (one[0] + scramble(int(one[1]) ^ key, a)) % a
        else:
            one[1] = (one[1] + scramble(int(one[0]) ^ key, b)) % b
    return moved


def grid_walk(n: int, keys: list[int], scramble: Callable):
    """n positions on their grid at the start, after rounds 1, 2 and the last, and when all walkers are inside."""
    b = math.isqrt(n - 1) + 1
    sides = a, b = -(-n // b), b
    every = np.array([divmod(t, b) for t in range(a * b)])
    states = [every]
    for i, key in enumerate(keys):
        states.append(slide(states[-1], sides, i, key, scramble))
    once = states[-1] @ [b, 1]  # place of every number after one pass
    final = once.copy()
    while (out := final[:n] >= n).any():
        final[:n][out] = once[final[:n][out]]
    walkers = np.flatnonzero(once[:n] >= n)
    stages = [
        (states[0], "position t"),
        (states[1], "round 1:\ncolumns slide"),
        (states[2], "round 2:\nrows slide"),
        (states[-1], f"round {len(keys)}: {len(walkers)} are\noutside"),
        (np.stack(np.divmod(final, b), axis=1), "walked on:\nall inside"),
    ]
    fig, axes = figure(1.7, ncols=5)
    ramp = [_mixed(t / (n - 1)) for t in range(n)]
    for step, (ax, (cells, title)) in enumerate(zip(axes, stages)):
        blank(ax, (-0.15, b + 0.15), (a + 0.35, -0.15))
        ax.set_aspect("equal")
        ax.set_title(title, fontsize=8.5, loc="center", linespacing=1.1)
        _lines(ax, a, b)
        for k in range(n, a * b):
            cell = Rectangle(
                (k % b, k // b), 1, 1, fc="none", ec=SLATE, lw=0.9, ls="dashed", zorder=3
            )
            ax.add_patch(cell)
        for t in range(n):
            row, column = cells[t]
            ax.add_patch(
                Rectangle((column + 0.06, row + 0.06), 0.88, 0.88, fc=ramp[t], lw=0, zorder=2)
            )
            ax.text(column + 0.5, row + 0.52, str(t), ha="center", va="center", fontsize=6.5, zorder=4,
                    color=ON_DARK if t > n * 0.45 else ON_PALE)  # fmt: skip
            if t in walkers:
                ax.add_patch(
                    Rectangle(
                        (column + 0.06, row + 0.06),
                        0.88,
                        0.88,
                        fc="none",
                        ec=FURNACE,
                        lw=1.7,
                        zorder=5,
                    )
                )
        if step == 3:
            for t in walkers:
                (r0, c0), (r1, c1) = cells[t], divmod(int(final[t]), b)
                ax.annotate("", (c1 + 0.5, r1 + 0.5), (c0 + 0.86, r0 + 0.14), zorder=6,
                            arrowprops={"arrowstyle": "-|>", "color": FURNACE, "lw": 1.3, "shrinkA": 0, "shrinkB": 0,
                                        "connectionstyle": "arc3,rad=0.3"})  # fmt: skip
    return fig


def _lines(ax, a: int, b: int) -> None:
    """The lines of a grid, as one path."""
    x = [v for k in range(b + 1) for v in (k, k, math.nan)] + [0, b, math.nan] * (a + 1)
    y = [0, a, math.nan] * (b + 1) + [v for k in range(a + 1) for v in (k, k, math.nan)]
    ax.plot(x, y, color=GRID, lw=0.6, zorder=1)


def _mixed(share: float) -> tuple:
    """From pale to dark."""
    pale, dark = (np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) / 255 for c in (PALE, DARK))
    return tuple(pale + (dark - pale) * share)


# -- an epoch that grows -----------------------------------------------------------------------------------------------


def strips(stages: list[list[int]], marks: list[int]):
    """Positions of an epoch of 40 samples as begun, after 16 were added, after 8 more, and of the next epoch; and the
    way of one old sample from its place in the third order to the second and the first."""
    fig, ax = figure(2.6)
    names = ("as begun", f"16 added at {marks[0]}", f"8 added at {marks[1]}", "next epoch")
    for row, (stage, name) in enumerate(zip(stages, names)):
        for t, s in enumerate(stage):
            tint = SOURCES[(s >= 20) + (s >= 40) + (s >= 56)]
            ax.add_patch(Rectangle((t, 3 - row), 0.88, 0.6, color=tint, lw=0))
        ax.text(-1, 3.3 - row, name, ha="right", va="center", fontsize=8.5)
    for row, c in enumerate(marks, 1):
        ax.plot([c - 0.06] * 2, [2.9 - row, 3.7 - row], color=INK, lw=1.2)
    places = _way(stages, marks[-1])
    for row, t in enumerate(places):
        ax.add_patch(Rectangle((t, 3 - row), 0.88, 0.6, fc="none", ec=INK, lw=1.3, zorder=3))
        if row:
            arrow(ax, (t + 0.44, 3.63 - row), (places[row - 1] + 0.44, 3.97 - row), INK)
    words = ("source A", "source B", "first append", "second append")
    for x, text, color in zip((0, 13, 26, 40), words, SOURCES):
        ax.add_patch(Rectangle((x, 4.15), 0.88, 0.5, color=color, lw=0))
        ax.text(x + 1.6, 4.4, text, va="center", fontsize=8.5)
    ax.set(xlim=(-0.2, 64), ylim=(-0.2, 4.8), yticks=[], xlabel="position in the epoch (samples)")
    ax.grid(False)
    ax.spines["left"].set_visible(False)
    return fig


def _way(stages: list[list[int]], mark: int) -> list[int]:
    """Places in the first, second and third order of a sample of the first, unread at `mark`, which moved least."""
    ways = [[stage.index(s) for stage in stages[:3]] for s in stages[0]]
    late = [way for way in ways if way[2] >= mark and len(set(way)) == 3]
    return min(late, key=lambda way: abs(way[2] - way[1]) + abs(way[1] - way[0]))


# -- a mixture ---------------------------------------------------------------------------------------------------------


def quota_walk(code: np.ndarray, share: float, quota: int, block: int):
    """Two blocks of ten slots with their draws counted; below, draws of one source ahead of its share, by quotas and
    drawn at random with four seeds."""
    fig, (top, ax) = figure(3.2, nrows=2, height_ratios=(1, 3.1))
    _two_blocks(top)
    at = np.arange(0, len(code), 512)
    due = share * np.arange(1, len(code) + 1)
    draw = np.random.default_rng(4)
    walks = [(np.cumsum(draw.random(len(code)) < share) - due)[at] for _ in range(4)]
    for walk in walks:
        ax.plot(at / block, walk, color=SLATE, lw=0.8, alpha=0.8)
    ax.plot(at / block, (np.cumsum(code) - due)[at], color=STEEL)
    ends = np.arange(1, len(code) // block + 1)
    behind = ends * (quota - share * block)
    assert np.allclose((np.cumsum(code) - due)[ends * block - 1], behind)
    ax.plot(ends, behind, "o", color=INK, ms=3.5)
    label_line(ax, ends[-1], 0, "quotas", STEEL)
    label_line(ax, ends[-1], max(w[-1] for w in walks), "drawn at\nrandom,\nfour seeds", SLATE)
    ax.set(xlim=(0, ends[-1] + 0.5))
    axis_units(
        ax,
        x=f"slots of the run (blocks of {block:,})",
        y=f"draws of code ahead of its {share:.0%} (samples)",
    )
    return fig


def _two_blocks(ax) -> None:
    """Slots 0 to 19 in blocks of ten, 6 : 3 : 1, and in each the number of the draw of its source."""
    blank(ax, (-2.6, 24.5), (-0.75, 2.1))
    names, drawn = ("web", "books", "code"), [0, 0, 0]
    colours = SOURCES[:3]
    for slot, k in enumerate(int(c) for c in "01002010010102001001"):
        x = slot + 0.4 * (slot >= 10)
        ax.add_patch(Rectangle((x, 0), 0.92, 0.9, color=colours[k], lw=0))
        tint = ON_PALE if k else ON_DARK
        ax.text(x + 0.46, 0.43, str(drawn[k]), ha="center", va="center", fontsize=8, color=tint)
        ax.text(x + 0.46, -0.42, str(slot), ha="center", va="center", fontsize=6.5, color=SLATE)
        drawn[k] += 1
    assert drawn == [12, 6, 2]
    for y, word in ((0.43, "draw"), (-0.42, "slot")):
        ax.text(-0.35, y, word, ha="right", va="center", fontsize=8, color=SLATE)
    for x, word in ((5, "block 0"), (15.4, "block 1")):
        ax.text(x, 1.5, f"{word}: 6, 3, 1", ha="center", va="center", fontsize=8, color=INK)
    for y, name, color in zip((1.1, 0.35, -0.4), names, colours):
        ax.add_patch(Rectangle((21.3, y - 0.22), 0.5, 0.44, color=color, lw=0))
        ax.text(22.1, y, name, va="center", fontsize=8, color=INK)


# -- the run as it was read --------------------------------------------------------------------------------------------


def run_as_read(sources: list[list[str]], resumed: int, lived: int, names: tuple[str, str, str]):
    """Every sample of a run as a cell, by source. resumed: step from which the second life counts; lived: steps of the
    first."""
    grid = np.array([[names.index(s) for s in step] for step in sources]).T
    colours = [*SOURCES[:2], SOURCES[3]]
    fig, ax = figure(1.9)
    look = {"cmap": ListedColormap(colours), "aspect": "auto", "interpolation": "nearest"}
    ax.imshow(grid, vmin=0, vmax=2, **look)
    ax.plot(*np.argwhere(grid == 2).T[::-1], ".", color=INK, ms=2.5)  # seen in grey, too
    ax.axvline(resumed - 0.5, color=INK, lw=1.2)
    ax.axvline(lived - 0.5, color=INK, lw=1, ls=(0, (3, 2)))
    ax.text(
        resumed - 1, -1.0, "resumed here, letters appended", fontsize=8.5, va="center", ha="right"
    )
    ax.text(lived - 0.5, -1.0, "killed here", fontsize=8.5, va="center")
    for x, name, color in zip((84, 102, 120), names, colours):
        ax.plot(x, -1.0, "s", color=color, ms=6, clip_on=False)
        ax.text(x + 2, -1.0, name, fontsize=8.5, va="center")
    ax.set(xlim=(-0.5, len(sources) - 0.5), ylim=(len(grid) - 0.5, -0.5), yticks=[])
    ax.set_xlabel(f"step ({len(grid)} samples each, one cell a sample)")
    ax.grid(False)
    return fig
