"""The three files of a chapter say the same, and its notebook carries the outputs that the book shows."""

import re
from pathlib import Path

import jupytext
import nbformat
import pytest
from jupytext.compare import compare_notebooks

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "book").glob("[0-9][0-9]_*.md"))
pytestmark = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
ADVICE = "run: python book/sync.py {}"


def read(path: Path):
    notebook = jupytext.read(
        path, fmt={".md": "md:myst", ".py": "py:percent", ".ipynb": "ipynb"}[path.suffix]
    )
    for cell in notebook.cells:
        cell.metadata.pop("jupyter", None)  # which cells JupyterLab folds at first
    return notebook


def test_notebook_and_script_equal_their_source(source):
    for suffix, fmt in ((".ipynb", "md:myst"), (".py", "py:percent")):
        pair = ROOT / "notebooks" / (source.stem + suffix)
        assert pair.exists(), f"{pair.name} is missing; " + ADVICE.format(source.stem)
        compare_notebooks(read(pair), read(source), fmt=fmt, raise_on_first_difference=True)


def test_every_cell_was_executed_in_order(source):
    notebook = nbformat.read(ROOT / "notebooks" / f"{source.stem}.ipynb", as_version=4)
    counts = [
        cell.execution_count
        for cell in notebook.cells
        if cell.cell_type == "code" and cell.source.strip()
    ]
    assert counts == list(range(1, len(counts) + 1)), ADVICE.format(source.stem)
    errors = [
        o for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "error"
    ]
    assert not errors, errors[0].evalue


def test_notebook_holds_no_volatile_metadata(source):
    path = ROOT / "notebooks" / f"{source.stem}.ipynb"
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags", "active", "jupyter"}, cell.metadata
    assert not re.search(r'"/(?:home|root|work|tmp|Users|usr|opt)/', text), (
        "a path of a machine stands in the outputs"
    )
    assert len(text) < 1_500_000, "the notebook is too large to review: show less"


def test_last_cell_starts_the_run_of_the_preset(source):
    cells = [cell for cell in read(source).cells if cell.cell_type == "code"]
    assert cells[-1].source.lstrip().startswith('if __name__ == "__main__":')


def test_script_is_valid_python_without_screen_cells(source):
    path = ROOT / "notebooks" / f"{source.stem}.py"
    text = path.read_text(encoding="utf-8")
    compile(text, path.name, "exec")
    assert not re.search(
        r"^(?:from|import) (?:figures\.style|figures\.make|matplotlib|IPython)", text, re.M
    ), (
        "a cell that draws lacks the tag active-ipynb: the exported script must run without matplotlib"
    )
