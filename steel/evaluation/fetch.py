"""An exam from the Hugging Face hub, written as the folder that `steel eval` reads."""

import csv
import io
import json
from pathlib import Path

from ..config import UserError, first_line, needs
from ..runlog import atomic_write
from .suites import suite_named


def fetch(suite: str, out: Path | str) -> str:
    """Write OUT/<split>/<subject>.csv, or OUT/<split>.jsonl for GSM8K and HumanEval. Returns what.

    `datasets` reads HF_ENDPOINT and HF_TOKEN. Raises UserError without it, or when the hub cannot
    be reached. The data have their own licences (C-Eval, CMMLU: CC BY-NC-SA 4.0).
    """
    out, about = Path(out), suite_named(suite)
    if "hub" not in about:
        raise UserError(f"no hub has {suite}; 'steel world OUT' writes OUT/exam")
    with needs("eval fetch", "datasets"):
        from datasets import get_dataset_config_names, load_dataset
    splits, count = about.get("splits", [about.get("split", "test"), "dev"]), 0
    try:
        names = about.get("configs") or get_dataset_config_names(about["hub"])
        for name in names:
            if name in ("all", "auxiliary_train"):  # MMLU's unions
                continue
            for split in splits:
                # its dev split is called so everywhere; "validation" is something else in MMLU
                rows = list(load_dataset(about["hub"], name, split=split))
                count += len(rows)
                _write(out, name, split, rows, by_subject="configs" not in about)
    except Exception as error:  # each library below has its own errors for the network and for 4xx
        raise UserError(
            f"{about['hub']} cannot be read ({first_line(error)[:160]}); check the network, or set "
            "HF_ENDPOINT to a mirror"
        ) from None
    return f"{count:,} questions of {about['hub']} in {out}"


def _write(out: Path, name: str, split: str, rows: list[dict], by_subject: bool) -> None:
    if not by_subject:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        atomic_write(out / f"{split}.jsonl", "".join(lines))
        return
    if rows and "choices" in rows[0]:  # MMLU: a list, and the number of the right one
        rows = [
            {
                "question": r["question"],
                **dict(zip("ABCD", r["choices"])),
                "answer": "ABCD"[r["answer"]],
            }
            for r in rows
        ]
    page = io.StringIO()
    writer = csv.DictWriter(page, list(rows[0]) if rows else ["question"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(out / split / f"{name}.csv", page.getvalue())
