"""Chapter 10's count of samples can fail: it sees what a broken loader would do."""

import numpy as np

from figures.experiments.guide import audit
from steel.data import order

APPENDS = [(6, 2)]  # after six draws from four samples two more arrive


def steps(draws: int = 14) -> list[list[str]]:
    samples = order.Stream("*", 1, 4, APPENDS).samples(np.arange(draws))
    return [[str(s) for s in pair] for pair in samples.reshape(-1, 2)]


def test_every_sample_once_in_every_epoch():
    assert audit(steps(), 4, APPENDS) == [(4, 4, 4), (6, 6, 6), (6, 4, 4)]


def test_a_sample_that_is_read_twice_and_one_that_is_forgotten_are_seen():
    rows = steps()
    rows[0][1] = rows[0][0]
    assert audit(rows, 4, APPENDS)[0] == (4, 4, 2)


def test_a_run_that_does_not_know_of_the_append_is_seen():
    assert any(seen != once for _, seen, once in audit(steps(), 4, [])[:-1])
