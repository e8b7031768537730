"""Figures of chapter 00: from raw text to a base model at two sizes, eight months, exams, loss against knowledge."""

from __future__ import annotations

from datetime import date

from matplotlib.patches import FancyBboxPatch

from figures import facts
from figures.experiments.first_model import reached, way_down
from figures.style import (
    FURNACE,
    INK,
    OKABE_ITO,
    PAPER,
    SEMANTIC,
    SLATE,
    STEEL,
    axis_units,
    figure,
    label_line,
)

LEGS = [
    ("first machine", date(2024, 5, 21), date(2024, 6, 5)),
    ("second machine", date(2024, 7, 18), date(2024, 8, 18)),
]
START, CHAT_V1, END = date(2024, 3, 1), date(2024, 10, 28), date(2025, 1, 25)


def short(number: float) -> str:
    """1.12 B, 0.77 M: two decimals and a letter, millions at least."""
    size, letter = next((s, x) for s, x in ((1e12, "T"), (1e9, "B"), (1e6, "M")) if number > s / 10)
    return f"{number / size:.2f} {letter}"


def two_furnaces(parameters: int, tokens: float):
    """The five stages from nothing to a base model; under them Steel's sizes and this page's."""
    fig, ax = figure(2.45)
    ax.set(xlim=(0, 100), ylim=(0, 36))
    ax.axis("off")
    stages = [
        ("raw files", "encyclopedias, forums,\ncode, dialogues", INK),
        ("documents", "cleaned,\neach copy once", INK),
        ("tokens", "one long row\nof numbers", SEMANTIC["tokens"]),
        ("model", "guess the next token,\nstep by step", STEEL),
        ("base model", "ask it\nwhat it knows", FURNACE),
    ]
    columns = [10 + 20.2 * k for k in range(len(stages))]
    for x, (name, what, edge) in zip(columns, stages):
        shape = "round,pad=0,rounding_size=0.8"
        ax.add_patch(
            FancyBboxPatch((x - 7.6, 26.5), 15.2, 7, boxstyle=shape, fc=PAPER, ec=edge, lw=1.3)
        )
        ax.text(x, 30, name, ha="center", va="center", fontsize=9, color=INK)
        ax.text(x, 24.5, what, ha="center", va="top", fontsize=7.5, color=SLATE)
    arrow = {"arrowstyle": "-|>", "color": INK, "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
    for left, right, word in zip(columns, columns[1:], ("process", "encode", "train", "save")):
        ax.annotate("", (right - 7.8, 30), (left + 7.8, 30), arrowprops=arrow)
        ax.text((left + right) / 2, 35, word, ha="center", fontsize=7, color=INK)
    steel = facts.STEEL
    read = steel["steps"] * 512 * steel["sequence_length"]
    rows = [
        ("Steel, 2024", STEEL, "ten public sources", f"{short(read)} read", steel["parameters"], "eight GPUs"),
        ("this page", FURNACE, "an invented town", f"{short(tokens)} read", parameters, "your CPU"),
    ]  # fmt: skip
    for y, (who, colour, source, count, size, machine) in zip((11, 4), rows):
        ax.plot([0, 100], [y + 3.6, y + 3.6], color=SLATE, lw=0.4)
        ax.text(0.5, y, who, fontsize=8.5, color=colour, va="center")
        ax.text(columns[1], y, source, fontsize=8, va="center", ha="center")
        ax.text(columns[2], y, count, fontsize=8, va="center", ha="center")
        words = f"{short(size)} parameters"
        ax.text(columns[3], y, words, fontsize=8, va="center", ha="center")
        ax.text(columns[4], y, machine, fontsize=8, va="center", ha="center")
    return fig


def eight_months():
    """The published dates, top to bottom; bars where the model is pretrained, hatched where no machine was there."""
    colour = {"work": SLATE, "run": STEEL, "failure": FURNACE, "result": INK}
    fig, ax = figure(4.3)
    ax.plot([0, 0], [START, END], color=INK, lw=0.8)
    for _, begin, end in LEGS:
        ax.bar(0, (end - begin).days, bottom=begin, width=0.06, color=STEEL)
    (_, _, gone), (_, back, _) = LEGS
    gap = {"color": "none", "edgecolor": FURNACE, "hatch": "/////", "lw": 0}
    ax.bar(0, (back - gone).days, bottom=gone, width=0.06, **gap)
    places = [START + n * (END - START) / 11.6 for n in range(len(facts.TIMELINE))]
    for (day, what, kind, _), place in zip(facts.TIMELINE, places):
        ax.plot([0, 0.07, 0.16], [day, day, place], color=colour[kind], lw=0.7)
        ax.plot(0, day, "o", color=colour[kind], ms=4)
        when = facts.VAGUE.get(day, f"{day:%-d %B}" + f" {day.year}" * (day.year > 2024))
        ax.annotate(f"{when}   {what}", (0.17, place), va="center", color=colour[kind], fontsize=9)
    note = "no machine: six weeks\nby the README's dates,\nover a week in the\nretrospective"
    beside = {"ha": "right", "va": "center", "fontsize": 8.5}
    ax.annotate(note, (-0.06, date(2024, 6, 26)), color=FURNACE, **beside)
    ax.annotate("the run,\nfirst machine", (-0.06, date(2024, 5, 24)), color=STEEL, **beside)
    ax.annotate("the run,\nsecond machine", (-0.06, date(2024, 8, 3)), color=STEEL, **beside)
    ax.set(xlim=(-0.3, 1), ylim=(date(2025, 1, 28), date(2024, 2, 22)), xticks=[], yticks=[])
    for side in ax.spines.values():
        side.set_visible(False)
    ax.grid(False)
    return fig


def exams():
    """C-Eval and CMMLU of twelve models; one standard error at Steel's C-Eval scores."""
    order = sorted(facts.EXAMS.items(), key=lambda item: item[1][0])
    fig, ax = figure(3.4)
    ax.axvline(25, color=INK, lw=1)
    above = {"xytext": (4, 0), "textcoords": "offset points", "fontsize": 8}
    ax.annotate("guessing", (25, len(order) - 0.35), **above)
    for row, (name, (ceval, cmmlu)) in enumerate(order):
        c = STEEL if name.startswith("Steel") else SLATE
        ax.plot([ceval, cmmlu], [row, row], color=c, lw=1)
        ax.plot(ceval, row, "o", color=c, ms=6)
        if name.startswith("Steel"):
            ax.errorbar(ceval, row + 0.22, xerr=standard_error(ceval), color=c, lw=1, capsize=2)
        ax.plot(cmmlu, row, "o", mfc=PAPER, mec=c, ms=6)
    ax.set_yticks(range(len(order)), [name for name, _ in order])
    for tick, (name, _) in zip(ax.get_yticklabels(), order):
        tick.set_color(STEEL if name.startswith("Steel") else INK)
    ax.set(xlim=(20, 62), ylim=(-0.6, len(order) + 0.2))
    ax.tick_params(left=False)
    ax.grid(axis="x")
    ax.grid(False, axis="y")
    axis_units(ax, x="answers right (%); filled: C-Eval, open: CMMLU")
    return fig


def standard_error(score: float, exam: str = "C-Eval") -> float:
    """Of one score [points]: binomial, with the exam's number of questions."""
    return 100 * (score / 100 * (1 - score / 100) / facts.EXAM_QUESTIONS[exam]) ** 0.5


def learning(steps: list[dict], towns: dict[str, list[dict]], uniform: float, unigram: float):
    """Loss in nats over tokens; below it, on the same axis, how much of its way it has done and what the model can say.

    steps: the run's step lines. towns: seed → examinations (experiments.first_model), the run's own first."""
    asked, *others = towns.values()
    tokens = [row["tokens"] / 1e6 for row in asked]
    fig, (above, below) = figure(4.4, nrows=2, sharex=True, height_ratios=(1, 1.25))
    for level, name in (
        (uniform, "every token equally likely"),
        (unigram, "token frequencies only"),
    ):
        above.axhline(level, color=SLATE, lw=0.9, ls=(0, (4, 3)))
        put = {"xytext": (0, 3), "textcoords": "offset points", "ha": "right", "fontsize": 8}
        above.annotate(name, (tokens[-1], level), color=SLATE, **put)
    above.plot([s["tokens"] / 1e6 for s in steps], [s["loss"] for s in steps], color=STEEL, lw=1)
    losses = [row["loss"] for row in asked]
    above.plot(tokens, losses, "o", color=STEEL, mfc=PAPER, ms=4.5)
    label_line(above, tokens[-1], losses[-1], f"held out {losses[-1]:.1f}", STEEL)
    above.set(ylim=(0, 7.9), xlim=(0, tokens[-1] * 1.24))
    axis_units(above, y="loss (nats per token); rings: held-out text")
    curves = {
        "the loss's way down": (STEEL, 5, lambda rows: [100 * share for share in way_down(rows)]),
        "facts, Chinese": (FURNACE, -6, lambda rows: [100 * row["facts_zh"] / 24 for row in rows]),
        "facts, English": (
            OKABE_ITO["purple"],
            0,
            lambda rows: [100 * row["facts_en"] / 24 for row in rows],
        ),
    }
    for name, (colour, shift, curve) in curves.items():
        for rows in others:
            below.plot(
                [row["tokens"] / 1e6 for row in rows], curve(rows), color=colour, lw=0.7, alpha=0.6
            )
        below.plot(
            tokens, curve(asked), "-o", color=colour, mfc=PAPER if shift > 0 else colour, ms=4
        )
        label_line(below, tokens[-1], curve(asked)[-1], name, colour, xytext=(5, shift))
    there = reached(asked, 0.8)
    x, high, low = tokens[there], 100 * way_down(asked)[there], 100 * asked[there]["facts_zh"] / 24
    below.plot([x, x], [low + 4, high - 4], color=INK, lw=0.9, ls=(0, (2, 2)))
    words = f"{high:.0f} % of the way,\n{asked[there]['facts_zh']} of 24 facts"
    beside = {"xytext": (-6, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
    below.annotate(words, (x, 0.6 * low + 0.4 * high - 6), fontsize=8.5, **beside)
    below.set(ylim=(-4, 112), yticks=(0, 50, 100))
    below.set_xticks([tick for tick in below.get_xticks() if 0 <= tick <= 1.02 * tokens[-1]])
    axis_units(
        below, x="tokens read (millions)", y="share of the way down; share of facts said (%)"
    )
    return fig
