"""Which implementation of each operation a run uses: chosen once, checked on the spot, printed.

    choice = choose({"all": "auto"}, device="cuda", dtype=torch.bfloat16, sizes=sizes, say=print)
    install(model, choice)

The model's own code stays self-contained, because it is copied into saved folders. Its modules name
the operations that may be exchanged as static methods (`SteelRMSNorm.rms_norm`,
`SteelHead.linear_cross_entropy`, …) and call them through `self`: an instance attribute of that
name takes the place of the reference. No `forward` is touched, so hooks, activation checkpointing
and compilation see the module as before; parameters, names and saved files do not change.

Whatever is chosen first computes an example on the run's own device, at its sizes there, values and
gradients, beside the fp64 reference; if it fails, or cannot be imported, the model's own code stays
and one line says so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import torch
from torch import nn

from . import _triton, attention, elementwise, examples, experts, linear_cross_entropy, soft_moe
from .examples import TOLERANCE, Sizes, first_line, relative_error, values

# Operation -> its file, and the attributes of the model's modules that its functions take: beside
# each function f stands f_reference, and `examples` has an example of the operation's name.
REGISTRY = {
    "linear_cross_entropy": (linear_cross_entropy, ("linear_cross_entropy",)),
    "rms_norm": (elementwise, ("rms_norm",)),
    "rope": (elementwise, ("rope_qkv",)),
    "swiglu": (elementwise, ("swiglu",)),
    "soft_moe": (soft_moe, ("segment_sums", "segment_combine", "soft_moe_v3")),
    "experts": (experts, ("top_k_experts",)),
}
OPERATIONS = (*REGISTRY, "attention")
HOOKS = ("attention_form", *(hook for _, hooks in REGISTRY.values() for hook in hooks))


@dataclass
class Choice:
    """The implementation of each operation by name, and what it puts into a model."""

    names: dict[str, str] = field(default_factory=dict)
    hooks: dict[str, Callable] = field(default_factory=dict)
    """Attribute of the model's modules -> what takes its place."""
    notes: list[str] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)
    """Relative error that the start-up check found, of the operations that it checked."""
    attention: attention.Attention = field(default_factory=attention.Attention)
    where: str = ""

    def table(self) -> str:
        """What was chosen for each operation, how it was checked, and what attention tried."""
        lines = [f"kernels {self.where}".rstrip()]
        for op, name in self.names.items():
            checked = f"error {self.errors[op]:.1e}" if op in self.errors else ""
            lines.append(f"  {op} {name}".ljust(40) + checked)
        return "\n".join(line.rstrip() for line in (*lines, *map(str, self.attention.trials)))


def install(model: nn.Module, choice: Choice) -> dict[str, int]:
    """Exchange the operations of `model` in place, and take out what an earlier choice put there.

    For a built model, before `fully_shard` and `compile`; models without Steel's modules stay as
    they are. Returns how many modules got each operation.
    """
    changed: dict[str, int] = {}
    for module in model.modules():
        for hook in (hook for hook in HOOKS if _has(module, hook)):
            module.__dict__.pop(hook, None)
            if hook in choice.hooks:
                setattr(module, hook, choice.hooks[hook])
                changed[hook] = changed.get(hook, 0) + 1
    return changed


def _has(module: nn.Module, hook: str) -> bool:
    """Whether the module's class offers this operation for exchange."""
    return isinstance(inspect.getattr_static(type(module), hook, None), staticmethod)


def choose(
    wanted: str | dict[str, str] | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    compiled: bool = False,
    say: Callable[[str], None] | None = None,
    check: bool = True,
    sizes: Sizes | None = None,
) -> Choice:
    """Settle every operation. wanted: one name for all, or by operation; "all" stands for the
    others, which are auto without it. A name for all that an operation does not have is auto there.

    auto: see `automatic` and `attention.select`. dtype: the compute type the run will use.
    compiled: whether blocks go through torch.compile. say: gets a line for each fallback, then the
    table. sizes: of the run; the check uses them on a GPU, and attention is settled only with them.
    Raises ValueError for a name that does not exist.
    """
    device, sizes = torch.device(device), sizes or Sizes()
    choice = Choice(where=f"on {device.type}, {str(dtype).removeprefix('torch.')}")
    for op, name in _wanted(wanted).items():
        if op == "attention":
            _choose_attention(choice, name, sizes, device, dtype, compiled)
            continue
        if name == "auto":
            name = automatic(op, device)
        choice.names[op] = name
        if name == "reference":
            continue
        try:
            functions = implementation(op, name, device)
            if check:
                known = sizes if device.type == "cuda" else None
                choice.errors[op] = verify(op, functions, device, dtype, known)
            choice.hooks |= functions
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the model's own code works
            _still_alive(device, op, name, first_line(error))
            said = f"{name} is not usable here ({first_line(error)})"
            choice.notes.append(f"kernels: {op}: {said}; using the reference")
            choice.names[op] = "reference"
    for line in (*choice.notes, choice.table()) if say is not None else ():
        say(line)
    return choice


def _choose_attention(choice: Choice, wanted: str, sizes, device, dtype, compiled) -> None:
    found = choice.attention = attention.select(wanted, sizes, device, dtype, compiled)
    choice.names["attention"] = str(found)
    if str(found) != "reference":
        choice.hooks["attention_form"] = found.form
    if wanted not in ("auto", "reference", found.plain, found.documents):
        reasons = [trial.note for trial in found.trials if trial.name == wanted and trial.note]
        reason = (reasons or ["the shape of the run is not known"])[0]
        reason = reason.removeprefix("not usable here: ")
        said = f"{wanted} is not usable here ({reason})"
        choice.notes.append(f"kernels: attention: {said}; using {found}")


def automatic(op: str, device: torch.device) -> str:
    """What auto means. On a GPU the fast implementation, but for the elementwise operations, which
    the compiler fuses with their neighbours, as a finished kernel cannot be; on a CPU nothing."""
    fast = _fast(op)
    left = device.type != "cuda" or REGISTRY[op][0] is elementwise
    return "reference" if left or (fast == "triton" and not _triton.can_run(device)) else fast


def _fast(op: str) -> str:
    """What the fast implementation of an operation is called."""
    return "torch" if op == "experts" else "triton"


def _still_alive(device: torch.device, op: str, name: str, reason: str) -> None:
    """RuntimeError after a kernel that went out of bounds: nothing runs in this process then."""
    if device.type == "cuda":
        try:
            torch.cuda.synchronize(device)
        except Exception:  # noqa: BLE001 - whatever it says, the context is gone
            remedy = f"start again with train.kernels={{all: auto, {op}: reference}}"
            broke = f"{name} broke the GPU's context at start-up ({reason})"
            raise RuntimeError(f"kernels: {op}: {broke}; {remedy}") from None


def _wanted(wanted: str | dict[str, str] | None) -> dict[str, str]:
    """Every operation with the name asked for it. ValueError for what does not exist."""
    wanted = {"all": wanted} if isinstance(wanted, str) else dict(wanted or {})
    every = wanted.pop("all", None) or "auto"
    if every not in ("auto", "reference", "triton"):
        raise ValueError(f"kernels.all={every!r}: choose from auto, reference, triton")
    for op, name in wanted.items():
        if op not in OPERATIONS:
            known = ", ".join(OPERATIONS)
            raise ValueError(f"kernels: there is no operation '{op}'; choose from all, {known}")
        if name and name not in _offered(op):
            raise ValueError(f"kernels.{op}={name!r}: choose from {', '.join(_offered(op))}")
    return {op: wanted.get(op) or (every if every in _offered(op) else "auto") for op in OPERATIONS}


def _offered(op: str) -> tuple[str, ...]:
    return ("auto", *(attention.NAMES if op == "attention" else ("reference", _fast(op))))


def implementation(op: str, name: str, device: torch.device) -> dict[str, Callable]:
    """The functions of one operation by their hooks; RuntimeError where they cannot run."""
    if name == "triton" and not _triton.can_run(device):
        missing = _triton.triton is None
        raise RuntimeError(
            f"Triton {'is not installed' if missing else f'cannot run on {device.type}'}"
        )
    module, hooks = REGISTRY[op]
    ending = "_reference" if name == "reference" else ""
    return {
        hook: getattr(module, hook + ending) for hook in hooks if hasattr(module, hook + ending)
    }


def verify(
    op: str, functions: dict[str, Callable], device, dtype: torch.dtype, sizes: Sizes | None = None
) -> float:
    """Relative error of the example against the fp64 reference; RuntimeError if it is large."""
    inputs, call = getattr(examples, op)(device, sizes or Sizes())
    if device.type != "cuda" and dtype == torch.bfloat16:
        dtype = torch.float32  # Triton's interpreter truncates bf16
    inputs = [t.to(dtype) for t in inputs]
    exact = SimpleNamespace(**implementation(op, "reference", device))
    found = values(partial(call, SimpleNamespace(**functions)), inputs)
    error = relative_error(found, values(partial(call, exact), [t.double() for t in inputs]))
    if not error <= TOLERANCE[dtype]:
        allowed = f"allowed {TOLERANCE[dtype]:.0e}"
        raise RuntimeError(f"it differs from the reference by {error:.1e}, {allowed}")
    return error
