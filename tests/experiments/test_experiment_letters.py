"""Chapter 17's toy: what it trains on, and an exam whose right marks are known."""

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import CausalLMOutput

from figures.experiments import letters as toy
from steel.data.batch import IGNORED


@pytest.mark.parametrize("arm", toy.ARMS)
def test_no_question_names_the_people_of_the_exam_and_every_letter_is_that_of_its_place(arm):
    home = toy.homes(1)
    for step in range(5):
        batch = toy.rows(toy.ARMS[arm], 1, step)
        for ids, targets in zip(batch.input_ids.tolist(), batch.targets.tolist(), strict=True):
            if toy.ASK in ids:
                assert ids[0] - toy.NAME < toy.PEOPLE // 2
            if ids[1] == toy.LIVES:
                assert ids[2] - toy.PLACE == home[ids[0] - toy.NAME]
            for at, target in enumerate(targets):
                assert target in (IGNORED, *ids[at + 1 : at + 2])
                if toy.LETTER <= target < toy.NAME and ids[at] >= toy.PLACE:  # place, then letter
                    first = ids.index(ids[at])
                    assert target in (ids[first + 1], ids[first - 1])


class Resident(torch.nn.Module):
    """Knows every home and can find a letter behind a place; says place and letter, or the letter at once."""

    def __init__(self, at_once: bool):
        super().__init__()
        self.one, self.at_once, self.home = (
            torch.nn.Parameter(torch.zeros(1)),
            at_once,
            toy.homes(1),
        )
        self.config = type(
            "Config", (), {"max_position_embeddings": 64, "vocab_size": toy.VOCABULARY}
        )()

    def next(self, ids: list[int]) -> int:
        place = toy.PLACE + int(self.home[ids[0] - toy.NAME])
        if ids[-1] >= toy.PLACE and toy.ANSWER in ids:
            return ids[ids.index(ids[-1]) + 1]
        if ids[-1] == toy.ANSWER and self.at_once:
            return ids[ids.index(place) + 1]
        return place if ids[-1] in (toy.ANSWER, toy.LIVES) else toy.END

    def forward(self, input_ids, **_):
        rows = [[self.next(row[: i + 1]) for i in range(len(row))] for row in input_ids.tolist()]
        logits = torch.nn.functional.one_hot(torch.tensor(rows), toy.VOCABULARY) * 20.0
        return CausalLMOutput(logits=logits)


def test_the_exam_marks_who_knows_and_binds_and_the_letter_apart(monkeypatch):
    def said(model, prompts, room, stop):
        replies = []
        for ids in prompts:
            ids, start = list(ids), len(ids)
            while len(ids) < start + room and (token := model.next(ids)) not in stop:
                ids.append(token)
            replies.append(ids[start:])
        return replies

    monkeypatch.setattr(toy, "greedy", said)
    whole = toy.exam(Resident(False), "drill and questions", 1, papers=4)
    assert (whole["text"], whole["bind"], whole["written"]) == (1.0, 1.0, 1.0)
    assert whole["letter"] < 0.5  # it never says a letter first: what is left is the order of ties
    quick = toy.exam(Resident(True), "drill and letters", 1, papers=4, people=range(8))
    assert quick["letter"] == 1.0 and "written" not in quick


def test_options_hold_the_place_once_and_four_different_ones():
    rng = np.random.default_rng(0)
    for place in range(toy.PLACES):
        drawn = toy.options(rng, place).tolist()
        assert drawn.count(place) == 1 and len(set(drawn)) == toy.OPTIONS
