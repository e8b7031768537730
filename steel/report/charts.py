"""The report card's charts as plain data; the template's one macro draws them as SVG.

CSS classes carry the colours, so every chart follows the reader's light or dark theme: steel blue
for this run, slate for baselines and earlier stages, orange for "look here".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from .words import count, percent, title

WAYS = {
    "text": "text: the likeliest reply to the bare question",
    "letter": "letter: the likeliest of A–D",
    "generate": "generate: read from the written reply",
    "cloze": "cloze: continues a sentence with the fact",
}


@dataclass
class Chart:
    """One chart. Places are shares of the plot area, x from the left and y from the bottom."""

    name: str
    """Said to readers who cannot see it."""
    shape: str
    """wide or half: a curve over the page's whole or half width; rows: names down the left side."""
    height: int
    """With axes and titles [pixels]."""
    x_title: str
    y_title: str = ""
    lead: str = ""
    """First words of the caption, in bold."""
    caption: str = ""
    x_ticks: list[tuple] = field(default_factory=list)
    """(x, words)"""
    y_ticks: list[tuple] = field(default_factory=list)
    """(y, words)"""
    lines: list[tuple] = field(default_factory=list)
    """(points [(x, y)], class)"""
    dots: list[tuple] = field(default_factory=list)
    """(x, y, radius [pixels], class, what it says on hover)"""
    notes: list[tuple] = field(default_factory=list)
    """(x, y, words, class), written from there to the right; class "chance" is centred."""
    results: list[tuple] = field(default_factory=list)
    """(y, words, class), written at the right of the plot area."""


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers that span [low, high]: steps of 1, 2 or 5 times a power of ten."""
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / most))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= most)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def curve(stage: dict, wide: bool) -> Chart | None:
    """Loss (or reward) of one stage: raw line, running mean, held-out points, incidents.

    None for a stage with fewer than two points.
    """
    metric, rows, name = stage["metric"], stage["curve"], title(stage["name"])
    x_key = "tokens" if all(r.get("tokens") for r in rows) else "step"
    points = [(r[x_key], r[metric]) for r in rows if None not in (r.get(x_key), r.get(metric))]
    checks = [(r[x_key], r["loss"]) for r in stage["eval"] if r.get(x_key) is not None]
    if metric == "reward":
        checks = []  # the held-out loss is another quantity
    if len(points) < 2:
        return None
    smooth = _running_mean(points, max(1, len(points) // 40))
    low, high = _range([y for _, y in points + checks])
    x_high = max(x for x, _ in points)

    def at(x: float, y: float) -> tuple[float, float]:
        return x / x_high, (y - low) / (high - low)

    chart = Chart(
        f"{name}: {metric} over {x_key}, from {points[0][1]:.3g} to {smooth[-1][1]:.3g}",
        shape="wide" if wide else "half",
        height=330 if wide else 270,
        x_title="tokens" if x_key == "tokens" else "steps",
        y_title=f"loss, nats per {'pair' if stage['name'] in ('reward', 'dpo') else 'token'}",
        lead=name[0].upper() + name[1:],
        caption=_work(stage) + ". Thin: as logged; thick: running mean",
    )
    chart.caption += "; dots: held-out text." if checks else "."
    if metric == "reward":
        chart.y_title = "reward per reply"
    chart.x_ticks = [(x / x_high, count(x)) for x in nice_ticks(0, x_high, 6 if wide else 4)]
    chart.y_ticks = [(at(0, y)[1], f"{y:g}") for y in nice_ticks(low, high, 5)]
    free, room = 0.0, 0.08 if wide else 0.2
    for x, what in _incidents(stage, x_key):
        if x / x_high >= free:  # closer ones would cover each other's words
            chart.lines.append(([(x / x_high, 0), (x / x_high, 1)], "look"))
            chart.notes.append((x / x_high + 0.01, 0.95, what, "look-text"))
            free = x / x_high + room
    thin = max(1, len(points) // 600)
    chart.lines.append(([at(*p) for p in points[::thin]], "raw"))
    chart.lines.append(([at(*p) for p in smooth[::thin]], "main"))
    for x, y in checks:
        chart.dots.append((*at(x, y), 4, "check", f"held out {y:.3f} at {count(x)} {x_key}"))
    words, last = "reward" if metric == "reward" else "training", smooth[-1][1]
    chart.results = [(at(0, last)[1], f"{words} {last:.3f}", "label main-text")]
    if checks:
        last = checks[-1][1]
        chart.results.append((at(0, last)[1], f"held out {last:.3f}", "label"))
        (upper, *a), (lower, *b) = sorted(chart.results, reverse=True)
        chart.results = [(upper, *a), (min(lower, upper - 0.07), *b)]
    return chart


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Limits of the y axis: from 0, unless the values are far from it or below it."""
    low, high = min(values), max(values)
    margin = 0.1 * (high - low)
    if low > 0.6 * high:
        return low - margin, high + (margin or 1)
    return (0.0, high * 1.04 or 1) if low >= 0 else (low, high)


def _running_mean(points: Sequence[tuple[float, float]], half: int) -> list[tuple[float, float]]:
    """Each point's mean with up to `half` neighbours on either side."""
    sums = [0.0, *accumulate(y for _, y in points)]
    means = []
    for i, (x, _) in enumerate(points):
        a, b = max(0, i - half), min(len(points), i + half + 1)
        means.append((x, (sums[b] - sums[a]) / (b - a)))
    return means


def _incidents(stage: dict, x_key: str) -> list[tuple[float, str]]:
    """(place on the x axis, what happened): at the logged step nearest to the event's."""
    places = {r["step"]: r[x_key] for r in stage["curve"] if r.get("step") is not None}
    found = []
    for event in stage["events"]:
        if places and event.get("step") is not None:
            nearest = min(places, key=lambda step: abs(step - event["step"]))
            found.append((places[nearest], event["what"]))
    return found


def _work(stage: dict) -> str:
    speed = f", {count(stage['tokens_per_s'])} tokens/s" if stage.get("tokens_per_s") else ""
    return f"{count(stage.get('steps'))} steps, {count(stage.get('tokens'))} tokens{speed}"


def forest(exams: Sequence[dict]) -> Chart | None:
    """Accuracy after each stage, ± 1 standard error, one block per way of scoring, with chance."""
    rows: list[tuple] = []  # (stage, way, result), or (heading, way, None)
    for way, heading in WAYS.items():
        scores = [(e["stage"], e.get("exam", {}).get("scoring", {}).get(way)) for e in exams]
        if way == "cloze":
            scores = [(e["stage"], e.get("cloze")) for e in exams]
        found = [(stage, way, score) for stage, score in scores if score]
        rows += [(heading, way, None), *found] if found else []
    if not rows:
        return None
    last = {way: (stage, score) for stage, way, score in rows}
    best = [f"{way} {percent(r['accuracy'])} after {title(s)}" for way, (s, r) in last.items()]
    name = "Exam accuracy after each stage: " + "; ".join(best)
    axis = "right answers (whisker: ± 1 standard error)"
    chart = Chart(name, "rows", 80 + 25 * len(rows), axis)
    chart.x_ticks = [(p, f"{100 * p:g}\u00a0%") for p in (0, 0.25, 0.5, 0.75, 1)]
    guessing = 1.0  # share of the rows that have options to guess among: a cloze has none
    for i, (stage, way, result) in enumerate(rows):
        y = 1 - (i + 0.5) / len(rows)
        if result is None:
            chart.notes.append((-0.24, y, stage, "block"))
            guessing = i / len(rows) if way == "cloze" else guessing
            continue
        p, se = result["accuracy"], result["se"]
        css, words = "base", f"{percent(p)} ± {100 * se:.1f}"
        if last[way][0] == stage:
            css = "main"
        tip = f"{title(stage)}, {way}: {words}, n = {result['n']}"
        chart.y_ticks.append((y, title(stage)))
        chart.lines.append(([(max(0, p - se), y), (min(1, p + se), y)], f"whisker-{css}"))
        chart.dots.append((p, y, 5, f"dot-{css}", tip))
        chart.results.append((y, words, "label main-text" if css == "main" else "label"))
    if sat := [e["exam"]["baselines"]["chance"] for e in exams if e.get("exam")]:
        above = 1 + 0.4 / len(rows)
        chart.lines.append(([(sat[-1], above), (sat[-1], 1 - guessing)], "chance"))
        chart.notes.append(
            (sat[-1], above + 0.2 / len(rows), f"chance {percent(sat[-1])}", "chance")
        )
    return chart


def bits_per_byte(exams: Sequence[dict]) -> Chart | None:
    """One row per domain, one dot per stage; a domain without a number says so in orange."""
    stages = [(e["stage"], e["perplexity"]["domains"]) for e in exams]
    if not stages:
        return None
    untrained = ""
    if len(stages) > 1 and stages[0][0] == "init":  # far to the right of all others: said in words
        known = [r["bpb"] for r in stages.pop(0)[1].values() if r["bpb"] is not None]
        untrained = f" Untrained: {sum(known) / len(known):.2f} on average." if known else ""
    names = list(dict.fromkeys(name for _, domains in stages for name in domains))
    values = [r["bpb"] for _, domains in stages for r in domains.values() if r["bpb"] is not None]
    high = 1.05 * max(values, default=1.0)
    axis = "bits per byte of held-out text (less is better)"
    chart = Chart("Bits per byte by domain: ", "rows", 80 + 25 * len(names), axis)
    chart.x_ticks = [(v / high, f"{v:g}") for v in nice_ticks(0, high, 8)]
    for i, name in enumerate(names):
        y = 1 - (i + 0.5) / len(names)
        seen = [(stage, domains[name]["bpb"]) for stage, domains in stages if name in domains]
        known = [(stage, v) for stage, v in seen if v is not None]
        chart.y_ticks.append((y, name))
        if known:
            places = [v / high for _, v in known]
            chart.lines.append(([(min(places), y), (max(places), y)], "span"))
        for stage, v in known:
            radius, css = (5, "dot-main") if stage == known[-1][0] else (4, "dot-base")
            chart.dots.append((v / high, y, radius, css, f"{name}, {title(stage)}: {v:.3f}"))
        result = (y, "no number", "look-text")
        if seen[-1][1] is not None:
            result = (y, f"{seen[-1][1]:.3f}", "label main-text")
        chart.results.append(result)
    chart.name += "; ".join(f"{name} {r[1]}" for name, r in zip(names, chart.results))
    *earlier, final = [title(stage) for stage, _ in stages]
    grey = f" Grey: {', '.join(earlier)}." if earlier else ""
    chart.caption = f"Blue: {final}.{grey}{untrained}"
    return chart
