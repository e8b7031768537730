"""Fused operations: for each a PyTorch reference and a Triton kernel, in one file, chosen when a run starts.

linear_cross_entropy  the vocabulary head and its loss, chunk by chunk
rms_norm              with the residual addition before it
rope                  on the fused projection, which it splits
swiglu                the gate of SwiGLU and of double SwiGLU
soft_moe              dispatch and combine of v3 and of the causal layer
experts               top-k experts, by PyTorch's grouped product (no kernel of our own)
attention             which of PyTorch's or flash-attn's kernels, by a probe (none of our own)

`choose` settles which implementation runs, `install` puts it into a built model; both work without Triton, with the
references. `python -m steel.kernels.aot` compiles every kernel without a GPU and reports
registers and spills.
"""

from .examples import Sizes, sizes_of
from .install import install, uninstall
from .select import IMPLEMENTATIONS, OPERATIONS, Choice, choose

__all__ = [
    "IMPLEMENTATIONS",
    "OPERATIONS",
    "Choice",
    "Sizes",
    "choose",
    "install",
    "sizes_of",
    "uninstall",
]
