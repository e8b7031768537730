"""The house stands: a room imports only from floors below its own, and the training rooms from few packages."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

STEEL = Path(__file__).parents[1] / "steel"
# The life stands on its neighbour `serve`: it lets the model answer a few questions for the report card.
FLOOR = {
    **dict.fromkeys(("__init__", "config", "machine", "presets"), 0),
    "runlog": 0.5,
    **dict.fromkeys(("documents", "kernels", "plan"), 1),
    "tokenizer": 1.5,
    **dict.fromkeys(("model", "data", "corpus"), 2),
    **dict.fromkeys(("train", "evaluation"), 3),
    **dict.fromkeys(("align", "report"), 4),
    "serve": 5,
    "life": 5.5,
    **dict.fromkeys(("cli", "cli_common", "cli_data", "__main__"), 6),
}


def imported_rooms(path: Path):
    """Rooms of `steel` that a file imports, at any depth of its code."""
    package = ("steel", *path.relative_to(STEEL).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names = (
                [module] if module != "steel" else [f"steel.{alias.name}" for alias in node.names]
            )
        for name in names:
            parts = name.split(".")
            if parts[0] == "steel" and len(parts) > 1:
                yield parts[1], node.lineno


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
        "steel.train.pretrain, steel.plan\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
