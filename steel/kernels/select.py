"""Which implementation of each operation a run uses: chosen once, checked on the spot, printed.

    choice = choose({"linear_cross_entropy": "triton"}, device="cuda", dtype=torch.bfloat16, say=print)
    choice.rms_norm(x, weight, eps)

Implementations: reference (PyTorch's operators), triton (this package's kernels), compile (torch.compile of the
reference), liger (Liger-Kernel, if installed), auto (see `automatic`). Whatever is chosen first computes a small
example on the run's own device, values and gradients, beside the fp64 reference; if it fails, or cannot be
imported, the reference takes its place and one line says so.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from . import _triton

OPERATIONS = ("linear_cross_entropy", "rms_norm", "rope", "swiglu", "soft_moe")
IMPLEMENTATIONS = ("auto", "reference", "triton", "compile", "liger")
# Relative error in the 2-norm that the start-up check lets pass.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 5e-3, torch.float64: 1e-6}


@dataclass
class Choice:
    """The implementation of each operation by name, and the functions themselves."""

    names: dict[str, str] = field(default_factory=dict)
    functions: dict[str, Callable] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Callable:
        try:
            return self.__dict__["functions"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __str__(self) -> str:
        return "kernels: " + ", ".join(f"{op} {name}" for op, name in self.names.items())


def automatic(op: str, device: torch.device, compiled: bool = False) -> str:
    """The default. On a CPU: the reference. On a GPU with Triton: the kernels; but under torch.compile the
    elementwise operations are left to it, since it fuses them with their neighbours, which a finished
    kernel cannot be."""
    if device.type != "cuda" or not _triton.can_run(device):
        return "reference"
    return "reference" if compiled and op in ("rms_norm", "rope", "swiglu") else "triton"


def choose(wanted: str | dict[str, str] | None = None, *, device: torch.device | str = "cpu",
           dtype: torch.dtype = torch.float32, compiled: bool = False, say: Callable[[str], None] | None = None,
           check: bool = True) -> Choice:
    """Settle every operation. wanted: one implementation for all, or by operation (others: auto).

    dtype: the compute type the run will use. compiled: whether blocks go through torch.compile. say: gets each line,
    the fallbacks first, then the choice. Raises ValueError for a name that does not exist.
    """
    device = torch.device(device)
    wanted = dict.fromkeys(OPERATIONS, wanted) if isinstance(wanted, str) else dict(wanted or {})
    for op, name in wanted.items():
        if op not in OPERATIONS:
            raise ValueError(f"kernels: there is no operation '{op}'; choose from {', '.join(OPERATIONS)}")
        if name not in IMPLEMENTATIONS:
            raise ValueError(f"kernels.{op}={name!r}: choose from {', '.join(IMPLEMENTATIONS)}")
    choice = Choice()
    for op in OPERATIONS:
        name = wanted.get(op) or "auto"
        if name == "auto":
            name = automatic(op, device, compiled)
        try:
            function = implementation(op, name, device)
            if check and name != "reference":
                verify(op, function, device, dtype)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong at start-up, the reference works
            reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
            choice.notes.append(f"kernels: {op}: {name} is not usable here ({reason}); using the reference")
            name, function = "reference", implementation(op, "reference", device)
        choice.names[op], choice.functions[op] = name, function
    for line in (*choice.notes, str(choice)) if say is not None else ():
        say(line)
    return choice


def implementation(op: str, name: str, device: torch.device) -> Callable:
    """The function of one operation; all implementations of an operation take the same arguments."""
    if name == "triton" and not _triton.can_run(device):
        missing = _triton.triton is None
        raise RuntimeError("Triton is not installed" if missing else f"Triton cannot run on {device.type}")
    if name == "liger":
        return _liger(op)
    module = importlib.import_module(f"{__package__}.{op}")
    if op == "linear_cross_entropy":
        if name == "compile":
            raise RuntimeError("its loop over chunks is one operator, which torch.compile leaves alone")
        how = "triton" if name == "triton" else "reference"
        return lambda *args, **kwargs: module.linear_cross_entropy(*args, implementation=how, **kwargs)
    if op == "soft_moe":
        primitives = module.PRIMITIVES["triton" if name == "triton" else "reference"]
        return module.Primitives(*map(torch.compile, primitives)) if name == "compile" else primitives
    function = {"rms_norm": "rms_norm", "rope": "rope_qkv", "swiglu": "swiglu"}[op]
    if name == "triton":
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
            return functional.liger_fused_add_rms_norm(x, residual, weight, eps, 0.0, "llama", False)

        return rms_norm
    if op == "swiglu":
        return lambda pair: functional.liger_swiglu(*(half.contiguous() for half in pair.chunk(2, dim=-1)))
    if op == "linear_cross_entropy":
        def linear_cross_entropy(x, weight, targets, z_loss=0.0, *, reduction="sum", rows=None, shard=None):
            if reduction == "both" or shard is not None:
                raise ValueError("liger's linear cross-entropy gives a sum or per-token losses, on a whole vocabulary")
            return functional.liger_fused_linear_cross_entropy(
                x, weight.to(x.dtype), targets, reduction=reduction, lse_square_scale=z_loss, ignore_index=-100)

        return linear_cross_entropy
    raise ImportError(f"Liger-Kernel has no {op} of this form")


def verify(op: str, function: Callable, device: torch.device, dtype: torch.dtype) -> float:
    """Compute the operation's example with `function` and with the fp64 reference; relative error, or an exception."""
    module = importlib.import_module(f"{__package__}.{op}")
    reference = implementation(op, "reference", device)
    inputs, call = EXAMPLES[op](device)
    low = dtype if device.type == "cuda" or dtype != torch.bfloat16 else torch.float32  # the interpreter truncates bf16
    inputs = [t.to(low) for t in inputs]
    found = _values(call, function, inputs)
    wanted = _values(call, reference, [t.double() for t in inputs])
    pairs = [(a.detach().double(), b.detach().double()) for a, b in zip(found, wanted, strict=True)]
    error = max(float((a - b).norm() / b.norm().clamp_min(1e-30)) for a, b in pairs)
    if not error <= TOLERANCE[low]:
        raise RuntimeError(f"{module.__name__} differs from the reference by {error:.1e}, allowed {TOLERANCE[low]:.0e}")
    return error


def _values(call, function, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Outputs, and gradients of the sum of their squares / 2."""
    with torch.enable_grad():
        inputs = [t.detach().clone().requires_grad_() for t in inputs]
        out = call(function, *inputs)
        out = list(out) if isinstance(out, (tuple, list)) else [out]
        total = sum((o.double().square() / 2).sum() for o in out)
        return [*out, *torch.autograd.grad(total, inputs)]


def _normal(device: torch.device, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(device)


def _linear_cross_entropy_example(device: torch.device):
    targets = (torch.arange(33) * 7 % 200).to(device)
    targets[3] = -100
    return ([_normal(device, 33, 24), _normal(device, 200, 24) / 4],
            lambda f, x, w: f(x, w, targets, 1e-3, reduction="sum", rows=16))


def _rope_example(device: torch.device):
    angle = torch.arange(5.0, device=device)[None, :, None, None] * torch.linspace(1.0, 0.1, 28, device=device)
    cos, sin = angle.cos(), angle.sin()
    return [_normal(device, 2, 5, 4, 56)], lambda f, x: f(x, cos, sin, 2, 1)


def _soft_moe_example(device: torch.device):
    def call(f, x, w, z):
        sums, weights = f.segment_sums(x, w, 4)
        return sums, weights, f.segment_combine(w, z, 4)

    return [_normal(device, 2, 10, 40), _normal(device, 2, 10, 3), _normal(device, 2, 3, 3, 40)], call


EXAMPLES = {
    "linear_cross_entropy": _linear_cross_entropy_example,
    "rms_norm": lambda device: ([_normal(device, 6, 100), _normal(device, 7, 100)[:6], _normal(device, 100)],
                                lambda f, x, r, w: f(x, w, 1e-6, r)),
    "rope": _rope_example,
    "swiglu": lambda device: ([_normal(device, 6, 200)], lambda f, pair: f(pair)),
    "soft_moe": _soft_moe_example,
}
