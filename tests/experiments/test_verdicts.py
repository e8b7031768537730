"""Paired differences, Student's t and Holm, against published tables."""

import math

import pytest

from figures.experiments.verdicts import Paired, holm, paired, quantile, student_cdf


@pytest.mark.parametrize(
    "freedom, t", [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042)]
)
def test_quantiles_are_those_of_the_table(freedom, t):
    assert quantile(0.975, freedom) == pytest.approx(t, abs=6e-4)
    assert student_cdf(t, freedom) == pytest.approx(0.975, abs=2e-4)
    assert student_cdf(0.0, freedom) == pytest.approx(0.5)


def test_a_difference_is_taken_seed_by_seed():
    found = paired([1.0, 2.0, 3.0], [1.1, 2.1, 3.1])
    assert found.mean == pytest.approx(-0.1) and found.error < 1e-12 and found.established
    wide = paired([1.0, 2.0, 3.0], [3.0, 2.0, 1.5])
    assert not wide.established and str(wide).startswith("-0.167 ± ")
    assert wide.half == pytest.approx(4.303 * wide.error, rel=1e-3)
    with pytest.raises(ValueError):
        paired([1.0], [2.0])


def test_holm_asks_more_of_the_smallest_first_and_stops_at_the_first_failure():
    def at(p):  # a difference of five seeds whose two-sided probability is p
        t = quantile(1 - p / 2, 4)
        return Paired(t * 0.01, 0.01, 5)

    assert math.isclose(at(0.03).p, 0.03, rel_tol=1e-6)
    assert holm({"a": at(0.03), "b": at(0.04)}) == {"a": False, "b": False}
    assert holm({"a": at(0.04), "b": at(0.02)}) == {"a": True, "b": True}
    assert holm({"a": at(0.2), "b": at(0.02)}) == {"a": False, "b": True}
