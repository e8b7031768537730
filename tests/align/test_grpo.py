import copy
from collections import Counter
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from align_world import config, job_of, rl_rows, turn, write

from steel.align import grpo
from steel.align.logprobs import AnswerRows, pad_rows, score_answers
from steel.align.stage import run
from steel.config import UserError, load
from steel.model.decoding import Completion
from steel.runlog import read_log
from steel.train import loop
from steel.train.parallel import World


def test_advantages_are_centred_scaled_and_zero_without_variance():
    reward = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1], [0.1, 1.1, 0.1, 1.1]], dtype=torch.float64)
    scaled = grpo.advantages(reward)
    torch.testing.assert_close(
        scaled[0], torch.tensor([1.5, -0.5, -0.5, -0.5], dtype=torch.float64), rtol=1e-3, atol=0
    )
    assert scaled[1].abs().max() == 0
    each = torch.full((4,), 0.75**0.5, dtype=torch.float64)
    torch.testing.assert_close(scaled[2].abs(), each, rtol=1e-3, atol=0)
    assert scaled.mean(-1).abs().max() < 1e-12
    torch.testing.assert_close(grpo.advantages(reward, "none")[0], reward[0] - 0.25)
    torch.testing.assert_close(
        grpo.advantages(reward, 0.5)[0], 2 * (reward[0] - 0.25), rtol=1e-3, atol=0
    )


def test_the_clip_stops_the_gradient_only_where_the_step_has_already_been_taken():
    ratio = torch.tensor([0.5, 0.9, 1.1, 1.5], dtype=torch.float64)
    for advantage, live, value in (
        (1.0, [1, 1, 1, 0], [0.5, 0.9, 1.1, 1.3]),
        (-1.0, [0, 1, 1, 1], [0.8, 0.9, 1.1, 1.5]),
    ):
        logprob = ratio.log().requires_grad_()
        loss, clipped = grpo.policy_loss(
            logprob, torch.zeros(4, dtype=torch.float64), torch.tensor(advantage), 0.2, 0.3
        )
        loss.sum().backward()
        torch.testing.assert_close(
            loss.detach(), -advantage * torch.tensor(value, dtype=torch.float64)
        )
        torch.testing.assert_close(
            logprob.grad, -advantage * ratio * torch.tensor(live, dtype=torch.float64)
        )
        assert clipped.tolist() == [not x for x in live]


def test_low_variance_kl_is_never_negative_and_is_zero_at_the_reference():
    difference = torch.linspace(-3, 3, 13, dtype=torch.float64)
    kl = grpo.low_variance_kl(-difference, torch.zeros(13, dtype=torch.float64))
    assert (kl >= 0).all() and kl[6] == 0
    p, q = torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.3, 0.3, 0.4]).log()
    torch.testing.assert_close(
        (p.exp() * grpo.low_variance_kl(p, q)).sum(), (p.exp() * (p - q)).sum()
    )


class Bandit(torch.nn.Module):
    """Four arms; the 'completion' is one token, the arm."""

    def __init__(self):
        super().__init__()
        self.theta = torch.nn.Parameter(torch.zeros(4))

    def forward(self, input_ids, logits_to_keep, use_cache):
        return type(
            "Out", (), {"logits": self.theta.expand(*input_ids.shape, 4)[:, -logits_to_keep:]}
        )


def play(stage, steps, payoff, updates=1):
    policy, loss = Bandit(), partial(grpo.loss, stage)
    optimizer, generator = (
        torch.optim.SGD(policy.parameters(), lr=1.0),
        torch.Generator().manual_seed(0),
    )
    clipped = 0.0
    for _ in range(steps):
        arm_PG = torch.multinomial(
            policy.theta.softmax(0).detach(), 32, True, generator=generator
        ).view(4, 8)
        advantage = grpo.advantages(payoff[arm_PG], stage.scale_rewards).flatten()
        ids = torch.stack((torch.zeros(32, dtype=torch.int64), arm_PG.flatten()), dim=1)
        rows = AnswerRows(ids, torch.tensor([[False, True]]).expand(32, 2), first=1, answers=32)
        old = policy.theta.log_softmax(0).detach()[arm_PG.flatten()][:, None]
        reference = torch.full((32, 1), 0.25).log() if stage.kl_beta else None
        for _ in range(updates):
            total, count, metrics = loss(policy, grpo.Rollout(rows, advantage, old, reference))
            optimizer.zero_grad()
            (total / count).backward()
            optimizer.step()
            clipped += metrics["clipped"][0]
    return policy.theta.softmax(0).detach(), clipped, metrics


def test_a_bandit_learns_its_best_arm():
    payoff = torch.tensor([0.0, 0.1, 1.0, 0.3])
    chances, clipped, _ = play(config().grpo, 40, payoff)
    assert chances.argmax() == 2 and chances[2] > 0.9
    assert clipped == 0  # one update per rollout: the ratio is 1


def test_several_updates_on_a_rollout_meet_the_clip_and_kl_holds_the_policy_back():
    payoff = torch.tensor([0.0, 0.1, 1.0, 0.3])
    chances, clipped, _ = play(config(grpo={"updates_per_rollout": 6}).grpo, 12, payoff, updates=6)
    assert chances.argmax() == 2 and clipped > 0
    held, _, metrics = play(config(grpo={"kl_beta": 1.0, "scale_rewards": "none"}).grpo, 60, payoff)
    free, _, _ = play(config(grpo={"scale_rewards": "none"}).grpo, 60, payoff)
    assert 0.3 < held[2] < free[2] and metrics["kl"][0] > 0


def roller_of(base, tmp_path, rows, world=None, **fields):
    sizes = {"batch_size": 4, "micro_batch_size": 2, "group_size": 4, "max_new_tokens": 5}
    job = job_of(base, "grpo", rows, tmp_path, world, **{**sizes, **fields})
    return grpo.Roller(job, grpo.encode_prompts(job))


def test_reward_reads_the_response_only_and_pays_nothing_for_silence(base, tmp_path):
    roller, tokenizer = roller_of(base, tmp_path, rl_rows(4)), base[2]
    question = {
        "messages": [turn("user", "云州 A. 云州")],
        "answer": "云州",
        "options": ["云州", "白港"],
        "kind": "mcq",
    }

    def paid(text, finished=True, row=question):
        return roller.reward(
            row, Completion(tokenizer.encode(text) + ([2] if finished else []), finished)
        )

    assert paid("") == (0.0, False) and paid("", row={**question, "options": []}) == (0.0, False)
    assert paid("云州") == (1.1, True) and paid("A") == (1.1, True) and paid("白港") == (0.1, False)
    assert paid("云州", finished=False) == (1.0, True) and paid("不知道") == (0.0, False)


def test_groups_without_variance_are_counted_and_left_out(base, tmp_path, monkeypatch):
    roller = roller_of(base, tmp_path, rl_rows(4))
    lucky = iter([1.0, 0, 0, 0] + [0.0] * 4 + [1.0] * 4 + [0.0] * 4)
    monkeypatch.setattr(roller, "reward", lambda row, completion: ((r := next(lucky)), r == 1.0))
    mixed, flat = roller.collect(0)
    assert (
        len(mixed.advantage) == 4
        and mixed.metrics["zero_variance"] == (1.0, 2)
        and mixed.metrics["reward"] == (1.0, 8)
    )
    assert flat.metrics["zero_variance"] == (2.0, 2) and flat.metrics["accuracy"] == (4.0, 8)
    loss, count, _ = grpo.loss(roller.settings, base[1], flat)
    assert (
        count == 0 and loss.item() == 0 and loss.requires_grad
    )  # the pass still runs: all ranks keep step


def test_what_a_prompt_draws_does_not_depend_on_the_number_of_ranks(base, tmp_path, monkeypatch):
    monkeypatch.setattr(World, "any", lambda self, flag: flag)
    alone = roller_of(base, tmp_path, rl_rows(9), micro_batch_size=4, format_reward=0.0)
    ranks = [
        roller_of(base, tmp_path, rl_rows(9), World(r, 2), micro_batch_size=4, format_reward=0.0)
        for r in (0, 1)
    ]
    seen = []
    for roller in (alone, *ranks):
        drawn = []
        monkeypatch.setattr(
            roller,
            "reward",
            lambda row, c, drawn=drawn: (drawn.append((row["answer"], c.ids)), (0.0, False))[1],
        )
        roller.collect(3)
        seen.append(drawn)
    merged = [x for p in range(2) for part in seen[1:] for x in part[4 * p : 4 * p + 4]]
    assert merged == seen[0]


def test_rollouts_leave_the_compiled_blocks_to_training(base, tmp_path, monkeypatch):
    """Sampling meets a new length at every token; compiled, it would fill the cache of graphs."""
    executed = Counter()

    def backend(graph, _):
        def run_counting(*inputs):
            executed["now"] += 1
            return graph.forward(*inputs)

        return run_counting

    def counting(owner, name):
        whole = getattr(owner, name)

        def call(*inputs):
            before = executed["now"]
            result = whole(*inputs)
            executed[name] += executed["now"] - before
            return result

        monkeypatch.setattr(owner, name, call)

    plain = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda m: plain(m, backend=backend))
    counting(grpo.Roller, "collect")
    counting(loop, "train_step")
    torch._dynamo.reset()
    sizes = {"batch_size": 4, "micro_batch_size": 2, "group_size": 4, "max_new_tokens": 5}
    cfg = config(grpo={"steps": 3, "compile": True, **sizes})
    run("grpo", cfg, base[0], write(tmp_path / "rl.jsonl", SEVENS), tmp_path / "run")
    assert executed["collect"] == 0 and executed["train_step"] == 3 * 2 * 2  # micros, layers


@pytest.mark.parametrize("kl_in", ["loss", "weighted_loss"])
def test_only_the_weighted_loss_has_the_gradient_of_the_kl(kl_in):
    """Averaged over every arm with its own probability; the policy term has no advantage here."""
    policy, arms = Bandit().double(), torch.arange(4)
    with torch.no_grad():
        policy.theta.copy_(torch.tensor([0.9, -0.4, 0.1, -1.2]))
    reference = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).log()
    settings, expected = config(grpo={"kl_beta": 1.0, "kl_in": kl_in}).grpo, 0.0
    chances = policy.theta.softmax(0).detach()
    for arm in arms:
        row = AnswerRows(torch.tensor([[0, int(arm)]]), torch.tensor([[False, True]]), 1, 1)
        micro = grpo.Rollout(row, torch.zeros(1), None, reference[arm].view(1, 1))
        expected = expected + chances[arm] * grpo.loss(settings, policy, micro)[0]
    log_p = policy.theta.log_softmax(0)
    kl = (log_p.exp() * (log_p - reference)).sum()
    assert expected.item() == pytest.approx(kl.item())
    true, seen = (torch.autograd.grad(x, policy.theta)[0] for x in (kl, expected))
    assert torch.allclose(true, seen, rtol=1e-6) == (kl_in == "weighted_loss")


def judged_by(rewards):
    """A reward that pays these numbers in turn."""
    left = iter(rewards)
    return lambda row, completion: ((r := next(left)), r == 1.0)


def test_a_batch_scale_is_the_deviation_of_all_rewards_of_the_step(base, tmp_path, monkeypatch):
    roller = roller_of(base, tmp_path, rl_rows(4), scale_rewards="batch")
    paid = [1.0, 0, 0, 0] + [1.0, 1, 0, 0] + [0.0] * 4 + [1.0] * 4
    monkeypatch.setattr(roller, "reward", judged_by(paid))
    first, second = roller.collect(0)
    scale = torch.tensor(paid).std() + 1e-4
    expected = torch.tensor([0.75, -0.25, -0.25, -0.25, 0.5, 0.5, -0.5, -0.5]) / scale
    torch.testing.assert_close(first.advantage, expected)
    assert second.metrics["zero_variance"] == (2.0, 2) and second.metrics["pass_at_k"] == (1.0, 2)


def test_kl_in_the_reward_is_k1_of_the_answer_and_leaves_the_loss_alone(base, tmp_path):
    folder, model, tokenizer = base
    moved, paid = copy.deepcopy(model), [1.0, 0, 0, 0] * 2
    with torch.no_grad():
        moved.model.norm.weight.mul_(1.5)
    fields = {"kl_beta": 0.3, "kl_in": "reward", "scale_rewards": "none", "temperature": 0.7}
    job = job_of(
        (folder, moved, tokenizer),
        "grpo",
        rl_rows(2),
        tmp_path,
        batch_size=2,
        micro_batch_size=2,
        group_size=4,
        max_new_tokens=5,
        **fields,
    )
    roller = grpo.Roller(job, grpo.encode_prompts(job), model, judged_by(paid))
    (micro,) = roller.collect(0)
    now, before = (score_answers(m, micro.rows, 0.7).logprob for m in (moved, model))
    rewards = torch.tensor(paid) - 0.3 * (now - before).sum(-1).detach()
    torch.testing.assert_close(
        micro.advantage, grpo.advantages(rewards.view(2, 4), "none").flatten()
    )
    assert micro.reference is None and len(micro.advantage) == 8
    k1, tokens = micro.metrics["kl"]
    assert (
        k1 == pytest.approx(float((now - before).sum().detach()), rel=1e-4)
        and tokens == micro.rows.answers
    )


@pytest.mark.parametrize("normalise", ["tokens", "sequences", "constant"])
def test_normalisation_is_a_mean_of_tokens_of_answers_or_a_sum_over_a_constant(base, normalise):
    _, model, _ = base
    rows = pad_rows([([5, 6, 7], 1), ([5, 6, 7, 8, 9], 2)])
    advantage = torch.tensor([1.0, -0.5])
    settings = config(grpo={"normalise": normalise, "max_new_tokens": 9}).grpo
    total, count, _ = grpo.loss(settings, model, grpo.Rollout(rows, advantage, sampled=6))
    # at the sampling weights every ratio is 1, so a token's loss is minus its advantage
    by_hand = {"tokens": (-0.5, 5), "sequences": (-0.5, 2), "constant": (-0.5, 54)}[normalise]
    assert (total.item(), count) == (pytest.approx(by_hand[0], abs=1e-6), by_hand[1])


SEVENS = [
    {"messages": [turn("user", q)], "answer": "7", "options": [], "kind": "sum", "lang": "zh"}
    for q in "甲乙丙丁戊己庚辛"
]


def test_grpo_teaches_an_untrained_model_the_answer(base, tmp_path):
    data = write(tmp_path / "rl.jsonl", SEVENS)
    cfg = config(
        grpo={
            "steps": 20,
            "batch_size": 4,
            "micro_batch_size": 4,
            "group_size": 16,
            "max_new_tokens": 6,
            "log_every": 1,
            "learning_rate": 1e-2,
            "warmup_steps": 1,
            "schedule": "constant",
            "format_reward": 0.0,
        }
    )
    run("grpo", cfg, base[0], data, tmp_path / "run")
    steps = read_log(tmp_path / "run" / "log.jsonl", "step")
    assert steps[0]["accuracy"] < 0.15 and sum(s["accuracy"] for s in steps[-3:]) / 3 > 0.3
    assert {"reward", "entropy", "length", "zero_variance", "finished", "clipped"} <= steps[
        0
    ].keys()


@pytest.mark.parametrize(("updates", "kl_beta", "crash"), [(1, 0.0, 3), (2, 0.05, 3)])
def test_interrupted_and_resumed_grpo_is_bit_equal_to_unbroken(
    base, tmp_path, resumed_equals_unbroken, updates, kl_beta, crash
):
    """A kill between two updates on one rollout goes back to the checkpoint before both of them."""
    data = write(tmp_path / "rl.jsonl", SEVENS)
    cfg = config(
        grpo={
            "steps": 6,
            "batch_size": 4,
            "micro_batch_size": 2,
            "group_size": 8,
            "max_new_tokens": 6,
            "log_every": 1,
            "learning_rate": 5e-3,
            "warmup_steps": 1,
            "checkpoint_every": 2,
            "updates_per_rollout": updates,
            "kl_beta": kl_beta,
            "schedule": "constant",
        }
    )
    curve = resumed_equals_unbroken(lambda to: run("grpo", cfg, base[0], data, to), crash)
    assert len(curve) == 6 and ("kl" in curve[0]) == (kl_beta > 0)
    assert any(r["grad_norm"] > 0 for r in curve)


def test_in_bf16_the_first_step_stands_at_no_distance_from_the_reference(base, tmp_path):
    data, sizes = write(tmp_path / "rl.jsonl", SEVENS), {"batch_size": 4, "group_size": 8}
    more = {"steps": 1, "max_new_tokens": 6, "kl_beta": 0.1, "precision": "bf16"}
    run("grpo", config(grpo=sizes | more), base[0], data, tmp_path / "run")
    [step] = read_log(tmp_path / "run" / "log.jsonl", "step")
    assert step["kl"] == 0 and step["zero_variance"] < 1


def test_a_stop_between_two_updates_waits_for_the_end_of_the_rollout(base, tmp_path, monkeypatch):
    """The rollout is not on disk, so a checkpoint between its updates could not go on exactly."""
    data, out = write(tmp_path / "rl.jsonl", SEVENS), tmp_path / "run"
    sizes = {"batch_size": 4, "micro_batch_size": 2, "group_size": 2, "max_new_tokens": 2}
    cfg = config(grpo={"steps": 6, "updates_per_rollout": 3, "checkpoint_every": 0, **sizes})
    monkeypatch.setattr(loop, "stop_signals", lambda: nullcontext(["SIGTERM"]))
    with pytest.raises(SystemExit):
        run("grpo", cfg, base[0], data, out)
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["step-00000003"]


def test_settings_without_meaning_are_refused(base, tmp_path):
    with pytest.raises(UserError, match="group_size.* at least 2"):
        load("smoke", ["grpo.group_size=1"])
    between = {"updates_per_rollout": 2, "checkpoint_every": 5}
    for bad, words in ((between, "every=5 .* use 4"), ({"max_prompt_tokens": 3}, "prompt_tokens")):
        with pytest.raises(UserError, match=words):
            grpo.stage(job_of(base, "grpo", SEVENS, tmp_path, **bad))
