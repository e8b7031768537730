"""Checks of chapter 10's coding exercises."""


def exercise_3(unpermute):
    """Undo the rounds in reverse order: a shift by `+ scramble(…)` becomes one by `- scramble(…)`, modulo the same
    side. What falls outside [0, n) is walked on, backwards, too."""
    import time

    import numpy as np

    from steel.data.order import permute_array, round_keys

    def permute(t, n, keys):
        return int(permute_array(np.array([t]), n, keys)[0])

    keys = round_keys("exercise", 3)
    for n in (1, 2, 3, 10, 97, 1000):
        for t in range(0, n, max(1, n // 97)):
            sample = permute(t, n, keys)
            given = unpermute(sample, n, keys)
            assert given == t, (
                f"with n = {n:,}, sample {sample} comes at position {t}, yours gives {given}"
            )
    sample, begin = permute(654_321, 10**6, keys), time.process_time()
    assert unpermute(sample, 10**6, keys) == 654_321, "with n = 1,000,000 it is wrong"
    assert time.process_time() - begin < 0.02, "it takes too long: undo the rounds, do not search"
    for t in (0, 123_456_789, 999_999_999):
        given = unpermute(permute(t, 10**9, keys), 10**9, keys)
        assert given == t, f"with n = 1,000,000,000, position {t:,} becomes {given:,}"
