"""The report card: what a RUN folder knows about itself, on one page.

`collect` reads plain files and never fails for a missing part: what is not there is left out, what cannot be read
becomes a line under "notes". `write_report` turns the result into report.json, report.md and report.html.

The data, every key optional:

    run      {name, preset, seed, started, finished [unix seconds], commit, config_hash, hardware, packages}
    model    {parameters, feed_forward, …}
    stages   [{name, status: done|skipped|failed|running, reason, steps, tokens, seconds, peak_memory_bytes,
               tokens_per_s, loss, eval_loss, metric: the key that its curve shows,
               curve: [{step, tokens, loss, …}], eval: [{step, tokens, loss}], events: [{step, what}]}]
    exams    [{stage, exam: run_exam(…), cloze: cloze(…), perplexity: bits_per_byte(…), seconds}] in the order of life
    samples  [{stage, prompt: text or turns, completion}]
    data     [{source, in, kept, removed: {reason: records}}]
    cost     {seconds, cpu_seconds, device_hours, money, currency, note}
    notes    [what is missing or does not hold]

Files read: state.json; <stage>/log.jsonl of pretrain, sft, reward, dpo, grpo; exams/<stage>.json; docs/report.json.
"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

from ..config import UserError
from ..runlog import atomic_write, read_log

TRAINED = ("pretrain", "sft", "reward", "dpo", "grpo")
LIFE = ("init", *TRAINED)
TITLES = {
    "init": "untrained",
    "pretrain": "pretraining",
    "sft": "SFT",
    "reward": "reward model",
    "dpo": "DPO",
    "grpo": "GRPO",
    "docs": "documents",
    "world": "closed world",
}
_ROUTINE = {"end", "data"}


def write_report(run_dir: Path | str, data: dict | None = None) -> Path:
    """Write report.json, report.md and report.html into `run_dir`; returns the path of the page.

    `data` defaults to `collect(run_dir)`. Raises UserError for a folder that does not exist.
    """
    from .html import page
    from .markdown import markdown

    run_dir = Path(run_dir)
    if data is None:
        data = collect(run_dir)
    data = finite(data)
    atomic_write(
        run_dir / "report.json",
        json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n",
    )
    atomic_write(run_dir / "report.md", markdown(data))
    atomic_write(run_dir / "report.html", page(data))
    return run_dir / "report.html"


def finite(value):
    """The same data with NaN and infinities as None, which is what JSON can say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, (list, tuple)) else value


# -- reading a RUN folder ----------------------------------------------------------------------------------------------


def collect(run_dir: Path | str) -> dict:
    """Everything that the RUN folder says about the run, in the form described above."""
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise UserError(f"no run folder at {run_dir}")
    notes: list[str] = []
    state = _read_json(run_dir / "state.json", notes) or {}
    data = {
        "run": {"name": run_dir.resolve().name, **(state.get("run") or {})},
        "model": dict(state.get("model") or {}),
        "stages": [],
        "exams": _exams(run_dir, notes),
        "samples": [],
        "data": _data(run_dir, notes),
        "cost": dict(state.get("cost") or {}),
        "notes": notes,
    }
    known = state.get("stages") or {}
    known = {s["name"]: s for s in known if "name" in s} if isinstance(known, list) else dict(known)
    logs = {
        name: run_dir / name / "log.jsonl"
        for name in TRAINED
        if (run_dir / name / "log.jsonl").is_file()
    }
    for name in dict.fromkeys([*known, *logs]):
        stage = {"name": name, "status": "done", **(known.get(name) or {})}
        if name in logs:
            _read_stage(stage, logs[name], data)
        data["stages"].append(stage)
    data["samples"] = _last_samples(data)
    data["notes"] += [n for n in state.get("notes") or [] if isinstance(n, str)]
    if not data["cost"].get("seconds"):
        data["cost"]["seconds"] = sum(s.get("seconds") or 0 for s in data["stages"])
    return data


def _read_json(path: Path, notes: list[str]):
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        return value
    except (OSError, ValueError) as error:
        notes.append(f"{path.parent.name}/{path.name} cannot be read: {error}")
        return None


def _read_stage(stage: dict, log: Path, data: dict) -> None:
    try:
        records = [r for r in read_log(log) if isinstance(r, dict)]
    except (OSError, UnicodeDecodeError) as error:
        data["notes"].append(f"{stage['name']}/log.jsonl cannot be read: {error}")
        return
    by_kind: dict[str, list[dict]] = {
        kind: [] for kind in ("header", "step", "eval", "event", "sample")
    }
    for record in records:
        by_kind.setdefault(record.get("kind"), []).append(record)
    for header in by_kind["header"]:
        for key in ("preset", "seed", "commit", "config_hash", "hardware", "packages"):
            value = header.get(key) or (header.get("config") or {}).get(key)
            if value not in (None, ""):
                data["run"].setdefault(key, value)
        if header.get("parameters"):
            data["model"].setdefault("parameters", header["parameters"])
        for key, value in ((header.get("config") or {}).get("model") or {}).items():
            if key in ("feed_forward", "hidden_size", "num_hidden_layers", "vocab_size"):
                data["model"].setdefault(key, value)
    steps = by_kind["step"]
    metric = "reward" if any("reward" in r for r in steps) and stage["name"] == "grpo" else "loss"
    stage["metric"] = metric
    stage["curve"] = [
        {k: r[k] for k in ("step", "tokens", metric) if k in r} for r in steps if metric in r
    ]
    evals = [{**r, "loss": r.get("loss", r.get("eval_loss"))} for r in by_kind["eval"]]
    stage["eval"] = [
        {k: r[k] for k in ("step", "tokens", "loss") if k in r}
        for r in evals
        if r["loss"] is not None
    ]
    stage["events"] = [
        {"step": r.get("step"), "what": str(r.get("what", "event")), "why": str(r.get("why", ""))}
        for r in by_kind["event"]
        if r.get("what") not in _ROUTINE
    ]
    stage["samples"] = [
        {
            "prompt": r.get("prompt", ""),
            "completion": r.get("completion", ""),
            "step": r.get("step"),
        }
        for r in by_kind["sample"]
    ]
    _summarise_steps(stage, records, steps)


def _summarise_steps(stage: dict, records: list[dict], steps: list[dict]) -> None:
    if steps:
        stage["steps"], stage["tokens"] = steps[-1].get("step"), steps[-1].get("tokens")
        rates = [r["tokens_per_s"] for r in steps if r.get("tokens_per_s")]
        stage["tokens_per_s"] = statistics.median(rates) if rates else None
        stage[stage["metric"]] = next((c[stage["metric"]] for c in reversed(stage["curve"])), None)
    if stage["eval"]:
        stage["eval_loss"] = stage["eval"][-1]["loss"]
    peaks = [r["peak_memory_bytes"] for r in records if r.get("peak_memory_bytes")]
    if peaks and not stage.get("peak_memory_bytes"):
        stage["peak_memory_bytes"] = max(peaks)
    if not stage.get(
        "seconds"
    ):  # time_s counts from each opening of the log, so add up the runs between resumes
        times = [r["time_s"] for r in records if isinstance(r.get("time_s"), (int, float))]
        stage["seconds"] = sum(a for a, b in zip(times, [*times[1:], -1], strict=False) if b < a)


def _exams(run_dir: Path, notes: list[str]) -> list[dict]:
    found = []
    for file in (run_dir / "exams").glob("*.json"):
        exam = _read_json(file, notes)
        if exam is not None:
            found.append({"stage": file.stem, **exam})
    return sorted(
        found,
        key=lambda e: (LIFE.index(e["stage"]) if e["stage"] in LIFE else len(LIFE), e["stage"]),
    )


def _last_samples(data: dict) -> list[dict]:
    """What each stage says: the samples drawn with its exam, or else the last ones in its log."""
    samples = []
    for stage in data["stages"]:
        own = stage.pop("samples", [])
        drawn = next((e.get("samples") for e in data["exams"] if e["stage"] == stage["name"]), None)
        own = drawn or [s for s in own if s["step"] == own[-1]["step"]]
        samples += [
            {
                "stage": stage["name"],
                "prompt": s.get("prompt", ""),
                "completion": s.get("completion", ""),
            }
            for s in own
        ]
    for exam in data["exams"]:
        exam.pop("samples", None)
    return samples


def _data(run_dir: Path, notes: list[str]) -> list[dict]:
    report = _read_json(run_dir / "docs" / "report.json", notes)
    sources = (report or {}).get("sources") or {}
    if isinstance(sources, list):
        sources = {str(s.get("source") or s.get("name")): s for s in sources}
    notes += [str(w) for w in (report or {}).get("warnings") or []]
    return [
        {"source": name, **_counts(counts)}
        for name, counts in sources.items()
        if isinstance(counts, dict)
    ]


def _counts(counts: dict) -> dict:
    """First records in, last records kept, and everything removed or rejected between, by step and reason."""
    steps = list((counts.get("steps") or {"": counts}).items())
    removed: dict[str, int] = {}
    for step, c in steps:
        for reason, n in {**(c.get("removed") or {}), **(c.get("rejected") or {})}.items():
            if n:
                removed[f"{step}: {reason}" if step else reason] = n
    first, last = steps[0][1], steps[-1][1]
    return {
        "in": first.get("in", first.get("records_in")),
        "kept": last.get("kept"),
        "removed": dict(sorted(removed.items(), key=lambda item: -item[1])),
    }


# -- what the page and the Markdown both show --------------------------------------------------------------------------


def headline(data: dict) -> list[dict]:
    """Four or five key figures: {"label", "value", "note"}, from what there is."""
    figures = []
    scored = [
        (e["stage"], e["exam"])
        for e in data.get("exams", [])
        if "text" in e.get("exam", {}).get("scoring", {})
    ]
    if scored:
        exam = scored[-1][1]
        text, first = _people(exam), _people(scored[0][1])
        before = (
            f"; {TITLES.get(scored[0][0], scored[0][0])} {percent(first['accuracy'])}"
            if len(scored) > 1
            else ""
        )
        about = (
            "exam on held-out people" if "people" in exam.get("groups", {}) else "exam, text-scored"
        )
        figures.append(
            {
                "label": about,
                "value": percent(text["accuracy"]),
                "note": f"± {percent(text['se'])}, chance {percent(exam['baselines']['chance'])}{before}",
            }
        )
    clozes = [(e["stage"], e["cloze"]) for e in data.get("exams", []) if e.get("cloze")]
    if clozes:
        stage, result = _after_pretraining(clozes)
        figures.append(
            {
                "label": "cloze",
                "value": percent(result["accuracy"]),
                "note": f"± {percent(result['se'])}, {when(stage)}",
            }
        )
    means = [
        (e["stage"], m)
        for e in data.get("exams", [])
        if (m := ((e.get("perplexity") or {}).get("geometric_mean") or {}).get("bpb")) is not None
    ]
    if means:
        stage, best = _after_pretraining(means)
        figures.append(
            {
                "label": "bits per byte",
                "value": f"{best:.3f}",
                "note": f"held-out mean, {when(stage)}",
            }
        )
    seconds = (data.get("cost") or {}).get("seconds")
    if seconds:
        figures.append({"label": "total time", "value": duration(seconds), "note": device(data)})
    peaks = [
        (s["peak_memory_bytes"], s["name"])
        for s in data.get("stages", [])
        if s.get("peak_memory_bytes")
    ]
    if peaks:
        figures.append(
            {
                "label": "peak memory",
                "value": size(max(peaks)[0]),
                "note": f"in {title(max(peaks)[1])}",
            }
        )
    return figures


def _people(exam: dict) -> dict:
    """Text-scored accuracy and its standard error: of the questions about people in the closed world, else of all."""
    people = exam.get("groups", {}).get("people")
    if not people or "text" not in people:
        return exam["scoring"]["text"]
    p = people["text"]
    return {"accuracy": p, "se": math.sqrt(p * (1 - p) / max(people["n"], 1))}


def _after_pretraining(pairs: list[tuple]) -> tuple:
    """The base model's result: continuing text is its trade, later stages give some of it up for answering."""
    return next((pair for pair in pairs if pair[0] == "pretrain"), pairs[-1])


def title(name: str) -> str:
    """A stage's name as words: "exam:sft" becomes "exam after SFT"."""
    kind, _, stage = name.partition(":")
    return (
        f"{kind} after {TITLES.get(stage, stage)}".replace("after untrained", "before training")
        if stage
        else TITLES.get(name, name)
    )


def when(stage: str) -> str:
    """Moment of an exam, for the middle of a sentence."""
    return "before training" if stage == "init" else f"after {TITLES.get(stage, stage)}"


def timed_stages(data: dict) -> list[dict]:
    """The stages that took time, in order, with all exams as one."""
    stages, exams = [], []
    for stage in data.get("stages", []):
        if stage["name"].startswith("exam:"):
            exams.append(stage)
        elif stage.get("status") != "skipped":
            stages.append(stage)
    exams = [s for s in exams if s.get("status") != "skipped"]
    if exams:
        stages.append(
            {
                "name": f"{len(exams)} exams",
                "seconds": sum(s.get("seconds") or 0 for s in exams),
                "status": next(
                    (s["status"] for s in exams if s.get("status", "done") != "done"), "done"
                ),
                "peak_memory_bytes": max(s.get("peak_memory_bytes") or 0 for s in exams),
            }
        )
    return stages


def device(data: dict) -> str:
    """One line on the machine."""
    hardware = (data.get("run") or {}).get("hardware") or {}
    if not isinstance(hardware, dict):
        return str(hardware)
    if gpus := hardware.get("gpus"):
        return f"{len(gpus)} × {gpus[0]}"
    cores = hardware.get("cores")
    return " ".join(
        str(x) for x in (f"{cores} cores" if cores else "", hardware.get("cpu", "")) if x
    )


def percent(x: float | None) -> str:
    """A share as per cent with one decimal."""
    return "–" if x is None else f"{100 * x:.1f} %"


def duration(seconds: float | None) -> str:
    """Seconds in the unit a reader would choose."""
    if seconds is None:
        return "–"
    for limit, unit, divisor in ((90, "s", 1), (5400, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return (
                f"{seconds / divisor:.1f} {unit}"
                if seconds / divisor < 100
                else f"{seconds / divisor:.0f} {unit}"
            )
    return f"{seconds / 86400:.1f} d"


def size(num_bytes: float | None) -> str:
    """Bytes in MiB or GiB."""
    if num_bytes is None:
        return "–"
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"


def count(n: float | None) -> str:
    """1234567 as 1.23 M."""
    if n is None:
        return "–"
    for limit, unit in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e4, " k")):
        if abs(n) >= limit:
            divisor = 1e3 if unit == " k" else limit
            return f"{n / divisor:.3g}{unit}"
    return f"{n:,.0f}" if float(n).is_integer() or abs(n) >= 100 else f"{n:.3g}"
