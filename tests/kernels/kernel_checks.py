"""Run in a process of its own with TRITON_INTERPRET=1: every kernel against fp64, printed as JSON.

Shapes divide no block. fp16 stands in for bf16, which the interpreter truncates (and multiplies wrongly in tl.dot).
"""

import json
import sys
import traceback

import torch

from steel.kernels import linear_cross_entropy as lce
from steel.kernels import rms_norm, rope, soft_moe, swiglu

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
        seeds = [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o.dtype) for o in out]
    return [*out, *torch.autograd.grad(out, inputs, seeds, allow_unused=True)]


def compare(kernel, reference, shapes, dtypes=(torch.float32, torch.float16), scale=1.0):
    """Relative error of kernel in each type against the reference in fp64 on the same (rounded) inputs."""
    errors = {}
    for dtype in dtypes:
        generator = torch.Generator().manual_seed(7)
        inputs = [(scale * torch.randn(s, generator=generator, dtype=torch.float64)).to(dtype) for s in shapes]
        found = values_and_gradients(kernel, inputs)
        wanted = values_and_gradients(reference, [t.double() for t in inputs])
        error = distance(found, wanted)
        assert error <= LIMITS[dtype], f"{dtype}: relative error {error:.2e}"
        errors[str(dtype)] = error
    return errors


def check_rms_norm():
    plain = compare(lambda x, w: rms_norm.rms_norm(x, w, 1e-6),
                    lambda x, w: rms_norm.rms_norm_reference(x, w, 1e-6), [(5, 7, 100), (100,)])
    added = compare(lambda x, r, w: rms_norm.rms_norm(x, w, 1e-6, r),
                    lambda x, r, w: rms_norm.rms_norm_reference(x, w, 1e-6, r), [(3, 2500), (3, 2500), (2500,)])
    zeros = rms_norm.rms_norm(torch.zeros(2, 3, requires_grad=True), torch.ones(3), 1e-6)
    assert zeros.abs().max() == 0
    poisoned = torch.ones(2, 3)
    poisoned[0, 1] = float("nan")
    y = rms_norm.rms_norm(poisoned, torch.ones(3), 1e-6)
    assert torch.isnan(y[0]).all() and torch.isfinite(y[1]).all(), "a NaN stays in its row"
    mixed, total = rms_norm.rms_norm(torch.ones(2, 3).half(), torch.ones(3), 1e-6, torch.ones(2, 3), torch.float16)
    assert mixed.dtype == torch.float16 and total.dtype == torch.float32
    return {"plain": plain, "added": added}


def check_swiglu():
    errors = compare(swiglu.swiglu, swiglu.swiglu_reference, [(3, 5, 2 * 1030)])
    extreme = torch.tensor([[1e4, -1e4, -88.0, 0.0, 1.0, 1.0, 1.0, 1.0]], requires_grad=True)
    y = swiglu.swiglu(extreme)
    torch.testing.assert_close(y, swiglu.swiglu_reference(extreme))
    (gradient,) = torch.autograd.grad(y.sum(), extreme)
    assert torch.isfinite(gradient).all()
    return errors


def check_rope():
    errors = {}
    for width in (56, 64, 128):
        position = torch.arange(9)[None, :, None, None]
        angle = position * 10000.0 ** (-torch.arange(0, width, 2) / width)
        cos, sin = angle.cos().float(), angle.sin().float()
        errors[width] = compare(lambda x, c=cos, s=sin: rope.rope_qkv(x, c, s, 3, 2),
                                lambda x, c=cos, s=sin: rope.rope_qkv_reference(x, c, s, 3, 2), [(2, 9, 7, width)])
    qkv = torch.randn(2, 9, 7, 128, requires_grad=True)
    out = [part.transpose(1, 2) for part in rope.rope_qkv(qkv, cos, sin, 3, 2)]  # gradients come strided
    (gradient,) = torch.autograd.grad([o.flatten(2).cumsum(-1).sum() for o in out], qkv)
    wanted = [part.transpose(1, 2) for part in rope.rope_qkv_reference(qkv, cos, sin, 3, 2)]
    torch.testing.assert_close(gradient, torch.autograd.grad(
        [o.flatten(2).cumsum(-1).sum() for o in wanted], qkv)[0], rtol=1e-4, atol=1e-4)
    return errors


def check_soft_moe():
    spans = (torch.tensor([[0, 4, 8], [1, 6, 20]], dtype=torch.int32), torch.tensor([[4, 4, 9], [5, 9, 0]],
                                                                                      dtype=torch.int32))
    errors = {}
    for name, where, C in (("even", None, 6), ("long", None, 40), ("spans", spans, 9)):
        S = 3 if C < 40 else 1
        def sums(f, x, w, where=where, C=C):
            return f.segment_sums(x, w, C, where)

        def combine(f, c, z, where=where, C=C):
            return f.segment_combine(c, z, C, where)

        kernel, reference = soft_moe.PRIMITIVES["triton"], soft_moe.PRIMITIVES["reference"]
        T = 17 if C < 40 else 39
        errors[name] = [
            compare(lambda x, w, f=sums: f(kernel, x, w), lambda x, w, f=sums: f(reference, x, w),
                    [(2, T, 150), (2, T, 5)]),
            compare(lambda c, z, f=combine: f(kernel, c, z), lambda c, z, f=combine: f(reference, c, z),
                    [(2, T, 5), (2, S, 5, 150)])]
    return errors


def check_selection():
    """Everything that can run here passes its start-up check; a kernel gone wrong falls back in one line."""
    from steel.kernels import select

    choice = select.choose("triton", device="cpu")
    assert set(choice.names.values()) == {"triton"}, choice.notes
    right = swiglu.swiglu
    swiglu.swiglu = lambda pair: right(pair) * 1.01
    try:
        lines = []
        broken = select.choose({"swiglu": "triton"}, device="cpu", say=lines.append)
    finally:
        swiglu.swiglu = right
    assert broken.names["swiglu"] == "reference" and broken.names["rms_norm"] == "reference"
    assert len(lines) == 2 and "swiglu" in lines[0] and "differs" in lines[0], lines
    return lines


def check_linear_cross_entropy():
    N, D, V = 37, 20, 5000
    targets = torch.randint(0, V, (N,), generator=torch.Generator().manual_seed(1))
    targets[::5] = -100
    errors = {}
    for reduction in ("sum", "none"):
        def loss(x, w, how, r=reduction):
            return lce.linear_cross_entropy(x, w, targets, 1e-2, reduction=r, implementation=how, rows=16)

        errors[reduction] = compare(lambda x, w, f=loss: f(x, w, "triton"), lambda x, w, f=loss: f(x, w, "reference"),
                                    [(N, D), (V, D)], scale=0.7)
    logits = torch.tensor([[3e4, -3e4, 0.0], [float("-inf"), 1.0, float("-inf")], [float("nan"), 0.0, 0.0]])
    first = torch.zeros(3, dtype=torch.long)
    found = lce._statistics_triton(logits, first, 0)
    wanted = lce._statistics_reference(logits, first, 0)
    for a, b in zip(found[:2], wanted[:2]):
        torch.testing.assert_close(a[:2], b[:2])
    assert torch.isnan(found[1][2]), "a NaN logit must reach the loss"
    shifted = lce._statistics_triton(logits[:2], first[:2] + 100, 100)
    torch.testing.assert_close(shifted[2], logits[:2, 0])
    outside = lce._statistics_triton(logits[:2], first[:2] + 99, 100)
    assert outside[2].abs().max() == 0
    return errors


def main() -> None:
    results = {}
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            try:
                results[name] = {"passed": True, "errors": check()}
            except Exception:  # noqa: BLE001 - the parent process reports it
                results[name] = {"passed": False, "trace": traceback.format_exc()}
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
