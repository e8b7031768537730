"""Fused operations: for each a PyTorch reference and a Triton kernel, in one file, chosen when a run starts."""
