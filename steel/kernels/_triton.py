"""Triton if it is there, and the few things that every kernel needs to launch.

A machine without Triton imports this package all the same: the kernels are then plain functions
that nobody calls. `constexpr` must keep its name, because Triton's interpreter reads a kernel's
annotations as text; its compiler reads them as objects, so the files with kernels do without
`from __future__ import annotations`.
"""

import contextlib
import importlib.util
import os

import torch

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


def on(x: torch.Tensor):
    """Make x's GPU the current one: Triton launches there, wherever its arguments are."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def next_power_of_2(n: int) -> int:
    """Smallest power of two ≥ n."""
    return 1 << max(0, n - 1).bit_length()


def warps(elements: int) -> int:
    """Warps for a tile: about 16 elements per thread."""
    return min(16, max(1, elements // 512))


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type that sums are kept in: fp32, or fp64 for fp64 inputs."""
    return torch.promote_types(dtype, torch.float32)


def autocast_type(x: torch.Tensor) -> torch.dtype | None:
    """The type that autocast would compute x in; None where it is off."""
    kind = x.device.type
    on = kind != "meta" and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else None
