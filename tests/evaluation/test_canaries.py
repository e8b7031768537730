"""Canaries with known truth: planted ones are told from the others, and no model tells nothing."""

import random

import pytest
import torch
from known_models import Bigram

from figures.experiments.canaries import auroc, canaries, exposure
from steel.documents import Document
from steel.evaluation.contamination import contamination
from steel.evaluation.questions import Question
from steel.tokenizer.bpe import encode_text


def counted(tok, texts: list[str]) -> Bigram:
    """The bigram model of some texts, with a thousandth of a count everywhere."""
    table = torch.full((len(tok), len(tok)), 1e-3)
    for text in texts:
        ids = encode_text(tok, text)
        for left, right in zip(ids, ids[1:]):
            table[left, right] += 1
    return Bigram(table.log())


def test_what_was_planted_is_exposed_and_nothing_else(tok):
    asked = canaries([4] * 10 + [0] * 10, controls=31)
    found = exposure(counted(tok, [c.text for c in asked for _ in range(c.times)]), tok, asked)
    assert found["auroc"] > 0.85 and found["most"] == 5.0
    assert 0.2 < found["blind"] < 0.8
    nothing = exposure(Bigram(torch.zeros(len(tok), len(tok))), tok, asked)
    assert nothing["auroc"] == pytest.approx(nothing["blind"])  # all that differs is the length


def test_auroc():
    assert auroc([3, 2, 1], [True, False, False]) == 1.0
    assert auroc([1, 1], [True, False]) == 0.5 and auroc([1], [True]) is None
    rng = random.Random(0)
    values, marks = zip(*((rng.random(), rng.random() < 0.5) for _ in range(2000)))
    assert auroc(values, marks) == pytest.approx(0.5, abs=0.04)


def test_contamination_finds_the_planted_and_only_them():
    asked = canaries([1] * 6 + [0] * 6)
    questions = [Question("canary", str(i), c.text, ("是", "否"), "A") for i, c in enumerate(asked)]
    filler = "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。"
    texts = [filler + c.text + filler if c.times else filler + c.controls[0] for c in asked]
    documents = [Document(str(i), text, "test") for i, text in enumerate(texts)]
    found = contamination(documents, questions, length=17)
    accused = {row["id"] for row in found["rows"] if row["found"]}
    assert accused == {str(i) for i in range(6)}
