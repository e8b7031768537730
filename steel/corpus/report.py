"""What the pipeline counts and shows: records in, kept and gone per source and step, with closing
sums; the documents thrown away; what the operators did to the first texts that they changed."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..config import UserError
from ..documents import Document, DocumentWriter, read_documents, read_lines, read_rows, write_rows
from ..runlog import read_json, write_json
from .operators import Operator, Reject

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


class Evidence(contextlib.ExitStack):
    """Counts and writes what one step over one source threw away and changed, until the block ends.

    STEM.rejects.jsonl.zst: documents as they were when they were removed, with `meta["rejected"]`:
    {"operator", "reason", "value" measured and "limit" passed or None}. STEM.traces.jsonl: the
    first `trace` changes of each operator, {"operator", "id", "before", "after"}.
    """

    def __init__(self, stem: Path, tally: Tally, trace: int = 0):
        super().__init__()
        self._tally, self._trace, self._rows = tally, trace, []
        self.callback(write_rows, stem.with_name(f"{stem.name}.traces.jsonl"), self._rows)
        rejects = DocumentWriter(stem.with_name(f"{stem.name}.rejects.jsonl.zst"))
        self._writer = self.enter_context(rejects)

    def reject(self, document: Document, reject: Reject, **more: Any) -> None:
        """Keep a removed document; `more` goes to what is said of it."""
        self._tally.gone[reject.operator] += 1
        meta = document.meta | {"rejected": reject._asdict() | more}
        self._writer.write(replace(document, meta=meta))

    def changed(self, op: Operator, before: Document, after: Document) -> None:
        """Keep a change, if the operator has not shown enough."""
        count = self._tally.more["changed"]
        count[op.name] += 1
        if count[op.name] <= self._trace:
            texts = {"before": before.readable(), "after": after.readable()}
            self._rows.append({"operator": op.name, "id": before.id, **texts})


def publish_evidence(stems: list[Path], out: Path, name: str, trace: int) -> None:
    """OUT/report/rejects/<name>.jsonl.zst and traces/<name>.jsonl of what stands at some stems."""
    with DocumentWriter(out / "report" / "rejects" / f"{name}.jsonl.zst") as writer:
        for stem in stems:
            for _, line in read_lines(stem.with_name(f"{stem.name}.rejects.jsonl.zst")):
                writer.write_line(line + b"\n")
    shown, rows = Counter(), []
    for stem in stems:
        for _, row in read_rows(stem.with_name(f"{stem.name}.traces.jsonl")):
            shown[row["operator"]] += 1
            if shown[row["operator"]] <= trace:  # every task has shown so many
                rows.append(row)
    if rows:
        write_rows(out / "report" / "traces" / f"{name}.jsonl", rows)


def read_rejects(out: Path, operator: str = "", source: str = "") -> Iterator[Document]:
    """The documents that `prepare` removed, of one operator or source if one is named."""
    folder = Path(out) / "report" / "rejects"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give what `steel data prepare` wrote")
    for path in sorted(folder.glob(f"{source or '*'}.jsonl.zst")):
        for document in read_documents(path):
            if operator in ("", document.meta["rejected"]["operator"]):
                yield document


def write_report(out: Path, recipe: str, parts: dict[str, dict], about: dict[str, Any]) -> None:
    """Check that the sums close, add totals and warnings, write OUT/report.json."""
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
    report["flows"] = _flows(parts)
    report["warnings"] = _warnings(report)
    write_json(out / "report.json", report)


def drop_stale(out: Path, names: list[str]) -> None:
    """Remove outputs that an earlier report lists and this run does not make."""
    for pattern in ("report/rejects/*.jsonl.zst", "report/traces/*.jsonl"):
        for path in out.glob(pattern):
            path.unlink()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        before = read_json(out / "report.json")["sources"]
        for name in set(before) - set(names):
            (out / f"{name}.jsonl.zst").unlink(missing_ok=True)


def _flows(parts: dict[str, dict]) -> list[dict[str, Any]]:
    """A Sankey diagram: {"from", "to", "documents"}; what enters a node leaves it.

    From each source to the first step, from step to step, and from a step to what removed there.
    """
    flows: Counter[tuple[str, str]] = Counter()
    for name, part in parts.items():
        before = name
        for step, counts in part["steps"].items():
            flows[before, step] += counts["in"]
            gone = counts.get("rejected", {}) | counts.get("removed", {})
            for reason, number in gone.items():
                flows[step, reason] += number
            before = step
        flows[before, "documents"] += counts["kept"]
    return [{"from": a, "to": b, "documents": number} for (a, b), number in flows.items()]


def _warnings(report: dict[str, Any]) -> list[str]:
    """Lines that a user should see: what was left out and is easy to miss."""
    lines = []
    if files := report.get("unrecognised_files"):
        count, first = len(files), files[0]
        lines.append(f"{count} files belong to no source and were not read, the first is {first}")
    if names := report.get("sources_without_a_rule"):
        lines.append(f"recipe {report['recipe']} has no rule for {', '.join(names)}: not read")
    lines += [f"{n} did nothing: {lack}" for n, lack in report.get("idle_operators", {}).items()]
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
