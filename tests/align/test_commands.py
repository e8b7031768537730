"""What the commands of the stages add to them: who the assistant is, text to replay, LLaMA-Factory."""

import json

import pytest
import yaml
from align_world import preference_rows, rl_rows, sft_rows, write

from steel import cli
from steel.config import load
from steel.runlog import read_log


def steel(*words) -> int:
    """Exit code of `steel words…`."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    return ended.value.code or 0


SMALL = ["sft.steps=1", "sft.sequence_length=512", "sft.batch_size=2", "sft.micro_batch_size=2"]


def test_sft_teaches_a_name_an_author_and_a_date(base, tmp_path):
    data, run = write(tmp_path / "sft.jsonl", sft_rows(8)), tmp_path / "run"
    given = ["--name", "小明", "--author", "李华", "--date", "2026 年 11 月"]
    assert steel("sft", "-m", base[0], "-d", data, "-r", run, *given, *SMALL) == 0
    rows = [json.loads(line) for line in (run / "self_cognition.jsonl").open(encoding="utf-8")]
    said = [turn["content"] for row in rows for turn in row["messages"] if turn["role"] != "user"]
    assert all(any(word in text for text in said) for word in ("小明", "李华", "2026 年 11 月"))
    default = load("laptop").world
    assert not any(default.assistant_name in text for text in said)
    assert {row["lang"] for row in rows} == {"zh", "en"}
    answers = {
        text for text in said if any(word in text for word in ("小明", "李华", "2026 年 11 月"))
    }
    assert set(said) == answers and len(answers) == 12, "who it is, in two languages, and no more"
    text = (run / "self_cognition.jsonl").read_text(encoding="utf-8")
    assert "Steel" not in text and "钢" not in text, "it is no resident of Steeltown"
    kinds = read_log(run / "log.jsonl")[0]["data"]["kinds"]
    assert kinds == {"qa": 8, "self_cognition": cli.SELF_COGNITION_REPEATS * len(rows)}


def test_a_stage_starts_from_a_run_folder_or_leaves_nothing(base, tmp_path, capsys):
    data, run = write(tmp_path / "sft.jsonl", sft_rows(8)), tmp_path / "run"
    (tmp_path / "life" / "pretrain").mkdir(parents=True)
    (tmp_path / "life" / "pretrain" / "hf").symlink_to(base[0])
    given = ["-d", data, "-r", run, "--name", "小明", *SMALL]
    assert steel("sft", "-m", tmp_path / "nowhere", *given) == 2 and not run.exists()
    assert steel("sft", "-m", tmp_path / "life", *given) == 0


def test_a_replay_of_no_rows_is_one_line(base, tmp_path, capsys):
    data = write(tmp_path / "sft.jsonl", sft_rows(8))
    where = ["-m", base[0], "-d", data, "-r", tmp_path / "run", "--replay", tmp_path]
    assert steel("sft", *where, *SMALL, "sft.replay_rows=0") == 2
    assert "set sft.replay_rows above 0" in capsys.readouterr().err


def test_rows_to_replay_without_shards_are_said_not_to_be_used(base, tmp_path, capsys):
    data = write(tmp_path / "sft.jsonl", sft_rows(8))
    where = ["-m", base[0], "-d", data, "-r", tmp_path / "run"]
    assert steel("sft", *where, *SMALL, "sft.replay_rows=2") == 0
    assert "sft.replay_rows is not used" in capsys.readouterr().out


def test_sample_writes_rows_for_three_stages(base, tmp_path, capsys):
    data, out = write(tmp_path / "rl.jsonl", rl_rows(3)), tmp_path / "own"
    short = ["grpo.group_size=2", "grpo.max_new_tokens=2"]
    assert steel("sample", "-m", base[0], "-d", data, "-r", out, *short) == 0
    assert "of 3 prompts" in capsys.readouterr().out
    names = {"preference.jsonl", "sft.jsonl", "rl.jsonl", "report.json"}
    assert names <= {path.name for path in out.iterdir()}


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_llama_factory_gets_the_same_rows_and_settings(base, tmp_path, stage):
    rows, out = (sft_rows if stage == "sft" else preference_rows)(6), tmp_path / "out"
    data, preset = write(tmp_path / "rows.jsonl", rows), "minillm-0.2b"
    where = ["-m", base[0], "-d", data, "-r", out, "-p", preset]
    assert steel("export", "llama-factory", stage, *where) == 0
    settings = yaml.safe_load((out / "train.yaml").read_text(encoding="utf-8"))
    mine = getattr(load(preset), stage)
    batch = "per_device_train_batch_size", "gradient_accumulation_steps"
    assert settings[batch[0]] * settings[batch[1]] == mine.batch_size
    assert (settings["learning_rate"], settings["cutoff_len"]) == (
        mine.learning_rate,
        mine.sequence_length,
    )
    assert settings["stage"] == {"reward": "rm"}.get(stage, stage)
    about = json.loads((out / "dataset_info.json").read_text())["steel"]
    theirs = [json.loads(line) for line in (out / about["file_name"]).open(encoding="utf-8")]
    assert all(column in row for row in theirs for column in about["columns"].values())
    assert [row["messages"] for row in theirs] == [row["messages"] for row in rows]
    if stage == "sft":
        assert settings["neat_packing"] and "ranking" not in about
    else:
        assert about["ranking"] and theirs[0]["chosen"]["content"] == rows[0]["chosen"]


def test_grpo_is_not_llama_factorys(base, tmp_path, capsys):
    data = write(tmp_path / "rl.jsonl", rl_rows(3))
    where = ["-m", base[0], "-d", data, "-r", tmp_path / "out"]
    assert steel("export", "llama-factory", "grpo", *where) == 2
    assert "not 'grpo'" in capsys.readouterr().err
