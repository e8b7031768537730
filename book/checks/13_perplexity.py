"""Checks of chapter 13's coding exercises."""

import math


def exercise_3(difference):
    """Work per document: bits of B minus bits of A, d. The difference is the sum of d over the sum of bytes; a
    document's deviation is d minus the difference times its own bytes. Nats over ln 2 are bits."""
    nats_a, nats_b, sizes = [10.0, 200.0, 31.0, 64.0], [8.0, 190.0, 33.0, 60.0], [9, 310, 24, 90]
    bits = [(b - a) / math.log(2) for a, b in zip(nats_a, nats_b)]
    total = sum(sizes)
    mean = sum(bits) / total
    squares = sum((x - mean * n) ** 2 for x, n in zip(bits, sizes))
    got, se = difference(nats_a, nats_b, sizes)
    assert math.isclose(got, mean, rel_tol=1e-6), (
        f"the difference is {mean:.5f} bits per byte (B minus A, all bytes together), yours {got:.5f}"
    )
    assert math.isclose(se, math.sqrt(squares) / total, rel_tol=1e-6), (
        f"the standard error over documents is {math.sqrt(squares) / total:.5f}, yours {se:.5f}"
    )
    got, se = difference([7.0, 14.0], [14.0, 28.0], [10, 20])
    assert abs(se) < 1e-9, (
        f"two documents that differ by the same bits per byte have no error, yours {se:.5f}"
    )
