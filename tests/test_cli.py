"""Every command of the design exists; a mistake gets one line on stderr and exit code 2, never a traceback."""

import json
import os
import subprocess
import sys

import pytest
import zstandard

from steel.cli import app, main

COMMANDS = """
world, sample, data list, data cards, data download, data compare, data prepare, data convert,
data clean, data dedup, data append, data rejects, data verify, tokenizer train,
tokenizer merge, tokenizer report, tokenizer coverage, pack, pretrain, sft, reward, dpo, grpo,
eval exam, eval conversation, eval task, eval fetch, eval compare, eval perplexity,
eval contamination, plan, chat, serve, export hf, export gguf, export llama-factory,
import-original, bench step, run, report"""
COMMANDS = [" ".join(command.split()) for command in COMMANDS.split(",")]


def call(capsys, *argv):
    """Run the command in this process; returns (exit code, stdout, stderr)."""
    with pytest.raises(SystemExit) as stop:
        main(list(argv))
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def test_these_are_all_the_commands():
    groups = {"": app} | {group.name: group.typer_instance for group in app.registered_groups}
    there = [f"{g} {c.name}".strip() for g, t in groups.items() for c in t.registered_commands]
    assert sorted(there) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_exists_and_explains_itself(command, capsys):
    code, out, _ = call(capsys, *command.split(), "--help")
    assert code == 0 and "Usage" in out
    assert f"steel {command}" in " ".join(out.split()), "no example in the help text"


def test_the_help_of_an_exam_names_every_way_of_scoring(capsys):
    from steel.evaluation.exam import SCORINGS

    _, out, _ = call(capsys, "eval", "exam", "--help")
    assert all(way in out.partition("--scoring")[2].partition("--out")[0] for way in SCORINGS)


def test_no_executor_is_offered_that_is_not_there(capsys, tmp_path):
    (tmp_path / "raw").mkdir()
    code, _, err = call(capsys, "data", "prepare", f"{tmp_path}/raw", "out", "--executor", "dask")
    assert code == 2 and err.count("\n") == 1


def bad_inputs(tmp):
    """Command lines that cannot work, each with a word that the message must hold."""
    (tmp / "empty").mkdir()
    (tmp / "file").write_text("x")
    (tmp / "full").mkdir()
    (tmp / "full" / "x").write_text("x")
    broken = tmp / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{nonsense")
    return [
        (["nonsense"], "nonsense"),
        (["run", "--preset", "labtop", "--run", f"{tmp}/r"], "did you mean 'laptop'"),
        (["run", "--preset", "smoke", "--run", f"{tmp}/r", "train.stpes=1"], "train.steps"),
        (["run", "--preset", "smoke", "--run", f"{tmp}/r", "train.steps=x"], "train.steps"),
        (["run", "--preset", "smoke", "--run", f"{tmp}/full"], "not empty"),
        (["run", "--preset", "smoke", "--run", f"{tmp}/file"], "file"),
        (["run", "--preset", "smoke", "--run", f"{tmp}/r2", "--raw", f"{tmp}/none"], "no folder"),
        (["report", f"{tmp}/none"], "no run folder"),
        (["report", f"{tmp}/empty"], "not a RUN folder"),
        (["world", f"{tmp}/full"], "not an empty folder"),
        (["world", f"{tmp}/w", "world.people=1"], "people"),
        (["world", f"{tmp}/file"], "choose another"),
        (["data", "cards", "nothing"], "no source named"),
        (["data", "prepare", f"{tmp}/none", f"{tmp}/o"], "none"),
        (["data", "prepare", f"{tmp}/empty", f"{tmp}/o"], "empty"),
        (["data", "convert", f"{tmp}/none", f"{tmp}/o"], "none"),
        (["data", "download", "nothing", f"{tmp}/o"], "no source named"),
        (["data", "append", f"{tmp}/none", f"{tmp}/none", "-t", f"{tmp}/none"], "none"),
        (["tokenizer", "train", f"{tmp}/none", f"{tmp}/o"], "none"),
        (["tokenizer", "train", f"{tmp}/empty", f"{tmp}/o"], "empty"),
        (["pack", f"{tmp}/none", f"{tmp}/o", "-t", f"{tmp}/none"], "none"),
        (["pack", f"{tmp}/empty", f"{tmp}/o", "-t", f"{tmp}/empty"], "empty"),
        (["pretrain", "--data", f"{tmp}/none", "--run", f"{tmp}/r", "--preset", "smoke"], "none"),
        (
            ["pretrain", "--data", f"{tmp}/empty", "--run", f"{tmp}/r", "--preset", "smoke"],
            "manifest",
        ),
        (["pretrain", "--run", f"{tmp}/r"], "--data"),
        (["sft", "--run", f"{tmp}/r"], "--model"),
        (["sft", "--run", f"{tmp}/r", "--model", f"{tmp}/none", "--data", f"{tmp}/none"], "none"),
        (["dpo", "--run", f"{tmp}/r", "--model", str(broken), "--data", f"{tmp}/file"], "not json"),
        (
            ["dpo", "--run", f"{tmp}/r", "--model", f"{tmp}/empty", "--data", f"{tmp}/file"],
            "no model",
        ),
        (["eval", "exam", f"{tmp}/none", "--folder", f"{tmp}/empty"], "no model"),
        (["eval", "exam", str(broken), "--folder", f"{tmp}/empty"], "broken"),
        (["eval", "perplexity", f"{tmp}/none", f"{tmp}/file"], "no model"),
        (["plan", "--preset", "steel-1b", "--gpu", "Z80"], "Z80"),
        (["plan", "--preset", "steel-1b", "--num-gpus", "0"], "0"),
        (["plan", "--tokens", "-1"], "--tokens"),
        (["chat", f"{tmp}/none"], "no model"),
        (["eval", "exam", f"{tmp}/none", "-d", f"{tmp}/empty", "--limit", "-3"], "--limit"),
        (["eval", "exam", f"{tmp}/none", "-d", f"{tmp}/empty", "--out", f"{tmp}/full"], "--out"),
        (["export", "hf", f"{tmp}/empty", f"{tmp}/o"], "no model"),
        (["export", "gguf", f"{tmp}/empty", f"{tmp}/o.gguf"], "no model"),
        (["export", "gguf", str(broken), f"{tmp}/o.gguf"], "broken"),
        (["export", "gguf", str(broken), f"{tmp}/o.gguf", "--dtype", "q2_k"], "q2_k"),
        (["serve", f"{tmp}/none"], "no model"),
        (["serve", str(broken), "--port", "0"], "broken"),
        (["serve", str(broken), "--host", "not an address"], "--host"),
        (["serve", str(broken), "--port", "70000"], "--port"),
        (["eval", "exam", f"{tmp}/x", "--folder", f"{tmp}/empty", "--suite", "moon"], "moon"),
        (["pretrain", "--preset", "smoke", "train.precision=fp8"], "train.precision"),
        (["plan", "--preset", "laptop", "model.feed_forward=magic"], "feed_forward"),
        (["plan", "train.learning_rate=nan"], "learning_rate"),
        (["sft", "--run", f"{tmp}/r", "-m", f"{tmp}", "-d", f"{tmp}", "sft.beta=1"], "sft.beta"),
        (["bench", "step", "--device", "moon"], "moon"),
        (["bench", "step", "--steps", "0"], "--steps"),
        (["import-original", f"{tmp}/empty", f"{tmp}/o"], "config.json"),
    ]


def test_bad_input_gets_one_line_exit_2_and_leaves_nothing(tmp_path, capsys):
    failures = []
    for argv, word in bad_inputs(tmp_path):
        before = set(tmp_path.iterdir())
        try:
            code, _, err = call(capsys, *argv)
        except (
            Exception
        ) as error:  # a traceback is what this test looks for; name all of them at once
            code, err = None, repr(error)
        left = {p for p in set(tmp_path.iterdir()) - before if not p.is_dir() or any(p.iterdir())}
        if code != 2 or err.count("\n") != 1 or word not in err or left:
            failures.append((argv, code, err[-300:], left))
    assert not failures, "\n".join(map(str, failures))


def test_shards_of_another_vocabulary_are_refused_in_one_line(tmp_path, capsys):
    """It was an 80-line traceback, on a GPU a device assert."""
    docs, shards = tmp_path / "docs", tmp_path / "shards"
    docs.mkdir()
    rows = [
        {"id": str(i), "text": f"第 {i} 炉钢 steel number {i}", "source": "a", "lang": "zh"}
        for i in range(40)
    ]
    lines = "".join(json.dumps(row | {"meta": {}}) + "\n" for row in rows)
    (docs / "a.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    made = call(capsys, "tokenizer", "train", f"{docs}", f"{tmp_path}/t", "--vocab-size", "300")
    assert made[0] == 0, made
    packed = call(capsys, "pack", f"{docs}", f"{shards}", "-t", f"{tmp_path}/t")
    assert packed[0] == 0, packed
    argv = ["pretrain", "--preset", "smoke", "-d", f"{shards}", "-r", f"{tmp_path}/run"]
    code, _, err = call(capsys, *argv, "model.vocab_size=200")
    assert code == 2 and err.count("\n") == 1 and "vocab_size" in err


def test_a_path_is_said_as_it_is(tmp_path, capsys):
    """rich took [a] for a style, and [/b] for the end of one that never began: a traceback."""
    out = tmp_path / "[a] x[" / "b] :ok:"
    code, said, _ = call(capsys, "world", f"{out}", "--preset", "smoke", "world.people=16")
    assert code == 0 and f"{out}" in said


def test_ctrl_c_gets_one_line(tmp_path, capsys, monkeypatch):
    """typer turns it into a silent exit code."""

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("steel.corpus.world.write_world", stop)
    code, _, err = call(capsys, "world", f"{tmp_path}/w")
    assert code == 130 and err.startswith("steel: stopped") and err.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_a_full_disk_gets_one_line(tmp_path):
    program = (
        "import errno, sys; from steel import cli, runlog\n"
        "def full(*a, **k): raise OSError(errno.ENOSPC, 'No space left on device', 'world')\n"
        "runlog.atomic_write = full\n"
        f"cli.main(['world', {str(tmp_path / 'w')!r}, 'world.people=16'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "STEEL_QUIET": "1"},
    )
    assert done.returncode == 2 and "disk is full" in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir()), "a failed write leaves nothing"


@pytest.mark.skipif(
    os.geteuid() == 0 and not os.path.exists("/proc/sys"), reason="needs a read-only place"
)
def test_a_read_only_place_gets_one_line(capsys):
    code, _, err = call(capsys, "world", "/proc/steel-world", "world.people=16")
    assert code == 2 and err.count("\n") == 1


def test_help_works_without_loading_torch():
    program = "import sys; from steel.cli import app; assert 'torch' not in sys.modules and app"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert app is not None
