"""Post-training sets from real documents: dialogues as they are, regulated poems as requests."""

import json

import pytest

from steel.corpus.instructions import text_form, write_instructions
from steel.documents import Document, write_documents

FIVE = "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。"
SEVEN = "朝辞白帝彩云间，千里江陵一日还。\n两岸猿声啼不住，轻舟已过万重山。"


def poem(name: str, title: str, author: str, verse: str) -> Document:
    meta = {"title": title, "author": author, "dynasty": "唐", "form": "诗"}
    return Document(name, f"{title}\n唐·{author}\n{verse}", "chinese_poetry", "zh", meta)


@pytest.mark.parametrize(
    "verse, form",
    [
        (FIVE, "五言绝句"),
        (SEVEN, "七言绝句"),
        (FIVE + FIVE, "五言律诗"),
        (FIVE + SEVEN, ""),
        ("", ""),
        ("海", ""),
    ],
)
def test_form_is_read_from_lines_and_characters(verse, form):
    assert text_form(verse) == form


def test_poems_become_requests_and_preferences_for_the_form_that_was_asked(tmp_path):
    poems = [poem(f"a{i}", f"题{i}", "王之涣", FIVE) for i in range(3)]
    poems += [poem(f"b{i}", f"名{i}", "李白", SEVEN) for i in range(3)]
    write_documents(tmp_path / "docs" / "chinese_poetry.jsonl.zst", poems)
    counts = write_instructions(tmp_path / "docs", tmp_path / "post", seed=1)
    rows = [
        json.loads(line)
        for line in (tmp_path / "post" / "sft.jsonl").read_text("utf-8").splitlines()
    ]
    pairs = [
        json.loads(line)
        for line in (tmp_path / "post" / "preference.jsonl").read_text("utf-8").splitlines()
    ]
    assert counts == {"sft": 6, "preference": len(pairs)} and pairs
    for row in rows:
        assert (
            text_form(row["messages"][1]["content"]) == row["kind"]
            and row["kind"] in row["messages"][0]["content"]
        )
    for pair in pairs:
        asked = pair["messages"][0]["content"]
        assert text_form(pair["chosen"]) in asked and text_form(pair["rejected"]) not in asked


def test_dialogues_are_taken_as_they_are_and_held_out_ones_left(tmp_path):
    turns = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好。"}]
    docs = [Document(str(i), "", "belle_3_5m", "zh", {"messages": turns}) for i in range(20)]
    write_documents(tmp_path / "docs" / "belle_3_5m.jsonl.zst", docs)
    counts = write_instructions(
        tmp_path / "docs", tmp_path / "post", 1, limit=10, skip=lambda d: d.id < "15"
    )
    lines = (tmp_path / "post" / "sft.jsonl").read_text("utf-8").splitlines()
    assert counts["sft"] == len(lines) <= 10 and json.loads(lines[0])["messages"] == turns
    assert not (tmp_path / "post" / "preference.jsonl").exists(), "no pairs, no file"


def test_nothing_to_teach_gives_nothing(tmp_path):
    write_documents(
        tmp_path / "docs" / "skypile.jsonl.zst",
        [Document("1", "只是一段网页文字。", "skypile", "zh", {})],
    )
    assert write_instructions(tmp_path / "docs", tmp_path / "post", 1) == {
        "sft": 0,
        "preference": 0,
    }


def test_a_dialogue_with_a_rejected_answer_is_a_preference_and_no_sft_row(tmp_path):
    turns = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好。"}]
    doc = Document("1", "", "dpo_en_zh", "zh", {"messages": turns, "rejected_answer": "走开"})
    write_documents(tmp_path / "docs" / "dpo_en_zh.jsonl.zst", [doc])
    counts = write_instructions(tmp_path / "docs", tmp_path / "post", 1)
    [row] = [json.loads(x) for x in (tmp_path / "post/preference.jsonl").read_text().splitlines()]
    assert counts == {"sft": 0, "preference": 1} and row["messages"] == turns[:1]
    assert (row["chosen"], row["rejected"]) == ("你好。", "走开")
