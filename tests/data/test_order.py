import time
from collections.abc import Sequence
from math import isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel.data.order import MAX_DOMAIN, Stream, permute_array, round_keys, sigma_array

KEYS = round_keys(0, "test")
MASK64 = (1 << 64) - 1


def mix(x: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014) on one 64-bit integer."""
    x = (x + 0x9E3779B97F4A7C15) & MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK64
    return x ^ (x >> 31)


def permute(t: int, n: int, keys: Sequence[int]) -> int:
    """F_n(t) for one position 0 <= t < n; same values as `permute_array`."""
    if not 0 <= t < n <= MAX_DOMAIN:
        raise ValueError(f"position {t} is outside [0, {n})")
    a, b = -(-n // (isqrt(n - 1) + 1)), isqrt(n - 1) + 1
    while True:
        left, right = divmod(t, b)
        for i, key in enumerate(keys):
            if i % 2 == 0:
                left = (left + ((mix(right ^ key) >> 32) * a >> 32)) % a
            else:
                right = (right + ((mix(left ^ key) >> 32) * b >> 32)) % b
        t = left * b + right
        if t < n:
            return t


def sigma(t: int, n0: int, log: Sequence[tuple[int, int]], key: tuple) -> int:
    """sigma_J(t) of the module docstring for one position. `key` are the parts for `round_keys`, without j."""
    size = n0 + sum(m for _, m in log)
    if not 0 <= t < size:
        raise ValueError(f"position {t} is outside the epoch of {size} samples")
    for j in range(len(log), 0, -1):
        c, m = log[j - 1]
        size -= m
        if t < c:
            continue
        left = size - c
        u = permute(t - c, left + m, round_keys(*key, j))
        if u >= left:
            return size + u - left
        t = c + u
    return permute(t, n0, round_keys(*key, 0))


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**63))
def test_the_permutation_is_a_bijection_at_any_size(n, seed):
    out = permute_array(np.arange(n), n, round_keys(seed))
    assert np.array_equal(np.sort(out), np.arange(n))


@settings(max_examples=100, deadline=None)
@given(data=st.data(), n=st.integers(1, MAX_DOMAIN))
def test_scalar_and_array_agree_up_to_the_largest_domain(data, n):
    at = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=5))
    assert permute_array(np.array(at), n, KEYS).tolist() == [permute(t, n, KEYS) for t in at]


@pytest.mark.parametrize("t, n", [(-1, 5), (5, 5), (0, 0), (0, MAX_DOMAIN + 1)])
def test_positions_outside_the_domain_are_refused(t, n):
    with pytest.raises(ValueError):
        permute_array(np.array([t]), n, KEYS)


def test_the_permutation_shuffles():
    n, bins = 200_000, 20
    out = permute_array(np.arange(n), n, KEYS)
    counts = np.histogram2d(np.arange(n), out, bins=bins)[0]
    chi2_per_degree = ((counts - n / bins**2) ** 2).sum() / (n / bins**2) / (bins - 1) ** 2
    assert 0.8 < chi2_per_degree < 1.2
    assert abs(np.corrcoef(out[:-1], out[1:])[0, 1]) < 0.01
    other = permute_array(np.arange(n), n, round_keys(1, "test"))
    assert (out == other).sum() < 10  # two keys, two orders: one fixed point expected


def append_logs(most=3):
    """(n0, [(c, m), …]) of one epoch: consumed counts never fall and never pass what there is."""

    @st.composite
    def build(draw):
        n0 = draw(st.integers(1, 300))
        size, c, log = n0, 0, []
        for _ in range(draw(st.integers(0, most))):
            c = draw(st.integers(c, size))
            log.append((c, draw(st.integers(1, 200))))
            size += log[-1][1]
        return n0, log

    return build()


@settings(max_examples=150, deadline=None)
@given(case=append_logs(), seed=st.integers(0, 1000))
def test_appending_keeps_the_past_and_reads_every_sample_once(case, seed):
    n0, log = case
    size = n0 + sum(m for _, m in log)
    now = sigma_array(np.arange(size), n0, log, (seed,))
    assert np.array_equal(np.sort(now), np.arange(size))
    assert now.tolist() == [sigma(t, n0, log, (seed,)) for t in range(size)]
    for j in range(len(log)):
        before = sigma_array(np.arange(log[j][0]), n0, log[:j], (seed,))
        assert np.array_equal(now[: log[j][0]], before)


def test_appended_samples_are_spread_over_the_rest():
    n0, c, m = 40_000, 10_000, 30_000
    order = sigma_array(np.arange(n0 + m), n0, [(c, m)], (1,))
    assert (order[:c] < n0).all()
    shares = [(part >= n0).mean() for part in np.array_split(order[c:], 10)]
    assert max(abs(share - 0.5) for share in shares) < 0.03  # 30,000 new among 30,000 unseen


def test_seeking_in_a_billion_samples_takes_less_than_a_millisecond():
    stream = Stream("web", 0, 10**9, [(3 * 10**8, 10**8), (5 * 10**8, 10**7)])
    stream.samples(np.array([0]))
    best = min(_seconds(stream, d) for d in range(10**9, 10**9 + 20))
    assert best < 1e-3


def _seconds(stream, d):
    start = time.perf_counter()
    stream.samples(np.array([d]))
    return time.perf_counter() - start


def epochs_of(stream, draws):
    return np.array([stream.locate(int(d))[0] for d in draws])


@settings(max_examples=100, deadline=None)
@given(
    n0=st.integers(0, 60),
    moves=st.lists(st.tuples(st.integers(0, 150), st.integers(1, 60)), max_size=3),
    extra=st.integers(0, 200),
)
def test_a_stream_never_changes_its_past_and_every_epoch_is_one_pass(n0, moves, extra):
    appends, d = [], 0
    for step, m in moves:
        d = d + step if n0 or appends else 0
        appends.append((d, m))
    if not n0 and not appends:
        return
    stream = Stream("s", 7, n0, appends)
    draws = np.arange(d + extra + 300)
    samples, epochs = stream.samples(draws), epochs_of(stream, draws)
    for j, (at, _) in enumerate(
        appends
    ):  # what was drawn before an append is what a stream without it draws
        if at:
            before = Stream("s", 7, n0, appends[:j])
            assert np.array_equal(samples[:at], before.samples(draws[:at]))
            assert np.array_equal(epochs[:at], epochs_of(before, draws[:at]))
    for epoch in range(int(epochs[-1])):  # all but the last epoch are complete
        seen = np.sort(samples[epochs == epoch])
        assert np.array_equal(seen, np.arange(len(seen)))


def test_appending_at_the_end_of_an_epoch_reads_the_new_samples_next():
    stream = Stream("s", 0, 10, [(10, 5)])
    samples, epochs = stream.samples(np.arange(30)), epochs_of(stream, range(30))
    assert sorted(samples[10:15].tolist()) == [10, 11, 12, 13, 14]
    assert epochs.tolist() == [0] * 15 + [1] * 15


def test_streams_and_epochs_have_orders_of_their_own():
    orders = [
        Stream(name, seed, 50).samples(np.arange(50) + 50 * epoch).tolist()
        for name in "ab"
        for seed in (1, 2)
        for epoch in (0, 1)
    ]
    assert len({tuple(o) for o in orders}) == 8


def test_an_append_log_out_of_order_is_refused():
    with pytest.raises(ValueError, match="not in order"):
        Stream("s", 0, 10, [(5, 1), (4, 1)])
    with pytest.raises(ValueError, match="is empty"):
        Stream("s", 0, 0).samples(np.array([0]))
