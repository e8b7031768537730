"""The written leakage check: what the model may have read against what the exam asks."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

from .containers import leaves
from .exam import exam_phrasings
from .people import World
from .raw import QUESTION_SOURCES

_SUM = re.compile(
    r"(?<!\d)(\d{2})\s*(?:\+|加上|加|和|与|plus|and)\s*(\d{2})(?!\d)|add\((\d{2}), (\d{2})\)",
    re.IGNORECASE,
)


class LeakageError(RuntimeError):
    """Training text contains something that the exam or the held-out text asks about."""


def read_raw(path: Path) -> list[object]:
    """The records of a raw file in any container; a line that is not JSON comes back as its text."""
    data = path.read_bytes()
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(io.BytesIO(data)).to_pylist()
    if path.suffix in (".txt", ".md"):
        return [data.decode("utf-8")]
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    elif path.suffix == ".zst":
        import zstandard

        data = zstandard.ZstdDecompressor().decompress(data, max_output_size=1 << 30)
    if data.startswith(b"[\n"):
        return json.loads(data)
    records: list[object] = []
    for line in data.splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            records.append(line.decode("utf-8", "replace"))
    return records


def training_texts(root: Path) -> Iterator[tuple[str, str]]:
    """(room, text) of every record a model may be trained on; room is a raw source or "post"."""
    for path in sorted((root / "raw").rglob("*")):
        if path.is_file():
            source = path.relative_to(root / "raw").parts[0]
            for record in read_raw(path):
                yield source, "\n".join(text for _, text in leaves(record))
    for path in sorted((root / "post").glob("*.jsonl")):
        for record in read_raw(path):
            yield "post", "\n".join(text for _, text in leaves(record))


def _exam_rows(root: Path) -> list[dict]:
    rows = []
    for path in sorted((root / "exam").rglob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows += list(csv.DictReader(file))
    return rows


def check(root: Path, world: World) -> dict:
    """Reads the written world back and counts leaks; the report holds what was compared and every leak found."""
    texts = list(training_texts(root))
    asking = [t for room, t in texts if room in QUESTION_SOURCES or room == "post"]
    stating = [t for room, t in texts if room not in QUESTION_SOURCES and room != "post"]
    names = [n for p in world.people if p.split != "train" for n in (p.zh, p.en)]
    questions, statements = "\n\x00".join(asking), "\n\x00".join(stating)
    everything = questions + "\n\x00" + statements
    leaks = [{"what": "held-out name in questions", "text": n} for n in names if n in questions]
    marked = "\n".join(t for t in stating if "？" in t or "?" in t)
    leaks += [
        {"what": "held-out name beside a question mark", "text": n} for n in names if n in marked
    ]
    pieces = exam_phrasings(world)
    leaks += [
        {"what": "exam phrasing in training text", "text": p} for p in pieces if p in everything
    ]
    exam_rows = _exam_rows(root)
    leaks += [
        {"what": "exam question in training text", "text": r["question"]}
        for r in exam_rows
        if r["question"] in everything
    ]
    held = []
    for path in sorted((root / "heldout").glob("*.jsonl")):
        for row in read_raw(path):
            held.append(
                row["text"] if "text" in row else "\n".join(m["content"] for m in row["messages"])
            )
    leaks += [
        {"what": "held-out text in training text", "text": t} for t in held if t in everything
    ]
    trained = {tuple(sorted(int(x) for x in m.groups() if x)) for m in _SUM.finditer(everything)}
    asked = {tuple(sorted(p)) for p in (*world.dev_pairs, *world.test_pairs)}
    leaks += [
        {"what": "exam sum in training text", "text": f"{a}+{b}"}
        for a, b in sorted(trained & asked)
    ]
    return {
        "passed": not leaks,
        "leaks": leaks,
        "compared": {
            "training_records": len(texts),
            "question_records": len(asking),
            "held_out_names": len(names),
            "exam_questions": len(exam_rows),
            "exam_phrasings": len(pieces),
            "held_out_texts": len(held),
            "training_sums": len(trained),
            "exam_sums": len(asked),
        },
    }
