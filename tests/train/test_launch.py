"""Launch files are valid, carry the run's own values, and pass signals to the ranks; a dry run touches no device."""

import os
import signal
import stat
import subprocess
import time

import pytest
import yaml

from steel import config
from steel.cli import main
from steel.config import UserError
from steel.train.launch import render


def launch(kind, **given):
    settings = {
        "data": "shards/1b",
        "run": "runs/1b",
        "tokenizer": "tok",
        "overrides": ["train.steps=10"],
        "nodes": 4,
    }
    return render(kind, config.load("steel-1b"), "steel-1b", **(settings | given))


def stub(folder, name, body):
    path = folder / name
    path.write_text("#!/bin/bash\n" + body)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_the_slurm_script_is_bash_and_holds_the_runs_values(tmp_path):
    text = launch("slurm")
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    for line in (
        "#SBATCH --nodes=4",
        "#SBATCH --ntasks-per-node=8",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR1@300",
        "--preset steel-1b --data shards/1b -r runs/1b --tokenizer tok train.steps=10",
    ):
        assert line in text


@pytest.mark.parametrize(
    ("ended", "code", "age", "requeued"),
    [
        (True, 0, 9999, False),
        (False, 0, 10, True),
        (False, 1, 9999, False),
        (False, 2, 9999, False),
        (False, 75, 9999, True),
        (False, 137, 9999, True),
        (False, 75, 10, False),
    ],
)
def test_slurm_requeues_what_the_limit_stopped_or_a_lost_rank_and_no_other_error(
    tmp_path, ended, code, age, requeued
):
    run = tmp_path / "my run"
    run.mkdir()
    stub(
        tmp_path,
        "scontrol",
        f'if [ "$1" = show ]; then echo node7; else echo "$@" > "{tmp_path}/requeued"; fi',
    )
    stub(
        tmp_path,
        "srun",
        """shift
    for i in 0 1; do SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_NTASKS=2 "$@" || exit $?; done""",
    )
    events = '{"kind": "event", "what": "stopped"}\n' + (
        '{"kind": "event", "what": "end"}\n' if ended else ""
    )
    (tmp_path / "events").write_text(events)
    stub(
        tmp_path,
        "python",
        f"""echo "$RANK/$WORLD_SIZE $LOCAL_RANK $MASTER_ADDR $MASTER_PORT $@" >> "{tmp_path}/calls"
    cp "{tmp_path}/events" "{run}/log.jsonl"; exit {code}""",
    )
    done = subprocess.run(
        ["bash"],
        input=launch("slurm", run=run),
        text=True,
        capture_output=True,
        env={
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "41",
            "SLURM_JOB_NODELIST": "n[7-8]",
            "SECONDS": str(age),
        },
    )
    assert done.returncode == code, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0].startswith("0/2 0 node7 20041 -m steel pretrain --preset steel-1b")
    assert f"-r {run} " in calls[0] and len(calls) == (1 if code else 2)
    assert (tmp_path / "requeued").exists() == requeued


def container(text):
    job = yaml.safe_load(text)
    spec = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    return job, spec, spec["template"]["spec"]["containers"][0]


def test_the_kubernetes_job_is_yaml_and_its_script_is_bash():
    job, spec, main_container = container(launch("k8s"))
    assert (
        job["kind"] == "PyTorchJob" and job["spec"]["nprocPerNode"] == "8" and spec["replicas"] == 4
    )
    assert main_container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == 300
    script = main_container["args"][0]
    assert "--preset steel-1b --data shards/1b -r runs/1b" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_torchruns_own_parser_accepts_every_command_that_is_printed():
    """It reads the words after the script's name, too: --run once was an ambiguous abbreviation of --run-path."""
    import re
    import shlex
    from pathlib import Path

    from torch.distributed.run import get_args_parser

    root = Path(__file__).parents[2]
    pages = [
        root / "README.md",
        root / "README.zh-CN.md",
        root / "steel/cli.py",
        *(root / "book").glob("*.md"),
    ]
    texts = [container(launch("k8s"))[2]["args"][0], *(p.read_text("utf-8") for p in pages)]
    texts = [text.replace("\\\n", " ") for text in texts]  # a command may go on over several lines
    printed = re.compile(r"^[\s\w\[\]]*\b(torchrun --[^`\n]+)", re.M)
    commands = [found.strip(" &") for text in texts for found in printed.findall(text)]
    assert len(commands) >= 4
    for command in commands:
        words = shlex.split(command.replace("[/dim]", ""))[1:]
        assert get_args_parser().parse_args(words).training_script, command


def test_in_kubernetes_a_preemption_reaches_the_ranks_and_asks_for_a_restart(tmp_path):
    script = container(launch("k8s"))[2]["args"][0]
    stub(
        tmp_path,
        "rank",
        f"""trap 'echo saved > "{tmp_path}/saved"; exit 0' USR1
    echo up > "{tmp_path}/up"; while :; do sleep 0.05; done""",
    )
    stub(
        tmp_path, "torchrun", "rank & wait $!"
    )  # SIGUSR1 or SIGTERM to this process would end it with an error
    process = subprocess.Popen(
        ["bash", "-c", script],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PET_RDZV_ENDPOINT": "x:1"},
    )
    while not (tmp_path / "up").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143 and (tmp_path / "saved").exists()


def test_what_cannot_be_launched_is_named():
    with pytest.raises(UserError, match="'sge' is not one of slurm, k8s"):
        launch("sge")
    with pytest.raises(UserError, match="not a multiple of 40 ranks"):
        launch("slurm", nodes=5)
    with pytest.raises(UserError, match="cannot stand in a launch script"):
        launch("slurm", run="runs/$HOME")


def call(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main(list(argv))
    return stop.value.code, capsys.readouterr()


def test_the_command_prints_the_launch_file_and_the_dry_run(capsys, corpus):
    wanted = ["--preset", "steel-1b", "--data", "d", "--run", "r"]
    code, text = call(capsys, "pretrain", *wanted, "--print-launch", "slurm")
    assert (
        code == 0
        and text.out.startswith("#!/bin/bash")
        and "--preset steel-1b --data d -r r" in text.out
    )
    code, text = call(
        capsys, "pretrain", "--preset", "steel-1b", "--dry-run", "--gpu", "A100-80G", "--nodes", "2"
    )
    assert code == 0 and "1,122,922,770" in text.out and "16 x A100-80G" in text.out
    assert all(
        word in text.out for word in ("Memory per GPU", "Tokens", "days", "Money", "sharding full")
    )
    code, text = call(
        capsys, "pretrain", "--preset", "smoke", "--dry-run", "--data", str(corpus[0])
    )
    assert code == 0 and "passes" in text.out
    code, text = call(capsys, "pretrain", "--preset", "smoke")
    assert code == 2 and "--data" in text.err and "--run" in text.err


def test_a_dry_run_counts_a_transformers_folder(tmp_path, capsys):
    from transformers import LlamaConfig

    LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    ).save_pretrained(tmp_path)
    code, text = call(
        capsys,
        "pretrain",
        "--preset",
        "smoke",
        "--dry-run",
        "model.source=hf",
        f"model.path={tmp_path}",
    )
    assert code == 0 and "3,888" in text.out and "LlamaForCausalLM" in text.out
