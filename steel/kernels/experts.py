"""Top-k experts: every token visits K of E experts, with PyTorch's grouped matrix product where it has one.

Which product for stacked experts? When all experts get equally many rows, one batched product (`torch.bmm`) is a
grouped product already and there is nothing to gain: v1 gives each expert all tokens, v3 one row per sequence, the
causal layer B·T/C rows (256 at B=8, T=2048, C=64). With top-k routing the rows differ, and the batched product pads
every expert to the busiest one:

    rows computed = E · max_e n_e ≥ Σ_e n_e = N·K;   waste = max/mean - 1, 10 to 30 % at a balance of 1.1 to 1.3,

2 to 5 % of a step of the 1 B model with top-2 of 6 (experts: 0.23 of 1.37 GFLOP per token, forward). The larger
price is elsewhere: the size of the padded batch depends on the data, so every layer asks the device for a number
(18 waits per micro-batch) and breaks the compiled graph. `torch.nn.functional.grouped_mm` takes the group ends as a
tensor on the device: nothing is padded but to a multiple of 8 rows, nobody waits. So: grouped for top-k, `bmm` for
the rest. A Triton kernel of our own would meet the library's on its best ground, large matrix products.

Shapes: N tokens, K experts per token, D width, F expert width, E experts, R rows of all groups with their padding.
"""

import torch
import torch.nn.functional as F

from . import _triton

ALIGN = 8  # rows: a group starts at a multiple of 16 bytes in bf16, which the weight gradient's product wants


def groups(
    chosen_NK: torch.Tensor, num_experts: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """(assignments in expert order (N·K,), the row of each, ends of the groups (E,) int32, R). No wait for the device.

    R is fixed by the shapes; the last group takes the rows left over, so that no row is undefined.
    """
    flat = chosen_NK.reshape(-1)
    order = flat.argsort(stable=True)
    expert = flat[order]
    counts_E = (flat[:, None] == torch.arange(num_experts, device=flat.device)).sum(dim=0)
    padded_E = (counts_E + ALIGN - 1) // ALIGN * ALIGN
    ends_E = padded_E.cumsum(0)
    shift_E = (ends_E - padded_E) - (counts_E.cumsum(0) - counts_E)
    rows = torch.arange(flat.numel(), device=flat.device) + shift_E[expert]
    total = -(-(flat.numel() + num_experts * (ALIGN - 1)) // ALIGN) * ALIGN
    ends = torch.cat((ends_E[:-1], torch.full_like(ends_E[:1], total))).int()
    return order, rows, ends, total


def top_k_experts(
    x_ND, weights_NK, chosen_NK, gate_up_ED2F, down_EFD, gate, double: bool = False
) -> torch.Tensor:
    """Σ_k weights[n, k] · expert[chosen[n, k]](x[n]) -> (N, D), by two grouped products.

    gate_up (E, D, 2F), down (E, F, D or, double, 2D); gate: the halves of the last axis -> silu(a) · b. Weights are
    cast to x's type. Raises RuntimeError where torch has no grouped product for these tensors (widths not a
    multiple of 8, a type or device it was not built for).
    """
    grouped_mm = getattr(F, "grouped_mm", None) or torch._grouped_mm
    order, rows, ends, total = groups(chosen_NK, gate_up_ED2F.shape[0])
    token = order // chosen_NK.shape[1]
    x_RD = x_ND.new_zeros(total, x_ND.shape[1]).index_copy(0, rows, x_ND[token])
    hidden = gate(grouped_mm(x_RD, gate_up_ED2F.to(x_ND.dtype), offs=ends))
    out = grouped_mm(hidden, down_EFD.to(x_ND.dtype), offs=ends)
    out = (gate(out) if double else out)[rows] * weights_NK.reshape(-1)[order, None].to(x_ND.dtype)
    return torch.zeros_like(x_ND).index_add(0, token, out.to(x_ND.dtype))


def top_k_experts_reference(
    x_ND, weights_NK, chosen_NK, gate_up_ED2F, down_EFD, gate, double: bool = False
):
    """The same sum, expert by expert, with every token through every expert: for tests and start-up checks."""
    wide = _triton.wide(x_ND.dtype)
    total = x_ND.new_zeros(x_ND.shape, dtype=wide)
    for index, (gate_up, down) in enumerate(zip(gate_up_ED2F, down_EFD, strict=True)):
        out = gate(x_ND @ gate_up.to(x_ND.dtype)) @ down.to(x_ND.dtype)
        share_N = (weights_NK * (chosen_NK == index)).sum(dim=-1, keepdim=True).to(wide)
        total = total + share_N * (gate(out) if double else out).to(wide)
    return total.to(x_ND.dtype)
