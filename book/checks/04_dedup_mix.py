"""Checks of chapter 04's coding exercises."""


def exercise_3(keep):
    """Compare each text with those that were kept, not with those that were removed; a text of which nothing kept is
    similar is kept itself."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    chain = [set(letters[i : i + 10]) for i in range(12)]  # neighbours share 9 of 11
    cases = (
        (chain, 0.8, [0, 2, 4, 6, 8, 10], "a chain of neighbours"),
        (chain, 0.5, [0, 4, 8], "a longer reach"),
        ([{"a", "b"}] * 300, 0.75, [0], "a crowd of 300 copies"),
        ([{"a"}, {"b"}, {"a"}], 0.5, [0, 1], "a copy that is not its neighbour's"),
        ([{"a", "b"}, {"b", "c"}], 1 / 3, [0], "a pair exactly at the threshold"),
        ([{str(i)} for i in range(100)] + [{"0"}], 0.5, list(range(100)), "a copy from long ago"),
        ([], 0.5, [], "nothing"),
    )
    for texts, threshold, right, what in cases:
        found = list(keep(texts, threshold))
        assert found == right, f"{what}: kept {found}, not {right}"
