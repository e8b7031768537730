"""Checks of chapter 09's coding exercises.

Shapes: N tokens, D width, V vocabulary.
"""

import weakref

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Rows(TorchDispatchMode):
    """Rows of new tensors with `columns` columns: of the largest one, and of all that are alive at once."""

    def __init__(self, columns: int):
        super().__init__()
        self.columns, self.rows, self.alive, self.most = columns, 0, 0, 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        out = op(*args, **(kwargs or {}))
        old = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        known = {id(x.untyped_storage()) for x in old}
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.dim() and x.shape[-1] == self.columns:
                rows, storage = x.numel() // self.columns, x.untyped_storage()
                self.rows = max(self.rows, rows)
                if id(storage) not in known:
                    self._count(rows)
                    weakref.finalize(storage, self._count, -rows)
        return out

    def _count(self, rows: int) -> None:
        self.alive += rows
        self.most = max(self.most, self.alive)


def _both(loss, x, weight):
    value = loss(x, weight)
    return value, *torch.autograd.grad(value, (x, weight))


def exercise_3(chunked_loss):
    """Sum the losses of a chunk with F.cross_entropy(..., ignore_index=-100, reduction="sum"), wrap the chunk in
    torch.utils.checkpoint.checkpoint(..., use_reentrant=False) so that its logits are not kept, add the chunks up, and
    divide once, at the end, by the number of targets that count (at least 1)."""
    generator = torch.Generator().manual_seed(0)
    N, D, V = 61, 3, 31  # D below the chunk: (D, V) is also a shape with V columns

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    x, weight = draw(N, D), draw(V, D)
    targets = torch.randint(0, V, (N,), generator=generator)
    targets[:9] = -100  # a whole chunk of four, and a part of another
    wanted = _both(lambda a, b: F.cross_entropy(a @ b.t(), targets), x, weight)
    with _Rows(V) as seen:
        found = _both(lambda a, b: chunked_loss(a, b, targets, 4), x, weight)
    assert found[0].dim() == 0, "the loss must be a single number"
    count = int((targets != -100).sum())
    assert torch.allclose(found[0], wanted[0], rtol=1e-12), (
        f"the mean over the {count} targets that count is {wanted[0]:.6f}, yours is {found[0]:.6f}"
    )
    for name, a, b in zip(("x", "weight"), found[1:], wanted[1:], strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12), (
            f"the gradient of {name} is not exact in float64"
        )
    assert seen.rows <= 4, f"{seen.rows} rows of logits are made at once; only 4 were allowed"
    # logits, their log-softmax, its gradient and theirs, and one to spare, of a single chunk
    assert seen.most <= 5 * 4, (
        f"{seen.most} rows of the vocabulary's width are alive at once: autograd keeps those of earlier chunks"
    )
    none = torch.full_like(targets, -100)
    found = _both(lambda a, b: chunked_loss(a, b, none, 4), x, weight)
    assert all(torch.equal(t, torch.zeros_like(t)) for t in found), (
        "with every target -100 the loss and both gradients must be zero, not NaN"
    )
    again = _both(lambda a, b: 3 * chunked_loss(a, b, targets, N), x, weight)
    assert torch.allclose(again[2], 3 * wanted[2], rtol=1e-10, atol=1e-12), (
        "a factor must reach the gradient"
    )
