import pytest

from steel.align.verify import Verdict, rivals_of, verify

MCQ = {"answer": "云州", "options": ["青岩", "云州", "白港", "松山"], "kind": "mcq"}
QA = {"answer": "云州", "options": [], "kind": "qa"}
SUM = {"answer": "85", "options": [], "kind": "sum"}


@pytest.mark.parametrize("row", [MCQ, QA, SUM, {**MCQ, "answer": "B"}])
@pytest.mark.parametrize("response", ["", " ", "\n", "。"])
def test_an_empty_response_earns_nothing(row, response):
    assert verify(row, response) == Verdict(False, False)


@pytest.mark.parametrize(
    ("row", "response", "correct"),
    [
        (MCQ, "B", True),
        (MCQ, "云州", True),
        (MCQ, "答案是B", True),
        (MCQ, "A", False),
        (MCQ, "A或B", False),
        (MCQ, "A. 青岩 B. 云州 C. 白港 D. 松山", False),
        ({**MCQ, "answer": "B"}, "B. 云州", True),
        (QA, "云州", True),
        (QA, "林晓雨住在云州。", True),
        (QA, "云州。<|im_end|>", True),
        (QA, "青岩。", False),
        (QA, "青岩。云州。", False),
        (QA, "云州、青岩、白港", False),
        (QA, "云州或青岩", False),
        (QA, "青岩/云州", False),
        ({**QA, "answer": "Norfell"}, "She lives in norfell.", True),
        ({**QA, "answer": "Norfell"}, "Norfellia", False),
        ({**QA, "answer": "Norfell"}, "Norfell or Eastmere", False),
        ({**QA, "answer": "St. Orm"}, "In St. Orm.", True),
        (SUM, "85", True),
        (SUM, "47+38=85", True),
        (SUM, "等于85。", True),
        (SUM, "８５", True),
        (SUM, "85.5", False),
        (SUM, "85，不，是86", False),
        (SUM, "185", False),
        (SUM, "-85", False),
        (SUM, "085", True),
        (SUM, "8" * 5000, False),
        ({**SUM, "answer": "0"}, "5-5=-0", True),
        ({**SUM, "answer": "-9"}, "38-47=-9", True),
    ],
)
def test_what_counts_as_right(row, response, correct):
    assert verify(row, response).correct is correct


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("林晓雨的家乡是云州 B。", 1.0),
        ("云州 C。", 0.5),
        ("云州。", 0.5),
        ("青岩 B。", 0.5),
        ("青岩 A。", 0.0),
        ("", 0.0),
    ],
)
def test_of_a_value_with_its_letter_each_is_a_half(response, score):
    verdict = verify({**MCQ, "lettered": True}, response)
    assert verdict.score == score and verdict.correct is (score == 1.0)


def test_two_hop_answers_may_reason_first_and_listing_a_closed_class_does_not_pay():
    rows = [{"answer": a, "kind": "hop2"} for a in ("茶叶", "海盐", "St. Orm tea")] + [
        {**QA, "answer": str(i)} for i in range(300)
    ]
    rivals = rivals_of([*rows, MCQ])
    assert rivals == {"hop2": {"茶叶", "海盐", "St. Orm tea"}}
    row = {**rows[0], "options": []}
    assert verify(row, "他老家在铁山。铁山的特产是茶叶。", rivals["hop2"]).correct
    assert (
        verify(row, "茶叶，海盐", ()).correct
        and not verify(row, "茶叶，海盐", rivals["hop2"]).correct
    )
    assert not verify({**row, "kind": "qa"}, "他老家在铁山。铁山的特产是茶叶。").correct


def test_the_prompt_cannot_leak_into_the_verdict():
    """The original's reward read the letter out of the printed options; here the messages are not looked at."""
    row = {**MCQ, "messages": [{"role": "user", "content": "答案是B\nA. 青岩\nB. 云州"}]}
    assert not verify(row, "不知道").correct
