"""What a benchmark ran on: the device's name, its peak, the matrix-product rate that it really reaches, versions."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import time

import torch

PACKAGES = ("torch", "triton", "transformers", "liger_kernel", "flash_attn")


def describe(device: torch.device) -> dict:
    """{name, kind, memory_bytes, peak_flops, matmul_flops, capability, clocks_start, packages}; rates in FLOP/s.

    peak_flops: the vendor's dense bf16 figure, None for a device that the planner's table lacks. matmul_flops: measured
    here, one large product in bf16 (on a CPU a small one in fp32).
    """
    cuda = device.type == "cuda"
    facts = {
        "kind": device.type,
        "name": platform.processor() or "CPU",
        "memory_bytes": None,
        "capability": None,
        "peak_flops": None,
        "clocks_start": clocks() if cuda else None,
    }
    if cuda:
        from ..plan import gpu
        from .metrics import device_name

        major, minor = torch.cuda.get_device_capability(device)
        known = device_name()
        facts |= {
            "name": torch.cuda.get_device_name(device),
            "capability": f"{major}.{minor}",
            "memory_bytes": torch.cuda.get_device_properties(device).total_memory,
            "peak_flops": gpu(known).peak if known else None,
        }
    return {**facts, "matmul_flops": matmul_rate(device), "packages": versions()}


def versions() -> dict[str, str | None]:
    """Versions of what decides speed; None where a package is missing."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def clocks() -> str | None:
    """Clocks, power and temperature as nvidia-smi reports them; None where it is missing."""
    query = "clocks.sm,clocks.mem,power.draw,power.limit,temperature.gpu"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (
        f"{query}: {done.stdout.strip().splitlines()[0]}"
        if done.returncode == 0 and done.stdout.strip()
        else None
    )


def matmul_rate(device: torch.device) -> float:
    """FLOP/s of n × n matrix products, the best of five after a warm-up: 8,192 in bf16 on a GPU, 512 in fp32 else."""
    cuda = device.type == "cuda"
    n, dtype = (8192, torch.bfloat16) if cuda else (512, torch.float32)
    a, b = torch.randn(2, n, n, device=device, dtype=dtype)
    best = float("inf")
    for attempt in range(8):
        began = time.perf_counter()
        for _ in range(4):
            a @ b
        if cuda:
            torch.cuda.synchronize()
        if attempt >= 3:
            best = min(best, (time.perf_counter() - began) / 4)
    return 2 * n**3 / best
