"""The drawings of chapter 14: a dialogue and its mask, packed rows, what is forgotten, a life before and after, and
when dialogues are read. Each function returns a figure in house style."""

from __future__ import annotations

from itertools import groupby

from matplotlib.patches import Rectangle

from figures.style import (
    FURNACE,
    GRID,
    INK,
    PAPER,
    SLATE,
    STEEL,
    arrow,
    axis_units,
    blank,
    figure,
    footer,
)

SMALL = 7.5
LEARNT, GIVEN = "#2b5876", "#d3e1ea"
ON_LEARNT, ON_GIVEN = "#fbfaf6", "#202a34"


# -- the mask ----------------------------------------------------------------------------------------------------------


def _width(text: str) -> float:
    """Room that a token's text takes, in the drawing's units."""
    return 1.2 + sum(1.9 if ord(c) > 0x2E7F else 1.05 for c in text)


def pieces(tok, ids: list[int], mask: list[int]) -> list[tuple[str, int]]:
    """(text, mask) of each token; a byte that is no character by itself as a dot."""
    texts = [tok.decode([i]) for i in ids]
    texts = ["·" if "\ufffd" in text else text for text in texts]
    return list(zip(texts, mask, strict=True))


def two_turns(pieces: list[tuple[str, int]]):
    """A dialogue token by token, a line for each part; dark: the loss stands on predicting it.

    pieces: (text, whether it is learnt); a text with a line break ends a line, and so does a full line.
    """
    lines, line, x = [], [], 1.0
    for text, learnt in pieces:
        shown = text.replace("\n", "\\n") if text.strip(" ") else "␣"
        if x + _width(shown) > 99:
            lines, line, x = [*lines, line], [], 1.0
        line.append((shown, learnt))
        x += _width(shown) + 0.25
        if "\n" in text:
            lines, line, x = [*lines, line], [], 1.0
    lines += [line] if line else []
    fig, ax = figure(0.42 + 0.3 * len(lines))
    blank(ax, (0, 100), (0, 4.2 * len(lines) + 4.5))
    for row, line in enumerate(lines):
        x, y = 1.0, 4.2 * (len(lines) - row) - 1.5
        for text, learnt in line:
            width = _width(text)
            fill = LEARNT if learnt else GIVEN
            ax.add_patch(Rectangle((x, y), width, 3.3, fc=fill, ec=PAPER, lw=1.0))
            color = ON_LEARNT if learnt else ON_GIVEN
            where = {"ha": "center", "va": "center", "fontsize": SMALL}
            ax.text(x + width / 2, y + 1.6, text, color=color, **where)
            x += width + 0.25
    top = 4.2 * len(lines) + 3.6
    legend = (
        (1, GIVEN, "given: read, not learnt"),
        (31, LEARNT, "learnt: predicted from what is before it"),
    )
    for x, fill, words in legend:
        ax.add_patch(Rectangle((x, top - 1.2), 2.4, 2.0, fc=fill, lw=0))
        ax.text(x + 3.2, top - 0.2, words, va="center", fontsize=SMALL, color=INK)
    return fig


# -- packing -----------------------------------------------------------------------------------------------------------


def packed_rows(rows: list[list[list[int]]], length: int):
    """Rows of packed dialogues. rows: for each row its dialogues, each a list of 0 and 1 a token (1: learnt)."""
    fig, ax = figure(0.65 + 0.27 * len(rows))
    ax.set(xlim=(0, length), ylim=(len(rows), -0.2))
    for y, dialogues in enumerate(rows):
        at = 0
        ax.add_patch(Rectangle((0, y + 0.12), length, 0.66, fc="none", ec=SLATE, lw=0.6, ls=":"))
        for k, mask in enumerate(dialogues):
            fill = GIVEN if k % 2 == 0 else "#b9cfdd"
            ax.add_patch(Rectangle((at, y + 0.12), len(mask), 0.66, fc=fill, ec=PAPER, lw=0.8))
            for learnt, run in groupby(mask):
                size = len(list(run))
                if learnt:
                    ax.add_patch(Rectangle((at, y + 0.12), size, 0.66, fc=LEARNT, lw=0))
                at += size
            ax.plot([at, at], [y + 0.02, y + 0.88], color=FURNACE, lw=1.1, solid_capstyle="butt")
        ax.text(-3, y + 0.45, f"row {y + 1}", ha="right", va="center", fontsize=SMALL, color=SLATE)
    ax.set_yticks([])
    ax.spines[["left", "right", "top"]].set_visible(False)
    axis_units(ax, x="place in the row (tokens)")
    return fig


# -- forgetting --------------------------------------------------------------------------------------------------------

DOMAINS = {"zh": "Chinese", "en": "English", "code": "code"}


def forgetting(found: dict[str, dict[str, float]]):
    """Bits per byte of held-out text. found: {"base" | "no text" | "four rows": {domain: bits per byte}}."""
    fig, ax = figure(1.9)
    looks = {"base": (SLATE, "o"), "no text": (FURNACE, "D"), "four rows": (STEEL, "s")}
    names = {"base": "before", "no text": "after dialogues alone", "four rows": "after dialogues and text"}  # fmt: skip
    for y, domain in enumerate(DOMAINS):
        values = [found[k][domain] for k in looks]
        ax.plot([min(values), max(values)], [y, y], color=GRID, lw=2, zorder=1)
        for k, (color, mark) in looks.items():
            look = {"mec": PAPER, "mew": 0.6, "ms": 6.5, "zorder": 2}
            if k == "base":  # a ring, so that it shows around a mark at the same place
                look = {"mfc": "none", "mec": color, "mew": 1.5, "ms": 9, "zorder": 3}
            ax.plot(found[k][domain], y, mark, color=color, **look)
    ax.set_yticks(range(len(DOMAINS)), DOMAINS.values())
    ax.set(ylim=(len(DOMAINS) - 0.6, -1.25))
    left, right = ax.get_xlim()
    for i, (k, (color, mark)) in enumerate(looks.items()):
        x = left + (right - left) * (0.02 + (0, 0.17, 0.56)[i])
        ring = (
            {"mfc": "none", "mec": color, "mew": 1.5} if k == "base" else {"mec": PAPER, "mew": 0.6}
        )
        ax.plot(x, -0.95, mark, color=color, ms=6, **ring)
        ax.text(x + (right - left) * 0.02, -0.95, names[k], va="center", fontsize=8, color=color)
    axis_units(ax, x="held-out text (bits per byte)")
    return fig


# -- a life ------------------------------------------------------------------------------------------------------------


def before_after(rows: list[tuple[str, float, float]], title: str):
    """Shares before and after fine-tuning. rows: (what, before, after) [%]."""
    fig, ax = figure(0.75 + 0.29 * len(rows))
    for y, (_, before, after) in enumerate(rows):
        arrow(ax, (before, y), (after, y), STEEL, 1.3)
        ax.plot(before, y, "o", color=SLATE, ms=5, zorder=3)
        ax.plot(after, y, "o", color=STEEL, ms=6.5, zorder=3)
        side = 1 if after >= before else -1
        for value, color, way in ((before, SLATE, -side), (after, STEEL, side)):
            where = {"va": "center", "ha": "left" if way > 0 else "right"}
            ax.text(value + 2.2 * way, y, f"{value:.0f}", color=color, fontsize=8, **where)
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows])
    ax.set(xlim=(-6, 108), ylim=(len(rows) - 0.4, -0.7))
    axis_units(ax, x="right (%)")
    footer(fig, title)
    return fig


# -- when dialogues are read -------------------------------------------------------------------------------------------


def when(rows: dict[str, list[dict]], spans: dict[str, tuple[float, float, float]], decay: float):
    """When each arm reads dialogues, and what its bases know. rows: arm -> rows of when.json, a seed each.

    spans: arm -> (first and last step as shares of all [1], share of a step that is dialogues [1]); decay: share of the
    steps at the end in which the rate falls [1].
    """
    fig, axes = figure(2.35, ncols=3, sharey=True, width_ratios=(1.25, 1, 1))
    strip, ends, bits = axes
    for y, (arm, (begin, end, share)) in enumerate(spans.items()):
        strip.add_patch(Rectangle((0, y - 0.3), 1, 0.6, fc=GIVEN, lw=0))
        strip.add_patch(Rectangle((begin, y + 0.3), end - begin, -0.6 * share, fc=LEARNT, lw=0))
        for ax, key, scale in ((ends, "cloze", 100), (bits, "bits_per_byte", 1)):
            values = [scale * row[key] for row in rows[arm]]
            ax.plot([min(values), max(values)], [y, y], color=GRID, lw=2, zorder=1)
            ax.plot(values, [y] * len(values), "o", color=STEEL, ms=5, mec=PAPER, mew=0.5)
    strip.plot([0, 1 - decay, 1], [-0.75, -0.75, -0.42], color=SLATE, lw=1.2)
    strip.text(0, -0.85, "learning rate", color=SLATE, fontsize=SMALL, va="bottom")
    strip.set(xlim=(0, 1), ylim=(len(spans) - 0.55, -1.35))
    strip.set_yticks(range(len(spans)), spans)
    strip.set_xticks([0, 1 - decay, 1], ["0", f"{100 * (1 - decay):.0f}", "100"])
    strip.spines[["left"]].set_visible(False)
    for ax in axes:
        ax.grid(False)
        ax.tick_params(axis="y", length=0)
    ends.set(xlim=(0, 100))
    axis_units(strip, x="steps (%); dark: dialogues")
    axis_units(ends, x="sentences ended rightly (%)")
    axis_units(bits, x="held out (bits per byte)")
    footer(fig, "figures/runs/when.json, three seeds")
    return fig
