"""Top-k experts: every token visits K of E experts, by PyTorch's grouped matrix product.

A batched product pads every expert to the busiest one, E · max_e n_e rows for N·K: 10 to 30 % at a
balance of 1.1 to 1.3. Worse, that size depends on the data, so every layer waits for the device and
breaks the compiled graph. `torch.nn.functional.grouped_mm` takes the ends of the groups on the
device: nothing is padded but to a multiple of 8 rows, nobody waits. Where all experts get equally
many rows (v1, v3, the causal layer), `torch.bmm` is a grouped product already.

Shapes: N tokens, K experts per token, D width, F expert width, E experts, R rows of all groups.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._triton import autocast_type, cdiv

ALIGN = 8  # rows: groups start at a multiple of 16 bytes in bf16, as the weights' gradient wants it


def groups(chosen_NK: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """Assignments in expert order (N·K,), the row of each, ends of the groups (E,) int32, and R.

    R is fixed by the shapes; the last group takes the rows left over, so that no row is undefined.
    """
    flat = chosen_NK.reshape(-1)
    order = flat.argsort(stable=True)
    expert = flat[order]
    counts_E = (flat[:, None] == torch.arange(num_experts, device=flat.device)).sum(dim=0)
    padded_E = cdiv(counts_E, ALIGN) * ALIGN
    ends_E = padded_E.cumsum(0)
    shift_E = (ends_E - padded_E) - (counts_E.cumsum(0) - counts_E)
    rows = torch.arange(flat.numel(), device=flat.device) + shift_E[expert]
    total = cdiv(flat.numel() + num_experts * (ALIGN - 1), ALIGN) * ALIGN
    ends = torch.cat((ends_E[:-1], torch.full_like(ends_E[:1], total))).int()
    return order, rows, ends, total


def top_k_experts(x_ND: Tensor, weights_NK: Tensor, chosen_NK: Tensor, experts) -> Tensor:
    """Σ_k weights[n, k] · expert[chosen[n, k]](x[n]) -> (N, D), by two grouped products.

    experts: `steel.model`'s SteelExperts, gate_up_proj (E, D, 2F), down_proj (E, F, D or, double,
    2D), swiglu and double. Computed in autocast's type where it is on, else in x's. Raises
    RuntimeError where torch has no grouped product for these tensors (widths not a multiple of 8, a
    type or device it was not built for).
    """
    x_ND = x_ND.to(autocast_type(x_ND) or x_ND.dtype)
    order, rows, ends, total = groups(chosen_NK, len(experts.gate_up_proj))
    token = order // chosen_NK.shape[1]
    with torch.autocast(x_ND.device.type, enabled=False):
        x_RD = x_ND.new_zeros(total, x_ND.shape[1]).index_copy(0, rows, x_ND[token])
        hidden = experts.swiglu(F.grouped_mm(x_RD, experts.gate_up_proj.to(x_ND.dtype), offs=ends))
        out = F.grouped_mm(hidden, experts.down_proj.to(x_ND.dtype), offs=ends)
        out = experts.swiglu(out) if experts.double else out
        weighted = out[rows] * weights_NK.reshape(-1)[order, None].to(x_ND.dtype)
        return torch.zeros_like(x_ND).index_add(0, token, weighted)
