"""Checks of chapter 05's coding exercises."""


def _shown(stream, pieces, look) -> str:
    """All that `stream` shows; look(shown, given) whenever it asks for another piece: by then it has to have shown
    what is certain."""
    shown, given = "", b""

    def feed():
        nonlocal given
        for piece in pieces:
            look(shown, given)
            given += piece
            yield piece
        look(shown, given)

    for part in stream(feed()):
        shown += part
    return shown


def exercise_3(stream):
    """The first byte of a character says how long it is. Hold back what may still become one, and no more; `codecs` has
    an incremental decoder that does, with errors="replace" for what never will."""
    text = "钢 is steel, 𠙶 is rare. "
    data = text.encode()

    def look(shown, given):
        assert "\ufffd" not in shown, "it shows � for a character whose other bytes come later"
        whole = given.decode(errors="ignore")
        what = f"after {len(given)} bytes {whole!r} is certain, yours has shown {shown!r}"
        assert shown == whole, what

    for size in (1, 2, 3, 5):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        shown = _shown(stream, pieces, look)
        assert shown == text, f"with pieces of {size} bytes it shows {shown!r} of {text!r}"
    assert _shown(stream, [], look) == "", "of nothing it shows something"
    for pieces, right in (
        ([b"\xe9\x92", b"."], "\ufffd."),
        ([b"a", b"\xe9\x92"], "a\ufffd"),
        ([b"\xff", b"b", b"c"], "\ufffdbc"),
    ):
        seen = []
        got = _shown(stream, pieces, lambda shown, given, seen=seen: seen.append(shown))
        assert got == right, f"{b''.join(pieces)!r} is broken for good: {right!r}, yours {got!r}"
    assert seen[2] == "\ufffdb", (
        f"after b'\\xffb' '\ufffdb' is certain, yours has shown {seen[2]!r}"
    )
