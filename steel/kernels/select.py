"""Which implementation of each operation a run uses: chosen once, checked on the spot, printed.

    choice = choose({"linear_cross_entropy": "triton"}, device="cuda", dtype=torch.bfloat16, say=print)
    choice.rms_norm(x, weight, eps)

Implementations: reference (the model's own code), triton (this package's kernels), compile (torch.compile of the
reference), liger (Liger-Kernel, if installed), torch (an operator of PyTorch's, for the experts), auto (see
`automatic`); attention has names of its own (`attention.NAMES`). Whatever is chosen first computes an example on the
run's own device, at its sizes there, values and gradients, beside the fp64 reference; if it fails, or cannot be
imported, the reference takes its place and one line says so.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ..config import first_line
from . import _triton, attention
from .examples import EXAMPLES, Sizes

OPERATIONS = (
    "linear_cross_entropy",
    "rms_norm",
    "rope",
    "swiglu",
    "soft_moe",
    "experts",
    "attention",
)
IMPLEMENTATIONS = ("auto", "reference", "triton", "compile", "liger", "torch")
# What an operation is offered in; the others as IMPLEMENTATIONS says, but for torch.
OFFERED = {"experts": ("auto", "reference", "torch"), "attention": ("auto", *attention.NAMES)}
# Relative error in the 2-norm that the start-up check lets pass.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 5e-3, torch.float64: 1e-6}


@dataclass
class Choice:
    """The implementation of each operation by name, and the functions themselves."""

    names: dict[str, str] = field(default_factory=dict)
    functions: dict[str, Callable] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)
    """Relative error that the start-up check found, of the operations that it checked."""
    where: str = ""

    def __getattr__(self, name: str) -> Callable:
        try:
            return self.__dict__["functions"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __str__(self) -> str:
        return "kernels: " + ", ".join(f"{op} {name}" for op, name in self.names.items())

    def table(self) -> str:
        """What was chosen for each operation and how it was checked; attention with all that was tried."""
        lines = [f"kernels {self.where}".rstrip()]
        for op, name in self.names.items():
            checked = f"error {self.errors[op]:.1e}" if op in self.errors else ""
            lines.append(f"  {op} {name}".ljust(40) + checked)
        tried = getattr(self.functions.get("attention"), "table", str)()
        return "\n".join(line.rstrip() for line in (*lines, *([tried] if tried else ())))


def automatic(op: str, device: torch.device, compiled: bool = False) -> str:
    """The default. On a CPU: the reference. On a GPU with Triton: the kernels; but under torch.compile the
    elementwise operations are left to it, since it fuses them with their neighbours, which a finished
    kernel cannot be."""
    if op == "experts" and device.type == "cuda":
        return "torch"
    if device.type != "cuda" or not _triton.can_run(device):
        return "reference"
    return "reference" if compiled and op in ("rms_norm", "rope", "swiglu") else "triton"


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
    """Settle every operation. wanted: one implementation for all, or by operation; the key "all" stands for the others,
    which are auto without it. A name for all that an operation is not offered in leaves that operation at auto.

    dtype: the compute type the run will use. compiled: whether blocks go through torch.compile. say: gets a line for
    each fallback, then the table. sizes: of the run; the check uses them on a GPU, and attention is probed only
    with them. Raises ValueError for a name that does not exist.
    """
    device, sizes = torch.device(device), sizes or Sizes()
    choice = Choice(where=f"on {device.type}, {str(dtype).removeprefix('torch.')}")
    for op, name in _wanted(wanted).items():
        if op == "attention":
            found = attention.select(name, sizes, device, dtype, compiled)
            choice.names[op], choice.functions[op] = str(found), found
            missed = name not in ("auto", "reference", found.plain, found.documents)
            choice.notes += (
                [
                    f"kernels: attention: {name} is not usable here ({_why(found, name)}); using {found}"
                ]
                if missed
                else []
            )
            continue
        if name == "auto":
            name = automatic(op, device, compiled)
        try:
            function = implementation(op, name, device)
            if check and name != "reference":
                choice.errors[op] = verify(
                    op, function, device, dtype, sizes if device.type == "cuda" else None
                )
        except Exception as error:  # noqa: BLE001 - whatever goes wrong at start-up, the reference works
            reason = first_line(error)[:160]
            _still_alive(device, op, name, reason)
            choice.notes.append(
                f"kernels: {op}: {name} is not usable here ({reason}); using the reference"
            )
            name, function = "reference", implementation(op, "reference", device)
        choice.names[op], choice.functions[op] = name, function
    for line in (*choice.notes, choice.table()) if say is not None else ():
        say(line)
    return choice


def _still_alive(device: torch.device, op: str, name: str, reason: str) -> None:
    """After a kernel that read or wrote out of bounds nothing runs in this process: RuntimeError with the remedy."""
    if device.type == "cuda":
        try:
            torch.cuda.synchronize(device)
        except Exception:  # noqa: BLE001 - whatever it says, the context is gone
            raise RuntimeError(
                f"kernels: {op}: {name} broke the GPU's context at start-up ({reason}); start again "
                f"with train.kernels={{all: auto, {op}: reference}}"
            ) from None


def _wanted(wanted: str | dict[str, str] | None) -> dict[str, str]:
    """Every operation with the name asked for it, all of them checked. ValueError for what does not exist."""
    wanted = {"all": wanted} if isinstance(wanted, str) else dict(wanted or {})
    every = wanted.pop("all", None) or "auto"
    if every not in IMPLEMENTATIONS:
        raise ValueError(f"kernels.all={every!r}: choose from {', '.join(IMPLEMENTATIONS)}")
    for op, name in wanted.items():
        if op not in OPERATIONS:
            raise ValueError(
                f"kernels: there is no operation '{op}'; choose from all, {', '.join(OPERATIONS)}"
            )
        if name and name not in _offered(op):
            raise ValueError(f"kernels.{op}={name!r}: choose from {', '.join(_offered(op))}")
    return {op: wanted.get(op) or (every if every in _offered(op) else "auto") for op in OPERATIONS}


def _offered(op: str) -> tuple[str, ...]:
    return OFFERED.get(op, tuple(name for name in IMPLEMENTATIONS if name != "torch"))


def _why(found: attention.Attention, name: str) -> str:
    notes = [trial.note for trial in found.trials if trial.name == name and trial.note]
    return (
        notes[0].removeprefix("not usable here: ") if notes else "the shape of the run is not known"
    )


def implementation(op: str, name: str, device: torch.device) -> Callable:
    """The function of one operation; all implementations of an operation take the same arguments."""
    if name == "triton" and not _triton.can_run(device):
        missing = _triton.triton is None
        raise RuntimeError(
            "Triton is not installed" if missing else f"Triton cannot run on {device.type}"
        )
    if name == "liger":
        return _liger(op)
    module = importlib.import_module(f"{__package__}.{op}")
    if op == "linear_cross_entropy":
        if name == "compile":
            raise RuntimeError(
                "its loop over chunks is one operator, which torch.compile leaves alone"
            )
        how = "triton" if name == "triton" else "reference"
        return lambda *args, **kwargs: module.linear_cross_entropy(
            *args, implementation=how, **kwargs
        )
    if op == "soft_moe":
        primitives = module.PRIMITIVES["triton" if name == "triton" else "reference"]
        return (
            module.Primitives(*map(torch.compile, primitives)) if name == "compile" else primitives
        )
    function = {
        "rms_norm": "rms_norm",
        "rope": "rope_qkv",
        "swiglu": "swiglu",
        "experts": "top_k_experts",
    }[op]
    if name in ("triton", "torch"):
        return getattr(module, function)
    reference = getattr(module, f"{function}_reference")
    return torch.compile(reference) if name == "compile" else reference


def _liger(op: str) -> Callable:
    """Liger-Kernel's functions behind this package's signatures; ImportError where it has none."""
    from liger_kernel.transformers import functional

    if op == "rms_norm":
        reference = importlib.import_module(f"{__package__}.rms_norm").rms_norm_reference

        def rms_norm(x, weight, eps, residual=None, dtype=None):
            if dtype not in (None, x.dtype):
                return reference(x, weight, eps, residual, dtype)
            if residual is None:
                return functional.liger_rms_norm(x, weight, eps, 0.0, "llama", False)
            return functional.liger_fused_add_rms_norm(
                x, residual, weight, eps, 0.0, "llama", False
            )

        return rms_norm
    if op == "swiglu":
        return lambda pair: functional.liger_swiglu(
            *(half.contiguous() for half in pair.chunk(2, dim=-1))
        )
    if op == "linear_cross_entropy":

        def linear_cross_entropy(
            x, weight, targets, z_loss=0.0, *, reduction="sum", rows=None, shard=None
        ):
            if reduction == "both" or shard is not None:
                raise ValueError(
                    "liger's linear cross-entropy gives a sum or per-token losses, on a whole vocabulary"
                )
            return functional.liger_fused_linear_cross_entropy(
                x,
                weight.to(x.dtype),
                targets,
                reduction=reduction,
                lse_square_scale=z_loss,
                ignore_index=-100,
            )

        return linear_cross_entropy
    raise ImportError(f"Liger-Kernel has no {op} of this form")


def verify(
    op: str,
    function: Callable,
    device: torch.device,
    dtype: torch.dtype,
    sizes: Sizes | None = None,
) -> float:
    """Compute the operation's example with `function` and with the fp64 reference; relative error, or an exception."""
    reference = implementation(op, "reference", device)
    inputs, call = EXAMPLES[op](device, sizes or Sizes())
    low = (
        dtype if device.type == "cuda" or dtype != torch.bfloat16 else torch.float32
    )  # the interpreter truncates bf16
    inputs = [t.to(low) for t in inputs]
    found = _values(call, function, inputs)
    wanted = _values(call, reference, [t.double() for t in inputs])
    pairs = [(a.detach().double(), b.detach().double()) for a, b in zip(found, wanted, strict=True)]
    error = max(float((a - b).norm() / b.norm().clamp_min(1e-30)) for a, b in pairs)
    if not error <= TOLERANCE[low]:
        raise RuntimeError(
            f"it differs from the reference by {error:.1e}, allowed {TOLERANCE[low]:.0e}"
        )
    return error


def _values(call, function, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Outputs, and gradients of the sum of their squares / 2."""
    with torch.enable_grad():
        inputs = [t.detach().clone().requires_grad_() for t in inputs]
        out = call(function, *inputs)
        out = list(out) if isinstance(out, (tuple, list)) else [out]
        total = sum((o.double().square() / 2).sum() for o in out)
        return [*out, *torch.autograd.grad(total, inputs)]
