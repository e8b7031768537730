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

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import torch
from torch import nn

from ..config import first_line
from ..model import loss
from ..model.attention import rms_norm, rope_qkv
from ..model.causal_soft_moe import segment_combine, segment_sums
from ..model.feed_forward import swiglu, top_k_experts
from ..model.soft_moe import soft_moe_v3
from . import _triton, attention, elementwise, examples, experts, linear_cross_entropy, soft_moe
from .examples import Sizes

# Operation -> its file, what its fast implementation is called, and the model's own functions that
# it takes the place of: the file has one of each name, and so have the model's modules, as an
# attribute. `examples` has an example of the operation's name.
REGISTRY = {
    "linear_cross_entropy": (linear_cross_entropy, "triton", (loss.linear_cross_entropy,)),
    "rms_norm": (elementwise, "triton", (rms_norm,)),
    "rope": (elementwise, "triton", (rope_qkv,)),
    "swiglu": (elementwise, "triton", (swiglu,)),
    "soft_moe": (soft_moe, "triton", (segment_sums, segment_combine, soft_moe_v3)),
    "experts": (experts, "torch", (top_k_experts,)),
}
OPERATIONS = (*REGISTRY, "attention")
HOOKS = ("attention_form", *(own.__name__ for *_, every in REGISTRY.values() for own in every))
NAMES = {op: ("auto", "reference", fast) for op, (_, fast, _) in REGISTRY.items()}
NAMES |= {"attention": ("auto", *attention.NAMES), "all": ("auto", "reference", "triton")}


@dataclass
class Choice:
    """The implementation of each operation by name, and what it puts into a model."""

    names: dict[str, str] = field(default_factory=dict)
    hooks: dict[str, Callable] = field(default_factory=dict)
    """Attribute of the model's modules -> what takes its place."""
    notes: list[str] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)
    """Relative error that the start-up check found, of the operations that it checked."""
    trials: list[attention.Trial] = field(default_factory=list)

    def refuse(self, op: str, name: str, reason: str, used: str) -> None:
        """Keep `used` for an operation, and a line that says why."""
        self.names[op] = used
        self.notes.append(f"kernels: {op}: {name} is not usable here ({reason}); using {used}")

    def table(self) -> list[str]:
        """What was chosen for each operation, how it was checked, and what attention tried."""
        rows = [(f"  {op} {name}", self.errors.get(op)) for op, name in self.names.items()]
        lines = [row if error is None else f"{row:<40}error {error:.1e}" for row, error in rows]
        return [*lines, *map(str, self.trials)]


def install(model: nn.Module, choice: Choice) -> dict[str, int]:
    """Exchange the operations of `model` in place, and take out what an earlier choice put there.

    For a built model, before `fully_shard` and `compile`; models without Steel's modules stay as
    they are. Returns how many modules got each operation.
    """
    changed: dict[str, int] = {}
    for module in model.modules():
        for hook in HOOKS:
            if isinstance(inspect.getattr_static(type(module), hook, None), staticmethod):
                module.__dict__.pop(hook, None)
                if hook in choice.hooks:
                    setattr(module, hook, choice.hooks[hook])
                    changed[hook] = changed.get(hook, 0) + 1
    return changed


def choose(
    wanted: str | dict[str, str] | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    compiled: bool = False,
    say: Callable[[str], None] | None = None,
    sizes: Sizes | None = None,
) -> Choice:
    """Settle every operation. wanted: one name for all, or by operation; "all" stands for the
    others, which are auto without it. A name for all that an operation does not have is auto there.

    auto: see `automatic` and `attention.select`. dtype: the compute type the run will use.
    compiled: whether blocks go through torch.compile. say: gets a line for each fallback, then the
    table. sizes: of the run; the check uses them on a GPU, and attention is settled only with them.
    Raises ValueError for a name that does not exist.
    """
    device, sizes, choice = torch.device(device), sizes or Sizes(), Choice()
    names = _wanted(wanted)
    for op in REGISTRY:
        name = choice.names[op] = automatic(op, device) if names[op] == "auto" else names[op]
        if name == "reference":
            continue
        try:
            functions = implementation(op, name, device)
            known = sizes if device.type == "cuda" else Sizes()
            choice.errors[op] = verify(op, functions, device, dtype, known)
            choice.hooks |= functions
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the model's own code works
            _still_alive(device, op, name, first_line(error)[:160])
            choice.refuse(op, name, first_line(error)[:160], "reference")
    _choose_attention(choice, names["attention"], sizes, device, dtype, compiled)
    if say is not None:
        where = f"kernels on {device.type}, {str(dtype).removeprefix('torch.')}"
        for line in (*choice.notes, "\n".join((where, *choice.table()))):
            say(line)
    return choice


def _choose_attention(choice: Choice, wanted: str, *run) -> None:
    found = attention.select(wanted, *run)
    choice.names["attention"], choice.trials = str(found), found.trials
    if str(found) != "reference":
        choice.hooks["attention_form"] = found.form
    if wanted not in ("auto", "reference", found.plain, found.documents):
        reasons = [trial.note for trial in found.trials if trial.name == wanted and trial.note]
        reason = reasons[0] if reasons else "the shape of the run is not known"
        choice.refuse("attention", wanted, reason, str(found))


def automatic(op: str, device: torch.device) -> str:
    """What auto means. On a GPU the fast implementation, but for the elementwise operations, which
    the compiler fuses with their neighbours, as a finished kernel cannot be; on a CPU nothing."""
    module, fast, _ = REGISTRY[op]
    left = device.type != "cuda" or module is elementwise
    return "reference" if left or (fast == "triton" and not _triton.can_run(device)) else fast


def implementation(op: str, name: str, device: torch.device) -> dict[str, Callable]:
    """The functions of one operation by their hooks; RuntimeError where they cannot run."""
    if name == "triton" and not _triton.can_run(device):
        missing = _triton.triton is None
        problem = "is not installed" if missing else f"cannot run on {device.type}"
        raise RuntimeError(f"Triton {problem}")
    module, _, every = REGISTRY[op]
    named = {own.__name__: own for own in every}
    return named if name == "reference" else {hook: getattr(module, hook) for hook in named}


def verify(
    op: str, functions: dict[str, Callable], device, dtype: torch.dtype, sizes: Sizes
) -> float:
    """Relative error of the example against the fp64 reference; RuntimeError if it is large."""
    inputs, call = getattr(examples, op)(device, sizes)
    if device.type != "cuda" and dtype == torch.bfloat16:
        dtype = torch.float32  # Triton's interpreter truncates bf16
    given = functions, implementation(op, "reference", device)
    found, exact = (partial(call, SimpleNamespace(**each)) for each in given)
    return examples.check(found, exact, inputs, dtype, torch.float64)


def _still_alive(device: torch.device, op: str, name: str, reason: str) -> None:
    """RuntimeError after a kernel that went out of bounds: nothing runs in this process then."""
    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except Exception:  # noqa: BLE001 - whatever it says, the context is gone
        remedy = f"start again with train.kernels={{all: auto, {op}: reference}}"
        broke = f"{name} broke the GPU's context at start-up ({reason})"
        raise RuntimeError(f"kernels: {op}: {broke}; {remedy}") from None


def _wanted(wanted: str | dict[str, str] | None) -> dict[str, str]:
    """Every operation with the name asked for it. ValueError for what does not exist."""
    wanted = {"all": wanted or "auto"} if isinstance(wanted, str | None) else wanted
    wanted = {"all": "auto"} | wanted
    for op, name in wanted.items():
        if op not in NAMES:
            known = ", ".join(OPERATIONS)
            raise ValueError(f"kernels: there is no operation '{op}'; choose from all, {known}")
        if name not in NAMES[op]:
            raise ValueError(f"kernels.{op}={name!r}: choose from {', '.join(NAMES[op])}")
    every = wanted["all"]
    return {op: wanted.get(op, every if every in NAMES[op] else "auto") for op in OPERATIONS}
