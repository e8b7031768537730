"""What a benchmark ran on: the device's name, its peak and the rate that it really reaches."""

from __future__ import annotations

import platform
import subprocess
import time

import torch

from ..machine import packages


def describe(device: torch.device) -> dict:
    """{kind, name, memory_bytes, peak_flops, matmul_flops, capability, clocks_start, packages}.

    peak_flops: the vendor's dense bf16 figure [FLOP/s], None for a device that the planner's table
    lacks. matmul_flops: measured here, one large product in bf16 (on a CPU a small one in fp32).
    """
    facts = {
        "kind": device.type,
        "name": platform.processor() or "CPU",
        "memory_bytes": None,
        "capability": None,
        "peak_flops": None,
        "clocks_start": None,
    }
    if device.type == "cuda":
        from ..plan import gpu
        from .metrics import device_name

        properties, known = torch.cuda.get_device_properties(device), device_name()
        facts |= {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory,
            "peak_flops": gpu(known).peak if known else None,
            "clocks_start": clocks(),
        }
    return {**facts, "matmul_flops": matmul_rate(device), "packages": packages()}


def clocks() -> str | None:
    """Clocks, power and temperature as nvidia-smi reports them; None where it is missing."""
    query = "clocks.sm,clocks.mem,power.draw,power.limit,temperature.gpu"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{query}: {said.stdout.strip().splitlines()[0]}" if said.stdout.strip() else None


def matmul_rate(device: torch.device) -> float:
    """FLOP/s of n × n products, the best of five: 8,192 in bf16 on a GPU, 512 in fp32 else."""
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
