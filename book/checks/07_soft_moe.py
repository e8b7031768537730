"""Checks of chapter 07's coding exercises. Shapes: T time, D width, J slots, C tokens per segment."""

import math

import torch

T, D, J, C = 12, 3, 2, 4


def _tokens(seed=0, length=T):
    return torch.randn(
        length, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def exercise_3(future):
    """Build the Jacobian (T, D, T, D) of the whole layer, keep the blocks with input position > output position, take
    the largest absolute entry. Do not round, do not average, and do not change one token and look: a small step hides
    a small leak."""
    x_TD = _tokens()
    later = torch.tril(torch.ones(T, T, dtype=x_TD.dtype))
    running_mean = lambda x: later @ x / later.sum(dim=1, keepdim=True)  # noqa: E731
    assert float(future(running_mean, x_TD)) == 0.0, (
        "a running mean over the past is causal: the answer is exactly 0"
    )
    whole = lambda x: x.mean(dim=0).expand(T, D)  # noqa: E731
    cases = {
        "the mean over the whole sequence": (whole, 1 / T),
        "the same with a minus sign": (lambda x: -whole(x), 1 / T),
        "the same, a trillion times quieter": (lambda x: 1e-12 * whole(x), 1e-12 / T),
        "one entry: position 4 reads position 5": (_one_entry(4, 5), 1.0),
        "one entry from far ahead: position 2 reads position 11": (_one_entry(2, 11), 1.0),
        "position 4 reads the cube of position 5": (
            _one_entry(4, 5, power=3),
            3 * x_TD[5, 0].item() ** 2,
        ),
        "a trillionth of position 5, beside outputs a thousand times larger": (
            _one_entry(4, 5, loud=1e3, quiet=1e-12),
            1e-12,
        ),
    }
    for name, (layer, truth) in cases.items():
        answer = float(future(layer, x_TD))
        assert math.isclose(answer, truth, rel_tol=1e-6), (
            f"{name}: {truth:.3g} expected, yours gives {answer:.3g}"
        )


def _one_entry(at, ahead, power=1, loud=1.0, quiet=1.0):
    """A causal layer whose position `at` also reads one entry of position `ahead`."""

    def layer(x_TD):
        extra_TD = torch.zeros_like(x_TD)
        extra_TD[at, 1] = quiet
        return loud * x_TD.cumsum(dim=0) + extra_TD * x_TD[ahead, 0] ** power

    return layer


def exercise_4(mended):
    """A maximum over the whole sequence is a look at the whole sequence; it cancels in a ratio only if every term is
    scaled by it, and the prior is not. A `detach` hides it from a derivative, not from a changed token. A maximum that
    is not taken back shifts the balance with the prior: bound each score by itself instead, as `cap` does."""
    draw = torch.Generator().manual_seed(1)
    dispatch_DJ = torch.randn(D, J, dtype=torch.float64, generator=draw)
    prior_JD = torch.randn(J, D, dtype=torch.float64, generator=draw)
    x_TD = _tokens()
    read_TX = mended(x_TD, dispatch_DJ, prior_JD, C)
    assert read_TX.shape == (T, J * D), (
        f"the shape must be (T, J * D) = {(T, J * D)}, not {tuple(read_TX.shape)}"
    )
    assert torch.allclose(read_TX[:C], prior_JD.flatten().expand(C, -1)), (
        "before the first segment is complete a slot holds its prior"
    )
    means = lambda x: mended(x, dispatch_DJ, prior_JD, C)  # noqa: E731
    jacobian = torch.autograd.functional.jacobian(means, x_TD)  # (T, J * D, T, D)
    for segment in range(T // C):
        leak = jacobian[segment * C : (segment + 1) * C, :, segment * C :].abs().max().item()
        assert leak < 1e-12, (
            f"slots of segment {segment} still depend on that segment or a later one: {leak:.1e}"
        )
    for position in range(T):
        for factor in (50.0, -50.0):
            other_TD = x_TD.clone()
            other_TD[position] *= factor
            before = (position // C + 1) * C
            assert torch.equal(means(other_TD)[:before], read_TX[:before]), (
                f"another token at position {position} changes what was read before the end of its segment"
            )
    assert jacobian[2 * C, :, : 2 * C].abs().max() > 1e-3, (
        "the slots must still read the completed segments"
    )
    quiet = mended(x_TD, 1e-3 * dispatch_DJ, prior_JD, C)[2 * C]
    plain = (prior_JD + x_TD[: 2 * C].sum(dim=0)) / (1 + 2 * C)
    assert torch.allclose(quiet, plain.flatten(), atol=1e-2), (
        "with scores near zero a token weighs exp(0) = 1, as the prior does"
    )
    weight_TJ = (x_TD @ (0.3 * dispatch_DJ)).exp()[: 2 * C]
    truth_JD = (prior_JD + weight_TJ.T @ x_TD[: 2 * C]) / (1 + weight_TJ.sum(dim=0)[:, None])
    moderate = mended(x_TD, 0.3 * dispatch_DJ, prior_JD, C)[2 * C]
    assert torch.allclose(moderate, truth_JD.flatten(), atol=1e-2), (
        "a token of moderate score s must weigh exp(s) against the prior's 1"
    )
    eight_TD = x_TD[: C + 1].clone()
    eight_TD[:C, 0] = torch.tensor([8.0] + [0.0] * (C - 1))
    first_DJ = torch.zeros_like(dispatch_DJ)
    first_DJ[0] = 1.0
    e = math.exp(8.0)
    truth_JD = (prior_JD + e * eight_TD[0] + eight_TD[1:C].sum(dim=0)) / (e + C)
    assert torch.allclose(
        mended(eight_TD, first_DJ, prior_JD, C)[C], truth_JD.flatten(), atol=0.05
    ), "a score of 8 is still moderate: exp(8) is 2,981 times the prior's 1"
    loud = mended(1e3 * x_TD, dispatch_DJ, prior_JD, C)
    assert torch.isfinite(loud).all(), "scores in the thousands give inf or nan"
