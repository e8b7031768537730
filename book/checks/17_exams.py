"""Checks of chapter 17's coding exercises."""

import math


def exercise_3(difference):
    """Sum what each question adds to the error within a cluster, square the sums, add, take the root, divide by n."""
    cases = [
        ([1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 1, 1]),
        ([0, 0, 0, 0, 1, 1], [1, 1, 0, 0, 1, 1], [0, 0, 1, 1, 2, 2]),
        ([1, 0, 0, 1, 1, 0, 1], [0, 1, 1, 1, 0, 0, 1], [5, 5, 5, 2, 2, 9, 9]),
        ([1, 0, 1], [1, 0, 1], [0, 1, 2]),
    ]
    for before, after, clusters in cases:
        n = len(before)
        moved = [b - a for a, b in zip(before, after, strict=True)]
        mean, sums = sum(moved) / n, {}
        for d, c in zip(moved, clusters, strict=True):
            sums[c] = sums.get(c, 0.0) + d - mean
        right = mean, math.sqrt(sum(s * s for s in sums.values())) / n
        given = difference(list(before), list(after), list(clusters))
        assert len(tuple(given)) == 2, (
            "it returns two numbers: the difference and its standard error"
        )
        for name, mine, yours in zip(("difference", "standard error"), right, given, strict=True):
            assert abs(mine - float(yours)) < 1e-9, (
                f"before {before}, after {after}, clusters {clusters}: "
                f"the {name} is {mine:.4f}, yours {float(yours):.4f}"
            )
