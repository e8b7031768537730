"""Optimizers: AdamW as the original used it, and Muon for the matrices inside the blocks.

Weight decay applies to matrices only; norms, biases and other vectors have nothing to shrink to.
"""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ..config import TrainConfig
from ..model.feed_forward import SteelExperts


def build_optimizers(model: nn.Module, cfg: TrainConfig) -> list[torch.optim.Optimizer]:
    """One AdamW, or Muon for the blocks' matrices and AdamW for embedding, head, routers and vectors.

    Every group carries `peak_lr`; the loop sets lr = peak_lr * learning_rate_factor(step).
    """
    matrices, stacks = _hidden_matrices(model) if cfg.optimizer == "muon" else ([], [])
    chosen = {id(p) for p in (*matrices, *stacks)}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    optimizers: list[torch.optim.Optimizer] = []
    if rest:
        groups = [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": cfg.weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        groups = [{**g, "peak_lr": cfg.learning_rate} for g in groups if g["params"]]
        betas, fused = (cfg.beta1, cfg.beta2), any(p.is_cuda for p in rest) or None
        optimizers += [torch.optim.AdamW(groups, cfg.learning_rate, betas, cfg.eps, fused=fused)]
    if chosen:
        groups = [{"params": matrices}, {"params": stacks, "inputs_first": True}]
        groups = [group for group in groups if group["params"]]
        optimizers += [Muon(groups, cfg.muon_learning_rate, weight_decay=cfg.weight_decay)]
    return optimizers


def _hidden_matrices(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """(weights (…, out, in), stacked experts (E, in, out)) of the decoder blocks, without routers.

    A layer's `role` says whether it routes; what no `Linear` holds is taken where it is a stack.
    """
    matrices, stacks = [], []
    for name, module in model.named_modules():
        if ".layers." in f".{name}" and getattr(module, "role", "") != "route":
            least = 2 if isinstance(module, nn.Linear) else 3
            kind = stacks if isinstance(module, SteelExperts) else matrices
            own = module.parameters(recurse=False)
            kind += [p for p in own if p.requires_grad and p.ndim >= least]
    return matrices, stacks


def set_learning_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> float:
    """Scale every group to `factor` of its peak; returns the first group's learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
    return optimizers[0].param_groups[0]["lr"]


def takes_scale(optimizers: list[torch.optim.Optimizer]) -> bool:
    """Whether one of them can multiply gradients in the pass in which it reads them."""
    return any(optimizer.param_groups[0].get("fused") for optimizer in optimizers)


def scale_gradients(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Multiply the gradients by `factor` at the next step; a fused AdamW does so as it reads them."""
    for optimizer in optimizers:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if optimizer.param_groups[0].get("fused"):  # it divides, as a loss scaler wants it
            given = torch.full((), factor, dtype=torch.float32, device=parameters[0].device)
            optimizer.grad_scale = given.reciprocal_()
        else:
            torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], factor)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is replaced by the nearest orthogonal matrix (Jordan et al. 2024).

    Works on matrices and on stacks of matrices (E, m, n), each orthogonalised by itself. The update
    is scaled by sqrt(max(1, out/in)), so that a learning rate means the same at every shape; a group
    with `inputs_first` holds matrices (…, in, out), all others (…, out, in). Sharded matrices are
    gathered, and the ranks take turns at orthogonalising them.
    """

    def __init__(self, params, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0):
        settings = {"momentum": momentum, "weight_decay": weight_decay, "inputs_first": False}
        super().__init__(params, {"lr": lr, "peak_lr": lr, **settings})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One update; weight decay is decoupled, as in AdamW."""
        for group in self.param_groups:
            for turn, p in enumerate(group["params"]):
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                buffer = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(buffer, group["momentum"])  # Nesterov
                rows, columns = p.shape[-2:]
                ratio = columns / rows if group["inputs_first"] else rows / columns
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(_orthogonalised(update, turn), alpha=-group["lr"] * max(1.0, ratio) ** 0.5)


def _orthogonalised(update: Tensor, turn: int) -> Tensor:
    """`orthogonalise` of a plain or a sharded tensor; of the ranks that share it, one computes."""
    if not isinstance(update, DTensor):
        return orthogonalise(update)
    mesh, placements = update.device_mesh, update.placements
    shards = mesh[mesh.mesh_dim_names[-1]]  # replicas, if any, are the mesh's first dimension
    owner, whole = turn % shards.size(), update.full_tensor()
    if shards.get_local_rank() == owner:
        whole = orthogonalise(whole)
    part = distribute_tensor(whole, shards, placements[-1:], src_data_rank=owner).to_local()
    return DTensor.from_local(part, mesh, placements, shape=update.shape, stride=update.stride())


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """Approximate U V^T of g = U S V^T by a quintic Newton-Schulz iteration; (…, m, n), as g.

    Coefficients of Jordan et al. (2024): singular values end within about [0.7, 1.2], which is near
    enough for an update direction. bf16 on a GPU, fp32 on a CPU.
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
