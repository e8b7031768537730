"""Checks of chapter 03's coding exercises."""


def exercise_3(repeated):
    """Of all n-grams, with overlaps, count those that are not the first of their kind: 1 - distinct / all. A text with
    fewer than n characters has none, and its share is 0."""
    cases = {
        ("abcdefghij", 3): 0.0,
        ("aaaa", 2): 2 / 3,
        ("abab", 2): 1 / 3,
        ("钢城钢城钢城", 2): 3 / 5,
        ("ab", 3): 0.0,
        ("", 1): 0.0,
        ("abc", 3): 0.0,
        ("a" * 100, 10): 90 / 91,
    }
    for (text, n), expected in cases.items():
        found = repeated(text, n)
        assert abs(found - expected) < 1e-9, f"{text[:12]!r}, n = {n}: {found!r}, not {expected:.4f}"  # fmt: skip
