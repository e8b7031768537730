"""The house stands: a room imports only from floors below its own, and the training rooms from few packages."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

STEEL = Path(__file__).parents[1] / "steel"
# The life stands on its neighbour `serve`: it lets the model answer a few questions for the report card.
FLOOR = {
    **dict.fromkeys(("__init__", "config", "presets"), 0),
    "machine": 0.3,
    "runlog": 0.5,
    **dict.fromkeys(("documents", "plan"), 1),
    "tokenizer": 1.5,
    **dict.fromkeys(("model", "data", "corpus"), 2),
    "kernels": 2.5,
    **dict.fromkeys(("train", "evaluation"), 3),
    **dict.fromkeys(("align", "report"), 4),
    "serve": 5,
    "life": 5.5,
    **dict.fromkeys(("cli", "cli_common", "cli_data", "cli_eval", "__main__"), 6),
}


MODULES = {
    ".".join(path.relative_to(STEEL.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(STEEL.rglob("*.py"))
}


def imported(path: Path):
    """(module of `steel`, line) for everything that a file imports, at any depth of its code."""
    package = ("steel", *path.relative_to(STEEL).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            inner = {alias.name: f"{module}.{alias.name}" for alias in node.names}
            names = [name if name in MODULES else module for name in inner.values()]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            start = re.match(r"f?'\.(\w+)", ast.unparse(node.args[0]))  # f".align.{stage}"
            names = [f"steel.{start[1]}"] if start else []
        yield from ((name, node.lineno) for name in names if name in MODULES)


def imported_rooms(path: Path):
    """(room of `steel`, line) likewise."""
    yield from ((name.split(".")[1], line) for name, line in imported(path) if "." in name)


@pytest.mark.parametrize(
    "path", sorted(STEEL.rglob("*.py")), ids=lambda p: str(p.relative_to(STEEL))
)
def test_imports_go_down(path):
    room = path.relative_to(STEEL).parts[0].removesuffix(".py")
    assert room in FLOOR, f"say on which floor {room} stands"
    for other, line in imported_rooms(path):
        same_room = other == room
        allowed = (
            same_room or FLOOR.get(other, 0) < FLOOR[room] or FLOOR[room] == FLOOR.get(other) == 6
        )
        assert allowed, f"{path.name}:{line} imports steel.{other}, which is not below steel.{room}"


def test_neither_rooms_nor_files_stand_in_a_circle():
    """Not even inside functions: each can be understood after those that it imports."""
    rooms, files = {}, {}
    for name, path in MODULES.items():
        files[name] = {other for other, _ in imported(path)} - {name}
        room = path.relative_to(STEEL).parts[0].removesuffix(".py")
        rooms.setdefault(room, set()).update(other for other, _ in imported_rooms(path))
    for graph in ({room: others - {room} for room, others in rooms.items()}, files):
        assert list(TopologicalSorter(graph).static_order())  # CycleError names the circle


def test_every_core_dependency_is_imported_and_in_the_table_of_contributing():
    """What only the book or the tests need is an extra; CONTRIBUTING says what each is for."""
    names = {"pyyaml": "yaml"}
    imported = set()
    for path in STEEL.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    project = tomllib.loads((STEEL.parent / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    table = (STEEL.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for requirement in project["dependencies"]:
        name = re.match(r"[\w-]+", requirement)[0]
        module = names.get(name, name.replace("-", "_"))
        assert module in imported, f"nothing in steel/ imports {name}: make it an extra, or drop it"
        assert f"| {name} |" in table, f"CONTRIBUTING.md does not say what {name} is for"
        imported.discard(module)
    optional = table.partition("Asked for only where they are used")[2].partition("\n\n")[0]
    for module in imported - {"steel", *sys.stdlib_module_names}:
        assert module in optional, (
            f"{module} is imported and is no dependency: add it to the tables"
        )


def test_contributing_tells_a_stranger_where_things_happen():
    page = (STEEL.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files = re.findall(r"\| `([\w/]+\.py)`", page.partition("| where is")[2])
    assert len(files) >= 6 and not [file for file in files if not (STEEL / file).is_file()]


def test_the_planner_needs_no_torch():
    program = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None  # whoever imports them now fails
from steel.config import load
from steel.plan import plan, render
print(render(plan(load("steel-1b"), "H800", 8)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "1,122,922,770" in done.stdout, done.stderr


def test_training_rooms_need_few_packages():
    """`model`, `data` and `train` import with torch, numpy, pyyaml, safetensors and transformers alone."""
    blocked = [
        "typer",
        "rich",
        "orjson",
        "zstandard",
        "pyarrow",
        "opencc",
        "re2",
        "rensa",
        "selectolax",
        "ftfy",
        "datasets",
        "datatrove",
        "matplotlib",
        "jupytext",
        "pandas",
    ]
    program = (
        "import sys\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        "import steel.config, steel.model, steel.data, steel.data.loader, steel.train.loop, "
        "steel.train.pretrain, steel.plan, steel.life\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_the_house_does_not_grow():
    lines = sum(path.read_text(encoding="utf-8").count("\n") for path in MODULES.values())
    said = (STEEL.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    most = int(re.search(r"refuses more than ([\d,]+) lines", said)[1].replace(",", ""))
    assert lines <= most, "something was added; what can go?"
