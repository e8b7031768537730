"""Every kernel on the device it is for, in every type and at the run's sizes, beside the fp64 reference.

    python -m figures.experiments.table2_kernels --out kernels.json

The interpreter and the compiler have seen these kernels already (tests/kernels); this is what only a GPU can say.
Without one, the references are checked against themselves in fp64. Exit code 1 when something is wrong.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from steel.kernels import OPERATIONS, Sizes, attention, select
from steel.machine import commit
from steel.runlog import atomic_write
from steel.train.device import describe

from . import command

REAL = {
    "hidden_size": 1792,
    "intermediate_size": 448,
    "vocab_size": 151_936,
    "segment_length": 64,
    "num_experts": 5,
    "experts_per_token": 2,
    "tokens": 1021,
}
CASES = {
    "small": Sizes(),
    "32x56": Sizes(num_attention_heads=32, num_key_value_heads=32, head_dim=56, **REAL),
    "28x64": Sizes(num_attention_heads=28, num_key_value_heads=28, head_dim=64, **REAL),
    "14x128": Sizes(num_attention_heads=14, num_key_value_heads=14, head_dim=128, **REAL),
    "grouped": Sizes(num_attention_heads=16, num_key_value_heads=4, head_dim=128, **REAL),
}
TYPES = (torch.float32, torch.float16, torch.bfloat16)


def check(
    device: torch.device,
    say: Callable[[str], None],
    save: Callable[[list[dict]], None],
    before: list[dict] = (),
) -> list[dict]:
    """{operation, name, case, dtype, compiled, error, seconds, status, note} for every combination; status ok | wrong |
    not run. A failure may leave the GPU unusable; then all that follow fail, and say so. `save` gets what is there
    after every operation; operations of which nothing is wrong `before` are not checked again."""
    cuda = device.type == "cuda"
    records = []

    def known(op: str) -> list[dict]:
        found = [record for record in before if record["operation"] == op]
        return [] if any(record["status"] == "wrong" for record in found) else found

    for op in (op for op in OPERATIONS if op != "attention"):
        if found := known(op):
            records += found
            say(f"{op:<22}checked before")
            continue
        name = "torch" if op == "experts" else "triton" if cuda else "reference"
        for case, sizes in CASES.items() if cuda else [("small", Sizes())]:
            # fp16 once: no preset computes in it
            for dtype in (
                TYPES[:1]
                if not cuda
                else TYPES
                if case == "small"
                else (torch.float32, torch.bfloat16)
            ):
                records.append(_one(op, name, case, sizes, device, dtype, compiled=False))
        if cuda and name == "triton":
            records.append(_one(op, name, "small", Sizes(), device, torch.bfloat16, compiled=True))
        mine = [record["status"] for record in records if record["operation"] == op]
        say(f"{op:<22}{name:<11}{mine.count('ok')} of {len(mine)} agree")
        save(records)
    records += known("attention") or (_documents(device) if cuda else [])
    save(records)
    return records


def _one(op: str, name: str, case: str, sizes: Sizes, device, dtype, compiled: bool) -> dict:
    record = {
        "operation": op,
        "name": name,
        "case": case,
        "dtype": str(dtype).removeprefix("torch."),
        "compiled": compiled,
        "error": None,
        "seconds": None,
        "status": "ok",
        "note": "",
    }
    began = time.monotonic()
    try:
        functions = select.implementation(op, name, device)
        if compiled:  # the operators must survive the compiler: one graph, no break
            functions = {k: torch.compile(f, fullgraph=True) for k, f in functions.items()}
        record["error"] = select.verify(op, functions, device, dtype, sizes)
    except Exception as error:  # noqa: BLE001 - each failure is a result
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [
            type(error).__name__
        ]
        # PyTorch's grouped product is made for some types only; of our own kernels every failure counts.
        optional = name == "torch" and not lines[0].startswith("it differs")
        record |= {
            "status": "not run" if optional else "wrong",
            "note": f"{type(error).__name__}: {lines[0][:200]}",
        }
    record["seconds"] = round(time.monotonic() - began, 2)
    return record


def _documents(device) -> list[dict]:
    """Attention at the training shape, plain and with documents: every candidate, its error and its time."""
    records = []
    for heads, width in ((32, 56), (14, 128)):
        sizes = Sizes(
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=width,
            batch=2,
            length=2048,
            documents=True,
        )
        for documents in (False, True):
            for name in attention.DOCUMENTS if documents else attention.PLAIN:
                trial = attention.try_one(name, sizes, device, torch.bfloat16, documents)
                # A candidate that cannot run here is no failure; the reference must.
                wrong = "differs" in trial.note or (trial.note and name == "reference")
                records.append(
                    {
                        "operation": "attention",
                        "name": name,
                        "case": f"{heads}x{width}" + (" documents" if documents else ""),
                        "dtype": "bfloat16",
                        "compiled": False,
                        "error": trial.error,
                        "seconds": None,
                        "note": trial.note,
                        "status": "wrong" if wrong else "not run" if trial.note else "ok",
                    }
                )
    return records


def _before(out: Path, same: dict) -> list[dict]:
    """The records in `out`, if they are of this commit and this card."""
    try:
        found = json.loads(out.read_text(encoding="utf-8"))
        return found["checks"] if all(found[key] == same[key] for key in same) else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def main(out: Path, device: str = "auto") -> int:
    """Every kernel beside its fp64 reference, in each type; 0 when nothing is wrong; the same command goes on.

    out: JSON file, written after each operation; what agreed there, on this card and commit, stands. device: auto, cuda
    or cpu.
    """
    cuda = torch.cuda.is_available() if device == "auto" else device == "cuda"
    device = torch.device("cuda" if cuda else "cpu")
    facts = describe(device)

    same = {"kind": "kernels", "commit": commit(), "device_name": facts["name"]}
    before = _before(out, same)

    def save(records: list[dict]) -> None:
        passed = not any(record["status"] == "wrong" for record in records)
        report = same | {"device": facts, "passed": passed, "checks": records}
        atomic_write(out, json.dumps(report, indent=1) + "\n")

    records = check(device, lambda line: print(line, flush=True), save, before)
    wrong = [record for record in records if record["status"] == "wrong"]
    for r in wrong:
        print(f"WRONG {r['operation']} {r['name']} {r['case']} {r['dtype']}: {r['note']}")
    good = sum(record["status"] == "ok" for record in records)
    print(f"{good} of {len(records)} checks agree, {len(wrong)} do not")
    return int(bool(wrong))


if __name__ == "__main__":
    command(main)
