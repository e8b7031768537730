"""The drawings of chapter 13: one sum under several divisors, two models on two rulers, what a window costs. Each
function returns a figure in house style."""

from __future__ import annotations

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
COLORS = (STEEL, OKABE_ITO["orange"], OKABE_ITO["green"], OKABE_ITO["purple"])
DIVISORS = {
    "tokens": "perplexity",
    "characters": "bits per character",
    "bytes": "bits per byte",
    "reference's tokens": "normalised perplexity",
}


def one_sum(cuts: dict[str, list[str]]):
    """One text cut in two ways, each piece with its surprise, both summed, and the divisors to choose from.

    cuts: name of the model → the pieces of the text, as a reader sees them."""
    fig, ax = figure(2.7)
    blank(ax, (0, 100), (0, 44))

    def box(x, y, width, text, fill=PALE, size=8.5):
        shape = "round,pad=0,rounding_size=0.8"
        ax.add_patch(FancyBboxPatch((x, y), width, 5.2, boxstyle=shape, fc=fill, ec="none"))
        where = {"ha": "center", "va": "center", "fontsize": size}
        ax.text(x + width / 2, y + 2.5, text, color=ON_PALE, **where)

    for y, (name, pieces) in zip((31, 12), cuts.items(), strict=True):
        ax.text(0, y + 8.4, name, fontsize=8.5, color=INK)
        step = 48 / len(pieces)
        for k, piece in enumerate(pieces):
            wide = len(pieces) < 12
            box(step * k, y, step - 0.6, piece, size=8.5 if wide else 6)
            note = "$-\\log p$" if wide else "·"
            middle = step * k + step / 2 - 0.3
            ax.text(middle, y - 3.4, note, ha="center", fontsize=6.5, color=SLATE)
        arrow(ax, (50, y + 2.6), (56, y + 2.6))
        box(57, y, 15, "one sum, in nats", MIDDLE, SMALL)
        arrow(ax, (73, y + 2.6), (79, 27 if y > 20 else 20))
    ax.text(80, 34.5, "divide by its", fontsize=8.5, color=INK)
    for k, (word, note) in enumerate(DIVISORS.items()):
        ax.text(80, 30.2 - 6.0 * k, word, fontsize=SMALL, color=FURNACE if k == 0 else INK)
        ax.text(80, 27.9 - 6.0 * k, note, fontsize=6.5, color=SLATE)
    ax.text(0, 1.2, "the same text, two vocabularies", fontsize=SMALL, color=SLATE)
    return fig


def two_rulers(results: dict[str, dict]):
    """Each model's domains on two scales: perplexity per token and bits per byte.

    results: name → what `bits_per_byte` returns under "domains"."""
    fig, axes = figure(2.5, ncols=2, sharey=True)
    domains = list(next(iter(results.values())))
    units = (("ppl", "perplexity per token"), ("bpb", "bits per byte"))
    for ax, (key, unit) in zip(axes, units, strict=True):
        for color, (name, found) in zip((OKABE_ITO["orange"], STEEL), results.items(), strict=True):
            values = [found[d][key] for d in domains]
            ax.plot(values, range(len(domains)), "o", color=color, ms=6)
            if ax is axes[0]:
                above = {"xytext": (0, 9), "ha": "center"}
                label_line(ax, values[-1], len(domains) - 1, name, color, **above)
        for y, domain in enumerate(domains):
            ends = sorted(found[domain][key] for found in results.values())
            ax.plot(ends, [y, y], color=SLATE, lw=0.8, zorder=0)
        ax.set(yticks=range(len(domains)), yticklabels=domains, ylim=(len(domains) - 0.5, -0.8))
        ax.set_xlim(0, 1.12 * max(found[d][key] for found in results.values() for d in domains))
        axis_units(ax, x=f"{unit}  (left is better)")
    footer(fig, "trained on this page, one seed each")
    return fig


def windows(sizes: list[int], curves: dict[str, list[float]], places: list[tuple[str, float]]):
    """Left: bits per byte over the window in which the same documents are read, by domain. Right: the mean cost of a
    token by its place in a document. places: (label, nats per token)."""
    fig, (one, two) = figure(2.6, ncols=2, width_ratios=(1.25, 1))
    for color, (name, values) in zip(COLORS, curves.items()):
        one.plot(sizes, values, "o-", color=color)
        label_line(one, sizes[-1], values[-1], name, color)
    one.set_xscale("log", base=2)
    one.set(xlim=(sizes[0] * 0.85, sizes[-1] * 2.6), ylim=(0, None))
    one.set(xticks=sizes, xticklabels=map(str, sizes))
    one.minorticks_off()
    axis_units(one, x="window (tokens), stride half of it", y="bits per byte")
    names, values = zip(*places)
    two.bar(range(len(names)), values, color=[FURNACE] + [STEEL] * (len(names) - 1), width=0.75)
    two.set(xticks=range(len(names)), xticklabels=names)
    axis_units(two, x="place of the token in its document", y="nats per token")
    footer(fig, "trained on this page, one seed; held-out documents")
    return fig
