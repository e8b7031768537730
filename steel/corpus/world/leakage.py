"""The written leakage check: what the model may have read against what the exam asks."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from ..sources.readers import Bad, records
from .containers import text_of
from .exam import exam_phrasings
from .people import World, table

_SUM = re.compile(
    r"(?<!\d)(\d{2})\s*(?:\+|加上|加|和|与|plus|and)\s*(\d{2})(?!\d)|add\((\d{2}), (\d{2})\)",
    re.IGNORECASE,
)


class LeakageError(RuntimeError):
    """Training text contains something that the exam or the held-out text asks about."""


def texts(folder: Path, without: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """(first folder or file below `folder`, text) of every record; one that is torn has no text."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        for _, record in records(path):
            text = "" if isinstance(record, Bad) else text_of(record, without)
            yield path.relative_to(folder).parts[0], text


def _exam_questions(root: Path) -> Iterator[str]:
    for path in sorted((root / "exam").rglob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            yield from (row["question"] for row in csv.DictReader(file))


def check(root: Path, world: World) -> dict:
    """Reads the written world back and counts leaks: {passed, leaks, compared}."""
    asking = [text for _, text in texts(root / "post")]
    stating = []
    for source, text in texts(root / "raw"):
        (asking if source in table("sources")["question_sources"] else stating).append(text)
    questions, statements = "\n\x00".join(asking), "\n\x00".join(stating)
    everything = questions + "\n\x00" + statements
    names = [n for p in world.people if p.split != "train" for n in (p.zh, p.en)]
    phrasings, exam = exam_phrasings(world), list(_exam_questions(root))
    held_out = [text for _, text in texts(root / "heldout", ("role", "lang"))]
    trained = {tuple(sorted(int(x) for x in m.groups() if x)) for m in _SUM.finditer(everything)}
    asked = {tuple(sorted(p)) for p in (*world.pairs["dev"], *world.pairs["test"])}
    marked = "\n".join(t for t in stating if "？" in t or "?" in t)
    leaks = []
    for what, pieces, text in (
        ("held-out name in questions", names, questions),
        ("held-out name beside a question mark", names, marked),
        ("exam phrasing in training text", phrasings, everything),
        ("exam question in training text", exam, everything),
        ("held-out text in training text", held_out, everything),
    ):
        leaks += [{"what": what, "text": piece} for piece in pieces if piece in text]
    for a, b in sorted(trained & asked):
        leaks.append({"what": "exam sum in training text", "text": f"{a}+{b}"})
    compared = {
        "training_records": len(asking) + len(stating),
        "question_records": len(asking),
        "held_out_names": len(names),
        "exam_questions": len(exam),
        "exam_phrasings": len(phrasings),
        "held_out_texts": len(held_out),
        "training_sums": len(trained),
        "exam_sums": len(asked),
    }
    return {"passed": not leaks, "leaks": leaks, "compared": compared}
