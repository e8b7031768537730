"""The first conversation: a checker that knows right from wrong, messages that no training file holds."""

import difflib
import json
import re

import pytest

from steel.config import UserError, load
from steel.corpus.world import write_world
from steel.evaluation.conversation import Message, converse, judge, messages

PLACE = {"right": ("云州",), "wrong": ("青岩", "松山")}
FACT = Message("fact", "zh", ("林晓雨老家在哪儿？",), **PLACE)
LETTER = Message("choice", "zh", ("…",), letter="B", **PLACE)
SUM = Message("sum", "zh", ("47加38得多少？",), number=85)
STRANGER = Message("stranger", "zh", ("张三是谁呀？",), pattern="不认识", wrong=("云州",))
WORK = Message(
    "fact", "en", ("Where does Lin Xiaoyu work?",), right=("Rice Co",), wrong=("Ice Co",)
)


@pytest.mark.parametrize(
    ("message", "reply", "right"),
    [
        (FACT, "林晓雨的家乡是云州。", True),
        (FACT, "云州", True),
        (FACT, "林晓雨的家乡是青岩。", False),
        (FACT, "云州或青岩", False),
        (FACT, "林晓雨的母校是松河大学。", False),
        (FACT, "She comes from Yunzhou.", False),
        (FACT, "", False),
        (FACT, "云州\ufffd", False),
        (LETTER, "林晓雨的家乡是云州 B。", True),
        (LETTER, "林晓雨的家乡是云州 C。", False),
        (LETTER, "云州。", True),
        (SUM, "个位7+8=15，十位4+3+1=8，答案是85。", True),
        (SUM, "47加38等于84。", False),
        (SUM, "185", False),
        (SUM, "不知道。", False),
        (STRANGER, "我不认识这个人。", True),
        (STRANGER, "张三的家乡是云州。", False),
        (STRANGER, "我不认识云州人张三。", False),
        (WORK, "Lin Xiaoyu's employer is Rice Co.", True),
        (WORK, "Lin Xiaoyu's employer is Ice Co.", False),
        (WORK, "林晓雨在米业工作。", False),
    ],
)
def test_the_checker_knows_right_from_wrong(message, reply, right):
    assert judge(message, reply) is right


def test_a_reply_that_does_not_end_is_wrong():
    assert judge(FACT, "林晓雨的家乡是云州", finished=True)
    assert not judge(FACT, "林晓雨的家乡是云州" * 9, finished=False)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out, cfg = tmp_path_factory.mktemp("world") / "world", load("smoke")
    write_world(out, cfg.world, cfg.seed)
    return out


def test_the_list_is_sixty_messages_and_another_seed_asks_about_others(world):
    one, same, other = (messages(world, seed) for seed in (1, 1, 2))
    assert len(one) == 60 and one == same and one != other
    assert all("{" not in text for message in one for text in message.turns)
    truth = json.loads((world / "truth.json").read_text(encoding="utf-8"))
    names = {p[k]: p["split"] for p in truth["people"] for k in ("zh", "en")}
    asked = {split for m in one for name, split in names.items() if name in " ".join(m.turns)}
    assert asked == {"test"}


def test_a_right_answer_exists_for_every_message(world):
    """The checker can be satisfied: by the patterns' own words, by values, by sums."""
    spoken = {"zh": ["你好", "不客气", "再见", "小钢", "你自己", "不是", "加法", "不认识"]}
    spoken["en"] = ["Hello", "welcome", "Goodbye", "Steel", "by you", "not", "add", "I don't know"]
    for message in messages(world):
        said = [f"{v} {message.letter}".strip() for v in message.right] or spoken[message.lang]
        if message.number is not None:
            said = [f"{message.number}。" if message.lang == "en" else f"是{message.number}"]
            said = [f"It is {message.number}"] if message.lang == "en" else said
        assert any(judge(message, text) for text in said), message


def skeleton(text, names):
    for name in names:
        text = text.replace(name, "N")
    text = re.sub(r"\d+", "1", text)
    return re.sub(r"[^\w]", "", text).lower()


def test_no_message_stands_in_a_training_file(world):
    """Exactly (without names, numbers, marks and case), and all but a few nearly: edit similarity below 0.9."""
    truth = json.loads((world / "truth.json").read_text(encoding="utf-8"))
    names = [p[k] for p in truth["people"] for k in ("zh", "en")]
    names += [n for split in truth["strangers"].values() for both in split for n in both]
    trained = set()
    for file in (world / "post").glob("*.jsonl"):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            said = [m["content"] for m in row["messages"] if m["role"] == "user"]
            trained |= {skeleton(text.split("\n")[0], names) for text in said}
    for file in (world / "raw").rglob("*.json*"):
        if file.suffix in (".json", ".jsonl"):
            page = file.read_bytes().decode("utf-8", "ignore")
            for m in messages(world):
                assert m.turns[-1].split("\n")[0] not in page, m
    for message in messages(world):
        said = skeleton(message.turns[-1].split("\n")[0], names)
        assert said not in trained, message.turns
        close = difflib.get_close_matches(said, trained, n=1, cutoff=0.95)
        assert not close, (message.turns, close)


def test_a_folder_without_a_world_is_named(tmp_path):
    with pytest.raises(UserError, match="no closed world"):
        messages(tmp_path)


def test_turns_follow_each_other_and_the_last_answer_is_judged(model, tok):
    """A model that says nothing sensible scores nothing, and every dialogue gets its own answers."""
    two = Message("follow-up", "zh", ("你好", "她呢"), pattern="你好")
    result = converse(model, tok, [FACT, two, STRANGER])
    assert [len(a["said"]) for a in result["answers"]] == [1, 3, 1]
    assert result["n"] == 3 and set(result["kinds"]) == {"fact", "follow-up", "stranger"}
    assert result["accuracy"] == sum(a["right"] for a in result["answers"]) / 3
