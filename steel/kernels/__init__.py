"""Fused operations: faster ones in place of the model's own, which are their references.

linear_cross_entropy  the vocabulary head and its loss, chunk by chunk (Triton)
soft_moe              dispatch and combine of v3 and of the causal layer (Triton)
experts               top-k experts, by PyTorch's grouped product
attention             PyTorch's or flash-attn's kernels, by rule and clock
elementwise           RMSNorm, rotary embedding, SwiGLU (Triton): only when asked for by name
"""

from .examples import Sizes, sizes_of
from .select import OPERATIONS, Choice, choose, install
