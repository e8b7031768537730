"""Triton if it is there, and the few things that every kernel needs to launch.

A machine without Triton imports this package all the same: the kernels are then plain functions that nobody calls.
`tl` must be the real module at definition time, because Triton reads `tl.constexpr` from the annotations (as objects:
these files do without `from __future__ import annotations`).
"""

import contextlib
import importlib.util
import os

import torch

if importlib.util.find_spec("triton") is not None:
    import triton
    import triton.language as tl

    jit = triton.jit
else:
    triton = None

    class tl:  # noqa: N801
        """Stands in for triton.language where it is missing."""

        constexpr = object

    def jit(function):
        """Leave the kernel a plain function."""
        return function


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU (environment variable TRITON_INTERPRET=1 at import)."""
    return triton is not None and os.environ.get("TRITON_INTERPRET", "0") in (
        "1",
        "true",
        "True",
        "on",
    )


def can_run(device: torch.device | str) -> bool:
    """Whether a kernel can be launched on tensors of this device."""
    kind = torch.device(device).type
    return triton is not None and (kind == "cuda" or (kind == "cpu" and interpreted()))


def on(x: torch.Tensor):
    """Make x's GPU the current one while a kernel is launched; Triton launches on the current device."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def next_power_of_2(n: int) -> int:
    """Smallest power of two ≥ n."""
    return 1 << max(0, n - 1).bit_length()


def tile(width: int, elements: int = 4096, widest: int = 1024) -> tuple[int, int]:
    """(rows, columns) of a tile of about `elements` over rows of `width`: few programs, each with enough to do."""
    columns = min(next_power_of_2(width), widest)
    return max(1, elements // columns), columns


def warps(elements: int) -> int:
    """Warps for a tile: about 16 elements per thread."""
    return min(16, max(1, elements // 512))


def programs(x: torch.Tensor, tiles: int, per_processor: int = 4) -> int:
    """How many persistent programs share `tiles`: enough to fill the chip, few enough that partial sums stay small."""
    processors = (
        torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1
    )
    return max(1, min(tiles, processors * per_processor))


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type that sums are kept in: fp32, or fp64 for fp64 inputs."""
    return torch.promote_types(dtype, torch.float32)
