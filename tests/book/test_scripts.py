"""The exported script of chapter 07 finds what its notebook finds."""

import json
import os
import re
import subprocess
import sys
from itertools import permutations
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(
    r"^(\S.*?) +seed \d .* loss ([\d.]+) +prefix ([+-][\d.]+) +cached ([+-][\d.]+)", re.M
)
APART = 0.3
"""Losses further apart than this keep their order [nats/token]: another seed moves one by less, and
another processor, which adds in another order, by a tenth of that."""


def rows(text: str) -> dict[str, tuple[float, ...]]:
    """variant -> loss, and what prefixes and the cache change of it, as an ablation prints them."""
    return {name: tuple(map(float, numbers)) for name, *numbers in ROW.findall(text)}


def test_the_script_of_chapter_07_says_what_its_notebook_says(tmp_path):
    """Order and causality, not the trajectory: some rows are chaotic."""
    notebook = json.loads((ROOT / "notebooks" / "07_soft_moe.ipynb").read_text(encoding="utf-8"))
    stored = rows("".join("".join(o.get("text", "")) for o in notebook["cells"][-1]["outputs"]))
    run = subprocess.run(
        [sys.executable, ROOT / "notebooks" / "07_soft_moe.py", "--preset", "cpu"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "STEEL_QUIET": "1"},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = rows(run.stdout)
    assert len(stored) == 7 and found.keys() == stored.keys()
    for better, worse in permutations(stored, 2):
        if stored[better][0] < stored[worse][0] - APART:
            assert found[better][0] < found[worse][0], (better, worse)
    for name, (_, *leaks) in stored.items():
        for leak, seen in zip(leaks, found[name][1:], strict=True):
            assert (abs(seen) > 0.001) == (abs(leak) > 0.001), (
                f"{name}: a causal layer leaks nothing"
            )
