"""What the pipeline counts: records in, kept and gone per source and step, with closing sums."""

import contextlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..runlog import atomic_write

STEPS = ("convert", "clean", "dedup")
_LOSSES = ("pdf", "rule failed", "unreadable", "damaged", "compressed", "tar", "array")


@dataclass
class Tally:
    """Counts of one step over one source: in = kept + gone, by reason.

    word: what the report calls the gone: removed, or (raw records) rejected. more: further counts.
    """

    word: str = "removed"
    read: int = 0
    kept: int = 0
    gone: Counter = field(default_factory=Counter)
    more: dict[str, Any] = field(default_factory=dict)

    def counts(self) -> dict[str, Any]:
        """The report's entry."""
        assert self.read == self.kept + self.gone.total(), f"records are lost: {self}"
        entry = {"in": self.read, "kept": self.kept, self.word: self.gone, **self.more}
        by_name = {key: dict(sorted(v.items())) for key, v in entry.items() if isinstance(v, dict)}
        return entry | by_name


def write_report(
    out: Path, recipe: str, parts: dict[str, dict], about: dict[str, Any]
) -> dict[str, Any]:
    """Check that the sums close, add totals and warnings, write and return OUT/report.json."""
    totals: dict[str, dict[str, int]] = {}
    for name, part in parts.items():
        before = None
        for step, counts in part["steps"].items():
            assert before in (None, counts["in"]), f"{name}, {step}: records lost between steps"
            before = counts["kept"]
            total = totals.setdefault(step, {"in": 0, "kept": 0, "removed": 0})
            total["in"] += counts["in"]
            total["kept"] += before
            total["removed"] += counts["in"] - before
    report = {"recipe": recipe, "sources": parts, "totals": totals, **about}
    report["warnings"] = _warnings(report)
    atomic_write(out / "report.json", json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    return report


def drop_stale(out: Path, names: list[str]) -> None:
    """Remove outputs that an earlier report lists and this run does not make."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        before = json.loads((out / "report.json").read_text(encoding="utf-8"))["sources"]
        for name in set(before) - set(names):
            (out / f"{name}.jsonl.zst").unlink(missing_ok=True)


def _warnings(report: dict[str, Any]) -> list[str]:
    """Lines that a user should see: what was left out and is easy to miss."""
    lines = []
    if files := report.get("unrecognised_files"):
        count, first = len(files), files[0]
        lines.append(f"{count} files belong to no source and were not read, the first is {first}")
    if names := report.get("sources_without_a_rule"):
        lines.append(f"recipe {report['recipe']} has no rule for {', '.join(names)}: not read")
    for name, part in report["sources"].items():
        if not (counts := part["steps"].get("convert")):
            continue
        rejected = counts["rejected"].items()
        lines += [f"{name}: {n} × {reason}" for reason, n in rejected if reason.startswith(_LOSSES)]
        if counts["unread_bytes"]:
            lines.append(f"{name}: {counts['unread_bytes']:,} bytes could not be read")
        if counts["in"] and not counts["kept"]:
            lines.append(f"{name}: none of {counts['in']} records could be converted")
    return lines
