import math

import pytest
import torch
from align_world import config, job_of, preference_rows, turn, write

from steel.align import dpo, reward
from steel.align.stage import run
from steel.config import UserError
from steel.runlog import read_log


def test_bradley_terry_loss_and_the_place_it_reads(base, tmp_path):
    _, lm, tokenizer = base
    model = reward.RewardModel(lm).eval()
    pairs = dpo.encode_pairs(job_of(base, "reward", preference_rows(3), tmp_path))
    rows = dpo.pair_rows(pairs, [0, 1, 2])
    total, count, metrics = reward.loss(model, rows)
    assert (
        total.item() == pytest.approx(3 * math.log(2), rel=1e-6)
        and count == 3
        and metrics["margin"][0] == 0
    )
    torch.nn.init.normal_(model.head.weight)
    ids, _ = pairs[1].chosen
    hidden = lm.model(input_ids=torch.tensor([ids]))[0][
        0, -1
    ]  # the answer's <|im_end|>, whatever the padding
    torch.testing.assert_close(model(rows)[1], hidden @ model.head.weight[0])
    chosen, rejected = model(rows).chunk(2)
    expected = torch.log1p(torch.exp(-(chosen - rejected))).sum()
    torch.testing.assert_close(reward.loss(model, rows)[0], expected)


def test_pairs_of_one_prompt_stay_on_one_side():
    rows = preference_rows(60)
    training, held = reward.hold_out(rows, 0.2, seed=1)
    assert sorted(training + held) == list(range(60)) and len(held) >= 12
    prompts = [repr(r["messages"]) for r in rows]
    assert not {prompts[i] for i in training} & {prompts[i] for i in held}
    assert reward.hold_out(rows, 0.0, seed=1) == (list(range(60)), [])
    assert reward.hold_out(rows[:1], 0.1, seed=1) == ([0], []), "something is left to train on"


def test_it_learns_is_judged_on_pairs_it_never_saw_and_survives_a_round_trip(base, tmp_path):
    rows = preference_rows(64)
    for row in rows:  # a rule that transfers to new people: rambling loses
        row["rejected"] = row["chosen"] * 2
    data = write(tmp_path / "p.jsonl", rows)
    cfg = config(
        reward={
            "epochs": 6.0,
            "batch_size": 16,
            "micro_batch_size": 8,
            "log_every": 1,
            "holdout": 0.25,
            "learning_rate": 3e-3,
            "warmup_steps": 1,
            "schedule": "constant",
        }
    )
    folder = run("reward", cfg, base[0], data, tmp_path / "run")
    scores = [r["held_out_accuracy"] for r in read_log(tmp_path / "run" / "log.jsonl", "eval")]
    assert scores[0] == 0.5 and scores[-1] > 0.9
    model, tokenizer = reward.RewardModel.from_pretrained(folder)
    good, bad = model.score(
        tokenizer, rows[0]["messages"], [rows[0]["chosen"], rows[0]["rejected"]]
    )
    assert good > bad
    with pytest.raises(UserError, match="no reward model"):
        reward.RewardModel.from_pretrained(base[0])


def test_a_long_pair_is_counted_and_the_others_train(base, tmp_path):
    long = {"messages": [turn("user", "问")], "chosen": "长" * 90, "rejected": "短"}
    rows = preference_rows(12)
    data = write(tmp_path / "p.jsonl", [rows[0], long, *rows[1:]])
    fields = {"steps": 1, "batch_size": 4, "sequence_length": 64, "holdout": 0.25}
    run("reward", config(reward=fields), base[0], data, tmp_path / "run")
    counted = read_log(tmp_path / "run" / "log.jsonl")[0]["data"]
    assert counted["long"] == {"skipped": 1} and counted["pairs"] + counted["held_out"] == 12
