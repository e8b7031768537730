"""Checks of chapter 00's coding exercises."""

import math


def exercise_3(days):
    """Work is 6 · parameters · tokens FLOP; speed is gpus · peak · share FLOP/s; a day has 86,400 s. A share of 0, of
    more than 1, or below 0 is a mistake of the caller: raise ValueError."""
    steel = days(1.12e9, 1.1e12, 8, 312e12, 0.4)
    assert math.isclose(steel, 85.69, rel_tol=1e-3), (
        f"Steel on eight A100s at 40 % takes 85.7 days, yours says {steel}"
    )
    half = days(1.12e9, 1.1e12, 8, 312e12, 0.8)
    assert math.isclose(half, steel / 2, rel_tol=1e-9), "twice the utilisation must halve the days"
    assert math.isclose(days(1, 86_400, 6, 1, 1), 1, rel_tol=1e-9), (
        "6 FLOP a token, 86,400 tokens, 6 FLOP/s: one day"
    )
    for impossible in (0, 1.96, -0.1):
        try:
            days(1.1e9, 64e9, 8, 312e12, impossible)
        except ValueError:
            continue
        raise AssertionError(f"a share of {impossible} cannot be; it was accepted")
