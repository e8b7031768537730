"""The report card's data: what a RUN folder knows about itself, collected from plain files.

`collect` never fails for a missing part: what is not there is left out, what cannot be read becomes
a line under "notes". Every key of the result is optional:

    run      {name, preset, seed, started, finished [unix seconds], commit, config_hash, hardware,
              packages}
    model    {parameters, feed_forward, …}
    stages   [{name, status: done|skipped|failed|running, reason, steps, tokens, seconds,
               tokens_per_s, peak_memory_bytes, loss, eval_loss, metric: the key of its curve,
               curve: [{step, tokens, loss, …}], eval: [{step, tokens, loss}],
               events: [{step, what, why}]}]
    exams    [{stage, exam: run_exam(…), cloze: cloze(…), perplexity: bits_per_byte(…), seconds}],
             in the order of life
    samples  [{stage, step, kind, prompt: text or turns, completion, right}] of every stage and
             checkpoint, as in replies.py
    data     [{source, in, kept, removed: {reason: records}}]
    cost     {seconds, cpu_seconds, device_hours, money, currency, note}
    notes    [what is missing or does not hold]

Files read: state.json; <stage>/log.jsonl of pretrain, sft, reward, dpo, grpo; exams/<stage>.json;
docs/report.json.
"""

import statistics
import warnings
from collections import defaultdict
from pathlib import Path

from ..config import UserError
from ..runlog import read_json, read_log
from . import replies

TRAINED = ("pretrain", "sft", "reward", "dpo", "grpo")
LIFE = ("init", *TRAINED)
_ROUTINE = ("end", "data", "vocabulary")  # events of every run, not worth a mark on its curve


def collect(run_dir: Path | str) -> dict:
    """Everything that the RUN folder says about the run, in the form described above.

    Raises UserError for a folder that does not exist.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise UserError(f"no run folder at {run_dir}")
    notes: list[str] = []
    state = _read_json(run_dir / "state.json", notes)
    data = {
        "run": {"name": run_dir.resolve().name, **state.get("run", {})},
        "model": dict(state.get("model", {})),
        "stages": [],
        "exams": _exams(run_dir, notes),
        "samples": [],
        "data": _sources(run_dir, notes),
        "cost": dict(state.get("cost", {})),
        "notes": notes,
    }
    known = state.get("stages", {})
    logged = [name for name in TRAINED if (run_dir / name / "log.jsonl").is_file()]
    drawn = {exam["stage"]: replies.examined(exam["stage"], exam) for exam in data["exams"]}
    for exam in data["exams"]:
        exam.pop("samples", None)
    for name in dict.fromkeys([*known, *logged]):
        stage = {"name": name, "status": "done", **known.get(name, {})}
        data["stages"].append(stage)
        said = _read_stage(stage, run_dir / name / "log.jsonl", data) if name in logged else []
        ended = drawn.get(name, [])
        again = any(reply["kind"] == "text" for reply in ended)  # of the last step, by the exam
        on_the_way = replies.logged(name, said)
        data["samples"] += [s for s in on_the_way if not again or s["step"] != stage.get("steps")]
        data["samples"] += ended
    notes += state.get("notes", [])
    if not data["cost"].get("seconds"):
        data["cost"]["seconds"] = sum(s.get("seconds") or 0 for s in data["stages"])
    return data


def _read_json(path: Path, notes: list[str]) -> dict:
    """The object in a file; an empty one if there is no file, or none that can be read."""
    try:
        return read_json(path) if path.is_file() else {}
    except (OSError, ValueError) as error:
        notes.append(f"{path.parent.name}/{path.name} cannot be read: {error}")
        return {}


def _read_stage(stage: dict, log: Path, data: dict) -> list[dict]:
    """Add what a log says to its stage, to run, model and notes; returns its samples."""
    with warnings.catch_warnings(record=True) as damage:
        warnings.simplefilter("always")
        records = read_log(log)
    data["notes"] += [str(warning.message) for warning in damage]
    kinds = defaultdict(list)
    for record in records:
        kinds[record["kind"]].append(record)
    for header in kinds["header"]:
        _read_header(header, data)
    steps, samples = kinds["step"], kinds["sample"]
    rewarded = stage["name"] == "grpo" and any("reward" in r for r in steps)
    metric = stage["metric"] = "reward" if rewarded else "loss"
    checks = [r for r in kinds["eval"] if r.get("loss") is not None]
    stage["curve"] = [_some(r, "step", "tokens", metric) for r in steps if metric in r]
    stage["eval"] = [_some(r, "step", "tokens", "loss") for r in checks]
    stage["events"] = [
        {"step": r.get("step"), "what": str(r.get("what", "event")), "why": str(r.get("why", ""))}
        for r in kinds["event"]
        if r.get("what") not in _ROUTINE
    ]
    if steps:
        stage["steps"], stage["tokens"] = steps[-1].get("step"), steps[-1].get("tokens")
        rates = [r["tokens_per_s"] for r in steps if r.get("tokens_per_s")]
        stage["tokens_per_s"] = statistics.median(rates) if rates else None
        stage[metric] = stage["curve"][-1][metric] if stage["curve"] else None
    if checks:
        stage["eval_loss"] = checks[-1]["loss"]
    peaks = [r["peak_memory_bytes"] for r in records if r.get("peak_memory_bytes")]
    if peaks and not stage.get("peak_memory_bytes"):
        stage["peak_memory_bytes"] = max(peaks)
    if not stage.get("seconds"):
        stage["seconds"] = _seconds(records)
    return samples


def _some(record: dict, *keys: str) -> dict:
    return {key: record[key] for key in keys if key in record}


def _read_header(header: dict, data: dict) -> None:
    config = header.get("config") or {}
    for key in ("preset", "seed", "commit", "config_hash", "hardware", "packages"):
        value = header.get(key) or config.get(key)
        if value not in (None, ""):
            data["run"].setdefault(key, value)
    shown = ("feed_forward", "hidden_size", "num_hidden_layers", "vocab_size")
    found = _some(header, "parameters") | _some(config.get("model") or {}, *shown)
    data["model"] = found | data["model"]


def _seconds(records: list[dict]) -> float:
    """Seconds in a log: `time_s` counts from each resume, so the runs are added up."""
    times = [r["time_s"] for r in records if isinstance(r.get("time_s"), (int, float))]
    following = [*times[1:], -1.0]
    return sum(time for time, after in zip(times, following) if after < time)


def _exams(run_dir: Path, notes: list[str]) -> list[dict]:
    files = {file.stem: file for file in sorted((run_dir / "exams").glob("*.json"))}
    names = sorted(files, key=lambda name: LIFE.index(name) if name in LIFE else len(LIFE))
    exams = [{"stage": name, **_read_json(files[name], notes)} for name in names]
    return [exam for exam in exams if len(exam) > 1]


def _sources(run_dir: Path, notes: list[str]) -> list[dict]:
    """Per source of docs/report.json: records in, records kept, records removed by reason."""
    report = _read_json(run_dir / "docs" / "report.json", notes)
    notes += report.get("warnings", [])
    rows = []
    for name, source in report.get("sources", {}).items():
        removed: dict[str, int] = {}
        for step, counts in source["steps"].items():
            reasons = counts.get("removed", {}) | counts.get("rejected", {})
            removed |= {f"{step}: {reason}": n for reason, n in reasons.items() if n}
        counted = list(source["steps"].values())
        row = {"source": name, "in": counted[0]["in"], "kept": counted[-1]["kept"]}
        rows.append({**row, "removed": dict(sorted(removed.items(), key=lambda item: -item[1]))})
    return rows
