"""Checks of chapter 16's coding exercises."""


def exercise_3(leave_one_out):
    """The mean of the others is (sum - own) / (G - 1). Nothing is divided by a deviation."""
    for rewards in ([1, 0], [1, 0, 0, 1, 1, 0, 1, 1], [0.5, 0.25, 1.0], [1, 1, 1]):
        right = [
            r - sum(rewards[:i] + rewards[i + 1 :]) / (len(rewards) - 1)
            for i, r in enumerate(rewards)
        ]
        given = list(leave_one_out(list(rewards)))
        assert len(given) == len(rewards), f"of {len(rewards)} rewards it gives {len(given)} values"
        for i, (a, b) in enumerate(zip(given, right, strict=True)):
            assert abs(a - b) < 1e-6, (
                f"of {rewards} answer {i} has {b:+.3f} over the others, yours gives {float(a):+.3f}"
            )
