"""What runs the pipeline: any number of tasks and workers, on this machine, Slurm and Ray, killed and started again."""

import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from raw_samples import contents, write_raw

from steel.config import UserError
from steel.corpus.pipeline import prepare
from steel.documents import Document, DocumentWriter, write_documents


@pytest.mark.parametrize("how", [{"tasks": 1}, {"tasks": 5}, {"tasks": 9, "workers": 2}])
def test_any_number_of_tasks_and_workers_gives_the_same_bytes(prepared, tmp_path, how):
    raw, out, report = prepared
    assert prepare(raw, tmp_path / "out", trace=1, **how) == report
    assert contents(tmp_path / "out") == contents(out)
    for name in ("report", "report/rejects", "report/traces"):
        assert contents(tmp_path / "out" / name) == contents(out / name) != {}


def test_a_run_stopped_anywhere_resumes_to_the_same_bytes(prepared, tmp_path, monkeypatch, worked):
    raw, out, report = prepared
    write_line, replace = DocumentWriter.write_line, os.replace
    for stop in range(1, 400, 7):
        events = itertools.count(1)

        def tick(stop=stop, events=events):
            if next(events) == stop:
                raise KeyboardInterrupt

        monkeypatch.setattr(
            DocumentWriter, "write_line", lambda self, line, t=tick: (t(), write_line(self, line))
        )
        monkeypatch.setattr(os, "replace", lambda old, new, t=tick: (t(), replace(old, new)))
        try:
            assert prepare(raw, tmp_path / "out") == report
            break
        except KeyboardInterrupt:
            assert (tmp_path / "out/.work").exists()
    else:
        pytest.fail("it never came to an end")
    assert contents(tmp_path / "out") == contents(out)
    assert [p.name for p in (tmp_path / "out/.work").iterdir()] == ["done.json"]
    assert len(set(worked)) > 5 and max(map(worked.count, set(worked))) <= 3, "done tasks, again"


HANGING = """
import os, signal, sys, time
from steel.corpus import steps

class Keep(steps.Keep):
    def run(self, data, rank=0, world_size=1):
        if rank == 5:
            os.kill(os.getpid(), signal.SIGKILL) if "suicide" in sys.argv else time.sleep(600)
        super().run(data, rank, world_size)

if __name__ == "__main__":
    import hanging
    from steel.cli import main

    steps.Keep = hanging.Keep
    main(["data", "prepare", *sys.argv[1:4]] + ["--workers", sys.argv[4], "--tasks", "12"])
"""


def start_hanging(raw: Path, out: Path, workers: int, *words: str) -> subprocess.Popen:
    """`steel data prepare` in its own processes, of which one never gets over task 5."""
    folder = out.parent / "code"
    folder.mkdir(exist_ok=True)
    (folder / "hanging.py").write_text(HANGING)
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    return subprocess.Popen(
        [sys.executable, folder / "hanging.py", raw, out, "--recipe=steel", str(workers), *words],
        env={**os.environ, "PYTHONPATH": path, "STEEL_QUIET": "1"},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(condition, process) -> None:
    while not condition():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_job_goes_on_without_repeating_a_finished_task(
    prepared, tmp_path, workers, worked
):
    raw, out, report = prepared

    def completed() -> set[int]:
        found = (tmp_path / "out/.work").glob("*/documents/completions/*")
        return {int(path.name) for path in found}

    process = start_hanging(raw, tmp_path / "out", workers)
    until(lambda: len(completed()) >= 5, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = completed()
    [work] = (tmp_path / "out/.work").iterdir()
    tasks = set(range(int(work.name.split("-")[1])))  # at most the 12: a task has whole files
    assert 5 <= len(before) < len(tasks) and not (tmp_path / "out/report.json").exists()
    assert prepare(raw, tmp_path / "out", tasks=12) == report
    assert contents(tmp_path / "out") == contents(out)
    assert sorted(worked) == sorted(tasks - before)


def test_a_worker_that_is_killed_ends_the_job_with_one_line(prepared, tmp_path):
    process = start_hanging(prepared[0], tmp_path / "out", 2, "suicide")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2 and said.count("\n") == 1 and "was killed" in said


def test_a_mistake_in_a_worker_process_is_one_line(tmp_path):
    for name in ("a", "b"):
        write_documents(tmp_path / f"1/{name}.jsonl.zst", [Document("1", "一段文字。" * 9, name)])
    whole = (tmp_path / "1/b.jsonl.zst").read_bytes()
    (tmp_path / "1/b.jsonl.zst").write_bytes(whole[:-9])
    for workers in (1, 2):
        with pytest.raises(UserError, match="cut off"):
            prepare(tmp_path / "1", tmp_path / "2", steps=("clean",), workers=workers)


def test_slurm_runs_the_scripts_it_is_given(tmp_path, monkeypatch):
    """A stub sbatch that runs the generated script at once, task by task, in processes of its own."""
    scripts = {
        "sbatch": """
            while [[ $1 == --* ]]; do
              case $1 in --export=ALL,*) export "${1#--export=ALL,}";; esac; shift
            done
            last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
            for i in $(seq 0 "$last"); do
              SLURM_ARRAY_TASK_ID=$i SLURM_NODELIST=here bash "$1" >> "$0.log" 2>&1
            done
            echo Submitted batch job 7""",
        "srun": """
            while [[ $1 == -* ]]; do [[ $1 == -n ]] && shift; shift; done
            exec "$@" """,
        "scontrol": "echo here",
    }
    for name, body in scripts.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text("#!/bin/bash\n" + textwrap.dedent(body))
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    raw = write_raw(tmp_path / "all")
    for name in ("firefly", "skypile"):
        shutil.copytree(raw / name, tmp_path / "raw" / name)
    report = prepare(tmp_path / "raw", tmp_path / "local")
    how = {"partition": "cpu", "time": "1:00:00", "tasks_per_job": 2}
    there = prepare(tmp_path / "raw", tmp_path / "out", executor="slurm", options=how)
    assert there == report, (tmp_path / "bin/sbatch.log").read_text()
    assert contents(tmp_path / "out") == contents(tmp_path / "local")
    with pytest.raises(UserError, match="'time' and 'partition'"):
        prepare(tmp_path / "raw", tmp_path / "no", executor="slurm")


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray_gives_the_same_bytes(prepared, tmp_path, monkeypatch):
    import ray

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        how = {"executor": "ray", "workers": 2, "tasks": 3, "options": {"mem_per_cpu_gb": 0.5}}
        assert prepare(prepared[0], tmp_path / "out", **how) == prepared[2]
    finally:
        ray.shutdown()
    assert contents(tmp_path / "out") == contents(prepared[1])


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_a_folder_called_ray_is_not_ray(prepared, tmp_path, monkeypatch):
    (tmp_path / "here/ray").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "here")
    with pytest.raises(UserError, match="--executor ray needs Ray"):
        prepare(prepared[0], tmp_path / "out", executor="ray")
