"""`steel eval exam` and `steel eval perplexity`: where they compute, and what they say about mistakes."""

import json

import pytest
from known_models import write_exam
from typer.testing import CliRunner

from steel import cli
from steel.config import UserError
from steel.evaluation import exam, perplexity
from steel.model import folder as model_folder


@pytest.fixture(scope="module")
def hf(tmp_path_factory, steel_model, tok):
    return model_folder.save_model(tmp_path_factory.mktemp("m") / "hf", steel_model, tokenizer=tok)


def run(*arguments):
    """(what the command printed, what it complained of)"""
    result = CliRunner().invoke(cli.app, ["eval", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, UserError), result.exception
    return result.output, str(result.exception or "")


def test_evaluation_computes_where_the_machine_is_fastest(hf, exam_folder, monkeypatch, tmp_path):
    monkeypatch.setattr(model_folder, "default_device", lambda: "meta")  # stands for a GPU
    seen = []

    def remember(model, *arguments, **options):
        seen.append(next(model.parameters()).device.type)
        raise UserError("seen enough")

    monkeypatch.setattr(exam, "run_exam", remember)
    monkeypatch.setattr(perplexity, "bits_per_byte", remember)
    (tmp_path / "zh.jsonl").write_text('{"text": "云州"}\n')
    for command in (("exam", hf, "-d", exam_folder), ("perplexity", hf, tmp_path / "zh.jsonl")):
        assert run(*command)[1] == "seen enough"
    assert seen == ["meta", "meta"]


def test_a_domain_without_a_number_is_named_and_the_others_are_shown(hf, tmp_path):
    (tmp_path / "zh.jsonl").write_text('{"text": "青岩和云州"}\n', encoding="utf-8")
    (tmp_path / "none.jsonl").write_text("")
    out, error = run("perplexity", hf, tmp_path / "zh.jsonl", tmp_path / "none.jsonl")
    assert "zh" in out and "bits/byte" in out
    assert error.startswith("no number") and "none (no text to score)" in error


def test_the_suite_chooses_the_split_and_refuses_another_exam(hf, tmp_path):
    write_exam(tmp_path / "world", people=2)
    _, error = run("exam", hf, "-d", tmp_path / "world", "--suite", "cmmlu")
    assert "does not hold cmmlu" in error and "arith_zh" in error and "like world" in error
    _, error = run("exam", hf, "-d", tmp_path / "world", "--suite", "gaokao")
    assert "not one of cmmlu, ceval, mmlu, world" in error
    row = "0,林晓住在哪里？,青岩,云州,临江,白沙,B\n"
    (tmp_path / "ceval" / "val").mkdir(parents=True)
    file = tmp_path / "ceval" / "val" / "law_val.csv"
    file.write_text("id,question,A,B,C,D,answer\n" + row, encoding="utf-8")
    out = tmp_path / "result.json"
    ceval = ("exam", hf, "-d", tmp_path / "ceval", "--scoring", "letter", "-o", out)
    assert "no exam in" in run(*ceval)[1]  # without the suite, the test split is expected
    assert not run(*ceval, "--suite", "ceval")[1]
    result = json.loads(out.read_text())
    assert (result["suite"], result["split"], list(result["groups"])) == (
        "ceval",
        "val",
        ["Humanities"],
    )
