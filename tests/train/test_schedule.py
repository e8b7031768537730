"""Schedules are pure functions of the step."""

import math

import pytest
from train_world import toy_config

from steel.train.schedule import decay_start, learning_rate_factor


def factors(steps=100, **given):
    cfg = toy_config(warmup_steps=10, **given)
    return [learning_rate_factor(step, steps, cfg) for step in range(steps)]


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "linear", "constant"])
def test_warm_up_is_linear_to_the_peak_and_no_factor_leaves_its_range(schedule):
    got = factors(schedule=schedule, min_learning_rate_ratio=0.1)
    assert got[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert max(got) == 1.0 and min(got[10:]) >= 0.1
    assert got[10:] == sorted(got[10:], reverse=True), "never rises after warm-up"


def test_cosine_is_half_a_cosine_to_the_minimum():
    got = factors(schedule="cosine", min_learning_rate_ratio=0.2)
    assert got[55] == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * 0.5)))
    assert got[99] == pytest.approx(0.2, abs=1e-3)


def test_linear_halves_half_way():
    assert factors(schedule="linear")[55] == pytest.approx(0.5)


def test_wsd_is_stable_then_decays_linearly_over_the_last_part():
    got = factors(schedule="wsd", decay_fraction=0.2, min_learning_rate_ratio=0.0)
    assert set(got[10:81]) == {1.0}
    assert got[90] == pytest.approx(0.5) and got[99] == pytest.approx(0.05)


def test_the_annealing_stage_starts_with_the_decay():
    cfg = toy_config(warmup_steps=10, schedule="wsd", decay_fraction=0.2)
    start = decay_start(100, cfg)
    assert start == 80
    assert learning_rate_factor(start, 100, cfg) == 1.0 > learning_rate_factor(start + 1, 100, cfg)
    assert decay_start(100, toy_config(schedule="cosine")) is None


def test_a_run_shorter_than_its_warm_up_stays_below_the_peak():
    assert factors(steps=4, schedule="cosine") == pytest.approx([0.25, 0.5, 0.75, 1.0])
