"""The exported scripts: chapter 07 proves what its notebook proves, chapter 08 compares as the command does."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from figures.experiments import reading

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "notebooks" / "07_soft_moe.py"
ROW = re.compile(
    r"^(\S.*?) +future (\S+) +cache (\S+) +packed (\S+) +padded (\S+) +(holds|FAILS)$", re.M
)


def rows(text: str) -> dict[str, tuple]:
    """layer -> (what the future, a cache, a neighbour and padding change; the verdict)."""
    return {name: (*map(float, gaps), end) for name, *gaps, end in ROW.findall(text)}


def run(cwd: Path, *arguments: str, script: Path = SCRIPT) -> subprocess.CompletedProcess:
    command = [sys.executable, script, *arguments]
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


def losses(path: Path) -> dict[tuple, float]:
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {(r["variant"], r["seed"]): r["loss"] for r in rows}


def test_the_script_of_chapter_08_rehearses_and_then_takes_the_words_of_the_command(tmp_path):
    script = ROOT / "notebooks" / "08_what_a_layer_buys.py"
    rehearsed = run(tmp_path, "--preset", "cpu", script=script)
    assert rehearsed.returncode == 0, rehearsed.stderr[-2000:]
    assert len(re.findall(r"^\S.* steps  loss \d", rehearsed.stdout, re.M)) == len(reading.ARMS)
    shards = tmp_path / "runs" / "08_what_a_layer_buys" / "shards"
    words = ["--data", str(shards), "--preset", "ablation", "--variants", "dense,placebo"]
    words += ["--seeds", "1", "model.vocab_size=512", "model.num_hidden_layers=1"]
    words += [
        "data.sequence_length=64",
        "train.steps=4",
        "train.eval_every=4",
        "train.batch_size=4",
    ]
    words += ["train.micro_batch_size=4"]
    by_script = run(tmp_path, *words, "--out", "script.json", script=script)
    assert by_script.returncode == 0, by_script.stderr[-2000:]
    command = [sys.executable, "-m", "figures.experiments.ablation", *words]
    subprocess.run([*command, "--out", tmp_path / "command.json"], check=True, cwd=ROOT)
    found = losses(tmp_path / "script.json")
    assert len(found) == 2 and found == losses(tmp_path / "command.json")


def run_folder(folder: Path, commit: str, last_loss: float) -> Path:
    rows = [{"kind": "header", "commit": commit, "seed": 1, "config": {"train": {"steps": 3}}}]
    rows += [{"kind": "step", "step": s, "loss": loss} for s, loss in enumerate((3.5, 3.25), 1)]
    rows += [{"kind": "step", "step": 3, "loss": last_loss}]
    folder.mkdir()
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_script_of_chapter_19_holds_two_runs_against_each_other(tmp_path):
    script = ROOT / "notebooks" / "19_reproduce.py"
    one, same, other = (
        run_folder(tmp_path / name, commit, loss)
        for name, commit, loss in (
            ("one", "abc", 3.0),
            ("same", "abc", 3.0),
            ("other", "abc+", 3.5),
        )
    )
    equal = run(tmp_path, "--one", str(one), "--two", str(same), script=script)
    assert equal.returncode == 0 and "3 losses, every bit equal" in equal.stdout, equal.stderr
    apart = run(tmp_path, "--one", str(one), "--two", str(other), script=script)
    assert "commit: abc | abc+" in apart.stdout and "first at step 3; by 5.0e-01" in apart.stdout
    gone = run(tmp_path, "--one", str(one), "--two", str(tmp_path / "gone"), script=script)
    assert gone.returncode == 2 and "does not exist" in gone.stderr
