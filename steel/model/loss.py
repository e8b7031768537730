"""The language-model head and its cross-entropy, computed so that the logits never exist at once.

Shapes: N tokens, D model width, V vocabulary.
"""

import torch
from torch import nn

IGNORE = -100
# Logits held at a time, in elements: a CPU wants them in its cache, a GPU large products.
CHUNK_ELEMENTS_CPU = 1 << 20
CHUNK_ELEMENTS_GPU = 1 << 29


def _chunks(targets_N, length):
    """Indices of tokens, `length` at a time: on a CPU of those with a target, elsewhere of all.

    In a chat only the answers have a target, and a CPU need not multiply for the rest. To learn
    from a GPU which they are, the host would wait for it; there they are computed and count zero.
    """
    if targets_N.device.type == "cpu":
        return (targets_N != IGNORE).nonzero()[:, 0].split(length)
    return [slice(first, first + length) for first in range(0, len(targets_N), length)]


class _LinearCrossEntropy(torch.autograd.Function):
    """`linear_cross_entropy`; gradients are made in the forward pass, per chunk."""

    @staticmethod
    def forward(ctx, x_ND, weight_VD, targets_N, z_loss, rows):
        need_x, need_weight = ctx.needs_input_grad[:2]
        weight = weight_VD.to(x_ND.dtype)
        wide = torch.promote_types(x_ND.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=x_ND.device)
        grad_x = torch.zeros_like(x_ND) if need_x else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if need_weight else None
        budget = CHUNK_ELEMENTS_CPU if x_ND.device.type == "cpu" else CHUNK_ELEMENTS_GPU
        for chunk in _chunks(targets_N, rows or max(16, budget // len(weight))):
            counts = targets_N[chunk] != IGNORE
            x = x_ND[chunk].masked_fill(~counts[:, None], 0)  # what nobody reads may be infinite
            index = targets_N[chunk].clamp(min=0)[:, None]
            logits = (x @ weight.t()).to(wide)
            target_logit = logits.gather(1, index)[:, 0]
            largest = logits.amax(dim=-1, keepdim=True)
            probability = logits.sub_(largest).exp_()
            partition = probability.sum(dim=-1, keepdim=True)
            log_z = (partition.log() + largest)[:, 0]
            total += ((log_z - target_logit + z_loss * log_z.square()) * counts).sum()
            if not (need_x or need_weight):
                continue
            slope = (1.0 + 2.0 * z_loss * log_z) * counts
            probability.mul_(slope[:, None] / partition)
            probability.scatter_add_(1, index, -counts[:, None].to(wide))
            grad_logits = probability.to(x.dtype)
            if need_x:
                grad_x[chunk] = grad_logits @ weight
            if need_weight:
                grad_weight += grad_logits.t() @ x
        ctx.save_for_backward(grad_x, grad_weight)
        ctx.weight_dtype = weight_VD.dtype
        return total

    @staticmethod
    def backward(ctx, grad_output):
        grad_x, grad_weight = ctx.saved_tensors
        if grad_x is not None:
            grad_x = grad_x * grad_output.to(grad_x.dtype)
        if grad_weight is not None:
            grad_weight = (grad_weight * grad_output).to(ctx.weight_dtype)
        return grad_x, grad_weight, None, None, None


def linear_cross_entropy(
    x_ND, weight_VD, targets_N, z_loss: float = 0.0, rows: int | None = None
) -> torch.Tensor:
    """Sum over targets ≠ -100 of the cross-entropy of logits x Wᵀ [nats] + z_loss · logsumexp².

    Memory: one chunk of logits plus the gradients of x and W, instead of N·V logits twice. rows:
    tokens per chunk; None chooses.
    """
    return _LinearCrossEntropy.apply(x_ND, weight_VD, targets_N, float(z_loss), rows)


class SteelHead(nn.Linear):
    """Vocabulary projection; with targets the summed loss, so that sharding wrappers see it used."""

    linear_cross_entropy = staticmethod(linear_cross_entropy)  # see SteelRMSNorm.rms_norm

    def forward(self, x, targets=None, z_loss: float = 0.0):
        if targets is None:
            return super().forward(x)
        flat = x.reshape(-1, x.shape[-1])
        return self.linear_cross_entropy(flat, self.weight, targets.reshape(-1), z_loss)
