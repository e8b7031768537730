"""Planted copies of exam questions are found at their true length, and nothing else is accused."""

import json
import random

import pytest

from steel.cli import main
from steel.config import UserError
from steel.documents import Document, write_documents
from steel.evaluation.contamination import contamination
from steel.evaluation.questions import Question, load_exam


def question(i: int, text: str, right: str = "云州") -> Question:
    return Question("geo", str(i), text, (right, "青岩", "白沙", "临江"), "A")


def noise(rng: random.Random, n: int) -> str:
    return "".join(chr(rng.randrange(0x4E00, 0x9FFF)) for _ in range(n))


@pytest.mark.parametrize("seed", range(5))
def test_planted_spans_are_found_at_exactly_their_length(seed):
    rng = random.Random(seed)
    asked = [question(i, noise(rng, 40), noise(rng, 2)) for i in range(12)]
    documents, planted = [], {}
    for i, q in enumerate(asked[:8]):
        size = rng.randrange(5, 40)
        start = rng.randrange(0, 40 - size + 1)
        planted[str(i)] = size
        text = noise(rng, 50) + q.question[start : start + size] + noise(rng, 50)
        documents.append(Document(f"d{i}", text, "web"))
    found = contamination(documents, asked)
    assert {row["id"]: row["match"] for row in found["rows"]} == {
        i: size for i, size in planted.items() if size >= 8
    }
    assert found["found"] == sum(size >= 13 for size in planted.values())
    assert all(row["document"] == f"d{row['id']}" for row in found["rows"])


def test_a_copy_in_other_punctuation_width_and_case_is_a_copy():
    asked = [question(0, "ABC公司（2024年）位于哪座城市？")]
    text = "据报道，ａｂｃ公司 2024年，位于哪座城市—云州。"
    row = contamination([Document("d", text, "web")], asked)["rows"][0]
    assert row["share"] == 1 and row["found"]


def test_the_longest_of_several_matches_counts_and_a_turn_of_a_dialogue_is_text():
    text = "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳"
    turns = [{"role": "user", "content": f"{text[:9]}停{text[4:14]}"}]
    documents = [Document("a", text[:8], "x"), Document("b", "", "x", meta={"messages": turns})]
    (row,) = contamination(documents, [question(0, text)])["rows"]
    assert (row["match"], row["text"], row["document"]) == (10, text[4:14], "b")


def test_short_questions_are_counted_and_a_short_copy_counts_when_it_is_whole():
    asked = [question(0, "谁？"), question(1, "林晓月现在住在哪里？")]
    copy = [Document("d", "林晓月现在住在哪里云州", "web")]
    found = contamination(copy, asked)
    assert found["too_short"] == 1 and found["found"] == 1 and found["rows"][0]["match"] == 11
    with pytest.raises(UserError, match="8"):
        contamination([], asked, length=5)


def test_the_command_finds_what_was_planted_in_a_folder(exam_folder, tmp_path, capsys):
    asked = load_exam(exam_folder)
    victim = max(asked, key=lambda q: len(q.question))
    documents = [Document("clean", "钢铁是怎样炼成的，这里没有试题。", "web")]
    documents += [Document("leak", f"……{victim.question}{victim.right}", "web")]
    write_documents(tmp_path / "web.jsonl.zst", documents)
    out = tmp_path / "found.json"
    with pytest.raises(SystemExit) as stop:
        main(["eval", "contamination", str(tmp_path), str(exam_folder), "-o", str(out)])
    printed = capsys.readouterr().out
    assert stop.value.code == 0 and "leak" in printed
    found = json.loads(out.read_text())
    assert found["rows"][0]["text"][:60] in printed, "what matched can be read"
    assert found["found"] >= 1 and found["rows"][0]["id"] == victim.id
