"""The report card's pages: `card.html.j2` and `card.md.j2`, filled from what `collect` returns.

The HTML page is one file: inline CSS, inline SVG, no script, nothing fetched, light and dark.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from ..runlog import atomic_write, finite
from . import words
from .card import TRAINED, collect
from .charts import accuracies, bits_per_byte, curve
from .words import WORDS, duration, percent, size, title, when


def write_report(run_dir: Path | str, data: dict | None = None) -> Path:
    """Write report.json, report.md and report.html into `run_dir`; returns the path of the page.

    `data` defaults to `collect(run_dir)`. Raises UserError for a folder that does not exist.
    """
    import jinja2

    run_dir = Path(run_dir)
    data = finite(collect(run_dir) if data is None else data)
    text = json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False)
    atomic_write(run_dir / "report.json", text + "\n")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=lambda template: template.endswith(".html.j2"),
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for name in ("count", "duration", "number", "percent", "size", "title", "date", "language"):
        environment.filters[name] = getattr(words, name)
    environment.filters["one_text"] = words.one_text
    for suffix in ("md", "html"):
        page = environment.get_template(f"card.{suffix}.j2").render(context(data))
        atomic_write(run_dir / f"report.{suffix}", page)
    return run_dir / "report.html"


def context(data: dict) -> dict:
    """What the templates read: the parts of `data`, and what both pages derive from them."""
    parts = ("stages", "exams", "samples", "data", "notes")
    data = {"run": {}, "model": {}, "cost": {}, **{part: [] for part in parts}} | data
    stages, exams = data["stages"], data["exams"]
    judged = [e for e in exams if e.get("exam") or e.get("cloze")]
    measured = [e for e in exams if (e.get("perplexity") or {}).get("domains")]
    exam = next((e["exam"] for e in reversed(exams) if e.get("exam")), {})
    packages = [f"{name} {version}" for name, version in data["run"].get("packages", {}).items()]
    return data | {
        "packages": ", ".join(packages),
        "machine": machine(data["run"].get("hardware") or {}),
        "headline": headline(data),
        "judged": judged,
        "exam": exam,
        "ways": [way for way in WORDS["ways"] if way in exam.get("scoring", {})],
        "measured": measured,
        "domains": dict.fromkeys(name for e in measured for name in e["perplexity"]["domains"]),
        "timed": timed_stages(stages),
        "trained_tokens": sum(s.get("tokens") or 0 for s in stages if s["name"] in TRAINED),
        "skipped": [s for s in stages if s.get("status") == "skipped"],
        "unfinished": [s for s in stages if s.get("status") in ("failed", "running", "pending")],
        "judged_rows": accuracies(judged),
        "curves": curves(stages),
        "bits_per_byte": bits_per_byte(measured),
    }


def curves(stages: list[dict]) -> list[dict]:
    """The learning curve of every stage that has one; pretraining's has the whole width."""
    stages = [s for s in stages if s.get("curve")]
    charts = [curve(s, wide=s["name"] == "pretrain" or len(stages) == 1) for s in stages]
    return [chart for chart in charts if chart]


def headline(data: dict) -> list[dict]:
    """Four or five key figures: {"label", "value", "note"}, from what there is."""
    exams, figures = data["exams"], []

    def add(label: str, value: str, note: str) -> None:
        figures.append({"label": label, "value": value, "note": note})

    scored = [e for e in exams if "text" in e.get("exam", {}).get("scoring", {})]
    if scored:
        last, before = scored[-1]["exam"], ""
        (p, se), (first, _) = _people(last), _people(scored[0]["exam"])
        if len(scored) > 1:
            before = f"; {title(scored[0]['stage'])} {percent(first)}"
        held_out = "people" in last.get("groups", {})
        label = "exam on held-out people" if held_out else "exam, text-scored"
        chance = percent(last["baselines"]["chance"])
        add(label, percent(p), f"± {percent(se)}, chance {chance}{before}")
    if found := _after_pretraining([(e["stage"], e.get("cloze")) for e in exams]):
        stage, cloze = found
        add("cloze", percent(cloze["accuracy"]), f"± {percent(cloze['se'])}, {when(stage)}")
    means = [(e["stage"], (e.get("perplexity") or {}).get("geometric_mean")) for e in exams]
    if found := _after_pretraining([(stage, m) for stage, m in means if m and m.get("bpb")]):
        stage, mean = found
        add("bits per byte", f"{mean['bpb']:.3f}", f"held-out mean, {when(stage)}")
    if seconds := data["cost"].get("seconds"):
        add("total time", duration(seconds), machine(data["run"].get("hardware") or {}))
    peaks = [(s.get("peak_memory_bytes") or 0, s["name"]) for s in data["stages"]]
    largest, stage = max(peaks, default=(0, ""))
    if largest:
        add("peak memory", size(largest), f"in {title(stage)}")
    return figures


def _people(exam: dict) -> tuple[float, float]:
    """Text-scored accuracy and its standard error: of the questions about people, else of all."""
    people = exam.get("groups", {}).get("people", {})
    if "text" not in people:
        return exam["scoring"]["text"]["accuracy"], exam["scoring"]["text"]["se"]
    p = people["text"]
    return p, math.sqrt(p * (1 - p) / max(people["n"], 1))


def _after_pretraining(results: list[tuple]) -> tuple | None:
    """(stage, result) of the base model, else the last one there is.

    Continuing text is its trade; later stages give some of it up for answering.
    """
    found = [pair for pair in results if pair[1]]
    return next((pair for pair in found if pair[0] == "pretrain"), found[-1] if found else None)


def timed_stages(stages: list[dict]) -> list[dict]:
    """The stages that took time, in order, with all exams as one."""
    unknown = {"status": "done", "seconds": 0, "peak_memory_bytes": 0}
    taken = [unknown | s for s in stages if s.get("status") != "skipped"]
    exams = [s for s in taken if s["name"].startswith("exam:")]
    stages = [s for s in taken if s not in exams]
    if exams:
        unfinished = [s["status"] for s in exams if s["status"] != "done"]
        together = {
            "name": f"{len(exams)} exams",
            "status": unfinished[0] if unfinished else "done",
            "seconds": sum(s["seconds"] for s in exams),
            "peak_memory_bytes": max(s["peak_memory_bytes"] for s in exams),
        }
        stages.append(together)
    return stages


def machine(hardware: dict) -> str:
    """One line on the hardware."""
    if gpus := hardware.get("gpus"):
        return f"{len(gpus)} × {gpus[0]}"
    cores = f"{hardware['cores']} cores " if hardware.get("cores") else ""
    return cores + hardware.get("cpu", "")
