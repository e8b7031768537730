"""The real exam for a model that knows nothing: its control moves questions, and nothing else."""

import csv

from figures.experiments.cmmlu import blind, moved_on
from steel.evaluation.questions import load_exam


def test_questions_move_on_by_one_and_options_stay(tmp_path):
    rows = [["", "Question", "A", "B", "C", "D", "Answer"]]
    rows += [[i, f"问题{i}，", *(f"{i}{x}" for x in "甲乙丙丁"), "ABCD"[i]] for i in range(4)]
    (tmp_path / "exam" / "test").mkdir(parents=True)
    with open(tmp_path / "exam" / "test" / "law.csv", "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)
    before = load_exam(tmp_path / "exam")
    after = load_exam(moved_on(tmp_path / "exam", tmp_path / "out"))
    assert [q.question for q in after] == [q.question for q in before[-1:] + before[:-1]]
    assert [(q.options, q.answer) for q in after] == [(q.options, q.answer) for q in before]


def test_letters_that_know_nothing_get_the_share_of_their_own_letters():
    assert blind("AABB", "AAAA") == 0.5
    assert blind("AABB", "A-A-") == 0.25
