"""OUT/report.json: records in, kept, removed and rejected, per source and per step, with sums that close."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .. import machine
from ..runlog import atomic_write

STEPS = ("convert", "clean", "dedup")
EVERY = 1000  # records between two calls of progress
Progress = Callable[[str, str, int], None]  # source, step, records so far


@contextlib.contextmanager
def shown(progress: Progress | None, what: str) -> Iterator[Progress]:
    """The caller's progress, or a bar of our own (silent with STEEL_QUIET=1)."""
    if progress is not None:
        yield progress
        return
    with machine.progress(None, what, "records") as bar:
        yield lambda source, step, _: bar.advance(EVERY, source=source, step=step)


def drop_stale(out: Path, names: Iterable[str]) -> None:
    """Remove outputs that an earlier run's report lists and this run does not make: they would be trained on."""
    try:
        before = json.loads((out / "report.json").read_text(encoding="utf-8"))["sources"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in set(before) - set(names):
        (out / f"{name}.jsonl.zst").unlink(missing_ok=True)


def finish(
    out: Path, recipe: str, parts: dict[str, dict], rest: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Check that the sums close, add totals and warnings, write OUT/report.json, return the report."""
    totals: dict[str, dict[str, int]] = {}
    for name, part in parts.items():
        before = None
        for step in (s for s in STEPS if s in part["steps"]):
            counts = part["steps"][step]
            gone = sum({**counts.get("removed", {}), **counts.get("rejected", {})}.values())
            assert counts["in"] == counts["kept"] + gone, (
                f"{name}, {step}: the sums do not close: {counts}"
            )
            assert before is None or counts["in"] == before, (
                f"{name}, {step}: records lost between the steps"
            )
            before = counts["kept"]
            total = totals.setdefault(step, {"in": 0, "kept": 0, "removed": 0})
            total["in"] += counts["in"]
            total["kept"] += counts["kept"]
            total["removed"] += gone
    report = {"recipe": recipe, "sources": parts, "totals": totals, **(rest or {})}
    report["warnings"] = _warnings(report)
    atomic_write(out / "report.json", json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    return report


def _warnings(report: dict[str, Any]) -> list[str]:
    """Lines that a user should see: what was left out and is easy to miss."""
    lines = []
    if files := report.get("unrecognised_files"):
        lines.append(
            f"{len(files)} files belong to no source and were not read, the first is {files[0]}"
        )
    if names := report.get("sources_without_a_rule"):
        lines.append(f"recipe {report['recipe']} has no rule for {', '.join(names)}: not read")
    for name, part in report["sources"].items():
        counts = part["steps"].get("convert")
        if not counts:
            continue
        for reason, number in counts["rejected"].items():
            if reason.startswith(
                ("pdf", "rule failed", "unreadable", "damaged", "compressed", "tar", "array")
            ):
                lines.append(f"{name}: {number} × {reason}")
        if counts["unread_bytes"]:
            lines.append(f"{name}: {counts['unread_bytes']:,} bytes could not be read")
        if counts["in"] and not counts["kept"]:
            lines.append(f"{name}: none of {counts['in']} records could be converted")
    return lines
