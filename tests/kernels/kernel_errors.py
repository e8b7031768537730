"""How far a kernel is from what it stands for: values and gradients beside fp64."""

import torch

# Largest relative error in the 2-norm: a few units in the last place of the type.
LIMITS = {torch.float32: 2e-6, torch.float16: 2e-3}


def distance(found, wanted) -> float:
    """‖found - wanted‖ / ‖wanted‖ over all tensors' worst."""
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        a, b = a.detach().double(), b.detach().double()
        assert a.shape == b.shape and torch.isfinite(a).all(), (a.shape, b.shape)
        worst = max(worst, float((a - b).norm() / b.norm().clamp_min(1e-30)))
    return worst


def values_and_gradients(function, inputs, seed=5):
    """Outputs, and the gradients of their inner product with fixed random tensors."""
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    out = function(*inputs)
    out = out if isinstance(out, tuple) else (out,)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        seeds = [
            torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o.dtype) for o in out
        ]
    return [*out, *torch.autograd.grad(out, inputs, seeds, allow_unused=True)]


def compare(kernel, reference, shapes, dtypes=(torch.float32, torch.float16), scale=1.0):
    """Relative error of kernel in each type against the reference in fp64 on the same (rounded) inputs."""
    errors = {}
    for dtype in dtypes:
        generator = torch.Generator().manual_seed(7)
        inputs = [
            (scale * torch.randn(s, generator=generator, dtype=torch.float64)).to(dtype)
            for s in shapes
        ]
        found = values_and_gradients(kernel, inputs)
        wanted = values_and_gradients(reference, [t.double() for t in inputs])
        error = distance(found, wanted)
        assert error <= LIMITS[dtype], f"{dtype}: relative error {error:.2e}"
        errors[str(dtype)] = error
    return errors
