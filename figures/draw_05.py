"""The drawings of chapter 05: a sentence on its way to ids, what size buys and costs, how well a model predicts through
it, which Hanzi are entries, and a table that grows. Each function returns a figure in house style."""

from __future__ import annotations

import statistics

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
    axis_units,
    figure,
    footer,
    label_line,
)

SMALL = 7.5
BLUE, GREEN, ORANGE = OKABE_ITO["blue"], OKABE_ITO["green"], OKABE_ITO["orange"]


def path(tokenizer, text: str):
    """Text, pieces, bytes, letters, tokens and ids of a short text, one column a byte."""
    core = tokenizer.backend_tokenizer
    pieces = [text[a:b] for _, (a, b) in core.pre_tokenizer.pre_tokenize_str(text)]
    encoded = core.encode(text, add_special_tokens=False)
    data, letters = text.encode(), "".join(encoded.tokens)
    fig, ax = figure(2.85)
    left = 3.6
    ax.set(xlim=(-0.1, left + len(data) + 0.1), ylim=(-0.4, 12.1))
    ax.axis("off")

    def row(y, name, note, parts, sizes, fill=PALE, size=9.0, **font):
        ax.text(0, y + 0.62, name, va="center", fontsize=8.5, color=INK)
        ax.text(0, y - 0.02, note, va="center", fontsize=6.5, color=SLATE)
        x = left
        for part, width in zip(parts, sizes, strict=True):
            shape = "round,pad=0,rounding_size=0.16"
            box = (x + 0.05, y - 0.25), width - 0.1, 1.25
            ax.add_patch(FancyBboxPatch(*box, boxstyle=shape, fc=fill, ec="none"))
            ax.text(
                x + width / 2,
                y + 0.36,
                part,
                ha="center",
                va="center",
                fontsize=size,
                color=ON_PALE,
                **font,
            )
            x += width

    ones = [1] * len(data)
    row(10.6, "text", "characters", list(text), [len(c.encode()) for c in text])
    row(8.5, "pieces", "no token crosses a gap", pieces, [len(p.encode()) for p in pieces], MIDDLE)
    row(6.4, "bytes", "UTF-8", [f"{b:02X}" for b in data], ones, size=SMALL)
    row(4.3, "letters", "as files write them", list(letters), ones, family="DejaVu Sans")
    sizes = [len(token) for token in encoded.tokens]
    row(
        2.2,
        "tokens",
        "after the merges",
        encoded.tokens,
        sizes,
        MIDDLE,
        size=8,
        family="DejaVu Sans",
    )
    row(0.1, "ids", "what the model reads", [str(i) for i in encoded.ids], sizes, size=8)
    return fig


def size_and_work(
    sizes: list[int], groups: dict[str, list[float]], others: dict[str, float], work: dict
):
    """Left: bytes per token over entries, by group; `others`: the same of a vocabulary with `work["other"][0]` entries.
    Right: work per byte of text over entries. work: {"sizes", "gflop", "other": (entries, GFLOP)}."""
    fig, (one, two) = figure(2.7, ncols=2)
    for (name, values), color in zip(groups.items(), (STEEL, ORANGE, GREEN)):
        one.plot(sizes, values, "o-", color=color)
        one.plot(work["other"][0], others[name], "D", color=color, ms=5)
    one.annotate("Qwen1.5", (work["other"][0], max(others.values())), xytext=(0, 8), ha="center",
                 textcoords="offset points", fontsize=8, color=SLATE)  # fmt: skip
    for k, (name, color) in enumerate(zip(groups, (STEEL, ORANGE, GREEN))):
        one.text(
            0.97,
            0.05 + 0.09 * k,
            name,
            transform=one.transAxes,
            ha="right",
            fontsize=8,
            color=color,
        )
    axis_units(one, x="entries", y="bytes per token, held-out text")
    two.plot(work["sizes"], work["gflop"], "o-", color=STEEL)
    two.plot(*work["other"], "D", color=STEEL, ms=5)
    label_line(two, *work["other"], "Qwen1.5", SLATE, xytext=(0, 9), ha="center")
    best = min(range(len(work["sizes"])), key=lambda k: work["gflop"][k])
    two.plot(work["sizes"][best], work["gflop"][best], "o", color=FURNACE, ms=7)
    axis_units(two, x="entries", y="GFLOP per byte of text, shape of steel-1b")
    for ax in (one, two):
        ax.set_xscale("log", base=2)
        ticks = [1024, 4096, 16384, 65536]
        ax.set(xlim=(800, 230_000), xticks=ticks, xticklabels=["1 k", "4 k", "16 k", "64 k"])
        ax.minorticks_off()
    one.set_ylim(0, 1.12 * max(others.values()))
    two.set_ylim(0, 1.15 * max(*work["gflop"], work["other"][1]))
    footer(
        fig,
        "figures/runs/compression.json; diamonds: Qwen1.5's vocabulary, in a table of 151,936 rows",
    )
    return fig


DOMAINS = ("Chinese", "English", "dialogue", "code")
BUDGETS = {"bytes": "equal bytes: 600 kB each", "seconds": "equal time: 30 CPU seconds each"}


def prediction(log: dict):
    """Held-out bits per byte by domain, of models that read through vocabularies of three sizes, under both budgets:
    mean and range of seeds."""
    fig, axes = figure(3.2, ncols=2, sharex=True, sharey=True)
    for ax, (budget, title) in zip(axes, BUDGETS.items()):
        for k, (entries, color) in enumerate(zip(log["entries"], (SLATE, ORANGE, STEEL))):
            for y, domain in enumerate(reversed(DOMAINS)):
                rows = [r for r in log["rows"] if (r["budget"], r["entries"]) == (budget, entries)]
                bits = [row["domains"][domain]["bpb"] for row in rows]
                at = y + 0.28 * (1 - k)
                ax.plot([min(bits), max(bits)], [at, at], color=color, lw=2, alpha=0.45)
                ax.plot(statistics.mean(bits), at, "o", color=color, ms=5)
                if budget == "bytes" and domain == "Chinese":
                    name = "bytes alone" if k == 0 else f"{entries:,} entries"
                    label_line(ax, max(bits), at, name, color, xytext=(7, 0), fontsize=SMALL)
        ax.set(ylim=(-0.5, len(DOMAINS) - 0.5), xlim=(0, 4.4))
        ax.grid(False, axis="y")
        ax.set_yticks(range(len(DOMAINS)), reversed(DOMAINS))
        ax.tick_params(axis="y", length=0)
        axis_units(ax, x="held-out bits per byte", title=title)
    footer(fig, f"figures/runs/vocabularies.json; mean and range of {len(bits)} seeds")
    return fig


def coverage(rows: list[dict]):
    """Share of each level's Hanzi, and of those in running text, that are one entry, over entries of the vocabulary."""
    fig, ax = figure(2.6)
    sizes = [row["entries"] for row in rows]
    lines = {"running text": [row["hanzi_whole"] for row in rows]}
    names = {"FCC": "3,500 common", "SCC": "3,000 less common", "TCC": "1,605 rare"}
    lines |= {names[level]: [row["coverage"][level] for row in rows] for level in names}
    for (name, values), color in zip(lines.items(), (FURNACE, STEEL, GREEN, SLATE)):
        ax.plot(sizes, [100 * v for v in values], "o-", color=color)
        shift = {"3,000 less common": (5, 7), "1,605 rare": (5, 2)}.get(name, (5, 0))
        label_line(ax, sizes[-1], 100 * values[-1], name, color, xytext=shift)
    ax.set_xscale("log", base=2)
    ax.set(
        xlim=(900, sizes[-1] * 2.6),
        ylim=(-8, 103),
        xticks=sizes,
        xticklabels=[f"{s:,}" for s in sizes],
    )
    ax.minorticks_off()
    axis_units(ax, x="entries of the vocabulary", y="Hanzi that are one token (%)")
    footer(fig, "figures/runs/compression.json")
    return fig


def growth(rows: list[dict]):
    """Bits per byte of held-out Chinese after the merge, by how new rows begin: median and range of seeds."""
    fig, ax = figure(2.6)
    names = {"random": "new rows: random", "kept": "no merge", "mean": "new rows: mean"}
    places = {
        "random": (1, {"xytext": (6, 5), "va": "bottom"}),
        "kept": (0, {"xytext": (4, -7), "va": "top"}),
        "mean": (1, {"xytext": (-6, -7), "va": "top", "ha": "right"}),
    }
    for how, color in zip(names, (SLATE, INK, STEEL)):
        mine = [row for row in rows if row["begun"] == how]
        at = [b / 1000 for b in mine[0]["bytes"]]
        curves = list(zip(*(row["bits_per_byte"] for row in mine)))
        x = range(len(at))
        ax.fill_between(
            x, [min(c) for c in curves], [max(c) for c in curves], color=color, alpha=0.18, lw=0
        )
        ax.plot(x, [statistics.median(c) for c in curves], "o-", color=color)
        at_point, how_far = places[how]
        label_line(ax, at_point, statistics.median(curves[at_point]), names[how], color, **how_far)
    ax.set(xticks=list(x), xticklabels=[f"{b:,.0f}" for b in at])
    axis_units(ax, x="text read after the merge (kB)", y="held-out Chinese (bits per byte)")
    footer(fig, f"figures/runs/merging.json; median and range of {len(mine)} seeds")
    return fig
