"""The report card's pages: `card.html.j2` and `card.md.j2`, filled from what `collect` returns.

An HTML page is one file: inline CSS, inline SVG, light and dark, nothing fetched. Its one small script
only moves between texts that the page shows as tables without it.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from ..config import sound
from ..runlog import atomic_write, finite, write_json
from . import words
from .card import LIFE, collect
from .charts import accuracies, bits_per_byte, curve
from .comparison import compare_runs
from .replies import scrubber
from .words import WORDS


def write_report(run_dir: Path | str, data: dict | None = None) -> Path:
    """Write report.json, report.md and report.html into `run_dir`; returns the path of the page.

    `data` defaults to `collect(run_dir)`. Raises UserError for a folder that does not exist.
    """
    run_dir = Path(run_dir)
    with sound(f"a file of {run_dir}"):
        data = finite(collect(run_dir) if data is None else data)
        pages = {suffix: _page(f"card.{suffix}", context(data)) for suffix in ("md", "html")}
    write_json(run_dir / "report.json", data)
    for suffix, page in pages.items():
        atomic_write(run_dir / f"report.{suffix}", page)
    return run_dir / "report.html"


def write_comparison(run_dirs: Sequence[Path | str], out: Path | str) -> Path:
    """Write the page that compares RUN folders with the first of them, and its numbers beside it.

    `out`: the HTML file; its numbers get the suffix .json. Returns `out`. Raises UserError for a
    folder that does not exist.
    """
    out = Path(out)
    with sound(f"a file of {' or '.join(map(str, run_dirs))}"):
        found = [collect(folder) for folder in run_dirs]
        data = finite(compare_runs(found, run_dirs))
        names = [run["name"] for run in data["runs"]]
        said = scrubber(list(zip(names, (run["samples"] for run in found))), LIFE)
        page = _page("comparison.html", data | {"said": said})
    write_json(out.with_suffix(".json"), data)
    atomic_write(out, page)
    return out


def _page(name: str, parts: dict) -> str:
    """One of the templates of this folder, filled; a part that is missing is left out."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=name.endswith("html"),
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {name: getattr(words, name) for name in words.FILTERS}
    return environment.get_template(f"{name}.j2").render(parts)


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
        "said": scrubber([(data["run"].get("name", "run"), data["samples"])], LIFE),
        "last_said": _last_said(data["samples"]),
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


def _last_said(samples: list[dict]) -> list[dict]:
    """What each stage said last, without the first conversation."""
    own = [s for s in samples if s["kind"] in ("text", "question")]
    last = {s["stage"]: s["step"] for s in own}
    return [s for s in own if s["step"] == last[s["stage"]]]


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
