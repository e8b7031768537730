"""The same prompts, answered by every stage and checkpoint: texts from a RUN's files, as tables.

A reply is {stage, step: of a checkpoint inside the stage, None at the stage's end, kind: "text" (was
continued), "question" or the kind of a message of the first conversation, prompt: text or turns,
completion, right: whether a checker says so, None where nobody checks}.
"""

from collections.abc import Iterable, Sequence

from .words import one_text, title

MOST = 12
"""Checkpoints of a stage that are kept, spread evenly over it; a long run draws hundreds."""
SECTIONS = ("continues text", "answers questions", "first conversation")


def logged(stage: str, rows: Sequence[dict]) -> list[dict]:
    """Replies of the `sample` rows of a stage's log; of a step drawn twice, after a resume, the later."""
    drawn = {(row.get("step"), one_text(row.get("prompt", ""))): row for row in rows}
    steps = sorted({step for step, _ in drawn if isinstance(step, int)})
    if len(steps) > MOST:
        steps = [steps[round(i * (len(steps) - 1) / (MOST - 1))] for i in range(MOST)]
    return [_reply(stage, row, step) for (step, _), row in drawn.items() if step in steps]


def examined(stage: str, exam: dict) -> list[dict]:
    """Replies of an exam's `samples` and of its first conversation."""
    found = [_reply(stage, row) for row in exam.get("samples") or []]
    for row in (exam.get("conversation") or {}).get("answers") or []:
        asked = {"prompt": "\n".join(row["said"]), "completion": row["reply"]}
        found.append(_reply(stage, asked) | {"kind": row["kind"], "right": bool(row["right"])})
    return found


def _reply(stage: str, row: dict, step: int | None = None) -> dict:
    prompt = row.get("prompt", "")
    kind = "question" if isinstance(prompt, list) else "text"
    words = {"prompt": prompt, "completion": str(row.get("completion", "")), "right": None}
    return {"stage": stage, "step": step, "kind": kind, **words}


def scrubber(runs: Sequence[tuple[str, Iterable[dict]]], stages: Sequence[str]) -> dict:
    """What the page's scrubber shows of one run, or of several side by side: (name, replies) each.

    Returns {"moments": [label], "sections": [{"name", "columns": [(moment, run)], "rows": [{"kind",
    "prompt", "cells": [None or {"text", "right", "new": differs from the moment before}]}]}]}; runs
    and moments are indices. Of several runs only what at least two of them have is kept: prompts,
    and moments. `stages` are in the order of life.
    """
    cells: dict[tuple, dict] = {}
    for run, (_, replies) in enumerate(runs):
        for r in replies:
            prompt = (_section(r["kind"]), r["kind"], one_text(r["prompt"]))
            cells[prompt, (r["stage"], r["step"]), run] = r
    least = min(2, len(runs))

    def shared(part: int) -> list:
        having: dict = {}
        for key in cells:
            having.setdefault(key[part], set()).add(key[2])
        return [value for value, owners in having.items() if len(owners) >= least]

    prompts = shared(0)
    moments = sorted(shared(1), key=lambda m: (stages.index(m[0]), m[1] is None, m[1] or 0))
    sections = []
    for number, name in enumerate(SECTIONS):
        own = [prompt for prompt in prompts if prompt[0] == number]
        found = {(m, run) for p, m, run in cells if p[0] == number}
        columns = [(m, r) for m in moments for r in range(len(runs)) if (m, r) in found]
        rows = [_row(prompt, columns, cells) for prompt in own]
        if rows and columns:
            places = [(moments.index(m), run) for m, run in columns]
            sections.append({"name": name, "columns": places, "rows": rows})
    labels = [
        f"{title(s)}, step {n:,}" if n is not None else f"after {title(s)}" for s, n in moments
    ]
    return {"moments": labels, "sections": sections, "runs": [name for name, _ in runs]}


def _section(kind: str) -> int:
    return {"text": 0, "question": 1}.get(kind, 2)


def _row(prompt: tuple, columns: list[tuple], cells: dict) -> dict:
    """One prompt's cells, in the order of the columns."""
    before: dict[int, str] = {}
    row = []
    for moment, run in columns:
        reply = cells.get((prompt, moment, run))
        if reply is None:
            row.append(None)
            continue
        text = reply["completion"]
        row.append({"text": text, "right": reply["right"], "new": before.get(run, text) != text})
        before[run] = text
    return {"kind": prompt[1], "prompt": prompt[2], "cells": row}
