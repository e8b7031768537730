"""The pretraining chapter's exported script is a training program: two processes under torchrun, killed and resumed."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from train_world import curve

from steel.runlog import read_log
from steel.train import checkpoint

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "notebooks" / "11_pretrain.py"
SHORT = [
    "--preset",
    "cpu",
    "world.people=16",
    "world.biographies_per_person=20",
    "train.steps=8",
    "train.batch_size=4",
    "train.micro_batch_size=1",
    "train.checkpoint_every=3",
    "train.eval_every=0",
    "train.log_every=1",
    "train.warmup_steps=2",
    "data.sequence_length=64",
]
pytestmark = pytest.mark.skipif(
    not SCRIPT.exists(), reason="the chapter's script is not written yet"
)


def start(folder: Path, *arguments: str, ranks: int = 2) -> subprocess.Popen:
    torchrun = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        if ranks > 1
        else []
    )
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, *torchrun, str(SCRIPT), *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "STEEL_QUIET": "1"},
    )


def ends(process: subprocess.Popen) -> str:
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said[-4000:]
    return said


def descendants(pid: int) -> list[int]:
    found = []
    for line in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in line.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def kill_everything(process: subprocess.Popen) -> None:
    """kill -9 of the ranks and of torchrun, as when a machine goes down."""
    for pid in [*descendants(process.pid), process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the ranks through /proc")
def test_two_processes_make_their_data_train_are_killed_and_end_where_an_unbroken_run_ends(
    tmp_path,
):
    said = ends(start(tmp_path, *SHORT, "-r", "unbroken"))
    assert said.count("model  unbroken/hf") == 1, "one rank speaks"
    assert [h["ranks"] for h in read_log(tmp_path / "unbroken" / "log.jsonl", "header")] == [2]
    assert len(list((tmp_path / "runs" / "11_pretrain").iterdir())) == 1, (
        "one folder of data, made once"
    )

    process, log = start(tmp_path, *SHORT, "-r", "killed"), tmp_path / "killed" / "log.jsonl"
    while process.poll() is None and not (log.exists() and len(read_log(log, "step")) >= 5):
        time.sleep(0.01)
    kill_everything(process)
    reached = checkpoint.complete(tmp_path / "killed" / "checkpoints")
    assert reached and reached[-1].name in ("step-00000003", "step-00000006")
    ends(start(tmp_path, *SHORT, "-r", "killed"))
    resumed = [e["step"] for e in read_log(log, "event") if e["what"] == "resume"]
    assert resumed == [int(reached[-1].name[-8:])]
    assert curve(tmp_path / "killed") == curve(tmp_path / "unbroken")
    weights = [
        (tmp_path / name / "hf" / "model.safetensors").read_bytes()
        for name in ("unbroken", "killed")
    ]
    assert weights[0] == weights[1]


def test_the_script_and_the_command_are_one_program(tmp_path):
    """Same parser, same run: one by itself, one with the data that the first has made."""
    ends(start(tmp_path, *SHORT, "-r", "script", ranks=1))
    (data,) = (tmp_path / "runs" / "11_pretrain").glob("data-*/shards")
    command = [sys.executable, "-m", "steel", "pretrain", *SHORT, "--data", data, "-r", "command"]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    alone = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "STEEL_QUIET": "1"}
    subprocess.run(command, cwd=tmp_path, env=alone, check=True, capture_output=True)
    assert curve(tmp_path / "script") == curve(tmp_path / "command")
    weights = [
        (tmp_path / n / "hf" / "model.safetensors").read_bytes() for n in ("script", "command")
    ]
    assert weights[0] == weights[1]
    refused = start(tmp_path, *SHORT, "-r", "script", "--resume", "never", ranks=1)
    said, _ = refused.communicate(timeout=600)
    assert refused.returncode == 2 and "already holds checkpoints" in said


def test_a_large_preset_without_shards_is_one_line_and_its_dry_run_is_a_plan(tmp_path):
    process = start(tmp_path, "--preset", "steel-1b", ranks=1)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 2 and "steel pretrain needs --data FOLDER" in said
    assert "Traceback" not in said and not list(tmp_path.iterdir())
    large = ["--preset", "steel-1b", "--gpu", "H100", "--nodes", "4"]
    said = ends(start(tmp_path, *large, "--dry-run", ranks=1))
    assert "1,122,922,770" in said and "32 x H100" in said
    large += ["--data", "shards", "-r", "runs/1b", "--print-launch", "slurm"]
    assert "#SBATCH --nodes=4" in ends(start(tmp_path, *large, ranks=1))
