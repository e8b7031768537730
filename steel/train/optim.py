"""Optimizers: AdamW as the original used it, and Muon for the matrices inside the blocks.

Weight decay applies to matrices only; norms, biases and other vectors have nothing to shrink towards.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import TrainConfig, UserError


def build_optimizers(model: nn.Module, cfg: TrainConfig) -> list[torch.optim.Optimizer]:
    """One AdamW, or Muon for the blocks' matrices and AdamW for embedding, head and vectors.

    Every group carries `peak_lr`; the loop sets lr = peak_lr * learning_rate_factor(step).
    """
    if cfg.optimizer not in ("adamw", "muon"):
        raise UserError(f"optimizer '{cfg.optimizer}' is not one of adamw, muon")
    parameters = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    muon = [p for n, p in parameters if cfg.optimizer == "muon" and _is_hidden_matrix(n, p)]
    chosen = {id(p) for p in muon}
    rest = [p for _, p in parameters if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": cfg.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [{**g, "peak_lr": cfg.learning_rate} for g in groups if g["params"]]
    fused = any(p.is_cuda for p in rest)
    optimizers: list[torch.optim.Optimizer] = (
        [
            torch.optim.AdamW(
                groups,
                lr=cfg.learning_rate,
                betas=(cfg.beta1, cfg.beta2),
                eps=cfg.eps,
                fused=fused or None,
            )
        ]
        if groups
        else []
    )
    if muon:
        optimizers.append(Muon(muon, lr=cfg.muon_learning_rate, weight_decay=cfg.weight_decay))
    return optimizers


def set_learning_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> float:
    """Scale every group to `factor` of its peak; returns the first group's learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
    return optimizers[0].param_groups[0]["lr"]


def _is_hidden_matrix(name: str, p: Tensor) -> bool:
    """A weight matrix, or a stack of them, inside a decoder block; routers and their slots stay with AdamW."""
    return p.ndim >= 2 and ".layers." in name and min(p.shape[-2:]) > 16


class Muon(torch.optim.Optimizer):
    """Momentum whose update is replaced by the nearest orthogonal matrix (Jordan et al. 2024).

    Works on matrices and on stacks of matrices (E, m, n), each orthogonalised by itself. The update is scaled by
    sqrt(max(1, m/n)), so that a learning rate means the same at every shape.
    """

    def __init__(self, params, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(
            params, {"lr": lr, "peak_lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One update; weight decay is decoupled, as in AdamW."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                buffer = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(buffer, group["momentum"])  # Nesterov
                update = _like(orthogonalise(_full(update)), p)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5)


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """Approximate U V^T of g = U S V^T by a quintic Newton-Schulz iteration; (..., m, n) -> the same shape.

    Coefficients of Jordan et al. (2024): singular values end within about [0.7, 1.2], which is near enough for an
    update direction. bf16 on a GPU, fp32 on a CPU.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.to(torch.bfloat16 if g.is_cuda else torch.float32)
    transposed = x.shape[-2] > x.shape[-1]
    if transposed:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if transposed else x).to(g.dtype)


def _full(t: Tensor) -> Tensor:
    return t.full_tensor() if hasattr(t, "full_tensor") else t


def _like(full: Tensor, p: Tensor) -> Tensor:
    """Shard `full` the way the parameter is sharded; the plain tensor when it is not."""
    if not hasattr(p, "full_tensor"):
        return full
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(full, p.device_mesh, p.placements)
