"""Exams: reading every format, known answers for a known model, the same scores at any batch size."""

import csv
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from known_models import Bigram, write_exam

from steel.config import ModelConfig, UserError
from steel.evaluation.exam import run_exam
from steel.evaluation.prompts import Prompter, format_question
from steel.evaluation.questions import Question, load_exam, shuffle_options
from steel.evaluation.results import baselines, compare, summarise
from steel.evaluation.scoring import greedy, score_continuations
from steel.model import build
from steel.tokenizer.bpe import encode_text
from steel.tokenizer.chat import render

QUESTION = Question("city_zh", "0", "林晓住在哪里？", ("青岩", "云州", "临江", "白沙"), "B")


def write(path, header, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows] if header else rows)


def test_all_four_column_layouts_are_read(tmp_path):
    row = ["林晓住在哪里？", "青岩", "云州", "临江", "白沙", "B"]
    write(tmp_path / "ceval/val/logic_val.csv", ["id", "question", *"ABCD", "answer"], [0, *row])
    write(tmp_path / "cmmlu/test/logical.csv", ["", "Question", *"ABCD", "Answer"], [0, *row])
    write(tmp_path / "mmlu/test/virology_test.csv", None, row, row)
    header = ["id", "question", *"ABCD", "answer", "explanation"]
    write(tmp_path / "world/test/city_zh.csv", header, ["p1", *row, "因为"])
    expected = ("林晓住在哪里？", ("青岩", "云州", "临江", "白沙"), "B")
    for suite, split, subject, count in (
        ("ceval", "val", "logic", 1),
        ("cmmlu", "test", "logical", 1),
        ("mmlu", "test", "virology", 2),
        ("world", "test", "city_zh", 1),
    ):
        questions = load_exam(tmp_path / suite, split)
        assert [(q.subject, (q.question, q.options, q.answer)) for q in questions] == [
            (subject, expected)
        ] * count
    assert load_exam(tmp_path / "world")[0].id == "p1"


def test_mistakes_are_named_in_one_line(tmp_path, model, tok, exam_folder):
    with pytest.raises(UserError, match="no exam in"):
        load_exam(tmp_path / "nowhere")
    with pytest.raises(UserError, match="it has dev, test"):
        load_exam(exam_folder, "val")
    write(tmp_path / "a/test/x.csv", ["id", "question", *"ABCD"], [0, "q", 1, 2, 3, 4])
    with pytest.raises(UserError, match="answer"):
        load_exam(tmp_path / "a")
    write(
        tmp_path / "b/test/x.csv",
        ["question", *"ABCD", "answer"],
        ["q", 1, 2, 3, 4, "A"],
        ["q", 1, 2, 3, 4, "E"],
    )
    with pytest.raises(UserError, match="question 2"):
        load_exam(tmp_path / "b")
    with pytest.raises(UserError, match="unknown scoring"):
        run_exam(model, tok, exam_folder, scoring=("vibes",))
    with pytest.raises(UserError, match="no subject history"):
        run_exam(model, tok, exam_folder, subjects=["history"])


def favouring(tok, after: str, says: str, then: str | None = None, strength=20.0) -> Bigram:
    """A model that says one token after another, and is undecided otherwise."""
    table = torch.zeros(len(tok), len(tok))
    for left, right in ((after, says), (says, then)):
        if right is not None:
            left_id = encode_text(tok, left)[-1]
            right_id = tok.eos_token_id if right == "" else encode_text(tok, right)[0]
            table[left_id, right_id] = strength
    return Bigram(table)


@pytest.mark.parametrize("letter", "ABCD")
def test_letter_scoring_and_generation_take_the_letter_the_model_prefers(tok, exam_folder, letter):
    model = favouring(tok, "assistant\n", letter, "")
    result = run_exam(model, tok, exam_folder, scoring=("letter", "generate"))
    share = sum(q.answer == letter for q in load_exam(exam_folder)) / 24
    for way in ("letter", "generate"):
        assert set(result["answers"][way]) == {letter}
        assert result["scoring"][way]["accuracy"] == pytest.approx(share)
    assert result["scoring"]["generate"]["unparsed"] == 0
    if letter == "A":
        assert result["baselines"]["always_a"] == pytest.approx(share)


def test_a_model_that_says_nothing_scores_nothing_when_it_has_to_generate(tok, exam_folder):
    result = run_exam(
        favouring(tok, "assistant\n", "。", ""), tok, exam_folder, scoring=("generate",)
    )
    assert result["scoring"]["generate"]["accuracy"] == 0
    assert result["scoring"]["generate"]["unparsed"] == 1
    assert set(result["answers"]["generate"]) == {"-"}


def test_text_scoring_takes_the_option_the_model_would_say(tok):
    # p(first | header) = 3/4 and 1/4 on two one-token replies, closed by the end token with certainty
    table = torch.full((len(tok), len(tok)), -60.0)
    prefix, a, b = encode_text(tok, "assistant\n"), encode_text(tok, "x"), encode_text(tok, "y")
    table[prefix[-1], a[0]], table[prefix[-1], b[0]] = math.log(0.75), math.log(0.25)
    table[a[0], tok.eos_token_id] = table[b[0], tok.eos_token_id] = 0.0
    scores = score_continuations(
        Bigram(table), [(prefix, a), (prefix, b)], closers=[tok.eos_token_id]
    )
    assert [math.exp(s) for s in scores] == pytest.approx([0.75, 0.25], rel=1e-5)


def test_the_beginning_of_the_right_number_does_not_win(tok, tmp_path):
    row = [0, "47+83=？", "13", "130", "31", "30", "B"]
    write(tmp_path / "test/arith_zh.csv", ["id", "question", *"ABCD", "answer"], row)
    table = torch.full((len(tok), len(tok)), -30.0)
    start, one, three, zero = (encode_text(tok, t)[-1] for t in ("assistant\n", "1", "3", "0"))
    table[start, one] = table[one, three] = table[three, zero] = table[zero, tok.eos_token_id] = 0.0
    result = run_exam(Bigram(table), tok, tmp_path, scoring=("text",))
    assert result["answers"]["text"] == "B"
    assert result["scoring"]["text"]["accuracy_sum"] == 1


def test_letters_of_one_question_cost_one_row(tok, exam_folder):
    model = favouring(tok, "assistant\n", "A")
    run_exam(model, tok, exam_folder, scoring=("letter",))
    assert model.rows == 24


@pytest.mark.parametrize("which", ["model", "steel_model"])
@pytest.mark.parametrize("chat", [True, False])
def test_scores_do_not_depend_on_the_batch_size(which, chat, request, tok, exam_folder):
    tested = request.getfixturevalue(which)
    results = [
        run_exam(tested, tok, exam_folder, batch_size=n, max_new_tokens=6, chat=chat)
        for n in (1, 5, 128)
    ]
    for result in results:
        result.pop("seconds")
    assert results[0] == results[1] == results[2]
    questions = load_exam(exam_folder)
    pairs = [
        (encode_text(tok, q.question), encode_text(tok, text))
        for q in questions
        for text in q.options
    ]
    closers = [tok.eos_token_id, 5]
    one, many = (score_continuations(tested, pairs, batch_size=n, closers=closers) for n in (1, 64))
    assert one == pytest.approx(many, abs=1e-4)


@pytest.mark.parametrize("which", ["model", "steel_model"])
def test_log_probabilities_equal_a_plain_forward_pass(which, request, tok):
    tested = request.getfixturevalue(which)
    prefix, continuation = encode_text(tok, QUESTION.question), encode_text(tok, "青岩和云州")
    score = score_continuations(tested, [(prefix, continuation), (prefix[:3], continuation[:1])])[0]
    with torch.no_grad():
        log_p = tested(input_ids=torch.tensor([prefix + continuation])).logits[0].log_softmax(-1)
    expected = sum(log_p[len(prefix) - 1 + i, token].item() for i, token in enumerate(continuation))
    assert score == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("which", ["model", "steel_model"])
def test_greedy_equals_generate(which, request, tok):
    tested = request.getfixturevalue(which)
    prompts = [encode_text(tok, text) for text in ("第1号人物", "第2号人物", "Where does")]
    ours = greedy(tested, prompts, 8, [tok.eos_token_id])
    for prompt, reply in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt])
        theirs = tested.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=tok.eos_token_id,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        assert reply == [t for t in theirs if t != tok.eos_token_id]


def test_the_training_mode_comes_back(model, tok, exam_folder):
    model.train()
    run_exam(model, tok, exam_folder, scoring=("letter",), limit=1)
    assert model.training
    model.eval()


def test_prompts_are_chat_turns_and_examples_come_from_dev(tok, exam_folder):
    shots = load_exam(exam_folder, "dev")[:2]
    examples = {QUESTION.subject: shots}
    ids = Prompter(tok, True, None, examples).prompt(QUESTION, True, room=1)
    turns = [(format_question(q), q.answer) for q in shots]
    messages = [
        {"role": r, "content": c}
        for turn in turns
        for r, c in zip(("user", "assistant"), turn, strict=True)
    ]
    expected = render(
        [*messages, {"role": "user", "content": format_question(QUESTION)}],
        add_generation_prompt=True,
    )
    assert tok.decode(ids) == expected
    assert format_question(QUESTION) == "林晓住在哪里？\nA. 青岩\nB. 云州\nC. 临江\nD. 白沙"
    plain = tok.decode(Prompter(tok, False, None, examples).prompt(QUESTION, True, room=1))
    assert (
        plain.endswith("D. 白沙\n答案：")
        and plain.count("\n\n") == 2
        and "<|im_start|>" not in plain
    )
    bare = tok.decode(Prompter(tok, True).prompt(QUESTION, False, room=1))
    assert "青岩" not in bare


def test_examples_that_do_not_fit_are_dropped_first(tok, exam_folder):
    shots = load_exam(exam_folder, "dev")[:3]
    whole = Prompter(tok, True).prompt(QUESTION, True, room=4)
    prompter = Prompter(tok, True, len(whole) + 10, {QUESTION.subject: shots})
    assert prompter.prompt(QUESTION, True, room=4) == whole
    assert prompter.truncated == 1
    assert len(Prompter(tok, True, 20).prompt(QUESTION, True, room=4)) == 16


def test_shuffling_is_seeded_and_keeps_the_right_text():
    orders = {shuffle_options(replace(QUESTION, id=str(i)), 3).options for i in range(30)}
    assert len(orders) > 5
    for i in range(30):
        question = replace(QUESTION, id=str(i))
        shuffled = shuffle_options(question, 3)
        assert shuffled == shuffle_options(question, 3)
        assert shuffled.options[shuffled.letters.index(shuffled.answer)] == "云州"


def test_the_error_of_the_macro_mean_is_that_of_a_mean_of_subjects():
    """Subjects of two and of four questions, half of each right: variances add, over S² = 4."""
    sizes = {"small": 2, "large": 4}
    asked = [
        Question(name, str(i), f"{name} {i}", ("x", "y"), "A")
        for name, n in sizes.items()
        for i in range(n)
    ]
    found = summarise(asked, {"letter": list("ABABAB")}, "")["scoring"]["letter"]
    wanted = math.sqrt(sum(0.25 / n for n in sizes.values())) / 2
    assert found["macro"] == 0.5 and found["macro_se"] == pytest.approx(wanted)


def test_averages_errors_and_groups(tok, tmp_path):
    write_exam(tmp_path, people=3)
    row = [
        "问？",
        "青岩",
        "云州",
        "临江",
        "白沙",
        "A",
    ]  # a larger subject, so that macro and micro differ
    write(tmp_path / "test/city_zh.csv", ["question", *"ABCD", "answer"], *[row] * 9)
    result = run_exam(favouring(tok, "assistant\n", "A"), tok, tmp_path, scoring=("letter",))
    scores, subjects = result["scoring"]["letter"], result["subjects"]
    assert (
        result["n"] == 18
        and result["suite"] == "world"
        and subjects["city_zh"] == {"n": 9, "letter": 1.0}
    )
    assert scores["macro"] == pytest.approx(sum(s["letter"] for s in subjects.values()) / 4)
    assert scores["micro"] == pytest.approx(
        sum(s["letter"] * s["n"] for s in subjects.values()) / 18
    )
    sums: dict[str, float] = {}  # the n-th question of each subject is about the n-th person
    for i, (q, said) in enumerate(zip(load_exam(tmp_path), result["answers"]["letter"])):
        person = f"arith {i}" if q.subject == "arith_zh" else q.id
        sums[person] = sums.get(person, 0) + (said == q.answer) - scores["micro"]
    assert scores["se"] == pytest.approx(math.sqrt(sum(x * x for x in sums.values())) / 18)
    assert result["clusters"] == len(sums)
    assert {g: v["n"] for g, v in result["groups"].items()} == {
        "zh": 9,
        "en": 3,
        "hop2": 3,
        "arith": 3,
        "people": 15,
    }
    limited = run_exam(
        favouring(tok, "assistant\n", "A"),
        tok,
        tmp_path,
        scoring=("letter",),
        limit=2,
        subjects=["city_en", "arith_zh"],
    )
    assert limited["n"] == 4 and limited["suite"] == "world"


def test_the_longest_option_shares_its_point_between_ties():
    questions = [
        replace(QUESTION, options=("a", "bb", "cc", "d")),
        replace(QUESTION, options=("a", "b", "ccc", "d")),
    ]
    assert baselines(questions) == {"chance": 0.25, "always_a": 0.0, "longest": 0.25}


def test_paired_comparison_counts_only_what_changed():
    before = {"answers": {"key": "ABCDABCDAB", "text": "ABCDBBBBBB"}}
    after = {"answers": {"key": "ABCDABCDAB", "text": "ABCAABCDBB"}}
    result = compare(before, after)
    assert (result["better"], result["worse"], result["difference"]) == (3, 1, 0.2)
    assert result["p"] == pytest.approx(2 * (1 + 4) / 16)
    assert compare(before, before)["p"] == 1
    with pytest.raises(UserError, match="other questions"):
        compare(before, {"answers": {"key": "A", "text": "A"}})


@pytest.mark.skipif(not os.environ.get("STEEL_REAL_DATA"), reason="STEEL_REAL_DATA is not set")
def test_cmmlu_has_its_known_size_and_baselines():
    folder = Path(os.environ["STEEL_REAL_DATA"]) / "cmmlu"
    test, dev = load_exam(folder, "test"), load_exam(folder, "dev")
    assert len({q.subject for q in test}) == len({q.subject for q in dev}) == 67
    assert len(dev) == 335 and len(test) in (
        6924,
        11582,
    )  # three fifths of the test questions, or all of them
    scores = baselines(test)
    assert scores["always_a"] == pytest.approx(0.2526, abs=0.01)
    assert scores["longest"] == pytest.approx(
        0.294, abs=0.015
    )  # not 25 %: the longest option is right more often


def test_models_that_mix_the_row_are_scored_the_same_in_any_batch(tok):
    """v2 and v3 read the whole row: padding must have no part in it, and it is masked."""
    for kind in ("soft_moe_v2", "soft_moe_v3"):
        shape = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 2}
        cfg = ModelConfig(
            vocab_size=len(tok), feed_forward=kind, soft_moe_normalize_slots=True, **shape
        )
        mixing = build(cfg, seed=1).eval()
        pairs = [([5, 6], [7]), ([5, 6, 7, 8, 9], [10, 11]), ([6], [8, 9])]
        together = score_continuations(mixing, pairs)
        alone = [score_continuations(mixing, [pair])[0] for pair in pairs]
        assert together == pytest.approx(alone, abs=1e-5)


def test_letters_behind_options_are_shown_scored_and_read(tok, exam_folder):
    """A model that says " B" after everything binds B to every value, and writes it behind its own."""
    assert format_question(QUESTION, letters="after").split("\n")[1:] == [
        "青岩 A", "云州 B", "临江 C", "白沙 D",
    ]  # fmt: skip
    english = replace(QUESTION, options=("Qingyan", "Yunzhou"))
    assert format_question(english, letters="after").endswith("\n- Qingyan A\n- Yunzhou B")
    table = torch.zeros(len(tok), len(tok))
    letter = encode_text(tok, " B")[-1]
    table[:, letter], table[letter] = 20.0, 0.0
    table[letter, tok.eos_token_id] = 20.0
    result = run_exam(
        Bigram(table), tok, exam_folder, scoring=("bind", "generate"), letters="after"
    )
    share = sum(q.answer == "B" for q in load_exam(exam_folder)) / 24
    assert set(result["answers"]["bind"]) == set(result["answers"]["written"]) == {"B"}
    assert result["scoring"]["bind"]["accuracy"] == pytest.approx(share)
    before = run_exam(Bigram(table), tok, exam_folder, scoring=("generate",), letters="before")
    assert "written" not in before["scoring"]
