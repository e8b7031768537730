"""Keep a chapter's three files in step: MyST source, executed notebook, exported script.

    python book/sync.py 00_story            book/00_story.md → notebooks/00_story.{ipynb,py}, then execute
    python book/sync.py                     every chapter
    python book/sync.py --from-notebook 00_story   after editing in JupyterLab: notebook → source and script
    python book/sync.py --no-execute …      write the files only; outputs of unchanged cells are kept

The notebook runs in notebooks/ at preset cpu, quietly, offline; its outputs are stored without time
stamps, execution metadata or paths of this machine, so running it twice changes nothing but numbers
that were measured.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
import tomllib
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parents[1]
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
FILTERS = ("cell_metadata_filter", "notebook_metadata_filter")
CELL_KEYS = ("tags", "active")
QUIET = {
    "STEEL_QUIET": "1",  # no live progress bars in stored outputs
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONHASHSEED": "0",
    "MPLBACKEND": "agg",
    "TERM": "dumb",
    "COLUMNS": "100",
}


def paths(name: str) -> tuple[Path, Path, Path]:
    """(source .md, notebook .ipynb, script .py) of chapter ``name``, e.g. ``00_story``."""
    return (
        ROOT / "book" / f"{name}.md",
        ROOT / "notebooks" / f"{name}.ipynb",
        ROOT / "notebooks" / f"{name}.py",
    )


def chapters() -> list[str]:
    """Names of all chapters: the sources in book/ that start with a number."""
    return sorted(p.stem for p in (ROOT / "book").glob("[0-9][0-9]_*.md"))


def read(path: Path):
    """Any of the three files as a notebook (explicit formats: nothing is guessed)."""
    return jupytext.read(
        path, fmt={".md": "md:myst", ".py": "py:percent", ".ipynb": "ipynb"}[path.suffix]
    )


def as_text(notebook, fmt: str) -> str:
    """The notebook as text with the metadata filters of pyproject.toml, so that saving in JupyterLab and
    running this tool write the same bytes."""
    filters = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "jupytext"
    ]
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "jupytext": {k: filters[k] for k in FILTERS}}
    )
    return jupytext.writes(notebook, fmt=fmt)


def write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def clean(notebook) -> None:
    """Drop what differs from run to run: time stamps, execution metadata, counters of other runs,
    widget state, paths of this machine; number cell ids so that they are stable."""
    language = {
        "name": "python",
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "pygments_lexer": "ipython3",
    }
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": language})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
        kept = {k: v for k, v in cell.metadata.items() if k in CELL_KEYS}
        if hidden := _hidden(kept.get("tags", [])):
            kept["jupyter"] = hidden
        cell["metadata"] = nbformat.from_dict(kept)
        if "outputs" in cell:  # progress and warnings are for the one who runs it
            cell["outputs"] = [o for o in cell["outputs"] if not _fleeting(o)]
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
            if "text" in output:
                output["text"] = _anonymous(output["text"])
            for kind, data in output.get("data", {}).items():
                if isinstance(data, str) and kind.startswith("text/") and "base64," not in data:
                    output["data"][kind] = _anonymous(data)


def _hidden(tags: list[str]) -> dict[str, bool]:
    """What JupyterLab folds at first: the code of a figure, a whole answer. (The book folds them by their tags.)"""
    if "hide-cell" in tags:
        return {"source_hidden": True, "outputs_hidden": True}
    return {"source_hidden": True} if "hide-input" in tags else {}


def _fleeting(output) -> bool:
    """Progress bars, log lines on stderr, rich's live text."""
    page = output.get("data", {}).get("text/html", "")
    return (output.get("name") == "stderr" or "application/vnd.jupyter.widget-view+json" in output.get("data", {})
            or page.startswith('<pre style="white-space:pre;overflow-x:auto'))  # fmt: skip


def _anonymous(text: str) -> str:
    text = text.replace(str(ROOT), "…").replace(str(Path.home()) + "/", "~/")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)  # terminal colours
    return re.sub(r"[^\n]*\r(?!\n)", "", text)  # overwritten progress lines


def execute(notebook, timeout: int = 900) -> float:
    """Run all cells in notebooks/; returns seconds. Raises nbclient's CellExecutionError."""
    from nbclient import NotebookClient

    environment = os.environ.copy()
    environment.update(QUIET)
    environment.setdefault("OMP_NUM_THREADS", "2")
    begin = time.perf_counter()
    client = NotebookClient(notebook, timeout=timeout, kernel_name="python3",
                            resources={"metadata": {"path": str(ROOT / "notebooks")}})  # fmt: skip
    client.execute(env=environment)
    return time.perf_counter() - begin


def keep_outputs(notebook, old_path: Path) -> None:
    """Copy the outputs of cells whose source did not change."""
    if not old_path.exists():
        return
    old = {}
    for cell in nbformat.read(old_path, as_version=4).cells:
        if cell.cell_type == "code":
            old.setdefault(cell.source, []).append(cell)
    for cell in notebook.cells:
        if cell.cell_type == "code" and old.get(cell.source):
            same = old[cell.source].pop(0)
            cell.outputs, cell.execution_count = same.outputs, same.execution_count


def sync(name: str, *, run: bool = True, from_notebook: bool = False) -> None:
    source, notebook_path, script = paths(name)
    origin = notebook_path if from_notebook else source
    if not origin.exists():
        raise SystemExit(
            f"{origin.relative_to(ROOT)} does not exist; chapters here: {', '.join(chapters())}"
        )
    notebook = read(origin)
    if from_notebook:
        write(source, as_text(notebook, "md:myst"))
    notebook_path.parent.mkdir(exist_ok=True)
    keep_outputs(notebook, notebook_path)
    seconds = execute(notebook) if run else None
    clean(notebook)
    text = nbformat.writes(nbformat.from_dict(notebook), version=4)
    write(notebook_path, text.rstrip("\n") + "\n")
    write(script, as_text(read(source), "py:percent"))
    done = f"executed in {seconds:.0f} s" if run else "written"
    print(f"{name}: {done}, {len(text) / 1000:.0f} kB of notebook")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="chapters, e.g. 00_story")
    parser.add_argument("--all", action="store_true", help="every chapter (as without names)")
    parser.add_argument("--no-execute", action="store_true", help="write the files, run nothing")
    parser.add_argument(
        "--from-notebook", action="store_true", help="the notebook is the newer one"
    )
    arguments = parser.parse_args(argv)
    names = (
        [Path(n).stem for n in arguments.names]
        if arguments.names and not arguments.all
        else chapters()
    )
    for name in names:
        sync(name, run=not arguments.no_execute, from_notebook=arguments.from_notebook)
    from book import appendices

    appendices.write()  # the failure gallery is made of the chapters' own
    return 0


if __name__ == "__main__":
    sys.exit(main())
