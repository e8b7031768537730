import pytest
import torch
from align_world import awake, rl_rows

from steel.align.logprobs import pad_rows, score_answers
from steel.model.decoding import Sampling, generate, uniforms
from steel.tokenizer.chat import encode_chat


def prompts_of(tokenizer, n=6):
    texts = ["？", "住在哪里？", "请问住在哪里？请告诉我。"]
    rows = [
        [{**r["messages"][0], "content": r["messages"][0]["content"] + texts[i % 3]}]
        for i, r in enumerate(rl_rows(n))
    ]
    return [encode_chat(tokenizer, m, add_generation_prompt=True)[0] for m in rows]


@pytest.mark.parametrize("feed_forward", ["dense", "causal_soft_moe"])
def test_scores_of_sampled_answers_equal_unpadded_full_forwards(base, feed_forward):
    model, tokenizer = awake(feed_forward), base[2]
    prompts = prompts_of(tokenizer)
    done = generate(model, prompts, [2], Sampling(1.0, max_new_tokens=5), u_RN=uniforms(6, 5, 1))
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
