"""Talk in a row: who stands before whom, and what the command leaves."""

import json

import pytest

from figures.experiments import command, in_a_row
from steel.evaluation.conversation import messages


@pytest.mark.parametrize("depth", in_a_row.DEPTHS)
def test_a_message_stands_behind_others_of_its_language_and_is_judged_as_alone(life, depth):
    asked = messages(life / "world")
    alone = [m for m in asked if len(m.turns) == 1]
    rows = in_a_row.behind(asked, depth)
    assert in_a_row.behind(asked, depth) == rows, "every life is asked the same"
    for one, row in zip(alone, rows, strict=True):
        *before, last = row.turns
        assert last == one.turns[0] and len(set(before)) == depth and last not in before
        said = {m.turns[0] for m in alone if m.lang == one.lang}
        assert set(before) <= said and row.pattern == one.pattern and row.right == one.right


def test_a_life_leaves_a_row_a_stage_and_is_not_asked_again(life, tmp_path):
    out = tmp_path / "in-a-row.json"
    for _ in range(2):
        in_a_row.main(out, str(life))
        rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
        assert [r["stage"] for r in rows] == ["sft", "grpo"]
        assert all(len(r["right"]) == 4 and r["joined"] == 0.5 and r["n"] > 0 for r in rows)


def test_a_life_that_is_not_there_is_one_line(tmp_path, capsys, monkeypatch):
    words = ["x", "--out", f"{tmp_path}/out.json", "--lives", f"{tmp_path}/none"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as stop:
        command(in_a_row.main)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "none" in error and error.count("\n") == 1
