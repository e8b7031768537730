"""The poetry model, rehearsed at toy size on a CPU by the command that a GPU box runs."""

import json

import pytest

from figures.experiments import poet
from steel.config import UserError, load

TOY = """model.vocab_size=400 tokenizer.vocab_size=400 model.hidden_size=32 model.intermediate_size=48
model.num_hidden_layers=1 model.num_attention_heads=2 model.num_key_value_heads=2
model.max_position_embeddings=256 data.sequence_length=32 data.validation_fraction=0.2 train.batch_size=4
train.micro_batch_size=4 train.precision=fp32 train.compile=false train.kernels={} train.warmup_steps=0
train.eval_every=60 train.checkpoint_every=50""".split()
LINES = "春風吹綠草，明月照青山。", "客子思鄉國，江城夜未還。"


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    (folder / "chinese_poetry").mkdir()
    with (folder / "chinese_poetry" / "tang.jsonl").open("w", encoding="utf-8") as file:
        for i in range(80):
            turned = ["".join(reversed(line[:5])) + line[5:] for line in LINES] if i % 2 else LINES
            poem = {"title": f"其{i}", "author": "某", "dynasty": "唐", "form": "诗"}
            poem["paragraphs"] = [line.replace("月", chr(0x5B50 + i)) for line in turned]
            file.write(json.dumps(poem, ensure_ascii=False) + "\n")
    return folder


def test_prepare_calibrate_train_sample_and_go_on(raw, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(poet, "steps_for", lambda *_: 100)
    monkeypatch.setattr(poet, "CALIBRATION_STEPS", 6)
    data, run = tmp_path / "carry", tmp_path / "run"
    assert poet.main(TOY, data=data, run=run, prepare_from=raw) == 0
    assert poet.main(TOY, data=data, run=run) == 0
    found = json.loads((run / "poet.json").read_text(encoding="utf-8"))
    assert found["curve"][-1][1] < found["curve"][0][1] and found["config"]["train"]["steps"] == 100
    assert 0 < len(found["samples"]) <= 20 and all("\n" in row["head"] for row in found["samples"])
    assert poet.main(TOY, data=data, run=run) == 0, "a second start goes on from the first"
    assert poet.main(TOY, data=data, run=run, read=True) == 0
    assert "keep a regulated form" in capsys.readouterr().out


def test_form_and_even_lines_are_told_apart():
    assert poet.even("春風吹綠草，明月照青山。") and not poet.even("春風，明月照青山。")
    assert not poet.even("") and not poet.even("春風吹綠草")
    assert poet.text_form("\n".join(LINES)) == "五言绝句"


def test_too_little_time_is_one_line():
    with pytest.raises(UserError, match="give more --minutes"):
        poet.steps_for(1.0, 1000.0, load("poet"))
    assert poet.steps_for(400, 1e6, load("poet")) == int(400 * 1e6 / (128 * 512))
