"""Checks of chapter 08's coding exercises."""

import torch
import torch.nn.functional as F


def exercise_3(down_deviation):
    """The RMS of silu(a) b for standard normal a, b is 0.5965; a matrix with deviation w makes of F such numbers an
    output of RMS w * 0.5965 * sqrt(F). With two gates both halves get size s and the product, for small s, s² / 2."""
    draw = torch.Generator().manual_seed(8)
    for gates in (1, 2):
        for width, beta in ((600, 0.01), (600, 0.001), (2400, 0.01)):
            deviation = down_deviation(width, beta, gates)
            a, b = torch.randn(2, 400, width, generator=draw, dtype=torch.float64)
            matrix = deviation * torch.randn(
                width, 300 * gates, generator=draw, dtype=torch.float64
            )
            out = (F.silu(a) * b) @ matrix
            if gates == 2:
                first, second = out.chunk(2, dim=-1)
                out = F.silu(first) * second
            measured = out.square().mean().sqrt().item()
            assert abs(measured / beta - 1) < 0.04, (
                f"gates={gates}, F={width}, beta={beta}: the layer's output has RMS {measured:.4g}"
            )
