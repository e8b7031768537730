"""Means over lives: the larger of two errors, and numbers with their sign."""

from math import isclose, sqrt

from figures.lives import each, moved, signed


def rows(*changes):
    return [{"stage": "sft", "changes": {"text": list(c)}} for c in changes]


def test_a_mean_over_lives_carries_the_larger_of_two_errors():
    mean, error = moved(rows((0.0, 0.01), (0.02, 0.01), (0.04, 0.01)), "sft", "text")
    assert isclose(mean, 2.0) and isclose(
        error, 2 / sqrt(3)
    )  # the lives differ by more than people would
    mean, error = moved(rows((0.02, 0.03), (0.02, 0.03), (0.02, 0.03)), "sft", "text")
    assert isclose(mean, 2.0) and isclose(
        error, 3 / sqrt(3)
    )  # alike by luck: the people asked remain


def test_numbers_carry_a_minus_sign_and_no_sign_at_zero():
    assert [signed(v) for v in (3.14, -0.5, 0.04, -0.04)] == ["+3.1", "−0.5", "0.0", "0.0"]
    assert signed(-1.6, 0) == "−2" and signed(-0.4, 0) == "0"
    assert each(rows((0.1, 0), (-0.025, 0)), "sft", "text") == "+10.0 · −2.5"
