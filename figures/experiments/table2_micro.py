"""Operations by themselves, at the sizes of the 1 B model: attention by head width, the head, the fused operations.

Shapes: B batch, T time, N tokens, D width, H heads, C head width, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F

from steel.kernels import Sizes, attention, examples, select
from steel.kernels.examples import normal
from steel.kernels.linear_cross_entropy import linear_cross_entropy
from steel.model import loss

# Passes over memory that the operation cannot do without, forward and backward, in elements per token; `w` the width.
FLOOR = {
    "rms_norm": lambda s: 8 * s.hidden_size,
    "rope": lambda s: 4 * (s.num_attention_heads + 2 * s.num_key_value_heads) * s.head_dim,
    "swiglu": lambda s: 8 * s.intermediate_size,
    "soft_moe": lambda s: 6 * s.hidden_size,
}


def run(id: str, bench) -> dict[str, list[dict]]:
    """{"attention" | "head" | "operations": records} for the row D.<that>."""
    what = id.removeprefix("D.")
    return {what: {"attention": _attention, "head": _head, "operations": _operations}[what](bench)}


def _milliseconds(device: torch.device, function: Callable[[], object], repeats: int = 9) -> float:
    """Median time of a call, after three for warm-up; the device's queue is empty before and after."""
    times = []
    for step in range(3 + repeats):
        _wait(device)
        began = time.perf_counter()
        function()
        _wait(device)
        if step >= 3:
            times.append(time.perf_counter() - began)
    return round(1e3 * sorted(times)[len(times) // 2], 4)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _said(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:140] if lines else ''}"


# -- attention ---------------------------------------------------------------------------------------------------------


def _attention(bench) -> list[dict]:
    """Every candidate of the start-up probe at three head widths of the same total width, plain and with documents."""
    B, T = bench.settings["micro_batch"], bench.length
    records = []
    for heads, width in ((2, 16),) if bench.toy else ((32, 56), (14, 128), (28, 64)):
        for documents in (False, True):
            sizes = Sizes(
                num_attention_heads=heads,
                num_key_value_heads=heads,
                head_dim=width,
                batch=B,
                length=T,
                documents=documents,
            )
            for name in attention.DOCUMENTS if documents else attention.PLAIN:
                trial = attention.try_one(name, sizes, bench.device, bench.dtype, documents)
                flops = (
                    3 * 2 * B * heads * T * T * width
                )  # causal half; the backward pass twice the forward
                rate = (
                    None
                    if documents or not trial.milliseconds
                    else flops / trial.milliseconds / 1e9
                )
                records.append(
                    {
                        "head_dim": width,
                        "heads": heads,
                        "documents": documents,
                        "name": name,
                        "ms": trial.milliseconds,
                        "error": trial.error,
                        "tflops": rate,
                        "note": trial.note,
                    }
                )
    return records


# -- the head ----------------------------------------------------------------------------------------------------------


def _head(bench) -> list[dict]:
    """Projection and loss, forward and backward, by everything that can do it; errors of the gradients beside fp32."""
    N, D, V = (
        (128, 64, 512)
        if bench.toy
        else (bench.settings["micro_batch"] * bench.length, 1792, 151_936)
    )
    x = normal(bench.device, N, D).to(bench.dtype).requires_grad_()
    weight = (normal(bench.device, V, D) / D**0.5).to(bench.dtype).requires_grad_()
    targets = (torch.arange(N, device=bench.device) * 7919) % V
    wide = [t.detach().float().requires_grad_() for t in (x, weight)]
    exact = torch.autograd.grad(loss.linear_cross_entropy(*wide, targets), wide)
    return [
        _one_head(bench, name, function, (x, weight), targets, exact)
        for name, function in _heads(bench).items()
    ]


def _heads(bench) -> dict[str, Callable]:
    """name -> function(x, weight, targets) -> summed loss; what is missing here raises when it is called."""

    def eager(x, weight, targets):
        return F.cross_entropy(F.linear(x, weight).float(), targets, reduction="sum")

    def liger(x, weight, targets, **options):
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy as fused

        return fused(x, weight, targets, reduction="sum", **options)

    def cce(x, weight, targets):
        from cut_cross_entropy import linear_cross_entropy as cut

        return cut(x, weight, targets, reduction="sum")

    compiled = torch.compile(eager, backend=bench.backend)
    chunks = {
        f"ours_{n}": lambda x, w, t, n=n: linear_cross_entropy(x, w, t, rows=n)
        for n in (1024, 2048, 4096, 8192)
    }
    return {
        "model": loss.linear_cross_entropy,
        **chunks,
        "eager": eager,
        "compile": compiled,
        "liger": liger,
        "liger_fp32": lambda x, w, t: liger(x, w, t, accum_dtype=torch.float32),
        "cce": cce,
    }


def _one_head(bench, name: str, function: Callable, inputs: tuple, targets, exact) -> dict:
    record = {"name": name, "ms": None, "memory_bytes": None, "error": None, "note": ""}
    cuda = bench.device.type == "cuda"

    def step():
        return torch.autograd.grad(function(*inputs, targets), inputs)

    try:
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        found = step()
        record["error"] = max(
            float((a.float() - b.float()).norm() / b.float().norm())
            for a, b in zip(found, exact, strict=True)
        )
        del found
        record["ms"] = _milliseconds(bench.device, step, 5)
        record["memory_bytes"] = torch.cuda.max_memory_allocated() - before if cuda else None
    except Exception as error:  # noqa: BLE001 - a candidate that cannot run here is a result
        record["note"] = _said(error)
    return record


# -- the fused operations ----------------------------------------------------------------------------------------------


def _operations(bench) -> list[dict]:
    """Reference, Triton, compiler and Liger on 16,384 tokens; rate over the bytes that no implementation can avoid."""
    sizes = (
        Sizes()
        if bench.toy
        else Sizes(
            hidden_size=1792,
            intermediate_size=3584,
            vocab_size=151_936,
            num_attention_heads=32,
            num_key_value_heads=32,
            head_dim=56,
            segment_length=64,
            num_experts=6,
            experts_per_token=2,
            tokens=bench.settings["micro_batch"] * bench.length,
        )
    )
    records = []
    for op in (*FLOOR, "experts"):
        inputs, call = getattr(examples, op)(bench.device, sizes)
        inputs = [t.to(bench.dtype).requires_grad_() for t in inputs]
        for name in (
            ("reference", "torch")
            if op == "experts"
            else ("reference", "triton", "compile", "liger")
        ):
            if name == "compile" and bench.device.type != "cuda":
                continue  # a compiler for the CPU would take longer than all the rest
            record = {
                "operation": op,
                "name": name,
                "ms": None,
                "gb_per_s": None,
                "error": None,
                "note": "",
            }
            records.append(record)
            try:
                functions = _functions(op, name, bench.device)
                record["error"] = select.verify(op, functions, bench.device, bench.dtype, Sizes())
                f = SimpleNamespace(**functions)
                record["ms"] = _milliseconds(
                    bench.device, lambda f=f, i=inputs, c=call: _step(f, i, c)
                )
                if op in FLOOR:
                    moved = FLOOR[op](sizes) * sizes.tokens * inputs[0].element_size()
                    record["gb_per_s"] = round(moved / record["ms"] / 1e6, 1)
            except Exception as error:  # noqa: BLE001
                record["note"] = _said(error)
    return records


def _functions(op: str, name: str, device: torch.device) -> dict[str, Callable]:
    """An operation's functions by name: of the package, the compiler's version of its reference, or Liger-Kernel's."""
    if name == "liger":
        return _liger(op)
    if name != "compile":
        return select.implementation(op, name, device)
    references = select.implementation(op, "reference", device)
    return {hook: torch.compile(function) for hook, function in references.items()}


def _liger(op: str) -> dict[str, Callable]:
    """Liger-Kernel's functions behind this package's signatures; ImportError where it has none."""
    from liger_kernel.transformers import functional

    def rms_norm(x, weight, eps, residual=None):
        if residual is None:
            return functional.liger_rms_norm(x, weight, eps, 0.0, "llama", False)
        return functional.liger_fused_add_rms_norm(x, residual, weight, eps, 0.0, "llama", False)

    def swiglu(pair):
        return functional.liger_swiglu(*(half.contiguous() for half in pair.chunk(2, dim=-1)))

    known = {"rms_norm": rms_norm, "swiglu": swiglu}
    if op not in known:
        raise ImportError(f"Liger-Kernel has no {op} of this form")
    return {op: known[op]}


def _step(functions: SimpleNamespace, inputs: list[torch.Tensor], call: Callable) -> None:
    out = call(functions, *inputs)
    out = out if isinstance(out, (tuple, list)) else [out]
    torch.autograd.grad(out, inputs, [torch.ones_like(o) for o in out])
