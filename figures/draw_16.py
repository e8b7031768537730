"""The drawings of chapter 16: one step on one group, the napkin's tree, shares of worked answers, the price of length,
and what each stage of the town's life changed. Each function returns a figure in house style."""

from __future__ import annotations

from matplotlib.patches import FancyBboxPatch

from figures.lives import moved, signed
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
COLOURS = (OKABE_ITO["orange"], STEEL, OKABE_ITO["green"])
LOG = "figures/runs/parity-rl.json, three seeds a row"


def one_step(prompt: str, answers: list[str], rewards: list[float], advantages: list[float]):
    """A prompt, its group of answers, what each is paid, its advantage, and what happens to its tokens."""
    fig, ax = figure(3.1)
    blank(ax, (0, 100), (-3, 47))
    columns = ((9, "prompt", "bits and a sign"), (34, "group", "eight answers, drawn"),
               (57, "reward", "is the last bit right?"), (74, "advantage", "less the mean, over\nthe deviation"),
               (91.5, "pushed", "every token\nof this answer"))  # fmt: skip
    for x, word, note in columns:
        ax.text(x, 45.5, word, ha="center", fontsize=9, color=INK)
        ax.text(x, 43.2, note, ha="center", va="top", fontsize=SMALL, color=SLATE, linespacing=1.15)
    box = {"boxstyle": "round,pad=0,rounding_size=0.7", "ec": "none"}
    ax.add_patch(FancyBboxPatch((0.5, 17.2), 17, 4.6, fc=MIDDLE, **box))
    ax.text(9, 19.5, prompt, ha="center", va="center", fontsize=SMALL, color=ON_PALE)
    for i, (said, paid, pushed) in enumerate(zip(answers, rewards, advantages, strict=True)):
        y = 33.5 - 4.6 * i
        arrow(ax, (18, 19.5), (22.6, y + 1.6), lw=0.6)
        ax.add_patch(FancyBboxPatch((23, y), 4 + 1.1 * len(said), 3.3, fc=PALE, **box))
        ax.text(24.2, y + 1.6, said, va="center", fontsize=SMALL, color=ON_PALE)
        ax.text(57, y + 1.6, f"{paid:.0f}", ha="center", va="center", fontsize=8.5, color=INK)
        ax.text(74, y + 1.6, signed(pushed, 2), ha="center", va="center", fontsize=8.5, color=INK)
        up = pushed > 0
        ax.text(91.5, y + 1.6, "up" if up else "down",
                ha="center", va="center", fontsize=SMALL, color=STEEL if up else FURNACE)  # fmt: skip
    first = {bit: sum(a for said, a in zip(answers, advantages) if said[0] == bit) for bit in "01"}
    words = ",  ".join(f"{bit} by {signed(push, 2)}" for bit, push in first.items())
    ax.text(
        91.5,
        -2.5,
        f"first tokens, added up:  {words}",
        ha="right",
        va="center",
        fontsize=SMALL,
        color=SLATE,
    )
    return fig


def napkin(values: tuple[float, ...]):
    """A perfect imitation after the sign, token by token, and its masses at some shares p of worked answers."""
    fig, ax = figure(1.75)
    blank(ax, (0, 100), (-3, 30))
    box = {"boxstyle": "round,pad=0,rounding_size=0.7", "ec": "none"}
    places = {"sign": (1, 10, "16 bits, =", 13), "first": (28, 17, "the first bit", 15),
              "other": (28, 3, "the other bit", 15), "on": (61, 22, "goes on", 11),
              "end": (61, 12.4, "ends", 11), "stop": (61, 3, "ends", 11)}  # fmt: skip
    for x, y, word, width in places.values():
        ax.add_patch(FancyBboxPatch((x, y), width, 4.6, fc=PALE, **box))
        ax.text(
            x + width / 2, y + 2.2, word, ha="center", va="center", fontsize=SMALL, color=ON_PALE
        )
    mass = {"first": (lambda p: p + (1 - p) / 2, "p + ½(1 − p)"), "other": (lambda p: (1 - p) / 2, "½(1 − p)"),
            "on": (lambda p: p, "p"), "end": (lambda p: (1 - p) / 2, "½(1 − p)"),
            "stop": (lambda p: (1 - p) / 2, "")}  # fmt: skip
    for start, end, up in (("sign", "first", 3.6), ("sign", "other", -3.6), ("first", "on", 2.9),
                           ("first", "end", -2.9), ("other", "stop", 1.4)):  # fmt: skip
        (x, y, _, width), (to, at, _, _) = places[start], places[end]
        begin, stop = (x + width + 0.4, y + 2.3), (to - 0.6, at + 2.3)
        arrow(ax, begin, stop, lw=0.8)
        middle = ((begin[0] + stop[0]) / 2 - 1.5, (begin[1] + stop[1]) / 2 + up)
        ax.text(*middle, mass[end][1], ha="center", va="center", fontsize=SMALL, color=SLATE)
    for column, p in enumerate(values):
        x = 80 + 8.5 * column
        ax.text(x, 29, f"p = {p:g}", ha="center", va="center", fontsize=SMALL, color=SLATE)
        larger = max(("on", "end"), key=lambda name: mass[name][0](p))
        for name in ("on", "end"):
            ax.text(x, places[name][1] + 2.2, f"{mass[name][0](p):.2f}", ha="center", va="center", fontsize=8.5,
                    color=(STEEL if name == "on" else FURNACE) if name == larger else SLATE)  # fmt: skip
    return fig


def shares(rows: list[dict]):
    """Greedy accuracy, drawn length and accuracy of drawn chains at each probe, for each share of worked answers."""
    fig, axes = figure(2.9, ncols=3)
    keys = ("greedy_accuracy", 100), ("drawn_length", 1), ("drawn_long_right", 100)
    label = {0.1: (18, 66), 0.25: (3, 85), 0.4: (0, 105)}
    for (share, place), colour in zip(label.items(), COLOURS, strict=True):
        curves = [r["curve"] for r in rows if r["share"] == share]
        steps = [probe["step"] for probe in curves[0]]
        label_line(axes[0], *place, f"p = {share:g}", colour)
        for ax, (key, scale) in zip(axes, keys, strict=True):
            for curve in curves:
                ax.plot(
                    steps, [scale * probe[key] for probe in curve], color=colour, lw=1.3, alpha=0.85
                )
    for ax in (axes[0], axes[2]):
        ax.set(ylim=(40, 109))
    axes[0].axhline(50, color=SLATE, lw=0.8, ls=":")
    label_line(axes[0], 40, 50, "a coin", SLATE, xytext=(-2, -7), ha="right")
    label_line(axes[2], 6, 56, "p = 0.25", COLOURS[1])
    label_line(axes[2], 21, 74, "p = 0.1", COLOURS[0])
    axes[1].set(ylim=(0, 20))
    titles = (
        "likeliest answers\nright (%)",
        "length of drawn answers\n(tokens, end included)",
        "drawn chains\nright (%)",
    )
    for ax, title in zip(axes, titles, strict=True):
        axis_units(ax, x="GRPO step", y=title)
    footer(fig, f"{LOG}; a line is a seed")
    return fig


def price(rows: list[dict], even: float):
    """Where runs end after 40 steps, by the price of 16 tokens beyond a guess's two."""
    fig, axes = figure(2.5, ncols=2)
    x = [r["penalty"] for r in rows]
    for ax, key, scale in ((axes[0], "greedy_accuracy", 100), (axes[1], "drawn_length", 1)):
        ax.axvline(even, color=FURNACE, lw=1, ls="--")
        ax.plot(x, [scale * r["curve"][-1][key] for r in rows], "o", color=STEEL, ms=5, alpha=0.75)
        ax.set(xlim=(-0.05, 0.8))
    axes[0].set(ylim=(40, 103))
    axes[1].set(ylim=(0, 19))
    label_line(axes[1], even, 15, "computed", FURNACE, xytext=(5, 0))
    axis_units(axes[0], x="price λ of 16 tokens (reward)", y="likeliest answers right (%)")
    axis_units(axes[1], x="price λ of 16 tokens (reward)", y="length of drawn answers (tokens)")
    footer(fig, f"{LOG}; p = 0.25, step 40; one dot a seed")
    return fig


def town(rows: list[dict], ways: dict[str, str]):
    """What fine-tuning, preferences and rewards each changed: single lives, and their mean with twice its error.

    ways: key of a measure -> its name.
    """
    fig, axes = figure(2.6, ncols=3, sharey=True)
    names = {"sft": "fine-tuning", "dpo": "preferences", "grpo": "rewards"}
    for ax, (stage, name) in zip(axes, names.items(), strict=True):
        for y, way in enumerate(reversed(ways)):
            change, error = moved(rows, stage, way)
            lives = [100 * r["changes"][way][0] for r in rows if r["stage"] == stage]
            ax.plot(lives, [y + 0.3] * len(lives), "|", color=SLATE, ms=5, mew=0.9)
            color = STEEL if abs(change) > 2 * error else SLATE
            ax.errorbar(change, y, xerr=2 * error, fmt="o", color=color, ms=4.5, lw=1.2)
        ax.axvline(0, color=SLATE, lw=0.8)
        ax.grid(False)
        axis_units(ax, x="change (points)", y=name)
    axes[0].set_yticks(range(len(ways)), list(reversed(ways.values())))
    footer(
        fig,
        "figures/runs/life-seeds.json: three lives of preset laptop; bars: two standard errors of their mean",
    )
    return fig
