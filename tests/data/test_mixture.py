import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel.config import UserError
from steel.data.mixture import BLOCK, Mixture, quotas, quotas_by_size


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0.01, 100), min_size=1))
def test_quotas_sum_to_the_block_and_are_within_one_of_the_weights(weights):
    q = quotas(weights)
    assert sum(q.values()) == BLOCK
    total = sum(weights.values())
    assert all(abs(q[name] - BLOCK * w / total) < 1 for name, w in weights.items())


@pytest.mark.parametrize(
    "weights", [{"a": 0.0}, {}, {"a": -1.0}, {"a": float("nan")}, {"a": 1.0, "b": 1e-9}]
)
def test_weights_that_cannot_be_met_are_refused(weights):
    with pytest.raises(UserError):
        quotas(weights)


def test_by_size_even_the_smallest_source_gets_a_slot():
    q = quotas_by_size({"big": 10**9, "tiny": 1, "none": 0})
    assert q == {"big": BLOCK - 1, "tiny": 1}


def test_quotas_are_exact_in_every_block():
    q = quotas({"a": 0.61, "b": 0.3, "c": 0.09})
    mixture = Mixture.plan(5, [(0, q)])
    layouts = []
    for block in (0, 1, 1000):
        found = mixture.draws(np.arange(block * BLOCK, (block + 1) * BLOCK))
        assert {name: len(rows) for name, rows, _ in found} == q
        for name, rows, draws in found:
            assert (
                np.array_equal(draws, block * q[name] + np.arange(q[name]))
                and (np.diff(rows) > 0).all()
            )
        layouts.append(found[0][1])
    assert not np.array_equal(layouts[0], layouts[1])  # each block has a layout of its own


def test_a_stretch_of_slots_has_about_the_wanted_shares():
    mixture = Mixture.plan(0, [(0, quotas({"a": 0.7, "b": 0.3}))])
    found = {name: len(rows) for name, rows, _ in mixture.draws(np.arange(10_000, 12_000))}
    assert abs(found["a"] / 2000 - 0.7) < 0.05


@settings(max_examples=30, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(1, 3000), st.integers(1, 9), st.integers(0, 9)), max_size=3
    ),
    start=st.integers(0, 2000),
)
def test_every_stream_draws_0_1_2_through_changes_of_weights(changes, start):
    steps, slot = [(0, quotas({"a": 2, "b": 1}))], 0
    for gap, a, b in changes:
        slot += gap
        steps.append((slot, quotas({"a": a, "b": b})))
    mixture = Mixture.plan(3, steps)
    end = slot + 3000
    drawn = {name: [] for name in "ab"}
    for name, rows, draws in mixture.draws(np.arange(end)):
        drawn[name] += zip(rows.tolist(), draws.tolist())
    for name in "ab":
        assert [d for _, d in sorted(drawn[name])] == list(range(len(drawn[name])))
        assert mixture.drawn(end).get(name, 0) == len(drawn[name])
    whole = {row: (name, d) for name in "ab" for row, d in drawn[name]}
    for name, rows, draws in mixture.draws(
        np.arange(start, end)
    ):  # seeking gives what reading through gives
        assert all(whole[start + r] == (name, d) for r, d in zip(rows.tolist(), draws.tolist()))
    again = Mixture.from_json(3, mixture.to_json())
    assert again.phases == mixture.phases


def test_a_change_keeps_the_past_and_plans_the_future():
    a, b, c = (
        {"a": 1, "b": BLOCK - 1},
        {"a": BLOCK - 1, "b": 1},
        {"a": BLOCK // 2, "b": BLOCK // 2},
    )
    old = Mixture.plan(0, [(0, a), (500, b)])
    new = old.changed(300, [(0, c), (700, a)])
    assert [(p.slot, p.quotas) for p in new.phases] == [(0, a), (300, c), (700, a)]
    assert new.drawn(300) == old.drawn(300)
    assert (
        old.changed(300, [(0, a), (500, b)]).phases == old.phases
    )  # the same wish changes nothing
