"""Checks of chapter 02's coding exercises."""


def exercise_3(upvotes):
    """Take the number with its decimals and commas, then look whether 万 follows it; round, since 1.13 × 10,000 is
    11,299.999… in floating point, and expect that there is no number at all."""
    cases = {
        "赞同 312": 312,
        "赞同 1.6 万": 16_000,
        "赞同 1.1 万": 11_000,
        "赞同 1.13 万": 11_300,
        "赞同 2.3万": 23_000,
        "赞同 12 万": 120_000,
        "1,234": 1_234,
        "赞同 9,999": 9_999,
        "赞同": 0,
        "": 0,
        None: 0,
        "赞同 0": 0,
    }
    for words, expected in cases.items():
        found = upvotes(words)
        assert found == expected, f"{words!r} gives {found!r}, not {expected}"
        assert isinstance(found, int), (
            f"{words!r} gives {found!r}: a {type(found).__name__}, no whole number"
        )
