"""Prompts of others, clusters, resuming, and the same choices as lm-eval's."""

import copy
import csv
import json
import math
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from known_models import Bigram

from steel.cli import main
from steel.config import UserError
from steel.evaluation import exam, fetch
from steel.evaluation.exam import run_exam
from steel.evaluation.lm_eval_files import write_lm_eval
from steel.evaluation.prompts import Prompter
from steel.evaluation.questions import Question, load_exam
from steel.evaluation.results import clustered, compare
from steel.evaluation.scoring import greedy, score_continuations
from steel.evaluation.suites import clusters_of
from steel.tokenizer.bpe import encode_text

QUESTION = Question("agronomy", "0", "林晓种什么？", ("稻", "麦", "茶", "豆"), "B", "她说过。")
OPTIONS = "林晓种什么？\nA. 稻\nB. 麦\nC. 茶\nD. 豆\n"


DIRECT = "以下是关于农学的单项选择题，请直接给出正确答案的选项。\n\n"
STEPS = "以下是关于农学的单项选择题，请分析并选出正确答案。\n\n"
THINK = "题目：" + OPTIONS + "逐步分析并给出答案选项。"
ASKED = "题目：" + OPTIONS + "答案是："
PLAIN = OPTIONS + "答案："


@pytest.mark.parametrize(
    ("style", "suite", "steps", "expected"),
    [
        ("official", "cmmlu", False, DIRECT + ASKED + "B\n\n" + ASKED),
        ("official", "cmmlu", True, STEPS + THINK + "她说过。\n所以答案是B\n\n" + THINK),
        ("lm-eval", "cmmlu", False, DIRECT + PLAIN + " B\n\n" + PLAIN),
        ("steel", "cmmlu", False, PLAIN + "B\n\n" + PLAIN),
    ],
)
def test_prompts_are_those_of_their_authors(tok, style, suite, steps, expected):
    prompter = Prompter(tok, False, None, {"agronomy": [QUESTION]}, style=style, suite=suite)
    assert tok.decode(prompter.prompt(QUESTION, True, room=1, steps=steps)) == expected
    begun = replace(prompter, bos=True).prompt(QUESTION, True, room=1, steps=steps)
    assert tok.decode(begun) == "<|endoftext|>" + expected


def test_a_style_without_words_for_an_exam_is_refused(tok, model, exam_folder):
    with pytest.raises(UserError, match="no prompt for world"):
        run_exam(model, tok, exam_folder, style="official")
    with pytest.raises(UserError, match="not one of steel, official, lm-eval"):
        run_exam(model, tok, exam_folder, style="house")


def test_what_is_shared_is_one_cluster():
    passage = "阅读短文。" * 20
    rows = [("law", "0", passage + "一？"), ("law", "1", passage + "二？"), ("law", "2", "三？")]
    asked = [Question(s, i, text, ("a", "b"), "A") for s, i, text in rows]
    assert clusters_of(asked, "mmlu") == [0, 0, 1]
    rows = [("city_zh", "7"), ("job_en", "7"), ("arith_zh", "7"), ("city_zh", "8")]
    people = [Question(s, i, s + i, ("a", "b"), "A") for s, i in rows]
    assert clusters_of(people, "world") == [0, 0, 1, 2]


def test_clustered_errors_cover_where_naive_ones_do_not():
    """40 people with 10 answers that agree: the spread of the mean over worlds is the clustered se."""
    rng, means, errors, naive = random.Random(0), [], [], []
    clusters = [i // 10 for i in range(400)]
    for _ in range(400):
        known = [rng.random() < 0.5 for _ in range(40)]
        right = [known[c] if rng.random() < 0.8 else rng.random() < 0.5 for c in clusters]
        p = sum(right) / 400
        means.append(p)
        residuals = [(r - p) / 400 for r in right]
        errors.append(clustered(residuals, clusters))
        naive.append(clustered(residuals))
        assert naive[-1] == pytest.approx(math.sqrt(p * (1 - p) / 400))
    mean = sum(means) / 400
    spread = math.sqrt(sum((m - mean) ** 2 for m in means) / 399)
    assert sum(errors) / 400 == pytest.approx(spread, rel=0.12)
    assert sum(naive) / 400 < 0.5 * spread


def test_paired_errors_are_clustered_like_the_answers():
    clusters = [0, 0, 1, 1]
    before = {"answers": {"key": "AAAA", "clusters": clusters, "text": "BBBB"}}
    after = {"answers": {"key": "AAAA", "clusters": clusters, "text": "AABB"}}
    found = compare(before, after)
    assert found["difference"] == 0.5 and found["se"] == pytest.approx(math.sqrt(2 * 0.25**2))
    with pytest.raises(UserError, match="no answers by letter"):
        compare(before, after, "letter")


def test_an_exam_that_was_stopped_goes_on(model, tok, exam_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(exam, "AT_ONCE", 7)
    options = {"scoring": ("letter", "generate"), "max_new_tokens": 3}
    whole = run_exam(model, tok, exam_folder, **options)
    file, asked = tmp_path / "r.json.partial", []
    real = exam._written

    def stops(*arguments, **given):
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **given)

    monkeypatch.setattr(exam, "_written", stops)
    with pytest.raises(KeyboardInterrupt):
        run_exam(model, tok, exam_folder, **options, partial=file)
    file.write_text(file.read_text() + '\n{"part": "generate 14", "answ')  # cut off by the crash
    again = run_exam(model, tok, exam_folder, **options, partial=file)
    assert len(asked) == 3 + 2  # of four parts two were kept
    assert {**again, "seconds": 0} == {**whole, "seconds": 0}
    with pytest.raises(UserError, match="another evaluation"):
        run_exam(model, tok, exam_folder, **options, shots=1, partial=file)


class Counting(torch.nn.Module):
    """A model, and how many tokens were fed to it."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.tokens, self.config = inner, 0, inner.config

    def forward(self, input_ids, **options):
        self.tokens += input_ids.numel()
        return self.inner(input_ids=input_ids, **options)


@pytest.mark.parametrize("which", ["model", "steel_model"])
def test_a_shared_beginning_is_computed_once_and_changes_nothing(which, request, tok):
    tested = Counting(request.getfixturevalue(which))
    start = encode_text(tok, "第1号人物住在哪里？Where does person 2 live? " * 4)
    ends = [
        encode_text(tok, text) for text in ("青岩", "云州和白沙", "Oakhill", "临江", "？", "住")
    ]
    assert len(start) > 40
    prompts = [start + end for end in ends]
    alone = [greedy(tested, [prompt], 5, [0])[0] for prompt in prompts]
    pairs = [(prompt, end) for prompt, end in zip(prompts, reversed(ends))]
    apart = [score_continuations(tested, [pair])[0] for pair in pairs]
    tested.tokens = 0
    assert greedy(tested, prompts, 5, [0]) == alone
    assert score_continuations(tested, pairs) == pytest.approx(apart, abs=1e-4)
    assert tested.tokens < 4 * len(start)


def test_decoding_stops_where_the_answer_ends(tok, exam_folder):
    table = torch.zeros(len(tok), len(tok))
    newline, letter = encode_text(tok, "\n")[0], encode_text(tok, "B")[0]
    table[:, newline] = 20.0
    table[encode_text(tok, "：")[-1], letter] = 60.0
    model = Counting(Bigram(table))
    options = {"scoring": ("generate",), "subjects": ["city_zh"], "max_new_tokens": 200}
    result = run_exam(model, tok, exam_folder, chat=False, **options)
    assert result["answers"]["generate"] == "B" * 6
    assert model.tokens < 6 * 300


@pytest.mark.parametrize("which", ["world", "cmmlu"])
def test_lm_eval_chooses_the_same(which, model, tok, exam_folder, tmp_path):
    """Question by question, 0-shot and with worked examples; letters stand where the suite has them."""
    lm_eval = pytest.importorskip("lm_eval", reason="pip install lm-eval: the post extra")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    folder, only, limit = exam_folder, ["city_zh", "city_en"], 6
    if which == "cmmlu":
        if not os.environ.get("STEEL_REAL_DATA"):
            pytest.skip("STEEL_REAL_DATA is not set")
        folder, only = Path(os.environ["STEEL_REAL_DATA"]) / "cmmlu", ["arts", "virology"]
    options = {"subjects": only, "limit": limit}
    suite, _, questions = exam.the_questions(folder, **options)
    tasks = write_lm_eval(tmp_path, suite, questions, load_exam(folder, "dev"), "lm-eval")
    assert len(tasks) == 2
    model = copy.deepcopy(model)
    model.config.max_position_embeddings = 4096
    theirs = HFLM(pretrained=model, tokenizer=tok, batch_size=4, max_length=4096)
    for shots in (0, 2):
        page = lm_eval.simple_evaluate(
            theirs,
            tasks=[f"steel_{suite}"],
            num_fewshot=shots,
            task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
            bootstrap_iters=0,
        )
        chosen = ""
        for task in tasks:
            for row in sorted(page["samples"][task], key=lambda row: row["doc_id"]):
                scores = [answer[0] for answer in row["filtered_resps"]]
                chosen += "ABCD"[scores.index(max(scores))]
        how = {"scoring": ("letter",), "style": "lm-eval", "chat": False, "shots": shots}
        ours = run_exam(model, tok, folder, **options, **how)
        assert ours["answers"]["letter"] == chosen and len(chosen) == 12
        mean = page["results"][f"steel_{suite}"]["acc,none"]
        assert ours["scoring"]["letter"]["micro"] == pytest.approx(mean)


def test_the_hub_gives_the_folder_that_is_read(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    row = {"question": "Who?", "subject": "law", "choices": ["a", "b", "c", "d"], "answer": 2}
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda hub: ["all", "virology"])
    monkeypatch.setattr(datasets, "load_dataset", lambda hub, name, split: [row, row])
    assert "4 questions of cais/mmlu" in fetch.fetch("mmlu", tmp_path)
    questions = load_exam(tmp_path)
    assert [(q.subject, q.right, q.answer) for q in questions] == [("virology", "c", "C")] * 2
    assert len(load_exam(tmp_path, "dev")) == 2
    with pytest.raises(UserError, match="no hub has world"):
        fetch.fetch("world", tmp_path)

    def fails(hub):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "get_dataset_config_names", fails)
    with pytest.raises(UserError, match=r"cannot be read \(no route"):
        fetch.fetch("ceval", tmp_path)


def test_compare_reads_results_and_reports(tmp_path, capsys):
    exam_a = {"answers": {"key": "AB", "text": "AA"}, "scoring": {"text": {}}}
    exam_b = {"answers": {"key": "AB", "text": "AB"}, "scoring": {"text": {}}}
    (tmp_path / "a.json").write_text(json.dumps(exam_a))
    (tmp_path / "b.json").write_text(
        json.dumps({"stage": "sft", "exam": exam_b, "perplexity": None})
    )
    with pytest.raises(SystemExit) as end:
        main(["eval", "compare", *(str(tmp_path / f"{name}.json") for name in "ab")])
    assert end.value.code == 0 and "+50.00" in capsys.readouterr().out
    nats = {"domains": {"zh": {"by_document": {"nats": [1.0, 2.0], "bytes": [3, 6]}}}}
    windows = ({"context": 8, "stride": 4}, {"context": 16, "stride": 8})
    for name, window in zip("de", windows, strict=True):
        (tmp_path / f"{name}.json").write_text(json.dumps(nats | {"window": window}))
    for pair, told in (("de", True), ("dd", False)):
        with pytest.raises(SystemExit) as end:
            main(["eval", "compare", *(str(tmp_path / f"{name}.json") for name in pair)])
        assert end.value.code == 0
        assert ("not through the same window" in capsys.readouterr().out) is told
    (tmp_path / "c.json").write_text("[]")
    with pytest.raises(SystemExit) as end:
        main(["eval", "compare", str(tmp_path / "a.json"), str(tmp_path / "c.json")])
    assert end.value.code == 2 and "is damaged" in capsys.readouterr().err


def test_csv_explanations_are_read(tmp_path):
    (tmp_path / "dev").mkdir()
    with open(tmp_path / "dev" / "law_dev.csv", "w", encoding="utf-8", newline="") as file:
        rows = [
            ["id", "question", *"ABCD", "answer", "explanation"],
            [0, "问？", *"甲乙丙丁", "B", "1. 因为"],
        ]
        csv.writer(file).writerows(rows)
    assert load_exam(tmp_path, "dev")[0].explanation == "1. 因为"
