"""What the seeds published (`published.yaml`), redrawn: HammerLLM's perplexities, Steel-LLM's exams."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from statistics import geometric_mean

import yaml

from figures.style import OKABE_ITO, SLATE, STEEL, axis_units, figure, label_line

QUESTIONS = {"C-Eval": 1346, "CMMLU": 11582}
"""Questions with public answers when the seeds were measured: C-Eval's val split, CMMLU's test."""
OURS = "Ours"


@cache
def published() -> dict:
    """The tables as printed."""
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def average(values: list[float]) -> float:
    """HammerLLM's "Avg.": the geometric mean of what is a number."""
    return geometric_mean([v for v in values if math.isfinite(v)])


def standard_error(percent: float, exam: str) -> float:
    """Binomial standard error of a published score [points]."""
    return 100 * math.sqrt(percent / 100 * (1 - percent / 100) / QUESTIONS[exam])


def perplexity_by_tokens():
    """HammerLLM's average perplexity while it trained, Chinese and English, beside other models'."""
    fig, axes = figure(2.8, ncols=2)
    peers = {"Qwen-1.5(1.8B)": OKABE_ITO["orange"], "InterLM2-1.8B": OKABE_ITO["green"],
             "MiniCPM-2B(350k)": OKABE_ITO["purple"]}  # fmt: skip
    for ax, (lang, title) in zip(
        axes, (("zh", "Chinese, 6 domains"), ("en", "English, 4 domains"))
    ):
        rows = published()["perplexity"][lang]["rows"]
        own = [row for row in rows if row["model"].startswith(OURS)]
        tokens = [float(row["tokens"].rstrip("B")) for row in own]
        ax.plot(tokens, [average(row["values"]) for row in own], color=STEEL, marker="o", ms=3)
        for row in rows:
            if row["model"] in peers:
                y = average(row["values"])
                ax.axhline(y, color=peers[row["model"]], lw=0.9, ls="--")
                partial = "*" if any(math.isnan(v) for v in row["values"]) else ""
                name = row["model"].split("(")[0].replace("InterLM2", "InternLM2")
                label_line(ax, tokens[-1], y, name + partial, SLATE, xytext=(9, 0))
                if partial and lang == "en" and row["model"].startswith("MiniCPM"):
                    there = [v for v, m in zip(own[-1]["values"], row["values"]) if m == m]
                    ax.plot(tokens[-1], average(there), "o", color=STEEL, mfc="none", ms=5)
        axis_units(ax, x="tokens seen (billions)", y="perplexity, normalised", title=title)
    return fig
