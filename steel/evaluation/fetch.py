"""An exam from the Hugging Face hub, written as the folder that `steel eval` reads."""

import csv
import io
from pathlib import Path

from ..config import UserError, first_line, needs
from ..documents import write_rows
from ..runlog import atomic_write
from .suites import about, check_suite


def fetch(suite: str, out: Path | str) -> str:
    """Write OUT/<split>/<subject>.csv, or OUT/<split>.jsonl for GSM8K and HumanEval. Returns what.

    `datasets` reads HF_ENDPOINT and HF_TOKEN. Raises UserError without it, or when the hub cannot
    be reached. The data have their own licences (C-Eval, CMMLU: CC BY-NC-SA 4.0).
    """
    check_suite(suite)
    out, exam = Path(out), about(suite)
    if "hub" not in exam:
        raise UserError(f"no hub has {suite}; 'steel world OUT' writes OUT/exam")
    with needs("eval fetch", "datasets"):
        from datasets import get_dataset_config_names, load_dataset
    splits, count = exam.get("splits", [exam["split"], "dev"]), 0
    try:
        names = exam.get("configs") or get_dataset_config_names(exam["hub"])
        for name in names:
            if name in ("all", "auxiliary_train"):  # MMLU's unions
                continue
            for split in splits:
                # its dev split is called so everywhere; "validation" is something else in MMLU
                rows = list(load_dataset(exam["hub"], name, split=split))
                count += len(rows)
                if "configs" in exam:
                    write_rows(out / f"{split}.jsonl", rows)
                else:
                    _write_csv(out / split / f"{name}.csv", rows)
    except Exception as error:  # each library below has its own errors for the network and for 4xx
        problem = f"{exam['hub']} cannot be read ({first_line(error)[:160]})"
        raise UserError(f"{problem}; check the network, or set HF_ENDPOINT to a mirror") from None
    return f"{count:,} questions of {exam['hub']} in {out}"


def _write_csv(file: Path, rows: list[dict]) -> None:
    if rows and "choices" in rows[0]:  # MMLU: a list, and the number of the right one
        options = [dict(zip("ABCD", row["choices"])) for row in rows]
        pairs = zip(rows, options, strict=True)
        rows = [{"question": r["question"], **o, "answer": "ABCD"[r["answer"]]} for r, o in pairs]
    page = io.StringIO()
    writer = csv.DictWriter(page, list(rows[0]) if rows else ["question"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(file, page.getvalue())
