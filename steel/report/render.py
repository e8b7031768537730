"""The report card's pages: `card.html.j2` and `card.md.j2`, filled from what `collect` returns.

The HTML page is one file: inline CSS, inline SVG, no script, nothing fetched, light and dark.
"""

import json
import math
from pathlib import Path

from ..runlog import atomic_write, finite
from . import words
from .card import collect
from .charts import accuracies, bits_per_byte, curve
from .words import WORDS


def write_report(run_dir: Path | str, data: dict | None = None) -> Path:
    """Write report.json, report.md and report.html into `run_dir`; returns the path of the page.

    `data` defaults to `collect(run_dir)`. Raises UserError for a folder that does not exist.
    """
    run_dir = Path(run_dir)
    data = finite(collect(run_dir) if data is None else data)
    text = json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False)
    atomic_write(run_dir / "report.json", text + "\n")
    for suffix in ("md", "html"):
        atomic_write(run_dir / f"report.{suffix}", _page(suffix, data))
    return run_dir / "report.html"


def _page(suffix: str, data: dict) -> str:
    """One of the templates of this folder, filled; a part that `data` lacks is left out."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=suffix == "html",
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {name: getattr(words, name) for name in words.FILTERS}
    return environment.get_template(f"card.{suffix}.j2").render(context(data))


def context(data: dict) -> dict:
    """What the templates read: the parts of `data`, and what both pages derive from them."""
    parts = ("stages", "exams", "samples", "data", "notes")
    data = {"run": {}, "model": {}, "cost": {}, **{part: [] for part in parts}} | data
    stages, exams = data["stages"], data["exams"]
    judged = [e for e in exams if e.get("exam") or e.get("cloze")]
    measured = [e for e in exams if (e.get("perplexity") or {}).get("domains")]
    exam = next((e["exam"] for e in reversed(exams) if e.get("exam")), {})
    scored = [e for e in exams if "text" in e.get("exam", {}).get("scoring", {})]
    drawn = [s for s in stages if s.get("curve")]
    curves = [curve(s, wide=s["name"] == "pretrain" or len(drawn) == 1) for s in drawn]
    return data | {
        "judged": judged,
        "exam": exam,
        "ways": [way for way in WORDS["ways"] if way in exam.get("scoring", {})],
        "talks": [e for e in exams if e.get("conversation")],
        "measured": measured,
        "domains": dict.fromkeys(name for e in measured for name in e["perplexity"]["domains"]),
        "on_people": [_on_people(e) for e in scored],
        "best_cloze": _base([e for e in exams if e.get("cloze")]),
        "best_bits": _base([e for e in measured if e["perplexity"]["geometric_mean"]["bpb"]]),
        "largest": max(stages, key=lambda s: s.get("peak_memory_bytes") or 0, default={}),
        "timed": timed_stages(stages),
        "judged_rows": accuracies(judged),
        "curves": [chart for chart in curves if chart],
        "bits_per_byte": bits_per_byte(measured),
    }


def _on_people(entry: dict) -> dict:
    """Text-scored accuracy `p` and its standard error: of the questions about people, else of all."""
    exam = entry["exam"]
    people, scored = exam.get("groups", {}).get("people", {}), exam["scoring"]["text"]
    p, se = scored["accuracy"], scored["se"]
    if "text" in people:
        p = people["text"]
        se = math.sqrt(p * (1 - p) / max(people["n"], 1))
    label = "exam on held-out people" if people else "exam, text-scored"
    return entry | {"p": p, "se": se, "label": label}


def _base(exams: list[dict]) -> dict | None:
    """The exam of the base model, else the last one there is.

    Continuing text is its trade; later stages give some of it up for answering.
    """
    return next((e for e in exams if e["stage"] == "pretrain"), exams[-1] if exams else None)


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
