"""Draw the book's standing figures: schematics, and those made from committed run logs (`figures/runs/*.jsonl`).

    python -m figures.make                         draws all of them into figures/generated
    python -m figures.make house                   one of them
    python -m figures.make --collect runs/laptop   condenses a finished RUN folder into figures/runs/laptop.jsonl

Each figure is written twice, `name.svg` for light pages and `name-dark.svg`; the same input gives the same bytes.
Figures of a chapter's own experiments are drawn in its notebook, not here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from figures import style
from figures.claims import log
from figures.style import FURNACE, GRID, INK, PAPER, SLATE, STEEL

ROOT = Path(__file__).resolve().parents[1]
TARGET, RUNS = ROOT / "figures" / "generated", ROOT / "figures" / "runs"
DARK = {
    INK: "#dde2e7",
    PAPER: "#14181d",
    GRID: "#343c45",
    STEEL: "#7fb2d6",
    SLATE: "#94a3b1",
    FURNACE: "#f08a54",
}
STAGES = ["init", "pretrain", "sft", "dpo", "grpo"]
FIGURES: dict[str, Callable] = {}
NEEDS: dict[str, str] = {}


def figure(needs: str = "") -> Callable:
    """Register a function without arguments that returns a figure; its name is the file's name. ``needs`` names the
    run log that it reads; without that log it is left out."""

    def register(draw: Callable) -> Callable:
        FIGURES[draw.__name__], NEEDS[draw.__name__] = draw, needs
        return draw

    return register


def drawable() -> list[str]:
    """Figures whose run log is here."""
    return [name for name in FIGURES if not NEEDS[name] or (RUNS / f"{NEEDS[name]}.jsonl").exists()]


@figure()
def house():
    """The way of a text through the house, from raw files to a chat model that has sat an exam."""
    fig, ax = style.figure(height=1.75, wide=True)
    things = ["raw text", "documents", "token shards", "base model", "chat model", "exam, chat"]
    ways = [("corpus", "02–04"), ("tokenizer, data", "05, 10"), ("model, train", "06–12"), ("align", "14–16"),
            ("evaluation, serve", "13, 17, 18")]  # fmt: skip
    for at, thing in enumerate(things):
        last = at == len(things) - 1
        ax.text(
            2 * at,
            0,
            thing,
            ha="center",
            va="center",
            fontsize=10.5,
            color=PAPER if not last else INK,
            bbox={
                "boxstyle": "round,pad=0.55",
                "fc": STEEL if not last else PAPER,
                "ec": STEEL,
                "lw": 1.2,
            },
        )
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


@figure(needs="laptop")
def life():
    """One life of the laptop preset: loss while pretraining, then what the exam says after each stage."""
    rows = log("laptop")
    steps = [row for row in rows if row["kind"] == "step"]
    held_out = [row for row in rows if row["kind"] == "eval"]
    exams = [row for row in rows if row["kind"] == "exam"]
    fig, (left, right) = style.figure(height=2.7, wide=True, ncols=2, width_ratios=(1.15, 1))
    left.plot([s["tokens"] / 1e6 for s in steps], [s["loss"] for s in steps], color=STEEL, lw=1.3)
    left.plot(
        [e["tokens"] / 1e6 for e in held_out],
        [e["loss"] for e in held_out],
        "o",
        color=STEEL,
        mfc=PAPER,
        ms=5,
    )
    end = held_out[-1]
    style.label_line(
        left, end["tokens"] / 1e6, end["loss"], "held out", STEEL, xytext=(2, 9), ha="right"
    )
    left.set_ylim(0)
    style.axis_units(left, x="tokens read (millions)", y="pretraining loss (nats per token)")
    places = [STAGES.index(exam["stage"]) for exam in exams]
    for how, name, colour in (
        ("text", "said in a sentence", STEEL),
        ("generate", "written freely", FURNACE),
        ("letter", "by letter", SLATE),
    ):
        values = [100 * exam["people"][how] for exam in exams]
        errors = [
            (v * (100 - v) / exam["people"]["n"]) ** 0.5
            for v, exam in zip(values, exams, strict=True)
        ]
        right.errorbar(
            places, values, yerr=errors, fmt="o-", color=colour, ms=4.5, lw=1.4, elinewidth=0.9
        )
        lower = how == "letter"
        style.label_line(
            right, places[-1], values[-1], name, colour, xytext=(8, -7 if lower else 0)
        )
    talks = [exam for exam in exams if "conversation" in exam]
    right.errorbar(
        [STAGES.index(exam["stage"]) for exam in talks],
        [100 * exam["conversation"]["accuracy"] for exam in talks],
        yerr=[100 * exam["conversation"]["se"] for exam in talks],
        fmt="s--",
        color=style.OKABE_ITO["green"],
        ms=4,
        lw=1.2,
        elinewidth=0.9,
    )
    last = 100 * talks[-1]["conversation"]["accuracy"]
    style.label_line(
        right, places[-1], last, "conversation", style.OKABE_ITO["green"], xytext=(8, -4)
    )
    right.axhline(25, color=INK, lw=0.9)
    right.annotate("guessing", (4.3, 25), xytext=(0, 4), textcoords="offset points", fontsize=8)
    right.set(xlim=(-0.5, 5.7), ylim=(0, 102))
    right.set_xticks(range(5), ["untrained", "pretrained", "SFT", "DPO", "GRPO"])
    style.axis_units(right, y="answered right (%)")
    hardware = rows[0].get("hardware", {})
    what = f"preset laptop, seed {rows[0]['seed']}, {hardware.get('cores', 2)} cores, config {rows[0]['config_hash']}"
    style.footer(fig, f"figures/runs/laptop.jsonl: {what}")
    return fig


def collect(run: Path, most: int = 120) -> Path:
    """Condense RUN into figures/runs/<name of RUN>.jsonl: the pretraining log (at most ``most`` steps), what each exam
    found, a few samples, and every stage's time and memory. Raises FileNotFoundError for a run without pretraining."""
    lines = [
        json.loads(line)
        for line in (run / "pretrain" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    header = next(line for line in lines if line["kind"] == "header")
    steps = {
        line["step"]: line for line in lines if line["kind"] == "step"
    }  # after a resume the later one counts
    every = max(1, len(steps) // most)
    rows = [
        header,
        *list(steps.values())[::every],
        *(line for line in lines if line["kind"] == "eval"),
    ]
    for stage in STAGES:
        if (found := run / "exams" / f"{stage}.json").exists():
            rows.append(_exam(stage, json.loads(found.read_text(encoding="utf-8"))))
    stages = json.loads((run / "state.json").read_text(encoding="utf-8"))["stages"]
    rows += [{"kind": "stage", "name": name, **entry} for name, entry in stages.items()]
    path = RUNS / f"{run.name}.jsonl"
    _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def _exam(stage: str, found: dict) -> dict:
    row = {
        "kind": "exam",
        "stage": stage,
        "cloze": found.get("cloze", {}).get("accuracy"),
        "bits_per_byte": {
            name: domain["bpb"] for name, domain in found["perplexity"]["domains"].items()
        },
        "samples": found.get("samples", [])[:4],
    }
    if "exam" in found:
        ways = found["exam"]["scoring"].items()
        row["scoring"] = {
            how: {key: round(score[key], 5) for key in ("accuracy", "se", "n")}
            for how, score in ways
        }
        row["people"] = found["exam"]["groups"].get("people")
    if "conversation" in found:
        talk = found["conversation"]
        row["conversation"] = {key: talk[key] for key in ("accuracy", "se", "n")}
    return row


def render(name: str) -> dict[str, str]:
    """File name → SVG of figure ``name``, for light and dark pages."""
    light = style.to_svg(FIGURES[name]()) + "\n"
    dark = light
    for colour, other in DARK.items():
        dark = dark.replace(colour, other)
    return {f"{name}.svg": light, f"{name}-dark.svg": dark}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--collect"]:
        for run in arguments[1:]:
            print(collect(Path(run)).relative_to(ROOT))
        return 0
    if unknown := [name for name in arguments if name not in FIGURES]:
        print(
            f"no figure called {', '.join(unknown)}; there are: {', '.join(FIGURES)}",
            file=sys.stderr,
        )
        return 2
    for name in arguments or FIGURES:
        if name not in drawable():
            print(
                f"{name}: left out, needs figures/runs/{NEEDS[name]}.jsonl (make run, then --collect)"
            )
            continue
        for file, svg in render(name).items():
            _write(TARGET / file, svg)
        print(f"figures/generated/{name}.svg, {name}-dark.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
