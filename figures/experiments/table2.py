"""The paper's Table 2 again, on one GPU, with peers: what each fusion buys, as rows that must agree before they rank.

    python -m figures.experiments.table2 --out table2.json    the table alone, at most 8 minutes
    … --device cpu --out table2-cpu.json    the same paths at toy size, at most a minute
    … --all --out FOLDER    everything that a GPU is wanted for, in one command:
        FOLDER/trainer.json   a few steps, validation, a save and a resume by the trainer's own code
        FOLDER/kernels.json   every kernel on the device, in each type, beside fp64
        FOLDER/table2.json    this table
        FOLDER/step.json      one training step of the recommended preset, by the trainer's own loop

The GPU needs torch, triton, transformers, numpy and pyyaml; Liger-Kernel and cut-cross-entropy join where they are
installed (`pip install --no-deps --target peers liger-kernel`, then PYTHONPATH=peers). No network, no data: tokens
are drawn from a Zipf law.

Each row trains the same weights on the same tokens (micro-batch 8 of 2,048, bf16, fp32 master weights), 4 steps
for warm-up and 10 on the clock. Before, a copy with two layers must give the loss, the gradients and twelve
training steps of the model's own code in fp32; a row that does not is printed, with the reason, and not ranked. Results
are written after every row; the same command goes on where it was cut off. One GPU has no communication: a run on
eight is slower by what FSDP does not hide.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from steel.config import UserError

from . import command, table2_measure
from .ledger import Ledger
from .processes import last_words, talking
from .table2_rows import BY_ID, LENGTH, MICRO_BATCH, ROWS, TOY_LENGTH, TOY_MICRO_BATCH, Row

SCHEMA = 1
DONE = ("ok", "refused", "skipped")
GRACE = 20.0  # seconds that a row may overrun the whole budget before it is stopped


def table2(
    out: Path | str,
    *,
    device: str = "auto",
    budget: float = 460.0,
    rows: list[str] | None = None,
    micro_batch: int = 0,
    fresh: bool = False,
    say: Callable[[str], None] | None = None,
) -> dict:
    """Measure the rows whose ids start with one of `rows` (all by default) into the JSON file `out`; return the report.

    device: auto, cuda or cpu (toy sizes, no speeds worth quoting). budget: seconds for all rows. micro_batch:
    sequences, 0 for the table's own. fresh: measure again what `out` holds already. Raises UserError for a device that
    is not there and for rows that do not exist.
    """
    out, say = Path(out), say or (lambda line: None)
    settings = _settings(device, budget, micro_batch)
    wanted = [row for row in ROWS if not rows or any(row.id.startswith(prefix) for prefix in rows)]
    if not wanted:
        raise UserError(f"no row starts with {' or '.join(rows)}; rows: {', '.join(BY_ID)}")
    same = {k: v for k, v in settings.items() if k not in ("budget_s", "reserve_s")}
    ledger = Ledger(out, "table2", {"schema": SCHEMA, "toy": settings["toy"], "same": same}, fresh)
    report = ledger.content
    report.setdefault("created", datetime.now(UTC).isoformat(timespec="seconds"))
    for key, value in (("seconds", 0.0), ("device", {}), ("micro", {}), ("drift", None)):
        report.setdefault(key, value)
    report["settings"] = settings
    records = {record["id"]: record for record in report["rows"]}
    for row in wanted:
        if records.get(row.id, {}).get("status") not in DONE:
            records[row.id] = {**_about(row), "status": "pending", "reason": "", "ranked": False}
    pending = [row.id for row in wanted if records[row.id]["status"] == "pending"]
    began, before = time.time(), report["seconds"]
    while pending and time.time() - began < budget - settings["reserve_s"]:
        left = _one_process(
            pending,
            settings | {"deadline": began + budget},
            report,
            records,
            lambda: _write(ledger, records, before + time.time() - began),
            say,
        )
        if left == pending:  # it did not even start: the reason is in the first row's record
            break
        pending = left
    _write(ledger, records, before + time.time() - began)
    return report


def _settings(device: str, budget: float, micro_batch: int) -> dict:
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cuda", "cpu"):
        raise UserError(f"--device {device}: choose auto, cuda or cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here; --device cpu runs the toy")
    toy = device == "cpu"
    return {
        "device": device,
        "toy": toy,
        "dtype": "fp32" if toy else "bf16",
        "budget_s": budget,
        "seed": 1,
        "micro_batch": micro_batch or (TOY_MICRO_BATCH if toy else MICRO_BATCH),
        "sequence_length": TOY_LENGTH if toy else LENGTH,
        "warmup": 1 if toy else 4,
        "steps": 3 if toy else 10,
        "learning_rate": 3e-4,
        "reserve_s": 0.0 if toy else 15.0,
    }


def _about(row: Row) -> dict:
    return {
        "id": row.id,
        "group": row.group,
        "title": row.title,
        "shape": row.shape,
        "engine": row.engine,
        "base": row.base,
        "pieces": row.pieces,
        "published": row.published,
    }


# -- processes ---------------------------------------------------------------------------------------------------------


def _one_process(
    pending: list[str], settings: dict, report: dict, records: dict, write, say
) -> list[str]:
    """Run a measuring process over `pending` until it ends or has to be stopped; returns what is left to do."""
    left, code, current, said = list(pending), None, None, ""
    for what, record in _messages(settings | {"rows": pending}):
        if what == "device":
            report["device"] = {**report["device"], **record}
        elif what == "start":
            current = record["id"]
        elif what == "row":
            report["micro"] |= record.pop("micro", {})
            records[record["id"]] |= record
            left.remove(record["id"])
            current = None
            write()
            say(_line(records[record["id"]]))
        elif what == "end":
            code, said = record["code"], record["said"]
    if current is None and code and left == pending:
        current, said = left[0], f"the measuring process did not start: {said}"
    if current is not None:  # it began and did not end
        status = {OVERRUN: "timeout", CUT: "pending"}.get(said, "failed")
        records[current] |= {
            "status": status,
            "reason": f"exit code {code}: {said}" if status == "failed" else said,
        }
        left.remove(current)
        write()
        say(_line(records[current]))
    return left if code else []


OVERRUN, CUT = "it took longer than its limit", "the budget ended before it did"


def _messages(settings: dict) -> Iterator[tuple[str, dict]]:
    """What the measuring process says, and ("end", {code, said}) when it is gone; a row that overruns ends it."""
    last = settings["deadline"] + GRACE
    limit, stopped = last, ""
    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder) / "errors"
        with talking(table2_measure.run, settings, errors=errors) as (pipe, process):
            while not stopped:
                if not pipe.poll(max(0.1, limit - time.time())):
                    stopped = OVERRUN if limit < last else CUT
                    break
                try:
                    what, record = pipe.recv()
                except EOFError:
                    break
                limit = last
                if what == "start":
                    limit = min(time.time() + BY_ID[record["id"]].seconds, last)
                yield what, record
        said = stopped or last_words(errors)
        yield "end", {"code": process.exitcode, "said": said}


def _write(ledger: Ledger, records: dict, seconds: float) -> None:
    """Ranks and ratios over what is there, then the file."""
    report = ledger.content
    order = {row.id: i for i, row in enumerate(ROWS)}
    report["rows"] = sorted(records.values(), key=lambda record: order[record["id"]])
    for record in report["rows"]:
        record["ranked"] = record["status"] == "ok" and record["engine"] != "micro"
    for record in report["rows"]:
        base = records.get(record["base"])
        both = record["ranked"] and base is not None and base["ranked"]
        record["versus_base"] = round(_rate(record) / _rate(base), 4) if both else None
    again = records.get("A.again", {})
    report["drift"] = again.get("versus_base")
    complete = all(record["status"] != "pending" for record in report["rows"])
    ledger.write(complete=complete, seconds=round(seconds, 1))


def _rate(record: dict) -> float:
    return record["tokens_per_s"]["accumulation_8"]


# -- to read -----------------------------------------------------------------------------------------------------------


def _line(record: dict) -> str:
    """One row in one line."""
    head = f"{record['id']:<18}{record['title'][:46]:<47}"
    if record["status"] not in ("ok", "refused"):
        return f"{head}{record['status']}: {record['reason']}"
    if record["engine"] == "micro":
        return f"{head}{record['seconds']:.0f} s"
    share = record["mfu"]["executed_causal"]
    mfu = share["peak"] if share["peak"] is not None else share["measured"]
    memory = record["memory_bytes"]["allocated"] or record["memory_bytes"]["reserved"]
    times = f"{record['versus_base']:.2f}x " if record.get("versus_base") else ""
    refused = f"  NOT RANKED: {record['reason']}" if record["status"] == "refused" else ""
    said = f"{_rate(record):>10,.0f} tokens/s  MFU {mfu:5.1%}  {memory / 2**30:5.1f} GiB"
    return f"{head}{said}  {times}{refused}".rstrip()


def render(report: dict) -> str:
    """The table as text: every row, then what was not reached."""
    device = report["device"]
    lines = [
        f"table 2 on {device.get('name', '?')}, {report['seconds']:.0f} s"
        + (" (toy sizes: the speeds mean nothing)" if report["toy"] else "")
    ]
    if device.get("matmul_flops"):
        over = "the vendor's peak" if device.get("peak_flops") else "that rate"
        lines.append(
            f"matrix products reach {device['matmul_flops'] / 1e12:.2f} TFLOP/s here; MFU counts executed "
            f"causal FLOPs over {over}"
        )
    lines += [_line(record) for record in report["rows"] if record["status"] != "pending"]
    if left := [record["id"] for record in report["rows"] if record["status"] == "pending"]:
        lines.append(
            f"not reached within the budget: {', '.join(left)}; the same command goes on from here"
        )
    return "\n".join(lines)


# -- everything at once ------------------------------------------------------------------------------------------------


def everything(
    out: Path, device: str, budget: float, say: Callable[[str], None], fresh: bool = False
) -> int:
    """Trainer, kernels, the table, one step; each in processes of its own, with a limit of its own.

    What the files hold is not measured again, unless `fresh`. Returns 0, or 1 when the trainer or a kernel is wrong, no
    row could be ranked or the step failed.
    """
    import torch

    out.mkdir(parents=True, exist_ok=True)
    for name in ("trainer", "kernels", "step") if fresh else ():
        (out / f"{name}.json").unlink(missing_ok=True)
    cuda = device != "cpu" and torch.cuda.is_available()
    end = time.time() + budget
    trainer = _module("trainer_check", ["--out", str(out / "trainer.json")], 0.2 * budget)
    if trainer == 124:
        say("trainer: NOT CHECKED, it took too long; the next start tries again")
    else:
        wrong = "SOMETHING IS WRONG, see trainer.json"
        say(f"trainer: {wrong if trainer else 'agrees'}")
    kernels = _module(
        "table2_kernels", ["--device", device, "--out", str(out / "kernels.json")], 0.25 * budget
    )
    say("kernels: all agree" if kernels == 0 else "kernels: SOMETHING IS WRONG, see kernels.json")
    for_step = 0.17 * budget
    left = max(30.0, end - time.time() - for_step)
    report = table2(out / "table2.json", device=device, budget=left, say=say, fresh=fresh)
    say(render(report))
    preset, seconds = "steel-1b-causal" if cuda else "cpu", max(for_step, end - time.time())
    own = ["--presets", preset, "--micro-batches", "0", "--accumulation", "1"]
    own += ["--device", device, "--out", str(out / "step.json"), "--seconds", f"{seconds:.0f}"]
    step = _module("micro_batch", own, seconds + GRACE)
    none = not any(record["ranked"] for record in report["rows"])
    return int(bool(trainer or kernels or step or none))


def _module(name: str, arguments: list[str], seconds: float) -> int:
    """Run a module of this package; its exit code, 124 when it takes longer than `seconds`."""
    run = [sys.executable, "-m", f"{__package__}.{name}", *arguments]
    try:
        return subprocess.run(run, timeout=seconds).returncode
    except subprocess.TimeoutExpired:
        return 124


def main(
    out: Path,
    device: str = "auto",
    all: bool = False,
    budget: float = 0.0,
    rows: str = "",
    micro_batch: int = 0,
    fresh: bool = False,
) -> int:
    """The paper's Table 2 on one GPU; a row whose loss or gradients differ is printed, not ranked.

    out: JSON file; with --all a folder. device: auto, cuda or cpu (toy sizes). budget: seconds for all (460; with --all
    570). rows: only those whose id starts with one of these, as A,B.on. micro_batch: sequences; 0: 8. fresh: measure
    again what the file holds.
    """

    def say(line: str) -> None:
        print(line, flush=True)

    if all:
        return everything(out, device, budget or 570.0, say, fresh)
    out = out if out.suffix == ".json" else out / "table2.json"
    options = {
        "rows": rows.split(",") if rows else None,
        "micro_batch": micro_batch,
        "fresh": fresh,
    }
    report = table2(out, device=device, budget=budget or 460.0, say=say, **options)
    say(render(report))
    return int(not any(record["ranked"] for record in report["rows"]))


if __name__ == "__main__":
    command(main)
