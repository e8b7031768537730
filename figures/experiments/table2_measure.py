"""One process of `table2`: builds, checks and times rows, and says each result through a pipe.

A process of its own, because a row may run out of memory, hang or take the GPU's context with it; the parent (`table2`)
then starts another for the rows that are left.
"""

from __future__ import annotations

import gc
import math
import os
import re
import statistics
import time
from dataclasses import replace
from functools import partial

import torch

from steel.config import ModelConfig, first_line
from steel.machine import peak_memory_bytes
from steel.model.build import build
from steel.plan import flops_per_token
from steel.train.bench import zipf_batches
from steel.train.device import clocks, describe

from .table2_peers import Peer
from .table2_rows import BY_ID, Row, shape_of
from .table2_steel import MasterAdamW, Steel, backward, enliven, gradients

CONVENTIONS = ("executed_causal", "executed_full", "seed")
# The gate: a copy with two layers beside the model's own code in fp32, on the same weights and tokens.
GATE_LAYERS, GATE_VOCABULARY, GATE_STEPS = 2, 16_384, 12
LOSS_LIMIT, COSINE_LIMIT, CURVE_LIMIT = 2e-3, 0.999, 5e-3


class Bench:
    """Settings and what rows share: start-up choices, gate references, the device's measured rate."""

    def __init__(self, settings: dict):
        self.settings, self.toy = settings, settings["toy"]
        self.device = torch.device(settings["device"])
        self.dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[settings["dtype"]]
        self.length = settings["sequence_length"]
        # On a CPU the toy only keeps the paths alive: graphs are captured, not compiled.
        self.backend = "inductor" if self.device.type == "cuda" else "eager"
        self.facts = describe(self.device)
        self.choices: dict = {}
        self.references: dict = {}

    def engine(self, shape: ModelConfig, row: Row, batch: int):
        """The row's model, ready to train."""
        make = Steel if row.engine == "steel" else Peer
        how = {"batch": batch, "length": self.length, "backend": self.backend}
        return make(shape, row, self.device, self.dtype, **how, choices=self.choices)

    def batches(self, count: int, batch: int, vocabulary: int) -> list[tuple]:
        """Zipf-distributed tokens and targets."""
        seed = self.settings["seed"]
        return zipf_batches(count, batch, self.length, vocabulary, self.device, seed)

    def free(self, compiled: bool = True) -> None:
        """Give memory back before the next model; compiled: and what the compiler made of this one."""
        if compiled:
            torch._dynamo.reset()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


# -- the gate ----------------------------------------------------------------------------------------------------------


def reference(bench: Bench, shape: ModelConfig, batch: int) -> dict:
    """Weights of the gate's copy of `shape`, and what the model's own code makes of them: gradients and losses of 12
    steps in fp32, and how far the same code comes off in the row's type: `cosines` and `curve`."""
    key = repr((shape, batch))
    if key not in bench.references:
        model = build(shape, device=str(bench.device), seed=2)
        enliven(model)
        named = model.state_dict().items()
        state = {name: t.detach().to(bench.dtype).cpu().clone() for name, t in named}
        found = {}
        for dtype in dict.fromkeys((torch.float32, bench.dtype)):
            model = model.to(dtype).train()
            model.load_state_dict(state)
            optimizer = MasterAdamW(list(model.parameters()), fused=False)
            own = partial(backward, model), partial(gradients, model)
            found[dtype] = _twelve_steps(bench, shape, batch, *own, optimizer)
        exact, own = found[torch.float32], found[bench.dtype]
        bench.references[key] = {
            "state": state,
            "losses": exact[0],
            "gradients": exact[1],
            "cosines": _cosines(own[1], exact[1]),
            "curve": _apart(own[0], exact[0]),
        }
    return bench.references[key]


def _twelve_steps(bench, shape, batch, backward, gradients, optimizer) -> tuple[list, dict, list]:
    """Losses, the first step's gradients on the CPU, and seconds of each forward and backward."""
    losses, first, seconds = [], {}, []
    for tokens, targets in bench.batches(GATE_STEPS, batch, shape.vocab_size):
        began = time.monotonic()
        losses.append(float(backward(tokens, targets)))
        seconds.append(time.monotonic() - began)
        first = first or {name: g.detach().cpu().clone() for name, g in gradients().items()}
        optimizer.step()
    return losses, first, seconds


def gate(bench: Bench, row: Row, shape: ModelConfig, batch: int) -> dict:
    """Whether the row computes what the model's own code does: first loss and gradients, and 12 steps of training.

    A gradient may be as far off fp32 as a cosine of 0.999, or twice as far as the model's own code in the row's type
    (1 - cosine grows with the square): some gradients, a router's at rest, are noise in bf16, whoever computes them.
    """
    vocabulary = min(shape.vocab_size, GATE_VOCABULARY)
    small = replace(shape, num_hidden_layers=GATE_LAYERS, vocab_size=vocabulary)
    wanted = reference(bench, small, batch)
    engine = bench.engine(small, row, batch)
    try:
        engine.load(wanted["state"])
        optimizer = MasterAdamW(list(engine.model.parameters()), engine.fused_adamw)
        own = engine.backward, engine.gradients
        losses, slopes, seconds = _twelve_steps(bench, small, batch, *own, optimizer)
    finally:
        engine.close()
    cosines = _cosines(slopes, wanted["gradients"])
    limits = {name: min(COSINE_LIMIT, 1 - 4 * (1 - own)) for name, own in wanted["cosines"].items()}
    spare = {name: cosine - limits[name] for name, cosine in cosines.items()}
    worst = min(spare, key=lambda name: (spare[name] >= 0, spare[name]))
    found = {
        "layers": GATE_LAYERS,
        "loss": losses[0],
        "reference_loss": wanted["losses"][0],
        "loss_difference": abs(losses[0] - wanted["losses"][0]),
        "worst_tensor": worst,
        "worst_cosine": cosines[worst],
        "cosine_limit": limits[worst],
        "curve_difference": _apart(losses, wanted["losses"]),
        "curve_limit": max(CURVE_LIMIT, 2 * wanted["curve"]),
    }
    reason = _refusal(found)
    first = max(0.0, seconds[0] - statistics.median(seconds))  # what compiling took
    return {"passed": not reason, **found, "reason": reason, "first_seconds": first}


def _apart(losses: list[float], wanted: list[float]) -> float:
    """Largest relative difference of two curves; infinite where one is not finite."""
    pairs = zip(losses, wanted, strict=True)
    return max(abs(a - b) / b if math.isfinite(a) else math.inf for a, b in pairs)


def _cosines(found: dict, wanted: dict) -> dict[str, float]:
    """Cosine of each tensor's gradient with the reference's; 0 where one is missing or not finite."""
    result = {}
    for name, b in wanted.items():
        a = found.get(name)
        b = b.double().flatten()
        a = torch.zeros_like(b) if a is None else a.double().flatten()
        if float(b.norm()) == 0.0:
            result[name] = float(a.norm() == 0)
            continue
        cosine = float(a @ b / (a.norm() * b.norm()).clamp_min(1e-300))
        result[name] = cosine if cosine == cosine else 0.0
    return result


def _refusal(found: dict) -> str:
    if not found["loss_difference"] <= LOSS_LIMIT:
        return f"the first loss differs by {found['loss_difference']:.1e}"
    if not found["worst_cosine"] >= found["cosine_limit"]:
        return f"the gradient of {found['worst_tensor']} has cosine {found['worst_cosine']:.5f}"
    if not found["curve_difference"] <= found["curve_limit"]:
        return f"within {GATE_STEPS} steps the loss is {found['curve_difference']:.2%} apart"
    return ""


# -- the clock ---------------------------------------------------------------------------------------------------------


class Clock:
    """Milliseconds between marks: CUDA events on a GPU (read at the end), the wall clock elsewhere."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.marks: list = []

    def mark(self) -> None:
        """Note the time here in the device's queue."""
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def spans(self) -> list[float]:
        """Milliseconds between neighbouring marks."""
        if self.cuda:
            torch.cuda.synchronize()
            return [a.elapsed_time(b) for a, b in zip(self.marks, self.marks[1:])]
        return [1e3 * (b - a) for a, b in zip(self.marks, self.marks[1:])]


def spread(values: list[float]) -> dict:
    """Median, 10th and 90th percentile."""
    ordered, last = sorted(values), len(values) - 1
    found = {"median": statistics.median(ordered)}
    found |= {name: ordered[round(q * last)] for name, q in (("p10", 0.1), ("p90", 0.9))}
    return {name: round(value, 4) for name, value in found.items()}


def timed(bench: Bench, row: Row, shape: ModelConfig, batch: int) -> dict:
    """Warm-up and timed steps of the whole model: the numbers of a row."""
    warmup, steps = bench.settings["warmup"], bench.settings["steps"]
    batches = bench.batches(warmup + steps, batch, shape.vocab_size)
    engine = bench.engine(shape, row, batch)
    try:
        optimizer = MasterAdamW(list(engine.model.parameters()), engine.fused_adamw)
        losses, clock, first = [], Clock(bench.device), 0.0
        for step, (tokens, targets) in enumerate(batches):
            began = time.monotonic()
            if step == warmup:
                clock.mark()
                _reset_peaks(bench.device)
            losses.append(engine.backward(tokens, targets))
            if step >= warmup:
                clock.mark()
            optimizer.step()
            if step >= warmup:
                clock.mark()
            if step == 0:
                float(losses[0])  # waits for the device
                first = time.monotonic() - began
        spans = clock.spans()
        memory = _peaks(bench.device)
        shares = _shares(bench, engine, optimizer, batches[-1])
        parameters = sum(p.numel() for p in engine.model.parameters())
        breaks = sum(torch._dynamo.utils.counters["graph_break"].values())
    finally:
        engine.close()
    ms = {"forward_backward": spread(spans[0::2]), "update": spread(spans[1::2])}
    step_s = (ms["forward_backward"]["median"] + ms["update"]["median"]) / 1e3
    return {
        "kernels": engine.kernels,
        "notes": engine.notes,
        "parameters": parameters,
        "micro_batch": batch,
        "tokens": batch * bench.length,
        "ms": ms,
        **_rates(bench, shape, batch * bench.length, ms),
        "memory_bytes": memory,
        "compile": {"seconds": round(max(0.0, first - step_s), 2), "graph_breaks": breaks},
        "kernel_shares": shares,
        "losses": [round(float(loss), 5) for loss in losses],
    }


def _rates(bench: Bench, shape: ModelConfig, tokens: int, ms: dict) -> dict:
    both, update = (ms[part]["median"] / 1e3 for part in ("forward_backward", "update"))
    rate = {f"accumulation_{n}": round(n * tokens / (n * both + update), 1) for n in (1, 8)}
    flops = {name: flops_per_token(shape, bench.length, name).total for name in CONVENTIONS}
    achieved = {name: value * rate["accumulation_8"] for name, value in flops.items()}
    tops = {"peak": bench.facts["peak_flops"], "measured": bench.facts["matmul_flops"]}

    def over_tops(value: float) -> dict:
        return {over: round(value / top, 4) if top else None for over, top in tops.items()}

    return {
        "tokens_per_s": rate,
        "flops_per_token": flops,
        "tflops": {name: round(value / 1e12, 3) for name, value in achieved.items()},
        "mfu": {name: over_tops(value) for name, value in achieved.items()},
    }


def _reset_peaks(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peaks(device: torch.device) -> dict:
    if device.type != "cuda":
        return {"allocated": None, "reserved": peak_memory_bytes()}
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return {"allocated": allocated, "reserved": reserved}


# Kernels (on a CPU: operators) by what they do; the first pattern that matches counts.
KINDS = {
    "attention": r"flash|fmha|sdpa|attention|flex|varlen",
    "optimizer": r"adam|multi_tensor|foreach|lpnorm",
    "softmax_loss": r"row_statistics|row_gradient|softmax|nll_loss|cross_entropy",
    "matmul": r"gemm|nvjet|cutlass|cublas|aten::(mm|addmm|bmm|baddbmm|linear|matmul)|splitk",
    "copy": r"memcpy|memset|copy|catarray|aten::(cat|clone|_to_copy|fill_|zero_)",
    "norm_elementwise": r"rms_norm|rotate|swiglu|segment_|elementwise|reduce|triton|vectorized|aten::",
    "other": r"",
}


def _shares(bench: Bench, engine, optimizer: MasterAdamW, batch: tuple) -> dict[str, float]:
    """Shares of one step's device time by kind; {} when the profiler is of no use here."""
    cuda = bench.device.type == "cuda"
    activity = torch.profiler.ProfilerActivity
    kinds = [activity.CUDA if cuda else activity.CPU]
    try:
        with torch.profiler.profile(activities=kinds) as profile:
            engine.backward(*batch)
            optimizer.step()
            if cuda:
                torch.cuda.synchronize()
        totals = dict.fromkeys(KINDS, 0.0)
        for event in profile.key_averages():
            spent = event.self_device_time_total if cuda else event.self_cpu_time_total
            name = event.key.lower()
            totals[next(kind for kind, pattern in KINDS.items() if re.search(pattern, name))] += (
                spent
            )
        whole = sum(totals.values())
    except RuntimeError:
        return {}
    return {kind: round(value / whole, 4) for kind, value in totals.items()} if whole else {}


# -- rows --------------------------------------------------------------------------------------------------------------


def measure(bench: Bench, row: Row) -> dict:
    """The record of one row; out of memory halves the micro-batch, twice at most."""
    if row.engine == "micro":
        from . import table2_micro

        return {"status": "ok", "reason": "", "micro": table2_micro.run(row.id, bench)}
    shape, batch = shape_of(row, bench.toy), bench.settings["micro_batch"]
    while True:
        try:
            torch._dynamo.utils.counters.clear()
            checked = gate(bench, row, shape, batch)
            bench.free(compiled=False)
            found = timed(bench, row, shape, batch)
            seconds = found["compile"]["seconds"] + checked.pop("first_seconds")
            found["compile"]["seconds"] = round(seconds, 2)
            status = "ok" if checked["passed"] else "refused"
            return {"status": status, "reason": checked["reason"], "gate": checked, **found}
        except torch.OutOfMemoryError as error:
            said = first_line(error)[:160]
        bench.free()
        if batch <= max(1, bench.settings["micro_batch"] // 4):
            return {"status": "oom", "reason": said}
        batch //= 2


def run(pipe, settings: dict) -> None:
    """Measure the rows that settings["rows"] names until settings["deadline"] (of time.time()); say it to the pipe."""

    def say(what: str, record: dict) -> None:
        pipe.send((what, record))

    os.environ.update(TRANSFORMERS_VERBOSITY="error", HF_HUB_OFFLINE="1")
    bench = Bench(settings)
    say("device", bench.facts)
    for id in settings["rows"]:
        row, began = BY_ID[id], time.monotonic()
        spare = 0 if id == "A.again" else settings["reserve_s"]
        if settings["deadline"] - time.time() < spare:
            continue
        say("start", {"id": id})
        try:
            record = measure(bench, row)
        except ImportError as error:
            record = {"status": "skipped", "reason": first_line(error)[:160]}
        except Exception as error:  # noqa: BLE001 - a row that fails is a result; the others go on
            said = f"{type(error).__name__}: {first_line(error)[:200]}"
            record = {"status": "failed", "reason": said}
        say("row", {"id": id, **record, "seconds": round(time.monotonic() - began, 2)})
        bench.free()
    if bench.device.type == "cuda":
        say("device", {"clocks_end": clocks()})
