import pytest
import torch
from align_world import awake, rl_rows

from steel.align.logprobs import pad_rows, score_answers
from steel.align.sampling import choose, filter_top_p, sample, uniforms
from steel.tokenizer.chat import encode_chat


def prompts_of(tokenizer, n=6):
    texts = ["？", "住在哪里？", "请问住在哪里？请告诉我。"]
    rows = [
        [{**r["messages"][0], "content": r["messages"][0]["content"] + texts[i % 3]}]
        for i, r in enumerate(rl_rows(n))
    ]
    return [encode_chat(tokenizer, m, add_generation_prompt=True)[0] for m in rows]


@pytest.mark.parametrize("feed_forward", ["dense", "causal_soft_moe", "top_k_moe"])
def test_greedy_in_a_mixed_batch_equals_each_prompt_alone_through_generate(base, feed_forward):
    model, prompts = awake(feed_forward), prompts_of(base[2])
    assert len({len(p) for p in prompts}) > 1
    stops = [0, 2, *range(3, 40)]  # many, so that some rows end early
    for completion, prompt in zip(
        sample(model, prompts, stop_ids=stops, max_new_tokens=9), prompts, strict=True
    ):
        alone = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=9,
            do_sample=False,
            eos_token_id=stops,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        assert completion.ids == alone
        assert completion.finished == (alone[-1] in stops) and not any(
            i in stops for i in alone[:-1]
        )


def test_sampling_is_a_pure_function_of_weights_and_seed_and_rows_do_not_touch(base):
    _, model, tokenizer = base
    prompts, u = prompts_of(tokenizer), uniforms(6, 8, 5, 3)
    first = sample(model, prompts, stop_ids=[2], max_new_tokens=8, u_RN=u)
    assert first == sample(model, prompts, stop_ids=[2], max_new_tokens=8, u_RN=u)
    assert first[2:4] == sample(model, prompts[2:4], stop_ids=[2], max_new_tokens=8, u_RN=u[2:4])
    assert first != sample(
        model, prompts, stop_ids=[2], max_new_tokens=8, u_RN=uniforms(6, 8, 5, 4)
    )
    assert model.training is False


def test_inverse_transform_draws_the_softmax_distribution():
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0, -30.0])
    u = torch.linspace(0, 1, 100_001)[:-1]
    drawn = choose(logits.expand(len(u), -1), u, temperature=1.3, top_p=1.0)
    share = torch.bincount(drawn, minlength=5) / len(u)
    torch.testing.assert_close(share, (logits / 1.3).softmax(-1), rtol=0, atol=2e-5)
    assert (
        choose(logits[None], torch.tensor([1.0]), 1.0, 1.0).item() == 0
    )  # u = 1 can come from rounding: the likeliest
    assert choose(logits[None], u[:1], 0.0, 1.0).item() == 0


def test_top_p_keeps_the_fewest_tokens_that_reach_the_mass():
    p = torch.tensor([[0.1, 0.5, 0.15, 0.25]])
    assert filter_top_p(p, 0.5).tolist() == [[0, 0.5, 0, 0]]
    assert torch.equal(filter_top_p(p, 0.7) > 0, torch.tensor([[False, True, False, True]]))
    assert filter_top_p(p, 1.0) is p


@pytest.mark.parametrize("feed_forward", ["dense", "causal_soft_moe"])
def test_scores_of_sampled_answers_equal_unpadded_full_forwards(base, feed_forward):
    model, tokenizer = awake(feed_forward), base[2]
    prompts = prompts_of(tokenizer)
    done = sample(model, prompts, stop_ids=[2], max_new_tokens=5, u_RN=uniforms(6, 5, 1))
    rows = pad_rows([(p + c.ids, len(p)) for p, c in zip(prompts, done, strict=True)])
    scores = score_answers(model, rows, temperature=0.7, with_entropy=True)
    for r, (p, c) in enumerate(zip(prompts, done, strict=True)):
        log_p = (model(torch.tensor([p + c.ids])).logits[0] / 0.7).log_softmax(-1)[len(p) - 1 : -1]
        expected = log_p.gather(1, torch.tensor(c.ids)[:, None])[:, 0]
        torch.testing.assert_close(
            scores.logprob[r][scores.answer[r]], expected, rtol=1e-9, atol=1e-12
        )
        entropy = -(log_p.exp() * log_p).sum(-1)
        torch.testing.assert_close(
            scores.entropy[r][scores.answer[r]], entropy, rtol=1e-9, atol=1e-12
        )
    assert scores.logprob[~scores.answer].abs().sum() == 0


def test_an_empty_batch_is_a_bug_not_a_user_error(base):
    with pytest.raises(AssertionError):
        sample(base[1], [[]], stop_ids=[2], max_new_tokens=1)
