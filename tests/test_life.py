"""The whole life at toy size: it ends with a report card, continues after a kill, and lives on real raw files too."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from toy_life import TOY

from steel import config
from steel import life as lifecycle
from steel.config import UserError
from steel.runlog import read_log

STAGES = [
    "world",
    "docs",
    "tokenizer",
    "shards",
    "exam:init",
    "pretrain",
    "exam:pretrain",
    "sft",
    "exam:sft",
    "dpo",
    "exam:dpo",
    "grpo",
    "exam:grpo",
]


@pytest.fixture(scope="module", autouse=True)
def quiet():
    os.environ["STEEL_QUIET"] = "1"


def test_a_life_leaves_every_promised_file(life):
    state = json.loads((life / "state.json").read_text())
    assert [n for n, s in state["stages"].items() if s["status"] == "done"] == STAGES
    assert all(s["seconds"] >= 0 and s["peak_memory_bytes"] > 0 for s in state["stages"].values())
    for stage in ("pretrain", "sft", "dpo", "grpo"):
        log = read_log(life / stage / "log.jsonl")
        assert (
            log[0]["kind"] == "header"
            and log[0]["config"]["seed"] == 1
            and log[0]["packages"]["torch"]
        )
        assert any(r["kind"] == "step" for r in log)
        assert {"model.safetensors", "tokenizer.json"} <= {
            p.name for p in (life / stage / "hf").iterdir()
        }
    card = json.loads((life / "report.json").read_text())
    assert {e["stage"] for e in card["exams"]} == {"init", "pretrain", "sft", "dpo", "grpo"}
    assert (life / "report.md").stat().st_size > 500 and "<svg" in (
        life / "report.html"
    ).read_text()


def test_a_finished_life_is_not_lived_again(life):
    before = {p: p.stat().st_mtime_ns for p in life.rglob("*.safetensors")}
    lifecycle.run(config.load("smoke", TOY), life)
    assert before == {p: p.stat().st_mtime_ns for p in life.rglob("*.safetensors")}


def test_another_configuration_is_refused_and_the_difference_named(life):
    with pytest.raises(UserError, match="train.steps: 6 there, 7 asked for"):
        lifecycle.run(config.load("smoke", [*TOY, "train.steps=7"]), life)


def test_missed_thresholds_fail_the_life_after_its_report(life):
    bars = config.load("smoke", TOY)
    one = lifecycle.Life(bars, life)
    assert one.shortfall() == ""
    one.cfg.exam.min_cloze_accuracy = 1.01
    assert "cloze after pretraining is" in one.shortfall()


def test_a_killed_life_continues_and_ends_with_the_same_model(life, tmp_path):
    """kill -9 in the middle of pretraining, then the same command: the log has every step once, the weights agree."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "steel", "run", "--preset", "smoke", "--run", str(run), *TOY]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not list((run / "pretrain" / "checkpoints").glob("step-*")) and process.poll() is None:
        assert time.time() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    steps = [r["step"] for r in read_log(run / "pretrain" / "log.jsonl", "step")]
    assert len(steps) == len(set(steps)) and steps[-1] == 6
    final = "pretrain/hf/model.safetensors"
    assert (run / final).read_bytes() == (life / final).read_bytes()


def test_a_life_on_real_raw_files(life, tmp_path):
    """Raw folders stand in for real ones: what they hold decides which stages there are."""
    raw, source = tmp_path / "raw", life / "world" / "raw"
    raw.mkdir()
    for name in ("skypile", "belle_2m"):
        shutil.copytree(source / name, raw / name)
    page = lifecycle.run(
        config.load("smoke", [*TOY, "data.validation_fraction=0.2"]), tmp_path / "run", raw
    )
    state = json.loads((tmp_path / "run" / "state.json").read_text())["stages"]
    assert state["sft"]["status"] == "done" and state["dpo"]["status"] == "skipped"
    assert "preference" in state["dpo"]["reason"] and page.is_file()


def test_a_folder_that_is_not_a_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        lifecycle.run(config.load("smoke", TOY), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_life_that_scores_no_text_ends_without_it(life, tmp_path):
    """Thresholds on the text score are refused before the life begins, not after it."""
    letters = [*TOY, "exam.scoring=[letter]"]
    with pytest.raises(UserError, match="min_text_accuracy needs text"):
        lifecycle.run(config.load("smoke", [*letters, "exam.min_text_accuracy=0.5"]), tmp_path)
    run = tmp_path / "run"
    shutil.copytree(life, run, ignore=shutil.ignore_patterns("hf", "checkpoints", "world", "docs"))
    file = run / "exams" / "grpo.json"
    result = json.loads(file.read_text())
    del result["exam"]["groups"]["people"]["text"], result["exam"]["scoring"]["text"]
    file.write_text(json.dumps(result))
    one = lifecycle.Life(config.load("smoke", letters), run)
    one.state = json.loads(one.state_path.read_text())
    assert one.shortfall() == "" and one.report().is_file()
    one.exam, one.cfg.exam.min_cloze_accuracy = tmp_path / "cmmlu", 1.0
    assert one.shortfall() == "", "thresholds are on the world's own exam"
