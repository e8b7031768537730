"""Checks of chapter 05's coding exercises."""


def exercise_3(stream):
    """The first byte of a character says how long it is. Hold back what may still become one; `codecs` has an
    incremental decoder that does, with errors="replace" for what never will."""
    text = "钢 is steel, 𠙶 is rare. "
    data = text.encode()
    for size in (1, 2, 3, 5):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        shown, given = "", 0

        def feed(pieces=pieces):
            nonlocal given
            for piece in pieces:
                given += len(piece)
                yield piece

        for part in stream(feed()):
            shown += part
            assert "\ufffd" not in shown, (
                f"with pieces of {size} bytes it shows � for a character whose other bytes come later"
            )
            whole = data[:given].decode(errors="ignore")
            assert shown == whole, (
                f"after {given} bytes {whole!r} is certain, yours has shown {shown!r}"
            )
        assert shown == text, f"with pieces of {size} bytes it shows {shown!r} of {text!r}"
    assert "".join(stream([])) == "", "of nothing it shows something"
    for pieces, right in (
        ([b"\xe9\x92", b"."], "\ufffd."),
        ([b"a", b"\xe9\x92"], "a\ufffd"),
        ([b"\xff", b"b"], "\ufffdb"),
    ):
        got = "".join(stream(pieces))
        assert got == right, f"{b''.join(pieces)!r} is broken for good: {right!r}, yours {got!r}"
