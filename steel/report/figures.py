"""The report card's figures: SVG from plain Python, no plotting library, no script.

Colours are classes of the page: steel blue for this run, slate for baselines and earlier stages, orange for "look
here", so every figure follows the reader's light or dark theme. Each is a <figure> with an accessible name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from .card import count, percent, title

STEP_UNITS = {
    "pretrain": "nats per token",
    "sft": "nats per token",
    "reward": "nats per pair",
    "dpo": "nats per pair",
}


def figure(
    width: int, height: int, name: str, body: str, caption: str = "", wide: bool = True
) -> str:
    """A titled, scalable drawing; narrow screens scroll it rather than shrink its text away."""
    name, narrowest = escape(name), 460 if wide else 320
    return (
        f'<figure class="{"wide" if wide else "half"}"><div class="scroll"><svg role="img" aria-label="{name}" '
        f'viewBox="0 0 {width} {height}" style="min-width:{narrowest}px;max-width:{round(width * 1.05)}px">'
        f"<title>{name}</title>{body}</svg></div>"
        + (f"<figcaption>{caption}</figcaption>" if caption else "")
        + "</figure>"
    )


def text(x: float, y: float, content: str, css: str = "", anchor: str = "start") -> str:
    """One line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """A straight stroke."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def dot(x: float, y: float, css: str, tip: str, radius: float = 5) -> str:
    """A point with its numbers on hover."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" class="{css}"><title>{escape(tip)}</title></circle>'


def path(points: Sequence[tuple[float, float]], css: str) -> str:
    """A polyline."""
    return f'<path class="{css}" d="M{" L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>'


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers that span [low, high]: steps of 1, 2 or 5 times a power of ten."""
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / most))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= most)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


# -- loss --------------------------------------------------------------------------------------------------------------


def curve(stage: dict, wide: bool) -> str:
    """Loss (or reward) of one stage over tokens: raw line, running mean, validation points, events."""
    metric = stage.get("metric", "loss")
    x_key = "tokens" if all(r.get("tokens") for r in stage["curve"]) else "step"
    points = [
        (r[x_key], r[metric])
        for r in stage["curve"]
        if r.get(metric) is not None and r.get(x_key) is not None
    ]
    checks = [
        (r[x_key], r["loss"])
        for r in stage.get("eval", [])
        if r.get("loss") is not None and r.get(x_key) is not None and metric == "loss"
    ]
    if len(points) < 2:
        return ""
    width, height, left, right, top, bottom = (
        (940, 330, 58, 150, 34, 46) if wide else (460, 270, 52, 118, 34, 46)
    )
    values = [y for _, y in points + checks]
    low, high = (0.0, max(values) * 1.04) if min(values) >= 0 else (min(values), max(values))
    if min(values) > 0.6 * max(values):
        low = min(values) - 0.1 * (max(values) - min(values))
    high = high if high > low else low + 1
    x_high = max(x for x, _ in points)

    def at(x: float, y: float) -> tuple[float, float]:
        down = 1 - (y - low) / (high - low)
        return left + (width - left - right) * x / x_high, top + (height - top - bottom) * down

    unit = (
        "reward per reply"
        if metric == "reward"
        else f"loss, {STEP_UNITS.get(stage['name'], 'nats per token')}"
    )
    body = [text(left - 40, 18, unit, "axis")]
    for y in nice_ticks(low, high, 5):
        body += [
            line(left, at(0, y)[1], width - right, at(0, y)[1], "grid"),
            text(left - 8, at(0, y)[1] + 4, f"{y:g}", "tick", "end"),
        ]
    for x in nice_ticks(0, x_high, 6 if wide else 4):
        body.append(text(at(x, low)[0], height - bottom + 18, count(x), "tick", "middle"))
    body.append(
        text(
            (left + width - right) / 2,
            height - 8,
            x_key if x_key == "tokens" else "steps",
            "axis",
            "middle",
        )
    )
    body += _events(stage, at, low, top, height - bottom, x_key)
    thin = points[:: max(1, len(points) // 600)]
    smooth = _running_mean(points, max(1, len(points) // 40))
    body += [
        path([at(*p) for p in thin], "raw"),
        path([at(*p) for p in smooth[:: max(1, len(points) // 600)]], "main"),
    ]
    body += [
        dot(*at(x, y), "check", f"held out {y:.3f} at {count(x)} {x_key}", 4) for x, y in checks
    ]
    words = "reward" if metric == "reward" else "training"
    labels = [(at(*smooth[-1])[1], f"{words} {smooth[-1][1]:.3f}", "label main-text")]
    if checks:
        labels.append((at(*checks[-1])[1], f"held out {checks[-1][1]:.3f}", "label"))
    body += [text(width - right + 10, y + 4, words, css) for y, words, css in _apart(labels)]
    name = f"{title(stage['name'])}: {metric} over {x_key}, from {points[0][1]:.3g} to {smooth[-1][1]:.3g}"
    caption = f"<b>{escape(_capital(title(stage['name'])))}.</b> {_caption(stage)}"
    return figure(width, height, name, "".join(body), caption, wide)


def _caption(stage: dict) -> str:
    parts = [f"{count(stage.get('steps'))} steps", f"{count(stage.get('tokens'))} tokens"]
    if stage.get("tokens_per_s"):
        parts.append(f"{count(stage['tokens_per_s'])} tokens/s")
    return (
        escape(", ".join(parts))
        + ". Thin: as logged; thick: running mean"
        + (
            "; dots: held-out text."
            if stage.get("eval") and stage.get("metric") != "reward"
            else "."
        )
    )


def _events(stage: dict, at, low: float, top: float, floor: float, x_key: str) -> list[str]:
    """Incidents as orange marks; many of one kind at one place are one mark."""
    by_step = {r.get("step"): r.get(x_key) for r in stage["curve"]}
    drawn, marks = -100.0, []
    for event in stage.get("events", []):
        step = event.get("step")
        nearest = (
            min((s for s in by_step if s is not None), key=lambda s: abs(s - step), default=None)
            if step is not None
            else None
        )
        if nearest is None:
            continue
        x = at(by_step[nearest], low)[0]
        if x - drawn < 60:
            continue
        drawn = x
        marks += [line(x, top, x, floor, "look"), text(x + 4, top + 10, event["what"], "look-text")]
    return marks


def _running_mean(points: Sequence[tuple[float, float]], half: int) -> list[tuple[float, float]]:
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    n = len(points)
    spans = [(max(0, i - half), min(n, i + half + 1)) for i in range(n)]
    return [(points[i][0], (sums[b] - sums[a]) / (b - a)) for i, (a, b) in enumerate(spans)]


def _apart(labels: list[tuple[float, str, str]], gap: float = 17) -> list[tuple[float, str, str]]:
    """Labels moved down until none covers another."""
    placed: list[tuple[float, str, str]] = []
    for y, words, css in sorted(labels):
        placed.append((max(y, placed[-1][0] + gap) if placed else y, words, css))
    return placed


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


# -- exams -------------------------------------------------------------------------------------------------------------

WAYS = (
    ("text", "text: the likeliest reply to the bare question"),
    ("letter", "letter: the likeliest of A–D"),
    ("generate", "generate: read from the written reply"),
    ("cloze", "cloze: continues a sentence with the fact"),
)


def forest(exams: Sequence[dict]) -> str:
    """Accuracy after each stage, ±1 standard error, one block per way of scoring, with chance as a line."""
    rows: list[tuple[str, str, dict | None]] = []
    for way, words in WAYS:
        found = [(e["stage"], r) for e in exams if (r := _result(e, way))]
        if found:
            rows.append(("block", words, None))
            rows += [(stage, way, r) for stage, r in found]
    if not rows:
        return ""
    baselines = next(
        (e["exam"]["baselines"] for e in reversed(exams) if (e.get("exam") or {}).get("baselines")),
        {},
    )
    left, right, top, pitch, width = 112, 112, 40, 24, 740
    height = top + pitch * len(rows) + 44
    floor = height - 40

    def at(p: float) -> float:
        return left + (width - left - right) * p

    last = {way: stage for stage, way, r in rows if r}
    body = []
    for p in (0, 0.25, 0.5, 0.75, 1):
        body += [
            line(at(p), top - 8, at(p), floor, "grid"),
            text(at(p), floor + 17, f"{100 * p:g} %", "tick", "middle"),
        ]
    body.append(
        text(at(0.5), height - 6, "right answers (whisker: ± 1 standard error)", "axis", "middle")
    )
    if (
        "chance" in baselines
    ):  # a cloze has no options to guess among, so the line ends above its block
        end = next(
            (top + pitch * i - 2 for i, row in enumerate(rows) if row[1] == WAYS[-1][1]), floor
        )
        body += [
            line(at(baselines["chance"]), top - 12, at(baselines["chance"]), end, "chance"),
            text(
                at(baselines["chance"]),
                top - 18,
                f"chance {percent(baselines['chance'])}",
                "tick",
                "middle",
            ),
        ]
    for i, (stage, way, result) in enumerate(rows):
        y = top + pitch * i + 14
        if result is None:
            body.append(text(8, y + 4, way, "block"))
            continue
        p, se = result["accuracy"], result["se"]
        css = "main" if last[way] == stage else "base"
        words = f"{percent(p)} ± {percent(se).removesuffix(' %')}"
        body += [
            text(left - 16, y + 4, title(stage), "label", "end"),
            line(at(max(0, p - se)), y, at(min(1, p + se)), y, f"whisker-{css}"),
            dot(at(p), y, f"dot-{css}", f"{title(stage)}, {way}: {words}, n = {result['n']}"),
            text(width - right + 14, y + 4, words, "label main-text" if css == "main" else "label"),
        ]
    name = "Exam accuracy after each stage: " + "; ".join(
        f"{way} {percent(r['accuracy'])} after {title(stage)}"
        for stage, way, r in rows
        if r and last[way] == stage
    )
    return figure(width, height, name, "".join(body))


def _result(exam: dict, way: str) -> dict | None:
    return (
        exam.get("cloze")
        if way == "cloze"
        else ((exam.get("exam") or {}).get("scoring") or {}).get(way)
    )


# -- bits per byte -----------------------------------------------------------------------------------------------------


def bits_per_byte_dots(exams: Sequence[dict]) -> str:
    """One row per domain, one dot per stage; a domain without a number says so in orange."""
    stages = [
        (e["stage"], e["perplexity"]["domains"])
        for e in exams
        if (e.get("perplexity") or {}).get("domains")
    ]
    if not stages:
        return ""
    before = ""
    if (
        len(stages) > 1 and stages[0][0] == "init"
    ):  # far to the right of all others: a number says it as well
        known = [r["bpb"] for r in stages[0][1].values() if r.get("bpb") is not None]
        before = f" Untrained: {sum(known) / len(known):.2f} on average." if known else ""
        stages = stages[1:]
    domains = list(dict.fromkeys(d for _, found in stages for d in found))
    values = [r["bpb"] for _, found in stages for r in found.values() if r.get("bpb") is not None]
    width, left, right, top, pitch = 740, 130, 96, 34, 26
    height, high = top + pitch * len(domains) + 44, (max(values) if values else 1.0) * 1.05
    floor = height - 40

    def at(v: float) -> float:
        return left + (width - left - right) * v / high

    body = []
    for v in nice_ticks(0, high, 8):
        body += [
            line(at(v), top - 8, at(v), floor, "grid"),
            text(at(v), floor + 17, f"{v:g}", "tick", "middle"),
        ]
    body.append(
        text(
            at(high / 2),
            height - 6,
            "bits per byte of held-out text (less is better)",
            "axis",
            "middle",
        )
    )
    for i, domain in enumerate(domains):
        y = top + pitch * i + 12
        body.append(text(left - 16, y + 4, domain, "label", "end"))
        seen = [(s, found[domain]["bpb"]) for s, found in stages if domain in found]
        known = [(s, v) for s, v in seen if v is not None]
        if known:
            body.append(
                line(at(min(v for _, v in known)), y, at(max(v for _, v in known)), y, "span")
            )
            for stage, v in known[:-1]:
                body.append(dot(at(v), y, "dot-base", f"{domain}, {title(stage)}: {v:.3f}", 4))
            body.append(
                dot(
                    at(known[-1][1]),
                    y,
                    "dot-main",
                    f"{domain}, {title(known[-1][0])}: {known[-1][1]:.3f}",
                )
            )
        nan = not seen or seen[-1][1] is None
        body.append(
            text(
                width - right + 14,
                y + 4,
                "no number" if nan else f"{seen[-1][1]:.3f}",
                "look-text" if nan else "label main-text",
            )
        )
    final = title(stages[-1][0])
    numbers = [
        f"{d} {r['bpb']:.3f}" if r.get("bpb") is not None else f"{d} has no number"
        for d, r in stages[-1][1].items()
    ]
    name = "Bits per byte by domain: " + "; ".join(numbers)
    earlier = ", ".join(title(s) for s, _ in stages[:-1])
    caption = escape(f"Blue: {final}." + (f" Grey: {earlier}." if earlier else "") + before)
    return figure(width, height, name, "".join(body), caption)
