"""Checks of chapter 14's coding exercises."""


def exercise_3(mask_of):
    """A turn is the assistant's when its header's ids stand behind `start`; then everything up to and with `end` is
    learnt, and nothing else: no header, no line break, no word of another turn."""
    start, end, header, user, line = 1, 2, [7, 8, 9], [7, 5, 9], 9

    def turn(role, words):
        return [start, *role, *words, end, line]

    def want(*turns):
        ids, mask = [], []
        for role, words in turns:
            ids += turn(role, words)
            says = int(role == header)
            mask += [0] * (1 + len(role)) + [says] * (len(words) + 1) + [0]
        return ids, mask

    dialogues = {
        "one question": want((user, [20, 21]), (header, [30, 31, 32])),
        "two turns": want((user, [20]), (header, [30]), (user, [21]), (header, [31, 9, 32])),
        "a system turn": want(([6, 9], [40, 41]), (user, [20]), (header, [30])),
        "a user who says the header's words": want((user, [7, 8, 9, 20]), (header, [30])),
        "an answer that says them": want((user, [20]), (header, [7, 8, 9, 30])),
        "an empty answer": want((user, [20]), (header, [])),
    }
    for name, (ids, mask) in dialogues.items():
        given = [int(x) for x in mask_of(list(ids), start, end, list(header))]
        assert len(given) == len(ids), f"{name}: {len(ids)} ids, your mask has {len(given)} places"
        wrong = next((i for i, (a, b) in enumerate(zip(given, mask)) if a != b), None)
        if wrong is not None:
            what = {start: "start", end: "end", line: "a line break or header"}.get(
                ids[wrong], "a word"
            )
            raise AssertionError(
                f"{name}: at place {wrong} ({what}) the mask is {mask[wrong]}, yours {given[wrong]}"
            )
    ids, mask = dialogues["one question"]
    cut = [int(x) for x in mask_of(ids[:-3], start, end, header)]
    assert cut == mask[:-3], "an answer that is cut off before its end is learnt as far as it goes"
