"""Triton if it is there, and the few things that every kernel needs to become an operator.

A machine without Triton imports this package all the same: the kernels are then plain functions
that nobody calls. `constexpr` must keep its name, because Triton's interpreter reads a kernel's
annotations as text; its compiler reads them as objects, so the files with kernels do without
`from __future__ import annotations`.
"""

import contextlib
import functools
import importlib.util
import os

import torch
from torch._subclasses import FakeTensor

WIDEST = 16384  # numbers of one row that fit the registers of one program

if importlib.util.find_spec("triton") is not None:
    import triton
    import triton.language as tl

    jit, constexpr = triton.jit, tl.constexpr
else:
    triton, jit = None, lambda function: function

    class constexpr:  # noqa: N801 - stands in for triton.language's
        def __init__(self, value):
            self.value = value

    class tl:  # noqa: N801
        constexpr = constexpr


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU (TRITON_INTERPRET=1 at import)."""
    return triton is not None and os.environ.get("TRITON_INTERPRET") in ("1", "true", "True", "on")


def can_run(device: torch.device | str) -> bool:
    """Whether a kernel can be launched on tensors of this device."""
    kind = torch.device(device).type
    return triton is not None and (kind == "cuda" or (kind == "cpu" and interpreted()))


def operator(function):
    """A function that makes empty results and has kernels fill them -> PyTorch's steel::NAME.

    For shapes alone (the compiler's fake tensors, the meta device) the same function runs, and
    `launch` does nothing. Else its tensors come contiguous.
    """

    @functools.wraps(function)
    def run(*arguments):
        return function(*(a.contiguous() if torch.is_tensor(a) else a for a in arguments))

    name = function.__name__.strip("_")
    made = torch.library.custom_op(f"steel::{name}", run, mutates_args=())
    made.register_fake(function)
    return made


def keep_inputs(ctx, inputs, output) -> None:
    """For `register_autograd`: the gradients need all inputs, which have their tensors first."""
    tensors = [given for given in inputs if torch.is_tensor(given)]
    ctx.save_for_backward(*tensors)
    ctx.rest = inputs[len(tensors) :]


def shapes_only(x: torch.Tensor) -> bool:
    """Whether x holds no numbers."""
    return x.is_meta or isinstance(x, FakeTensor)


def launch(kernel, grid: tuple, x: torch.Tensor, *arguments, **options) -> None:
    """Run kernel(x, *arguments) on x's GPU, which need not be the current one."""
    if not shapes_only(x):
        with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
            kernel[grid](x, *arguments, **options)


def tile(width: int, elements: int, widest: int = WIDEST) -> dict:
    """Options of a launch whose programs read rows of `width`, in blocks of `widest` at most, and
    of short rows so many that there are about `elements`."""
    block = min(power_of_2(width), widest)
    rows = max(1, elements // block)
    return {"ROWS": rows, "BLOCK": block, "num_warps": warps(rows * block)}


def warps(elements: int) -> int:
    """Warps for a tile: about 16 elements per thread."""
    return min(16, max(1, elements // 512))


def power_of_2(n: int) -> int:
    """The smallest that is not below n."""
    return 1 << (n - 1).bit_length()


def cdiv(n: int, size: int) -> int:
    """Blocks of `size` that hold n."""
    return -(-n // size)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type that sums are kept in: fp32, or fp64 for fp64 inputs."""
    return torch.promote_types(dtype, torch.float32)


def autocast_type(x: torch.Tensor) -> torch.dtype | None:
    """The type that autocast would compute x in; None where it is off."""
    kind = x.device.type
    on = kind != "meta" and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else None
