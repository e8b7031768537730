"""Stored outputs against those of a new run: every number that a cell prints, within what its tag allows.

    pytest --nbval -p book.stored_outputs notebooks       what `make test` does; this file is its plug-in
    python -m book.stored_outputs 07_soft_moe …           run chapters as an older processor would, and list
                                                          the cells whose outputs then differ from the stored ones

What a cell promises stands in its tags:

    (no tag)      the same words and the same numbers: whole ones exactly, decimals within one unit of
                  the last digit shown or a thousandth, whichever is more
    within-0.1    the same words; a number may move by a tenth of itself, or by 0.1 if it is smaller than 1
                  in size (any other share likewise): what is trained or rounded
    timing        nothing: seconds, bytes of memory, speeds of this machine

Two numbers below 1e-5 count as equal when they are within a factor of a hundred: both are rounding errors.
Figures are compared by what their cell prints, not by their pictures.
"""

from __future__ import annotations

import os
import re
import sys
from html import unescape
from pathlib import Path

NUMBER = re.compile(
    r"(?<![\w.])[+\-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]?\d+)?(?![\w]*\d)", re.I
)
NOT_YET: tuple[str, ...] = ()
"""Chapters written before their outputs were compared: executed only. A chapter leaves the list when it is revised."""
TEXTS = ("text/markdown", "text/html", "text/latex", "text/plain")
ROUNDING = 1e-5
OLD_PROCESSOR = {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}


def text_of(outputs: list[dict]) -> str:
    """What a reader sees of a cell's outputs as text: streams, and the richest text of each display."""
    parts = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        data = output.get("data", {})
        if "image/svg+xml" in data or "image/png" in data:
            continue
        found = output.get("text") or next((data[kind] for kind in TEXTS if kind in data), "")
        text = "".join(found)
        if "text/html" in data and "text/markdown" not in data:
            text = unescape(
                re.sub(r"<svg.*?</svg>|<style.*?</style>|<[^>]+>", " ", text, flags=re.S)
            )
        parts.append(text)
    return re.sub(r"0x[0-9a-f]{6,}", "0x", "\n".join(parts))


def allowed(tags: list[str]) -> float | None:
    """Share by which a number may move: 0 without a tag; None for a cell that is not compared."""
    if "timing" in tags or "nbval-ignore-output" in tags or "raises-exception" in tags:
        return None
    shares = [float(t.removeprefix("within-")) for t in tags if t.startswith("within-")]
    return max(shares, default=0.0)


def differences(stored: str, new: str, share: float) -> list[str]:
    """What differs between two texts, in one line each; [] when `new` keeps what `stored` says."""
    words = [" ".join(NUMBER.sub("#", text).split()) for text in (stored, new)]
    words = [
        re.sub(r"([-─━=])\1+", r"\1", text) for text in words
    ]  # rules are as long as the numbers
    if words[0] != words[1]:
        at = next((i for i, (a, b) in enumerate(zip(*words)) if a != b), min(map(len, words)))
        there, here = (text[max(0, at - 30) : at + 60] for text in words)
        return [f"other words: stored …{there!r}, now …{here!r}"]
    pairs = zip(NUMBER.findall(stored), NUMBER.findall(new), strict=True)
    return [f"stored {a}, now {b}" for a, b in pairs if not _same(a, b, share)]


def _same(stored: str, new: str, share: float) -> bool:
    a, b = (float(text.replace(",", "").replace("−", "-")) for text in (stored, new))
    if a == b:
        return True
    if 0 < max(abs(a), abs(b)) < ROUNDING:
        return min(abs(a), abs(b)) * 100 >= max(abs(a), abs(b)) or 0 in (a, b)
    if share:
        return abs(a - b) <= share * max(1.0 if abs(a) < 1 else abs(a), _unit(stored))
    if _unit(stored) == 1:
        return False
    return abs(a - b) <= max(1.001 * _unit(stored), 1e-3 * abs(a))


def _unit(text: str) -> float:
    """One unit of the last digit shown: 0.01 for 3.14, 1e-8 for 2.5e-07, 1 for a whole number."""
    mantissa, _, exponent = text.lower().partition("e")
    _, _, decimals = mantissa.partition(".")
    return 10.0 ** (int(exponent or 0) - len(decimals))


def pytest_configure(config) -> None:
    """Let nbval, which runs the cells, compare them by the rules above."""
    from nbval.plugin import IPyNbCell

    def compare_outputs(cell, test, ref, skip_compare=None) -> bool:
        share = allowed(cell.cell.metadata.get("tags", []))
        if Path(str(cell.fspath)).stem in NOT_YET:
            share = None
        found = [] if share is None else differences(text_of(ref), _cleaned(test), share)
        cell.comparison_traceback = [
            *found,
            "the stored outputs are stale (run: python book/sync.py CHAPTER), or the cell wants a tag; "
            "see book/stored_outputs.py",
        ]
        return not found

    IPyNbCell.compare_outputs = compare_outputs


def _cleaned(outputs: list) -> str:
    """The text of new outputs, cleaned as they are before they are stored."""
    import nbformat

    from book.sync import clean

    cell = nbformat.v4.new_code_cell(outputs=[nbformat.from_dict(o) for o in outputs])
    notebook = nbformat.v4.new_notebook(cells=[cell])
    clean(notebook)
    return text_of(notebook.cells[0].outputs)


def main(names: list[str]) -> int:
    """Execute chapters as another processor would; list the cells that do not keep their promise."""
    import nbformat

    from book import sync

    os.environ |= {**OLD_PROCESSOR, "OMP_NUM_THREADS": "1"}
    bad = 0
    for name in names or sync.chapters():
        stored = nbformat.read(sync.paths(name)[1], as_version=4)
        new = sync.read(sync.paths(name)[0])
        sync.execute(new)
        sync.clean(new)
        for number, (old, cell) in enumerate(zip(stored.cells, new.cells, strict=True)):
            share = allowed(cell.metadata.get("tags", []))
            if cell.cell_type != "code" or share is None:
                continue
            for line in differences(text_of(old.outputs), text_of(cell.outputs), share)[:5]:
                bad += 1
                print(f"{name}, cell {number} ({cell.source.splitlines()[0][:60]}): {line}")
        print(f"{name}: done", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
