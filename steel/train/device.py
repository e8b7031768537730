"""The device of a run: its name, its memory, its peak and the rate that it really reaches."""

import os
import platform
import subprocess
import time

import torch

from ..machine import packages, peak_memory_bytes
from ..plan import GPUS, gpu
from .parallel import World


def device_name() -> str | None:
    """The planner's name of this machine's GPU, None on a CPU or for one that its table lacks."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name().upper()
    if "A100" in name:
        large = torch.cuda.get_device_properties(0).total_memory > 60 * 2**30
        return "A100-80G" if large else "A100-40G"
    return next((key for key in GPUS if key != "CPU" and key.upper() in name), None)


def available_bytes(world: World) -> int:
    """Memory of this rank: its GPU's, or its share of the machine's [bytes]."""
    if world.cuda:
        return torch.cuda.get_device_properties(world.device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // world.local_size


def peaks(world: World) -> dict[str, int]:
    """Peaks of this process, and of its GPU's memory where there is one [bytes]."""
    gpu_peak = {"peak_gpu_memory_bytes": torch.cuda.max_memory_allocated()} if world.cuda else {}
    return {"peak_memory_bytes": peak_memory_bytes(), **gpu_peak}


def describe(device: torch.device) -> dict:
    """{kind, name, memory_bytes, peak_flops, matmul_flops, capability, clocks_start, packages}.

    peak_flops: the vendor's dense bf16 figure [FLOP/s], None for a device that the planner's table
    lacks. matmul_flops: measured here, one large product in bf16 (on a CPU a small one in fp32).
    """
    facts: dict = dict.fromkeys(("memory_bytes", "capability", "peak_flops", "clocks_start"))
    facts |= {"kind": device.type, "name": platform.processor() or "CPU"}
    if device.type == "cuda":
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
    return f"{query}: {said.stdout.splitlines()[0]}" if said.stdout.strip() else None


def matmul_rate(device: torch.device) -> float:
    """FLOP/s of n × n products, the best of five: 8,192 in bf16 on a GPU, 512 in fp32 else."""
    cuda = device.type == "cuda"
    n, dtype = (8192, torch.bfloat16) if cuda else (512, torch.float32)
    a, b = torch.randn(2, n, n, device=device, dtype=dtype)
    seconds = []
    for _ in range(8):
        began = time.perf_counter()
        for _ in range(4):
            a @ b
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return 4 * 2 * n**3 / min(seconds[3:])
