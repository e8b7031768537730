import math
from functools import partial

import pytest
import torch
from align_world import config, job_of, preference_rows, turn, write

from steel.align import dpo
from steel.align.logprobs import encode_answer, pad_rows, score_answers
from steel.align.stage import run
from steel.config import UserError
from steel.runlog import read_log


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_and_gradient_follow_the_formula_in_fp64(smoothing):
    margin = torch.tensor([-3.0, -0.2, 0.0, 0.7, 40.0], dtype=torch.float64, requires_grad=True)
    beta = 0.3
    loss = dpo.preference_loss(margin, beta, smoothing)
    loss.sum().backward()
    for m, value, slope in zip(margin.tolist(), loss.tolist(), margin.grad.tolist(), strict=True):
        p = 1 / (1 + math.exp(-beta * m))  # probability that the chosen answer wins
        expected = math.log1p(math.exp(-beta * m)) + smoothing * beta * m
        assert value == pytest.approx(expected, rel=1e-12, abs=1e-15)
        assert slope == pytest.approx(beta * (p - (1 - smoothing)), rel=1e-9, abs=1e-15)


def test_equal_answers_or_an_unmoved_policy_cost_exactly_log_2(base):
    _, model, tokenizer = base
    model = type(model)(model.config).double().eval()
    row = encode_answer(tokenizer, [turn("user", "林晓雨住在哪里？")], "云州。")
    other = encode_answer(tokenizer, [turn("user", "林晓雨住在哪里？")], "林晓雨住在白港。")
    loss = partial(dpo.loss, config().dpo)
    same = (pad_rows([row, row]), torch.tensor([1.5, 1.5], dtype=torch.float64))
    assert loss(model, same)[0].item() == pytest.approx(math.log(2), abs=1e-12)
    rows = pad_rows([row, other])
    unmoved = (rows, score_answers(model, rows).logprob.sum(-1).detach())
    total, count, metrics = loss(model, unmoved)
    assert (
        total.item() == pytest.approx(math.log(2), abs=1e-12)
        and count == 1
        and metrics["margin"][0] == 0
    )


def test_the_whole_loss_equals_a_hand_computation_from_full_logits(base):
    """Prompt excluded, last turn only, padding ignored, in fp64."""
    _, model, tokenizer = base
    model = type(model)(model.config).double().eval()
    prompt = [
        turn("user", "林晓雨住在哪里？"),
        turn("assistant", "云州。"),
        turn("user", "陈明呢？"),
    ]
    rows = [encode_answer(tokenizer, prompt, a) for a in ("陈明住在白港。", "云州。")]

    def by_hand(ids, start):
        log_p = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(log_p[t - 1, ids[t]] for t in range(start, len(ids)))

    assert tokenizer.decode(rows[1][0][rows[1][1] :]) == "云州。<|im_end|>"
    reference = torch.tensor([-9.0, -5.0], dtype=torch.float64)
    for normalised, weight in ((False, 0.0), (True, 0.0), (False, 0.7)):
        more = {"length_normalised": normalised, "nll_weight": weight}
        stage = config(dpo={"beta": 0.2, **more}).dpo
        loss, _, metrics = dpo.loss(stage, model, (pad_rows(rows), reference))
        gains = [
            (by_hand(*r) - f) / (len(r[0]) - r[1] if normalised else 1)
            for r, f in zip(rows, reference, strict=True)
        ]
        expected = -torch.nn.functional.logsigmoid(0.2 * (gains[0] - gains[1]))
        chosen = by_hand(*rows[0])
        expected = expected - weight * chosen / (len(rows[0][0]) - rows[0][1])
        assert metrics["logprob_chosen"][0] == pytest.approx(chosen.item())
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
        assert metrics["reward_chosen"][0] == pytest.approx(0.2 * gains[0].item())
        grads = [
            torch.autograd.grad(x, model.model.norm.weight, retain_graph=True)[0]
            for x in (loss, expected)
        ]
        torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-14)


def test_reference_is_computed_once_and_again_when_its_key_changes(base, tmp_path, monkeypatch):
    job = job_of(base, "dpo", preference_rows(9), tmp_path, micro_batch_size=4)
    pairs = dpo.encode_pairs(job)
    first = dpo.reference_logprobs(job, pairs)
    expected = score_answers(base[1], dpo.pair_rows(pairs, [3])).logprob.sum(-1).detach()
    torch.testing.assert_close(first[3], expected, rtol=1e-4, atol=1e-4)
    calls = []
    real = dpo.score_answers
    monkeypatch.setattr(dpo, "score_answers", lambda *a: calls.append(1) or real(*a))
    assert dpo.reference_logprobs(job, pairs).equal(first) and not calls
    job.facts["sha256"] = "other rows"
    dpo.reference_logprobs(job, pairs)
    assert len(calls) == 3
    job.settings.precision = "bf16"
    dpo.reference_logprobs(job, pairs)
    assert len(calls) == 6


def test_the_header_says_how_many_pairs_the_reference_has_right(base, tmp_path):
    """Counted here one by one, some of the rows turned round as well."""
    rows = preference_rows(9)
    turned = [{**r, "chosen": r["rejected"], "rejected": r["chosen"]} for r in rows[:4]]
    rows += turned
    cfg = config(dpo={"steps": 1, "batch_size": 2, "micro_batch_size": 2})
    run("dpo", cfg, base[0], write(tmp_path / "p.jsonl", rows), tmp_path / "run")
    _, model, tokenizer = base
    right = 0
    for row in rows:
        answers = [
            encode_answer(tokenizer, row["messages"], row[k]) for k in ("chosen", "rejected")
        ]
        chosen, rejected = (score_answers(model, pad_rows([a])).logprob.sum() for a in answers)
        right += bool(chosen > rejected)
    (header,) = read_log(tmp_path / "run" / "log.jsonl", "header")
    assert 0 < right < len(rows)
    counted = {k: header["data"][k] for k in ("pairs", "right_before")}
    assert counted == {"pairs": 13, "right_before": round(right / 13, 4)}


def test_dpo_learns_to_prefer(base, tmp_path):
    data = write(tmp_path / "p.jsonl", preference_rows(48))
    cfg = config(
        dpo={
            "epochs": 4.0,
            "batch_size": 16,
            "micro_batch_size": 8,
            "log_every": 1,
            "learning_rate": 3e-3,
            "warmup_steps": 1,
            "beta": 0.5,
            "schedule": "constant",
        }
    )
    run("dpo", cfg, base[0], data, tmp_path / "run")
    steps = read_log(tmp_path / "run" / "log.jsonl", "step")
    assert (
        steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-5) and abs(steps[0]["margin"]) < 1e-5
    )
    assert steps[-1]["loss"] < 0.6 and steps[-1]["accuracy"] > 0.6 and steps[-1]["margin"] > 0.1
    assert steps[-1]["reward_chosen"] > steps[-1]["reward_rejected"]


def test_interrupted_and_resumed_dpo_is_bit_equal_to_unbroken(
    base, tmp_path, resumed_equals_unbroken
):
    data = write(tmp_path / "p.jsonl", preference_rows(20))
    cfg = config(
        dpo={
            "steps": 6,
            "batch_size": 6,
            "micro_batch_size": 4,
            "log_every": 1,
            "learning_rate": 1e-3,
            "warmup_steps": 1,
            "checkpoint_every": 2,
        }
    )
    assert len(resumed_equals_unbroken(lambda to: run("dpo", cfg, base[0], data, to), 3)) == 6


def test_long_pairs_are_counted(base, tmp_path):
    long = {"messages": [turn("user", "问")], "chosen": "长" * 90, "rejected": "短"}
    rows = [long, *preference_rows(4)]
    job = job_of(base, "dpo", rows, tmp_path, sequence_length=64)
    pairs = dpo.encode_pairs(job)
    assert [p.row for p in pairs] == rows[1:] and job.long == {"skipped": 1}
    with pytest.raises(UserError, match="sequence_length"):
        dpo.encode_pairs(job_of(base, "dpo", [long], tmp_path, sequence_length=64))
