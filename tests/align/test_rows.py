import json

import pytest
from align_world import turn

from steel.align.rows import check_dialogue, check_preference, check_verifiable, read_rows
from steel.config import UserError


def test_bad_rows_are_counted_by_reason_and_the_counts_close(tmp_path):
    good = {"messages": [turn("user", "问"), turn("assistant", "答")], "kind": "qa", "lang": "zh"}
    lines = [
        json.dumps(good),
        "{torn",
        "[1]",
        json.dumps({"messages": []}),
        json.dumps({"messages": [turn("user", "问")]}),
        json.dumps({"messages": [turn("user", "问"), turn("user", "?")]}),
        json.dumps({"messages": [turn("user", "问"), turn("assistant", " ")]}),
        "",
        json.dumps(good),
    ]
    (tmp_path / "a.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff\xfe\n")
    rows, report = read_rows(tmp_path / "a.jsonl", check_dialogue)
    assert len(rows) == report["kept"] == 2 and report["read"] == 9
    assert report["read"] == report["kept"] + sum(report["rejected"].values())
    assert report["rejected"] == {
        "not json": 2,
        "not an object": 1,
        "no messages": 1,
        "empty turn": 1,
        "last turn is not the assistant's": 1,
        "roles do not alternate": 1,
    }


def test_missing_and_empty_files_are_one_line_for_the_user(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_rows(tmp_path / "none.jsonl", check_dialogue)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no usable row"):
        read_rows([tmp_path / "empty.jsonl"], check_dialogue)
    row = {"messages": [turn("user", "问"), turn("assistant", "答")]}
    (tmp_path / "good.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match="no usable row in .*empty"):  # beside a good one, too
        read_rows([tmp_path / "good.jsonl", tmp_path / "empty.jsonl"], check_dialogue)


def test_the_digest_names_the_rows_not_the_file_layout(tmp_path):
    row = json.dumps({"messages": [turn("user", "问"), turn("assistant", "答")]})
    (tmp_path / "one.jsonl").write_text(row + "\n" + row + "\n")
    (tmp_path / "two.jsonl").write_text(row + "\n")
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    whole, parts, half = (
        read_rows(files, check_dialogue)[1]["sha256"] for files in (one, [two, two], two)
    )
    assert whole == parts != half


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rejected": "甲"}, "chosen equals rejected"),
        ({"chosen": ""}, "no chosen answer"),
        ({"rejected": None}, "no rejected answer"),
        (
            {"messages": [turn("user", "问"), turn("assistant", "答")]},
            "last turn is not the user's",
        ),
        ({}, None),
    ],
)
def test_preference_rows(change, reason):
    assert (
        check_preference(
            {"messages": [turn("user", "问")], "chosen": "甲", "rejected": "乙", **change}
        )
        == reason
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"answer": "B"}, None),
        ({"answer": "C"}, "answer is not among the options"),
        ({"answer": ""}, "no answer"),
        ({"options": "甲乙"}, "malformed options"),
        ({"options": []}, None),
    ],
)
def test_rl_rows(change, reason):
    assert (
        check_verifiable(
            {"messages": [turn("user", "问")], "answer": "甲", "options": ["甲", "乙"], **change}
        )
        == reason
    )
