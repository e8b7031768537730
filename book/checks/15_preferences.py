"""Checks of chapter 15's coding exercises."""


def exercise_3(dpo_loss):
    """margin = (policy chosen - reference chosen) - (policy rejected - reference rejected); the loss of a pair is
    -(1 - s) log sigmoid(beta margin) - s log sigmoid(-beta margin). Return the mean, and stay finite for any margin."""
    import math

    import torch

    from steel.align.dpo import preference_loss

    torch.manual_seed(15)
    four = [(-20 * torch.rand(6, dtype=torch.float64)) for _ in range(4)]
    a, b, c, d = four
    for beta, smoothing in ((0.1, 0.0), (0.5, 0.0), (0.1, 0.2)):
        want = preference_loss((a - c) - (b - d), beta, smoothing).mean()
        given = torch.as_tensor(dpo_loss(a, b, c, d, beta, smoothing), dtype=torch.float64)
        assert given.shape == (), "return one number, the mean over the pairs"
        assert torch.allclose(given, want), (
            f"with beta {beta} and smoothing {smoothing} it is {float(want):.4f}, yours {float(given):.4f}"
        )
    zero = torch.zeros(2, dtype=torch.float64)
    given = float(dpo_loss(zero, zero, zero, zero, 0.1, 0.0))
    assert math.isclose(given, math.log(2)), "before the first step the loss of any pair is ln 2"
    far = torch.full((2,), 20_000.0, dtype=torch.float64)
    given = float(dpo_loss(-far, zero, zero, zero, 0.1, 0.0))
    assert math.isfinite(given) and given > 1000, (
        "a margin of -20,000 nats: take log sigmoid, not the log of a sigmoid"
    )
    leaf = a.clone().requires_grad_()
    torch.as_tensor(dpo_loss(leaf, b, c, d, 0.1, 0.0)).backward()
    assert leaf.grad is not None and bool((leaf.grad < 0).all()), (
        "more likely chosen answers must lower the loss"
    )
