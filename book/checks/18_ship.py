"""Checks of chapter 18's coding exercises."""

TEXTS = ("钢", "林晓月来自锦坞。", "steel 钢 é 🙂 x", "a", "")
BROKEN = (
    b"\xbf",
    b"\xe9\x92a",
    b"a\xff",
    b"\xe9\x92\xe9\x92\xa2",
    b"\x80\x80\x80\x80",
    b"\xf8\x88",
    b"\xc0",
    b"\xf5\x80",
)


def exercise_3(whole):
    """Only the last three bytes can belong to an unfinished character; the first of them that begins one says how many
    bytes it needs (0xC0: two, 0xE0: three, 0xF0: four)."""
    for text in TEXTS:
        data = text.encode()
        for n in range(len(data) + 1):
            part = data[:n]
            right = next(k for k in range(n, -1, -1) if _decodes(part[:k]))
            given = whole(part)
            assert given == right, (
                f"of {part.hex(' ').upper() or 'nothing'} the first {right} bytes are whole "
                f"characters, you send {given}"
            )
    for data in BROKEN:
        given = whole(data)
        assert given == len(data), (
            f"{data.hex(' ').upper()} ends with nothing that may still become a character: send all "
            f"{len(data)} bytes, not {given}, or the stream waits forever"
        )


def _decodes(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
