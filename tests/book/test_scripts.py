"""The exported script of chapter 07 proves what its notebook proves."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "notebooks" / "07_soft_moe.py"
ROW = re.compile(
    r"^(\S.*?) +future (\S+) +cache (\S+) +packed (\S+) +padded (\S+) +(holds|FAILS)$", re.M
)


def rows(text: str) -> dict[str, tuple]:
    """layer -> (what the future, a cache, a neighbour and padding change; the verdict)."""
    return {name: (*map(float, gaps), end) for name, *gaps, end in ROW.findall(text)}


def run(cwd: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, *arguments]
    environment = {**os.environ, "STEEL_QUIET": "1"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)


def test_the_script_of_chapter_07_says_what_its_notebook_says(tmp_path):
    notebook = json.loads((ROOT / "notebooks" / "07_soft_moe.ipynb").read_text(encoding="utf-8"))
    stored = rows("".join("".join(o.get("text", "")) for o in notebook["cells"][-1]["outputs"]))
    script = run(tmp_path, "--preset", "cpu")
    assert script.returncode == 0, script.stderr[-2000:]
    found = rows(script.stdout)
    assert len(stored) == 7 and stored.keys() <= found.keys()
    for name, (*gaps, verdict) in stored.items():
        assert found[name][-1] == verdict == ("FAILS" if name in ("v2", "v3") else "holds"), name
        assert (found[name][0] == 0) == (gaps[0] == 0), f"{name}: a causal layer leaks nothing"


def test_a_preset_that_leaks_ends_with_an_error(tmp_path):
    small = ["model.hidden_size=32", "model.intermediate_size=16", "model.num_attention_heads=2"]
    small += ["model.num_key_value_heads=2", "model.segment_length=8"]
    leaks = run(tmp_path, "--preset", "steel-1b", *small)
    assert leaks.returncode == 1 and rows(leaks.stdout)["soft_moe_v3"][-1] == "FAILS", leaks.stderr
    holds = run(tmp_path, "--preset", "steel-1b-causal", *small)
    assert holds.returncode == 0 and rows(holds.stdout)["causal_soft_moe"][-1] == "holds"
