"""Draw the book's standing figures: schematics, and those made from committed run logs (`figures/runs/*.jsonl`).

    python -m figures.make            draws all of them into book/_static/figures
    python -m figures.make house      one of them

Each figure is written twice, for the light and for the dark theme; the same input gives the same bytes. Figures of a
chapter's own experiments are drawn in its notebook, not here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from figures import style
from figures.style import FURNACE, GRID, INK, PAPER, SLATE, STEEL

TARGET = Path(__file__).resolve().parents[1] / "book" / "_static" / "figures"
DARK = {INK: "#dde2e7", PAPER: "#14181d", GRID: "#343c45", STEEL: "#7fb2d6", SLATE: "#94a3b1", FURNACE: "#f08a54"}
FIGURES: dict[str, Callable] = {}


def figure(draw: Callable) -> Callable:
    """Register a function without arguments that returns a figure; its name is the file's name."""
    FIGURES[draw.__name__] = draw
    return draw


@figure
def house():
    """The way of a text through the house, from raw files to a chat model that has sat an exam."""
    fig, ax = style.figure(height=1.75, wide=True)
    things = ["raw text", "documents", "token shards", "base model", "chat model", "exam, chat"]
    ways = [("corpus", "02–04"), ("tokenizer, data", "05, 10"), ("model, train", "06–12"), ("align", "14–16"),
            ("evaluation, serve", "13, 17, 18")]  # fmt: skip
    for at, thing in enumerate(things):
        last = at == len(things) - 1
        ax.text(2 * at, 0, thing, ha="center", va="center", fontsize=10.5, color=PAPER if not last else INK,
                bbox={"boxstyle": "round,pad=0.55", "fc": STEEL if not last else PAPER, "ec": STEEL, "lw": 1.2})
    for at, (room, chapters) in enumerate(ways):
        arrow = {"arrowstyle": "-|>", "color": SLATE, "lw": 1.3}
        ax.annotate("", (2 * at + 1.42, 0), (2 * at + 0.62, 0), arrowprops=arrow)
        ax.text(2 * at + 1, 0.62, room, ha="center", va="center", fontsize=9, color=INK)
        ax.text(2 * at + 1, -0.62, chapters, ha="center", va="center", fontsize=8.5, color=SLATE)
    ax.text(-0.72, 0.62, "steel.", ha="left", va="center", fontsize=9, color=SLATE)
    ax.text(-0.72, -0.62, "chapter", ha="left", va="center", fontsize=8.5, color=SLATE)
    ax.set(xlim=(-0.8, 10.75), ylim=(-0.95, 0.95))
    ax.axis("off")
    return fig


def render(name: str) -> dict[str, str]:
    """File name → SVG of figure ``name``, light and dark."""
    light = style.to_svg(FIGURES[name]()) + "\n"
    dark = light
    for colour, other in DARK.items():
        dark = dark.replace(colour, other)
    return {f"{name}-light.svg": light, f"{name}-dark.svg": dark}


def main(names: list[str]) -> int:
    if unknown := [name for name in names if name not in FIGURES]:
        print(f"no figure called {', '.join(unknown)}; there are: {', '.join(FIGURES)}", file=sys.stderr)
        return 2
    TARGET.mkdir(parents=True, exist_ok=True)
    for name in names or FIGURES:
        for file, svg in render(name).items():
            temporary = TARGET / f"{file}.tmp"
            temporary.write_text(svg, encoding="utf-8")
            os.replace(temporary, TARGET / file)
        print(f"book/_static/figures/{name}-light.svg, {name}-dark.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
