"""Compile every kernel ahead of time, without a GPU, and report registers, shared memory and spills.

    python -m figures.experiments.aot --out figures/runs/kernels-aot.json

A kernel that spills registers to memory is slower than it looks, and one that no longer compiles for
the machine it was written for is worse; both show here. Needs Triton (not its interpreter:
TRITON_INTERPRET must be unset).
"""

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path

from steel.kernels import _triton, elementwise, soft_moe
from steel.kernels import linear_cross_entropy as head
from steel.runlog import atomic_write

TARGETS = (80, 90)  # A100; H100, H200


def cases() -> list[dict]:
    """Every kernel at the sizes of the 1 B model, in bf16 with fp32 sums and weights.

    kernel, name, signature (argument -> type), constants, num_warps, and the integer arguments that
    are multiples of 16 there.
    """
    return [*_head(), *_soft_moe(), *_norm(), *_rope(), *_gate()]


def _case(kernel, name: str, pointers: dict, integers: str, tile: dict, aligned="", **constants):
    """tile: what a launch is given, its number of warps among it; names separated by spaces."""
    signature = dict.fromkeys(integers.split(), "i32")
    signature |= {argument: f"*{kind}" for argument, kind in pointers.items()}
    constants |= {key: value for key, value in tile.items() if key != "num_warps"}
    return {
        "kernel": kernel,
        "name": f"{getattr(kernel, 'fn', kernel).__name__.removesuffix('_kernel')} {name}",
        "signature": signature,
        "constants": constants,
        "warps": tile["num_warps"],
        "aligned": aligned.split(),
    }


def _head():
    tile = head.tile(151_936)
    for kind in ("bf16", "fp32"):
        shared = {"logits": kind, "targets": "i64", "log_z": "fp32"}
        for kernel, row in ((head.row_statistics, "picked"), (head.row_gradient, "slope")):
            pointers = shared | {row: "fp32"}
            yield _case(kernel, kind, pointers, "V stride", tile, "V stride")


def _soft_moe():
    spans = {"start": "i32", "length": "i32"}
    for J in (5, 6):  # slots of the causal layer, of v3
        tile = soft_moe.tile(J)
        mix = {"J": J, "num_warps": 4}
        for kernel, pointers, options in (
            (soft_moe.segment_sums_kernel, "x:bf16 w:fp32 sums:fp32 mass:fp32", tile),
            (soft_moe.segment_combine_kernel, "c:fp32 z:bf16 y:bf16", mix),
            (soft_moe.segment_dots_kernel, "x:bf16 z:fp32 dots:fp32", tile),
        ):
            pointers = spans | dict(pair.split(":") for pair in pointers.split())
            yield _case(kernel, f"J={J}", pointers, "D", options, "D")


def _norm():
    for D in (1792, 64):  # the residual stream, and one head of QK-norm
        forward = dict.fromkeys(("x", "residual", "y", "total"), "bf16")
        backward = dict.fromkeys(("dy", "ds", "s", "dx"), "bf16") | {"dweight": "fp32"}
        for kernel, pointers in (
            (elementwise.rms_norm_forward, forward),
            (elementwise.rms_norm_backward, backward),
        ):
            pointers |= {"weight": "fp32", "r": "fp32"}
            tile = elementwise.norm_tile(D)
            case = _case(kernel, str(D), pointers, "N D", tile, "N D", ADD=True)
            if kernel is elementwise.rms_norm_forward:
                case["signature"]["eps"] = "fp32"
            yield case


def _rope():
    for width in (56, 64, 128):  # heads of the 1 B model, its neighbours, the recommended shape
        pointers = {"x": "bf16", "y": "bf16", "cos": "fp32", "sin": "fp32"}
        integers = "rows heads half stride_x stride_y"
        aligned = "rows stride_x stride_y" + (" half" if width > 56 else "")
        tile = elementwise.rotation_tile(width)
        case = _case(elementwise.rotate, str(width), pointers, integers, tile, aligned)
        case["signature"]["sign"] = "fp32"
        yield case


def _gate():
    for width in (448, 1792):  # one expert's gate, the second gate of the double form
        tile = elementwise.gate_tile(width)
        for kernel, tensors in (
            (elementwise.swiglu_forward, ("pair", "y")),
            (elementwise.swiglu_backward, ("dy", "pair", "dpair")),
        ):
            pointers = dict.fromkeys(tensors, "bf16")
            yield _case(kernel, str(width), pointers, "N width", tile, "N width")


def compile_case(case: dict, capability: int) -> dict:
    """One kernel for one compute capability -> registers, shared_bytes, spill_bytes, stack_bytes, warps."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {**case["signature"], **dict.fromkeys(case["constants"], "constexpr")}
    order = case["kernel"].arg_names
    assert sorted(order) == sorted(signature), (case["name"], order, list(signature))
    # What a launch with aligned tensors would tell the compiler: it decides the width of loads and stores.
    aligned = [n for n in order if signature[n].startswith("*") or n in case["aligned"]]
    attributes = {(order.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(
        case["kernel"], {name: signature[name] for name in order}, case["constants"], attributes
    )
    options = {"num_warps": case["warps"], "num_stages": 3}
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return {
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


def main(argv: list[str] | None = None) -> int:
    """Command line; returns 0, 1 if a kernel spills, 2 if Triton cannot compile here."""
    parser = argparse.ArgumentParser(
        prog="python -m figures.experiments.aot", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, help="write the report here as JSON")
    parser.add_argument(
        "--target",
        type=int,
        nargs="*",
        default=list(TARGETS),
        help="compute capabilities, e.g. 80 90",
    )
    args = parser.parse_args(argv)
    if _triton.triton is None or _triton.interpreted():
        print("this needs Triton and no interpreter: pip install triton, unset TRITON_INTERPRET")
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
            report = {"triton": _triton.triton.__version__, "kernels": rows}
            atomic_write(args.out, json.dumps(report, indent=1) + "\n")

    for case in cases():
        for capability in args.target:
            say(compile_case(case, capability))
    return int(any(r["spill_bytes"] for r in rows))


if __name__ == "__main__":
    raise SystemExit(main())
