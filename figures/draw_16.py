"""The drawings of chapter 16: one step on one group, shares of worked answers, the price of length, and what each
stage of the town's life changed. Each function returns a figure in house style."""

from __future__ import annotations

from matplotlib.patches import FancyBboxPatch

from figures.style import (
    FURNACE,
    INK,
    OKABE_ITO,
    SLATE,
    STEEL,
    arrow,
    axis_units,
    blank,
    figure,
    footer,
    label_line,
    seed_band,
)

SMALL = 7.5
PALE, MIDDLE, ON_PALE = "#d3e1ea", "#a9c6d8", "#202a34"  # the same in light and dark pages
COLOURS = (OKABE_ITO["orange"], STEEL, OKABE_ITO["green"])
LOG = "figures/runs/parity-rl.json, three seeds a row"


def one_step(prompt: str, answers: list[str], rewards: list[float], advantages: list[float]):
    """A prompt, its group of answers, what each is paid, its advantage, and what happens to its tokens."""
    fig, ax = figure(3.1)
    blank(ax, (0, 100), (-3, 47))
    columns = ((9, "prompt", "bits and a sign"), (34, "group", "eight answers, drawn"),
               (57, "reward", "is the last bit right?"), (74, "advantage", "less the mean, over\nthe deviation"),
               (91.5, "tokens", "of this answer become"))  # fmt: skip
    for x, word, note in columns:
        ax.text(x, 45.5, word, ha="center", fontsize=9, color=INK)
        ax.text(x, 43.2, note, ha="center", va="top", fontsize=SMALL, color=SLATE, linespacing=1.15)
    box = {"boxstyle": "round,pad=0,rounding_size=0.7", "ec": "none"}
    ax.add_patch(FancyBboxPatch((0.5, 17.2), 17, 4.6, fc=MIDDLE, **box))
    ax.text(9, 19.5, prompt, ha="center", va="center", fontsize=6.3, color=ON_PALE)
    for i, (said, paid, pushed) in enumerate(zip(answers, rewards, advantages, strict=True)):
        y = 33.5 - 4.6 * i
        arrow(ax, (18, 19.5), (22.6, y + 1.6), lw=0.6)
        ax.add_patch(FancyBboxPatch((23, y), 4 + 1.1 * len(said), 3.3, fc=PALE, **box))
        ax.text(24.2, y + 1.6, said, va="center", fontsize=6.8, color=ON_PALE)
        ax.text(57, y + 1.6, f"{paid:.0f}", ha="center", va="center", fontsize=8.5, color=INK)
        ax.text(
            74,
            y + 1.6,
            f"{pushed:+.2f}".replace("-", "−"),
            ha="center",
            va="center",
            fontsize=8.5,
            color=INK,
        )
        up = pushed > 0
        ax.text(91.5, y + 1.6, "likelier, to ×1.2" if up else "rarer, to ×0.8",
                ha="center", va="center", fontsize=SMALL, color=STEEL if up else FURNACE)  # fmt: skip
    return fig


def shares(rows: list[dict]):
    """Greedy accuracy and mean drawn length at each probe, for each share of worked answers."""
    fig, axes = figure(2.9, ncols=2)
    for share, colour in zip(sorted({r["share"] for r in rows}), COLOURS, strict=True):
        curves = [r["curve"] for r in rows if r["share"] == share]
        steps = [probe["step"] for probe in curves[0]]
        for ax, key, scale in ((axes[0], "greedy_accuracy", 100), (axes[1], "drawn_length", 1)):
            values = [[scale * probe[key] for probe in curve] for curve in curves]
            seed_band(ax, steps, values, colour)
    axes[0].set(ylim=(40, 109))
    axes[0].axhline(50, color=SLATE, lw=0.8, ls=":")
    label_line(axes[0], 40, 50, "a coin", SLATE, xytext=(-4, -7), ha="right")
    at = {0.1: ((12, 62), (23, 9)), 0.25: ((3, 81), (0.5, 14)), 0.4: ((0, 105), (4, 18.3))}
    for (share, places), colour in zip(at.items(), COLOURS, strict=True):
        for ax, (x, y) in zip(axes, places, strict=True):
            label_line(ax, x, y, f"p = {share:g}", colour)
    axes[1].set(ylim=(0, 20))
    axis_units(axes[0], x="GRPO step", y="likeliest answers right (%)")
    axis_units(axes[1], x="GRPO step", y="length of drawn answers (tokens, end included)")
    footer(fig, f"{LOG}; line: median, band: all seeds")
    return fig


def price(rows: list[dict], even: float):
    """Where runs end after 40 steps, by the price of a whole chain."""
    fig, axes = figure(2.5, ncols=2)
    x = [r["penalty"] for r in rows]
    for ax, key, scale in ((axes[0], "greedy_accuracy", 100), (axes[1], "drawn_length", 1)):
        ax.axvline(even, color=FURNACE, lw=1, ls="--")
        ax.plot(x, [scale * r["curve"][-1][key] for r in rows], "o", color=STEEL, ms=5, alpha=0.75)
        ax.set(xlim=(-0.05, 0.8))
    axes[0].set(ylim=(40, 103))
    axes[1].set(ylim=(0, 19))
    label_line(axes[1], even, 15, "computed", FURNACE, xytext=(5, 0))
    axis_units(axes[0], x="price λ of a whole chain (reward)", y="likeliest answers right (%)")
    axis_units(axes[1], x="price λ of a whole chain (reward)", y="length of drawn answers (tokens)")
    footer(fig, f"{LOG}; p = 0.25, step 40; one dot a seed")
    return fig


WAYS = {
    "generate": "right option, written",
    "written": "its letter, too",
    "conversation": "conversation",
    "text": "text scoring",
    "letter": "letter alone",
}


def town(pooled: dict):
    """What fine-tuning, preferences and rewards each changed, with twice the standard error."""
    fig, axes = figure(2.5, ncols=3, sharey=True)
    names = {"sft": "fine-tuning", "dpo": "preferences", "grpo": "rewards"}
    for ax, (stage, name) in zip(axes, names.items(), strict=True):
        for y, way in enumerate(reversed(WAYS)):
            change, error = (100 * v for v in pooled[stage][way])
            sure = abs(change) > 2 * error
            ax.errorbar(
                change, y, xerr=2 * error, fmt="o", color=STEEL if sure else SLATE, ms=4.5, lw=1.2
            )
        ax.axvline(0, color=SLATE, lw=0.8)
        ax.grid(False)
        axis_units(ax, x="change (points)", y=name)
    axes[0].set_yticks(range(len(WAYS)), list(reversed(WAYS.values())))
    footer(
        fig, "figures/runs/life-seeds.json: three lives of preset laptop; bars: two standard errors"
    )
    return fig
