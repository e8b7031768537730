"""Bytes of a step: what chapter 09's figures and exercise 09.5 read of `figures.experiments.step_bytes`."""

import pytest

from figures.experiments.step_bytes import REREAD, pieces, step_ms
from steel.config import load


def test_the_loss_line_by_line_counts_what_log_softmax_reads_again():
    model = load("steel-1b-causal").model
    casts, operators = (
        6 + 6,
        8 + 4 + 12,
    )  # per logit; log-softmax, nll backward, log-softmax backward
    by_line = pieces(model)["loss"][0] / model.vocab_size
    assert by_line == pytest.approx(casts + operators + REREAD, rel=1e-3)
    small = load("cpu").model  # a row of its logits is kept
    by_line = pieces(small)["loss"][0] / small.vocab_size
    assert by_line == pytest.approx(casts + operators, rel=1e-1)


def test_a_step_of_one_micro_batch_pays_for_its_update_alone():
    model = load("steel-1b-causal").model
    shared, alone = step_ms(model), step_ms(model, accumulation=1)
    assert alone["update"] == pytest.approx(8 * shared["update"])
    assert sum(alone.values()) > sum(shared.values()) and alone["head"] == shared["head"]
