"""The report card as Markdown: the page's tables without its figures, to read in a terminal or to commit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .card import count, device, duration, headline, percent, size, timed_stages, title


def markdown(data: dict) -> str:
    """The whole report card."""
    run = data.get("run") or {}
    parts = [
        f"# Report card: {run.get('name', 'run')}",
        _run_line(data),
        _table(
            ("", "", ""), [(f["label"], f"**{f['value']}**", f["note"]) for f in headline(data)]
        ),
    ]
    for heading, body in (
        ("What it knows", _exams(data)),
        ("Text it has never seen (bits per byte)", _bpb(data)),
        ("Time and memory", _stages(data)),
        ("What it read", _data(data)),
        ("What it says", _samples(data)),
    ):
        if body:
            parts += [f"## {heading}", body]
    notes = [
        f"- {title(s['name'])}: skipped, {s.get('reason') or 'no reason given'}"
        for s in data.get("stages", [])
        if s.get("status") == "skipped"
    ] + [f"- {note}" for note in data.get("notes", [])]
    if notes:
        parts += ["## What does not hold", "\n".join(notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _run_line(data: dict) -> str:
    run, model = data.get("run") or {}, data.get("model") or {}
    parameters = count(model["parameters"]) if model.get("parameters") else ""
    pairs = [
        ("preset", run.get("preset")),
        ("seed", run.get("seed")),
        ("commit", run.get("commit")),
        ("config", run.get("config_hash")),
        ("parameters", parameters),
        ("on", device(data)),
    ]
    packages = ", ".join(f"{k} {v}" for k, v in (run.get("packages") or {}).items())
    return ", ".join(f"{k} {v}" for k, v in pairs if v not in (None, "")) + (
        f"\n\n{packages}" if packages else ""
    )


def _exams(data: dict) -> str:
    rows, baselines = [], {}
    for e in data.get("exams", []):
        exam = e.get("exam") or {}
        baselines = exam.get("baselines") or baselines
        cells = [title(e["stage"])]
        for way in ("text", "letter", "generate"):
            r = (exam.get("scoring") or {}).get(way)
            cells.append(f"{percent(r['accuracy'])} ± {percent(r['se'])}" if r else "–")
        cells.append(
            f"{percent(e['cloze']['accuracy'])} ± {percent(e['cloze']['se'])}"
            if e.get("cloze")
            else "–"
        )
        rows.append((*cells, str(exam.get("n", "–"))))
    if not rows:
        return ""
    line = ", ".join(f"{k.replace('_a', ' A')} {percent(v)}" for k, v in baselines.items())
    return _table(("after", "text", "letter", "generate", "cloze", "questions"), rows) + (
        f"\n\nBaselines: {line}. ± is one standard error." if line else ""
    )


def _bpb(data: dict) -> str:
    stages = [e for e in data.get("exams", []) if (e.get("perplexity") or {}).get("domains")]
    domains = list(dict.fromkeys(d for e in stages for d in e["perplexity"]["domains"]))

    def cell(e: dict, domain: str) -> str:
        result = e["perplexity"]["domains"].get(domain)
        if result is None:
            return "–"
        return "**NaN**" if result.get("bpb") is None else f"{result['bpb']:.3f}"

    rows = [(d, *(cell(e, d) for e in stages)) for d in domains]
    means = [((e["perplexity"].get("geometric_mean") or {}).get("bpb")) for e in stages]
    rows.append(("mean", *("**NaN**" if m is None else f"{m:.3f}" for m in means)))
    return _table(("domain", *(title(e["stage"]) for e in stages)), rows) if stages else ""


def _stages(data: dict) -> str:
    rows = [
        (
            title(s["name"]),
            s.get("status", ""),
            count(s.get("steps")),
            count(s.get("tokens")),
            count(s.get("tokens_per_s")),
            duration(s.get("seconds")),
            size(s.get("peak_memory_bytes") or None),
            "–" if s.get(s.get("metric", "loss")) is None else f"{s[s.get('metric', 'loss')]:.3f}",
        )
        for s in timed_stages(data)
    ]
    header = (
        "stage",
        "status",
        "steps",
        "tokens",
        "tokens/s",
        "time",
        "peak memory",
        "loss or reward",
    )
    return _table(header, rows) if rows else ""


def _data(data: dict) -> str:
    rows = [
        (
            d["source"],
            count(d.get("in")),
            count(d.get("kept")),
            "; ".join(f"{n:,} {reason}" for reason, n in list((d.get("removed") or {}).items())[:4])
            or "–",
        )
        for d in data.get("data", [])
    ]
    return _table(("source", "records in", "kept", "removed, by reason"), rows) if rows else ""


def _samples(data: dict) -> str:
    rows = [
        (title(s["stage"]), as_text(s.get("prompt", "")), s.get("completion", ""))
        for s in data.get("samples", [])
    ]
    return _table(("stage", "prompt", "completion"), rows) if rows else ""


def as_text(prompt) -> str:
    """A prompt as one string; of a dialogue with more than one turn each, marked with its role."""
    if isinstance(prompt, list) and len(prompt) == 1:
        return str(prompt[0].get("content", ""))
    if isinstance(prompt, list):
        return "\n".join(f"{turn.get('role', '?')}: {turn.get('content', '')}" for turn in prompt)
    return str(prompt)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence) -> str:
        return (
            "| "
            + " | ".join(str(c).replace("|", "\\|").replace("\n", "<br>") for c in cells)
            + " |"
        )

    rows = list(rows)
    return "\n".join([line(header), "|" + " --- |" * len(header), *map(line, rows)]) if rows else ""
