"""The pairs of chapter 15's toy: what they say they are, and a base that prefers what it is told to."""

import numpy as np
import torch

from figures.experiments import parity_dpo, parity_rl
from steel.align.logprobs import pad_rows
from steel.model.build import build


def bits_of(row):
    return np.array(row[0][: parity_rl.D]) - parity_rl.ZERO


def answer_of(row):
    return row[0][row[1] :]


def test_a_written_pair_is_a_worked_answer_and_a_spoilt_one():
    for how in parity_dpo.SPOILT:
        for chosen, rejected, about in parity_dpo.written(how, 20, 1, 2):
            running = [parity_rl.ZERO + int(b) for b in np.cumsum(bits_of(chosen)) % 2]
            assert answer_of(chosen) == [*running, parity_rl.END] and about == {"kind": how}
            assert (bits_of(chosen) == bits_of(rejected)).all()
            assert answer_of(rejected) != answer_of(chosen)
            assert answer_of(rejected)[-1] == parity_rl.END


def test_own_pairs_are_a_right_and_a_wrong_answer_to_the_same_bits():
    model = build(parity_rl.settings(1).model, seed=1).eval()
    pairs = parity_dpo.own(model, 64, 1, 3)
    for chosen, rejected, _ in pairs:
        parity = parity_rl.ZERO + bits_of(chosen).sum() % 2
        assert (bits_of(chosen) == bits_of(rejected)).all()
        assert answer_of(chosen)[-2] == parity
        said = answer_of(rejected)[:-1]
        assert not said or said[-1] != parity
    rows = pad_rows([pair.chosen for pair in parity_dpo.written("rambles on", 5, 4)])
    assert torch.isfinite(parity_dpo.logprobs(model, parity_dpo.written("rambles on", 5, 4))).all()
    assert rows.answers == 5 * (parity_rl.D + 1)
