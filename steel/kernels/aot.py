"""Compile every kernel ahead of time, without a GPU, and report registers, shared memory and spills.

    python -m steel.kernels.aot --out figures/runs/kernels-aot.json

A kernel that spills registers to memory is slower than it looks, and one that no longer compiles for the machine it was
written for is worse; both show here. Needs Triton (not its interpreter: TRITON_INTERPRET must be unset).
"""

import argparse
import importlib
import json
import re
import subprocess
import tempfile
from pathlib import Path

from . import _triton
from .select import OPERATIONS

TARGETS = (80, 90)  # A100; H100, H200


def cases() -> list[dict]:
    """Every kernel at the sizes of the 1 B model: what each operation's file lists."""
    return [
        {"op": op, **case}
        for op in OPERATIONS
        for case in getattr(importlib.import_module(f"{__package__}.{op}"), "aot_cases", list)()
    ]


def compile_case(case: dict, capability: int) -> dict:
    """One kernel for one compute capability -> registers, shared_bytes, spill_bytes, stack_bytes, warps."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {**case["signature"], **dict.fromkeys(case["constants"], "constexpr")}
    order = case["kernel"].arg_names
    assert sorted(order) == sorted(signature), (case["name"], order, list(signature))
    # What a launch with aligned tensors would tell the compiler: it decides the width of loads and stores.
    aligned = [n for n in order if signature[n].startswith("*") or n in case.get("aligned", ())]
    attributes = {(order.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(
        case["kernel"], {name: signature[name] for name in order}, case["constants"], attributes
    )
    options = {"num_warps": case["warps"], "num_stages": 3}
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return {
        "op": case["op"],
        "kernel": case["name"],
        "target": f"sm_{capability}",
        "warps": case["warps"],
        "shared_bytes": built.metadata.shared,
        **_assembled(built.asm["ptx"]),
    }


def _assembled(ptx: str) -> dict:
    """What ptxas says of the code it makes for the target named in the PTX."""
    from triton import knobs

    target = re.search(r"^\.target\s+(\w+)", ptx, re.M).group(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        out = subprocess.run(
            [
                knobs.nvidia.ptxas.path,
                "-v",
                f"--gpu-name={target}",
                str(path),
                "-o",
                str(path.with_suffix(".cubin")),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    text = out.stdout + out.stderr
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", text)]
    return {
        "registers": int(re.search(r"Used (\d+) registers", text).group(1)),
        "spill_bytes": sum(spills),
        "stack_bytes": int((re.search(r"(\d+) bytes stack frame", text) or [0, 0])[1]),
    }


def compile_all(targets=TARGETS, ops=OPERATIONS, say=None) -> list[dict]:
    """All kernels of the given operations for all targets; `say(row)` is called after each."""
    rows = []
    for case in cases():
        for capability in targets if case["op"] in ops else ():
            rows.append(compile_case(case, capability))
            if say is not None:
                say(rows[-1])
    return rows


def main(argv: list[str] | None = None) -> int:
    """Command line; returns 0, 1 if a kernel spills, 2 if Triton cannot compile here."""
    parser = argparse.ArgumentParser(
        prog="python -m steel.kernels.aot", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, help="write the report here as JSON")
    parser.add_argument(
        "--target",
        type=int,
        nargs="*",
        default=list(TARGETS),
        help="compute capabilities, e.g. 80 90",
    )
    parser.add_argument(
        "--op",
        nargs="*",
        default=list(OPERATIONS),
        choices=OPERATIONS,
        help="only these operations",
    )
    args = parser.parse_args(argv)
    if _triton.triton is None or _triton.interpreted():
        print(
            "steel.kernels.aot needs Triton and no interpreter: pip install triton, unset TRITON_INTERPRET"
        )
        return 2
    rows = []

    def say(row: dict) -> None:
        rows.append(row)
        print(
            f"{row['target']} {row['kernel']:<32} {row['registers']:>3} registers  {row['shared_bytes']:>6} B shared "
            f"{row['spill_bytes']:>4} B spilled",
            flush=True,
        )
        if args.out:  # after every kernel, so that a run cut short leaves what it has
            from ..runlog import atomic_write

            report = {"triton": _triton.triton.__version__, "kernels": rows}
            atomic_write(args.out, json.dumps(report, indent=1) + "\n")

    compile_all(args.target, args.op, say)
    return int(any(r["spill_bytes"] for r in rows))


if __name__ == "__main__":
    raise SystemExit(main())
