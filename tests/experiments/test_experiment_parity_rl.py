"""The rows, the reward and the readings of chapter 16's experiment; what it finds stands in its log."""

import numpy as np
import pytest
import torch

from figures.experiments import parity_rl
from steel.data.batch import IGNORED
from steel.model import build
from steel.model.decoding import CACHE, Completion


def test_a_row_is_bits_and_either_their_running_parities_or_the_last_alone():
    batch = parity_rl.imitation(0.5, seed=1, step=0, n=64)
    forms = {1: 0, parity_rl.D: 0}
    for ids, targets in zip(batch.input_ids, batch.targets, strict=True):
        words = parity_rl.tokenizer().decode(ids).split()
        bits, rest = [int(w) for w in words[: parity_rl.D]], words[parity_rl.D :]
        assert rest[0] == "=" and rest[-1] != "="
        answer = [int(w) for w in rest[1 : rest.index("<|im_end|>")]]
        worked = [sum(bits[: i + 1]) % 2 for i in range(parity_rl.D)]
        assert answer in (worked, worked[-1:])
        forms[len(answer)] += 1
        learned = targets != IGNORED
        assert learned.sum() == len(answer) + 1  # the answer and its end, nothing of the input
        assert targets[learned].equal(ids[1:][learned[:-1]])
    assert min(forms.values()) > 16
    again = parity_rl.imitation(0.5, seed=1, step=0, n=64)
    assert again.input_ids.equal(batch.input_ids)
    assert not parity_rl.imitation(0.5, seed=1, step=1, n=64).input_ids.equal(batch.input_ids)


@pytest.mark.parametrize("penalty", [0.0, 0.4])
def test_the_reward_reads_the_last_bit_and_the_length(penalty):
    bits, paid = np.array([1, 0, 1, 1] + [0] * 12), parity_rl.reward(penalty)
    zero, one, end = parity_rl.ZERO, parity_rl.ZERO + 1, parity_rl.END
    whole = [one, one, zero, *[one] * 13]

    def of(ids, finished=True):
        return paid({"bits": bits}, Completion(ids, finished))

    assert of([one, end]) == (1.0, True) and of([zero, end]) == (0.0, False)
    assert of([*whole, end]) == (pytest.approx(1 - penalty * 15 / 16), True)
    assert of([*whole, one, one], finished=False) == (pytest.approx(-penalty), False)
    assert of([end])[1] is False


class Perfect(torch.nn.Module):
    """Works every chain out, or guesses "0" at once: what a probe has to tell apart."""

    def __init__(self, chain: bool):
        super().__init__()
        self.weight, self.chain = torch.nn.Parameter(torch.zeros(())), chain

    def forward(self, input_ids, **kwargs):
        fed, d = [], parity_rl.D
        before = kwargs.get(CACHE)
        self.seen = input_ids if before is None else torch.cat([before, input_ids], dim=1)
        for row in self.seen.tolist():
            bits, said = [t - parity_rl.ZERO for t in row[:d]], len(row) - d - 1
            right = [parity_rl.ZERO + sum(bits[: i + 1]) % 2 for i in range(d)]
            ways = [*(right if self.chain else [parity_rl.ZERO]), *[parity_rl.END] * d]
            fed.append([ways[max(0, k)] for k in range(said - input_ids.shape[1] + 1, said + 1)])
        logits = torch.nn.functional.one_hot(torch.tensor(fed), 8).float() * 50
        return type("Out", (), {"logits": logits, CACHE: self.seen})


def test_a_probe_tells_a_chain_from_a_guess(monkeypatch):
    monkeypatch.setattr(parity_rl, "PROBES", 64)
    chain, guess = parity_rl.probe(Perfect(True)), parity_rl.probe(Perfect(False))
    assert chain["greedy_accuracy"] == chain["drawn_accuracy"] == chain["chain"] == 1
    assert chain["greedy_length"] == 17 and chain["drawn_long"] == 1
    assert 0.25 < guess["greedy_accuracy"] < 0.75 and guess["greedy_length"] == 2
    assert guess["chain"] == 0 and guess["drawn_long_right"] is None


def test_both_stages_run_and_their_logs_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(parity_rl, "PROBES", 16)
    cfg = parity_rl.settings(1, kl_beta=0.1, kl_in="reward")
    assert sum(p.numel() for p in build(cfg.model).parameters()) == 108_224
    cfg.train.steps, cfg.grpo.steps, cfg.grpo.eval_every = 2, 2, 1
    base = parity_rl.imitate(cfg, 0.25, tmp_path / "base")
    found = parity_rl.reinforce(cfg, base, tmp_path / "rl")
    assert [at["step"] for at in found["curve"]] == [0, 1, 2] and len(found["train"]) == 2
    assert {"reward", "zero_variance", "kl"} <= found["train"][0].keys()
