"""The drawings of chapter 17: four ways to ask one question, what they find in a toy and in three towns, what a town's
letters do by subject, and which token stands before a letter. Each function returns a figure in house style."""

from __future__ import annotations

from matplotlib.patches import FancyBboxPatch

from figures import lives
from figures.style import (
    FURNACE,
    INK,
    MIDDLE,
    OKABE_ITO,
    ON_PALE,
    PALE,
    PAPER,
    SLATE,
    STEEL,
    axis_units,
    blank,
    figure,
    footer,
)

SMALL = 7.5
WAYS = {
    "text": (lives.WAYS["text"], STEEL, "o"),
    "bind": (lives.WAYS["bind"], OKABE_ITO["green"], "s"),
    "written": (lives.WAYS["written"], OKABE_ITO["purple"], "^"),
    "letter": (lives.WAYS["letter"], FURNACE, "D"),
}
"""Name of each way of asking or reading, its colour and its mark."""
TOWN = WAYS | {"generate": (lives.WAYS["generate"], OKABE_ITO["orange"], "v")}
FORMS = {"text, lm-eval's words": "text, a space before the reply"}
"""Arms of the log whose name says less than what differs in them."""


PRACTICE = {
    "facts": "no practice",
    "drill and questions": "drill; place and letter",
    "drill and letters": "drill; letter alone",
    "letters": "letter alone",
    "drill and questions, longer": "drill; place and letter, longer",
    "letters, longer": "letter alone, longer",
}


def ways():
    """One question with its options, and what each way of asking shows and reads."""
    fig, ax = figure(2.9)
    blank(ax, (0, 100), (0, 44))
    asked, stem, said = (
        "曹泽晴的家乡是哪里？  云州 A  柳溪 B  月湖 C  青岩 D",
        "曹泽晴的家乡是",
        "青岩",
    )
    rows = {"text": ("", stem, "which of the four options is the likeliest here?"),
            "bind": (asked, f"{stem}{said}", "which of the four letters?"),
            "written": (asked, "", "it says an option and a letter: is the letter right?"),
            "letter": (asked, "", "which of the four letters?")}  # fmt: skip
    box = {"boxstyle": "round,pad=0,rounding_size=0.7", "ec": "none"}
    for i, (way, (prompt, begun, counted)) in enumerate(rows.items()):
        name, colour, _ = WAYS[way]
        y = 33 - 10.5 * i
        ax.text(0, y + 6.6, name, fontsize=8.5, color=colour)
        at = 0
        for text, fill, wide in ((prompt, PALE, 50), (begun, MIDDLE, 15 if not prompt else 20)):
            if text:
                ax.add_patch(FancyBboxPatch((at, y), wide, 4.4, fc=fill, **box))
                ax.text(at + 1.2, y + 2.1, text, va="center", fontsize=7.2, color=ON_PALE)
                at += wide + 0.8
        ax.add_patch(
            FancyBboxPatch((at, y), 4, 4.4, fc="none", boxstyle=box["boxstyle"], ec=colour, lw=1.1)
        )
        ax.text(at + 5.5, y + 2.1, counted, va="center", fontsize=SMALL, color=INK)
    return fig


def last_token(lists: list[tuple[str, list[str]]]):
    """Lists of four options with their letters, a box a token; filled is the token that stands before a letter: furnace
    where it is the same before all four.

    lists: (name, the four options' words).
    """
    fig, ax = figure(0.35 + 0.42 * len(lists))
    blank(ax, (0, 100), (-2.4 * len(lists) + 1.1, 1.3))
    for row, (name, options) in enumerate(lists):
        y, x = -2.4 * row, 17.5
        ax.text(0, y, name, va="center", fontsize=8.5, color=INK)
        tokens = [option.split() for option in options]
        alike = len({words[-1] for words in tokens}) == 1
        for words, letter in zip(tokens, "ABCD", strict=True):
            for k, word in enumerate([*words, letter]):
                before = k == len(words) - 1
                fill = (FURNACE if alike else STEEL) if before else PAPER
                width = 1.0 + 0.68 * len(word)
                ax.add_patch(
                    FancyBboxPatch(
                        (x, y - 0.75), width, 1.5, fc=fill, ec=SLATE if not before else fill, lw=0.8,
                        boxstyle="round,pad=0,rounding_size=0.25",
                    )
                )  # fmt: skip
                ink = PAPER if before else INK
                ax.text(x + width / 2, y, word, ha="center", va="center", fontsize=6.2, color=ink)
                x += width + 0.3
            x += 0.9
    return fig


def _dots(ax, names: list[str], found, ways: dict, offset: float = 0.17) -> None:
    """A row a name, a mark a run, a colour and a shape a way. found(name, way): shares [1]."""
    for row, name in enumerate(reversed(names)):
        for k, (way, (_, colour, mark)) in enumerate(ways.items()):
            values = [100 * v for v in found(name, way)]
            y = row + offset * ((len(ways) - 1) / 2 - k)
            ax.plot(values, [y] * len(values), mark, color=colour, ms=4.2, alpha=0.8, clip_on=False)
    ax.axvline(25, color=SLATE, lw=0.8, ls=":")
    ax.set(yticks=range(len(names)), yticklabels=list(reversed(names)), xlim=(0, 100))
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.grid(False, axis="y")


def _key(ax, ways: dict, top: float) -> None:
    """The ways' names in their colours behind their marks, above the axes."""
    at = 0.0
    for word, colour, mark in ways.values():
        ax.plot(
            at + 0.008,
            top + 0.028,
            mark,
            color=colour,
            ms=4.2,
            clip_on=False,
            transform=ax.transAxes,
        )
        ax.text(at + 0.026, top, word, transform=ax.transAxes, fontsize=SMALL, color=colour, va="bottom")  # fmt: skip
        at += 0.06 + 0.0145 * len(word)


def toy(rows: list[dict]):
    """Each arm of the toy by four ways of asking, a dot a seed."""
    fig, ax = figure(3.4)
    arms = {PRACTICE.get(arm, arm): arm for arm in dict.fromkeys(r["arm"] for r in rows)}
    _dots(
        ax,
        list(arms),
        lambda name, way: [r[way] for r in rows if r["arm"] == arms[name] and way in r],
        WAYS,
    )
    _key(ax, WAYS, 1.02)
    axis_units(
        ax, x="questions about people of whom no question has spoken, right (%); dotted: chance"
    )
    footer(fig, "figures/runs/letters.json, three seeds; a reply without a letter is wrong")
    return fig


def harness(rows: list[dict]):
    """Three models, one exam, each way of putting the question; a dot a model."""
    fig, ax = figure(3.6)
    arms = {FORMS.get(arm, arm): arm for arm in dict.fromkeys(r["arm"] for r in rows)}
    shown = {way: TOWN[way] for way in ("text", "generate", "bind", "letter")}
    _dots(
        ax,
        list(arms),
        lambda name, way: [r[way] for r in rows if r["arm"] == arms[name] and way in r],
        shown,
    )
    _key(ax, shown, 1.02)
    axis_units(ax, x="questions about held-out people, right (%); dotted: chance")
    footer(fig, "figures/runs/harness.json: three lives after fine-tuning, 380 questions each")
    return fig


SUBJECTS = {
    "city": "home town",
    "company": "employer",
    "major": "subject",
    "university": "university",
    "hop2": "product of the home town",
}
LANGUAGES = {"zh": "Chinese", "en": "English"}


def subjects(rows: list[dict]):
    """Letters of three lives by what is asked and in which language; a dot a life."""
    fig, ax = figure(3.9)
    names = {
        f"{word}, {lang}": f"{key}_{end}"
        for key, word in SUBJECTS.items()
        for end, lang in LANGUAGES.items()
    }
    shown = {way: WAYS[way] for way in ("bind", "written", "letter")}
    _dots(ax, list(names), lambda name, way: [r["subjects"][names[name]][way] for r in rows], shown)
    _key(ax, shown, 1.01)
    axis_units(ax, x="letters right (%); dotted: chance")
    footer(fig, "figures/runs/harness.json: three lives after fine-tuning, 38 questions a dot")
    return fig


def spans(rows: list[dict], ways: tuple[str, ...], arm: str | None = None) -> str:
    """For alternative texts: "letter at once 20 to 28, …" over the rows (of an arm) that have the way [%]."""
    parts = []
    for way in ways:
        v = [100 * r[way] for r in rows if way in r and arm in (None, r.get("arm"))]
        ends = dict.fromkeys(f"{end:.0f}" for end in (min(v), max(v))) if v else ()
        parts += [f"{TOWN[way][0]} {' to '.join(ends)}"] if v else []
    return ", ".join(parts)
