"""Stored outputs are compared, not only executed again; names that later cells need are bound once."""

import subprocess
import symtable
import sys
from pathlib import Path

import nbformat
import pytest

from book.stored_outputs import NOT_YET, allowed, differences, text_of

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = [
    path
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if path.stem not in NOT_YET
]


@pytest.mark.parametrize(
    "stored, new, share, same",
    [
        ("772,096 parameters", "772,096 parameters", 0, True),
        ("772,096 parameters", "698,368 parameters", 0, False),
        ("loss 2.672", "loss 2.673", 0, True),
        ("loss 2.672", "loss 2.690", 0, False),
        ("loss 2.672", "loss 2.690", 0.1, True),
        ("loss 2.672", "loss 3.1", 0.1, False),
        ("leak 2e-07", "leak 9e-08", 0, True),
        ("leak 2e-07", "leak 3e-03", 0, False),
        ("leak 0.0", "leak 0.5", 0, False),
        ("v1 is ahead by 0.10", "v2 is ahead by 0.10", 0.1, False),
        ("a   1\nb  20", "a 1\nb 20", 0, True),
        ("−0.5", "0.5", 0, False),
        ("1 of 9 bugs", "2 of 9 bugs", 0, False),
        ("", "printed", 0, False),
    ],
)
def test_what_counts_as_the_same_output(stored, new, share, same):
    assert (not differences(stored, new, share)) is same


def test_tags_say_how_far_a_number_may_move():
    assert allowed([]) == 0 and allowed(["hide-input", "within-0.2"]) == 0.2
    assert allowed(["timing"]) is None


def test_text_of_a_cell_leaves_out_pictures_and_standard_error():
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": "a\n"},
        {"output_type": "stream", "name": "stderr", "text": "b"},
        {"data": {"image/svg+xml": "<svg>9</svg>", "text/plain": "<Figure>"}},
        {"data": {"text/html": "<b>1</b> &lt; 2", "text/plain": "HTML"}},
    ]
    assert text_of(outputs).split() == ["a", "1", "<", "2"]


def test_a_stale_notebook_fails(tmp_path):
    """The very command of `make test`, on a notebook whose stored number another preset had made."""
    cells = [
        nbformat.v4.new_code_cell("print(f'{640 * 2:,} parameters')"),
        nbformat.v4.new_code_cell("import time; print(time.time())", metadata={"tags": ["timing"]}),
    ]
    for count, (cell, text) in enumerate(zip(cells, ("1,120 parameters\n", "0\n")), 1):
        cell.execution_count = count
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
    path = tmp_path / "stale.ipynb"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", "-p", "book.stored_outputs"]
    command += ["-p", "no:cacheprovider", "--rootdir", tmp_path, path]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1 and "stored 1,120, now 1,280" in run.stdout, run.stdout
    assert "1 failed, 1 passed" in run.stdout


def bound_and_read(source: str) -> tuple[set[str], set[str]]:
    """(names that a cell binds at its top level, names that it reads from cells before it)."""
    lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))]
    top = symtable.symtable("\n".join(lines), "cell", "exec")
    bound = {s.get_name() for s in top.get_symbols() if s.is_assigned() and not s.is_imported()}
    read = {s.get_name() for s in top.get_symbols() if s.is_referenced()}
    inner = list(top.get_children())
    while inner:
        table = inner.pop()
        inner += table.get_children()
        read |= {s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced()}
    return bound, read - bound


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_cell_rebinds_a_name_that_a_later_cell_reads(path):
    """Chapter 12 once divided one world's forecasts by another's target: both were called `target`."""
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    owner: dict[str, int] = {}
    twice: dict[str, tuple[int, int]] = {}
    for number, cell in enumerate(cells):
        bound, read = bound_and_read(cell.source)
        for name in sorted(read & twice.keys()):
            first, second = twice[name]
            pytest.fail(
                f"{path.stem}: cell {number} reads {name!r}, which cells {first} and {second} both bind; "
                "give the two things two names"
            )
        for name in bound:
            if name in owner:
                twice[name] = (owner[name], number)
            owner.setdefault(name, number)
