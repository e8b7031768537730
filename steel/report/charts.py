"""The numbers of the report card's charts; the template says where they stand and what they are called.

Places are shares of the plot area, x from the left and y from the bottom.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

from .words import WORDS


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers that span [low, high]: steps of 1, 2 or 5 times a power of ten."""
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / most))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= most)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def curve(stage: dict, wide: bool) -> dict | None:
    """Loss (or reward) of one stage: raw line, running mean, held-out points, incidents.

    None for a stage with fewer than two points.
    """
    metric, rows = stage["metric"], stage["curve"]
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

    thin = max(1, len(points) // 600)
    return {
        "stage": stage,
        "wide": wide,
        "x_key": x_key,
        "x_ticks": [(x / x_high, x) for x in nice_ticks(0, x_high, 6 if wide else 4)],
        "y_ticks": [(at(0, y)[1], y) for y in nice_ticks(low, high, 5)],
        "raw": [at(*p) for p in points[::thin]],
        "smooth": [at(*p) for p in smooth[::thin]],
        "checks": [(*at(*p), *p) for p in checks],
        "incidents": _incidents(stage, x_key, x_high, room=0.08 if wide else 0.2),
        "first": points[0][1],
        "last": smooth[-1][1],
        "last_at": at(*smooth[-1])[1],
    }


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


def _incidents(stage: dict, x_key: str, x_high: float, room: float) -> list[tuple[float, str]]:
    """(place, what happened), at the logged step nearest to the event's; words need `room`."""
    places = {r["step"]: r[x_key] / x_high for r in stage["curve"] if r.get("step") is not None}
    found: list[tuple[float, str]] = []
    for event in stage["events"]:
        if places and event.get("step") is not None:
            place = places[min(places, key=lambda step: abs(step - event["step"]))]
            if not found or place >= found[-1][0] + room:
                found.append((place, event["what"]))
    return found


def _down(row: int, rows: int) -> float:
    """The place of a row on the y axis."""
    return 1 - (row + 0.5) / rows


def accuracies(exams: Sequence[dict]) -> list[dict]:
    """Rows {heading} of every way of scoring, each before its rows {stage, last, accuracy, …}.

    All have `way` and their place `up`.
    """
    rows: list[dict] = []
    for way, heading in WORDS["ways"].items():
        scores = [(e["stage"], e.get("exam", {}).get("scoring", {}).get(way)) for e in exams]
        if way == "cloze":
            scores = [(e["stage"], e.get("cloze")) for e in exams]
        found = [{"stage": stage, "way": way} | score for stage, score in scores if score]
        if found:
            found[-1]["last"] = True
            rows += [{"heading": heading, "way": way}, *found]
    return [row | {"up": _down(i, len(rows))} for i, row in enumerate(rows)]


def bits_per_byte(exams: Sequence[dict]) -> dict | None:
    """rows [(domain, place, [(stage, bits per byte or None)])], and the untrained model's mean.

    That one would stand far to the right of all others, so it gets no dots.
    """
    stages = [(e["stage"], e["perplexity"]["domains"]) for e in exams]
    if not stages:
        return None
    untrained: list[float] = []
    if len(stages) > 1 and stages[0][0] == "init":
        untrained = [r["bpb"] for r in stages.pop(0)[1].values() if r["bpb"] is not None]
    names = list(dict.fromkeys(name for _, domains in stages for name in domains))
    found = [[(s, d[name]["bpb"]) for s, d in stages if name in d] for name in names]
    high = 1.05 * max((v for values in found for _, v in values if v is not None), default=1.0)
    places = [_down(i, len(names)) for i in range(len(names))]
    return {
        "rows": list(zip(names, places, found, strict=True)),
        "high": high,
        "x_ticks": [(v / high, v) for v in nice_ticks(0, high, 8)],
        "stages": [stage for stage, _ in stages],
        "untrained": sum(untrained) / len(untrained) if untrained else None,
    }
