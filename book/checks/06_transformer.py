"""Checks of chapter 06's coding exercises."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that any operation makes."""

    nbytes = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        for part in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(part, torch.Tensor):
                self.nbytes = max(self.nbytes, part.untyped_storage().nbytes())
        return made


def exercise_3(grouped):
    """View the queries as (B, T, K, G, C), G = H / K neighbours that share a key head; einsum then needs no copies.
    Scale by C**-0.5, fill masked scores with -inf, softmax over the positions looked at."""
    draw = torch.Generator().manual_seed(6)

    def numbers(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    for H, K, T, U in ((4, 4, 5, 5), (6, 2, 7, 7), (8, 1, 1, 9)):
        q, k, v = numbers(2, T, H, 8), numbers(2, U, K, 8), numbers(2, U, K, 8)
        mask = (torch.arange(U) <= torch.arange(U - T, U)[:, None]).expand(2, T, U).clone()
        mask[1, min(T - 1, 1) :, 0] = False  # one position that the second row must not see
        expected = torch.empty_like(q)
        for h in range(H):
            score = q[:, :, h] @ k[:, :, h // (H // K)].transpose(1, 2) * 8**-0.5
            expected[:, :, h] = (
                score.masked_fill(~mask, -torch.inf).softmax(-1) @ v[:, :, h // (H // K)]
            )
        given = grouped(q, k, v, mask)
        assert given.shape == expected.shape, (
            f"the result has shape {tuple(given.shape)}, not {tuple(expected.shape)}"
        )
        worst = (given - expected).abs().max().item()
        assert worst < 1e-10, f"H={H}, K={K}, T={T}, U={U}: off by {worst:.2g}"

    # One new token, 16 heads on each of 2 keys: queries and scores are small beside keys, copied keys are not.
    q, k, v = numbers(1, 1, 32, 64), numbers(1, 512, 2, 64), numbers(1, 512, 2, 64)
    with Largest() as largest:
        grouped(q, k, v, torch.ones(1, 1, 512, dtype=torch.bool))
    assert largest.nbytes <= 2 * k.nbytes, (
        f"keys of {k.nbytes:,} bytes became a tensor of {largest.nbytes:,} bytes: they were copied for the query heads"
    )
