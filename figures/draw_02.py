"""The drawings of chapter 02: the way of a record, a card as a map, upvotes as they are read, fields that are
not, and a corpus by its bytes. Each function returns a figure in house style."""

from __future__ import annotations

import math

from matplotlib.patches import FancyBboxPatch, Rectangle

from figures.style import (
    FURNACE,
    INK,
    OKABE_ITO,
    ON_PALE,
    PALE,
    PAPER,
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
LOG = "figures/runs/convert-compare.json: samples of ten sources as their publishers pack them"


def _box(ax, x, y, width, height, text="", *, edge=INK, size=SMALL, dashed=False) -> None:
    shape = "round,pad=0,rounding_size=0.8"
    style = {"fc": PAPER, "ec": edge, "lw": 1, "ls": "dashed" if dashed else "solid"}
    ax.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=shape, **style))
    middle = (x + width / 2, y + height / 2)
    ax.text(*middle, text, ha="center", va="center", fontsize=size, color=INK, linespacing=1.25)


# -- the way of a record -----------------------------------------------------------------------------------------------

CONTAINERS = (
    "JSON lines",
    "the same in .gz, .zst",
    "one JSON array",
    "Parquet",
    "tar of JSON lines",
    ".txt .html .docx .epub .pdf",
)


def way_of_a_record():
    """Containers, records, the rule, documents; and below, what becomes of a record on the way."""
    fig, ax = figure(2.9)
    blank(ax, (0, 100), (0, 43))
    for x, word in ((11, "raw files"), (36.5, "records"), (61.5, "a rule"), (88.5, "documents")):
        ax.text(x, 41, word, ha="center", fontsize=9, color=INK)
    for k, name in enumerate(CONTAINERS):
        y = 34 - 4.4 * k
        ax.add_patch(Rectangle((0.5, y), 21, 3.5, fc=PALE, lw=0))
        ax.text(11, y + 1.65, name, ha="center", va="center", fontsize=7, color="#202a34")
        arrow(ax, (22, y + 1.7), (28.3, 25.2 + (y - 22) * 0.35), lw=0.8)
    record = "{title: …,\n summary: …,\n sections: […]}\n\none at a time,\nwith its number"
    rule = "which field\nplays which role?\n\ntext, title\nquestion, answer\nturns"
    document = "id, text, source,\nlang, meta\n\ndialogue: its turns\nstay apart, in meta"
    _box(ax, 29, 17.5, 15, 17, record, size=7.2)
    arrow(ax, (44.6, 26), (52.6, 26))
    _box(ax, 53.3, 17.5, 16.5, 17, rule, size=7.2)
    ax.text(61.5, 36.2, "from the source's card", ha="center", fontsize=6.8, color=SLATE)
    arrow(ax, (70.4, 26), (78.4, 26))
    _box(ax, 79, 17.5, 19.5, 17, document, size=7.2)
    for start, x, word in (
        (36.5, 36.5, "unreadable:\nhow many bytes?"),
        (58.5, 56.5, "no document:\nfor which reason?"),
        (66.0, 79.0, "a field without a role:\ntext that nobody asks for"),
    ):
        color = FURNACE
        arrow(ax, (start, 17), (x, 9.2), color)
        ax.text(x, 7.2, word, ha="center", va="top", fontsize=7.6, color=color, linespacing=1.2)
    word = "Two of the losses\ncan be counted."
    ax.text(11, 4.6, word, ha="center", va="center", fontsize=7.6, color=INK)
    return fig


# -- a card as a map ---------------------------------------------------------------------------------------------------

MAPS = (  # role, then (source, field) of some cards; the test of the chapter holds them to the cards
    ("text", (("skypile", "text"), ("wanjuan", "content"), ("wikipedia_cn", "completion"))),
    ("question", (("belle_2m", "instruction"), ("firefly", "input"), ("webinstruct", "question"))),
    ("answer", (("belle_2m", "output"), ("firefly", "target"), ("webinstruct", "answer"))),
    ("turns", (("belle_3_5m", "conversations"), ("moss", "conversation"), ("code_feedback", "messages"))),
    ("chosen", (("ultrafeedback", "chosen"), ("medical_preference", "response_chosen"))),
)  # fmt: skip


def roles():
    """Fields of a dozen sources on the left, roles in the middle, the two shapes of a document on the right."""
    fig, ax = figure(3.5)
    blank(ax, (0, 100), (-3, 59))
    y, ends = 57.0, {}
    for role, fields in MAPS:
        top = y
        for source, name in fields:
            ax.text(19.5, y, source, ha="right", va="center", fontsize=7.2, color=SLATE)
            ax.text(21, y, name, ha="left", va="center", fontsize=7.8, color=INK)
            y -= 4.0
        middle = (top + y + 4.0) / 2
        for k in range(len(fields)):
            ax.plot([37.5, 47], [top - 4.0 * k, middle], color=SLATE, lw=0.7)
        ax.text(48, middle, role, ha="left", va="center", fontsize=9, color=STEEL)
        ends[role] = middle
        y -= 1.6
    _box(ax, 74, ends["text"] - 3.2, 24, 6.4, "a text", size=8.5)
    arrow(ax, (56, ends["text"]), (73.4, ends["text"]))
    _box(ax, 74, 14, 24, 22, "a dialogue:\nuser, assistant,\nuser, assistant, …", size=8.5)
    for role, at in (("question", 32), ("answer", 29), ("turns", 24), ("chosen", 18)):
        arrow(ax, (60, ends[role]), (73.4, at), lw=0.9)
    word = "title may be added"
    ax.text(86, ends["text"] - 5.2, word, ha="center", va="center", fontsize=7, color=SLATE)
    word = "input, history, system\nmay be added"
    ax.text(86, 9.8, word, ha="center", va="center", fontsize=7, color=SLATE)
    return fig


# -- upvotes as they are read ------------------------------------------------------------------------------------------


def upvotes_read(votes: list[int], in_ten_thousands: list[int], threshold: int = 100):
    """Each answer at the number that is meant (across) and the number that the original read (up)."""
    fig, ax = figure(2.7)
    unit = set(in_ten_thousands)
    plain = {round(math.log10(v), 2): v for i, v in enumerate(votes) if i not in unit and v > 0}
    plain = list(plain.values())  # points that would cover each other are one
    large = [votes[i] for i in in_ten_thousands]
    ax.plot(plain, plain, "o", ms=3, color=STEEL, alpha=0.5, mew=0)
    ax.plot(large, [0.45] * len(large), "o", ms=4.5, color=FURNACE, mew=0, clip_on=False)
    ax.axhline(threshold, color=SLATE, lw=0.9, ls=(0, (4, 3)))
    ax.set(xscale="log", yscale="log", xlim=(0.8, max(votes) * 1.6), ylim=(0.35, 2e4))
    ax.set_yticks([0.45, 1, 10, 100, 1000, 10_000], ["0", "1", "10", "100", "1,000", "10,000"])
    ax.set_xticks([1, 10, 100, 1000, 10_000], ["1", "10", "100", "1,000", "10,000"])
    ax.minorticks_off()
    label_line(ax, 1.2, threshold, "kept from here up", SLATE, xytext=(0, 6))
    label_line(ax, 312, 312, "“赞同 312”", STEEL, xytext=(-6, 7), ha="right")
    label_line(ax, 16_000, 0.45, "“赞同 1.6 万”", FURNACE, xytext=(0, 8), ha="right")
    side = ax.get_yaxis_transform()
    ax.plot([0, 0], [0.6, 0.72], color=PAPER, lw=4, transform=side, clip_on=False, zorder=4)
    for low in (0.6, 0.72):  # the axis is broken: a logarithm has no 0
        ax.plot(
            [-0.008, 0.008],
            [low * 0.96, low * 1.04],
            color=SLATE,
            lw=0.9,
            transform=side,
            clip_on=False,
            zorder=5,
        )
    axis_units(ax, x="upvotes meant", y="upvotes read")
    footer(fig, LOG + ", source zhihu_kol")
    return fig


# -- what is not read --------------------------------------------------------------------------------------------------

FIELDS = {  # source -> what it is, its fields: (name, content, whether the original's rule makes text of it), the loss
    "baidu_baike": (
        "an entry",
        (("title", "鹿湾", True), ("summary", "empty", False), ("sections", "葡萄 …", False)),
        "no summary:\nall is dropped",
    ),
    "baidu_qa": (
        "a question",
        (("title", "我家的炉子…", True), ("desc", "…换过煤气了", False), ("answer", "会。…", True)),
        "asked with\nthe title alone",
    ),
    "zhihu_kol": (
        "an answer",
        (("question", "…", True), ("upvotes", "赞同 1.6 万", False), ("answer", "…", True)),
        "read as 0:\nall is dropped",
    ),
}


def unread(rows: list[dict]):
    """A record of each source of FIELDS, field by field, and what the original kept of records and of characters."""
    fig, ax = figure(2.6)
    blank(ax, (0, 100), (0, 36))
    for x, word in ((84.5, "records"), (95, "characters")):
        ax.text(x, 34, word, ha="center", fontsize=8, color=SLATE)
    ax.text(84.5 + 5.2, 31.6, "kept, of what ours keeps", ha="center", fontsize=6.5, color=SLATE)
    for k, row in enumerate(rows):
        y = 22.5 - 10.5 * k
        what, fields, why = FIELDS[row["source"]]
        ax.text(0, y + 4.6, row["source"], va="center", fontsize=8.5, color=INK)
        ax.text(0, y + 2.0, what, va="center", fontsize=7, color=SLATE)
        for j, (name, content, read) in enumerate(fields):
            x = 15 + 16.2 * j
            edge = {"fc": PALE, "ec": PALE} if read else {"fc": PAPER, "ec": FURNACE}
            ax.add_patch(Rectangle((x, y), 15, 6.8, lw=1, **edge))
            ink = ON_PALE if read else INK
            ax.text(x + 1, y + 5, name, va="center", fontsize=6.8, color=ink)
            ax.text(x + 1, y + 2.1, content, va="center", fontsize=7.6, color=ink)
        ax.text(64.5, y + 3.4, why, va="center", fontsize=7.6, color=FURNACE, linespacing=1.2)
        kept = row["original"] / row["steel"]
        share = row["original_without_template"] / row["steel_characters"]
        for x, value in ((84.5, kept), (95, share)):
            ax.text(x, y + 3.4, f"{value:.0%}", ha="center", va="center", fontsize=9, color=INK)
    footer(fig, LOG)
    return fig


# -- a corpus by its bytes ---------------------------------------------------------------------------------------------

BLUE, SKY, ORANGE = "#34668a", OKABE_ITO["sky"], OKABE_ITO["orange"]
TINT = {"Chinese": BLUE, "English": SKY, "code": ORANGE}


def budget(used: dict[str, tuple[float, str, bool]], today: dict[str, tuple[float, str, bool]]):
    """A bar for each set, billions of tokens; {name: (tokens, language, estimated)}, and estimates are hatched."""
    fig, ax = figure(3.4)
    y = 0.0
    for title, parts in (("Steel, 2024", used), ("On offer today, before duplicates go", today)):
        total = sum(tokens for tokens, *_ in parts.values())
        ax.text(0, y, f"{title}: {total:,.0f} billion tokens", va="center", fontsize=9, color=INK)
        for name, (tokens, language, estimated) in parts.items():
            y -= 1
            face = PAPER if estimated else TINT[language]
            ax.barh(
                y,
                tokens,
                height=0.62,
                color=face,
                ec=TINT[language],
                lw=1,
                hatch="////" if estimated else "",
            )
            ax.text(tokens + 14, y, f"{tokens:,.0f}", va="center", fontsize=8, color=INK)
            ax.text(-14, y, name, ha="right", va="center", fontsize=8, color=INK)
        y -= 1.5
    for k, (language, tint) in enumerate(TINT.items()):
        ax.barh(-1.2 - 0.9 * k, 45, left=1010, height=0.5, color=tint, lw=0)
        ax.text(1075, -1.2 - 0.9 * k, language, va="center", fontsize=8, color=INK)
    blank(ax, (-480, 1420), (y + 0.7, 0.6))
    footer(fig, LOG + "; the catalogue's cards")
    return fig
