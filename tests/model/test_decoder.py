"""The one decoder: a row's tokens depend on its prompt, the weights and its random numbers alone."""

import pytest
import torch
from model_helpers import CAUSAL, NON_CAUSAL, VOCABULARY, double_model, random_tokens, tiny
from transformers import LlamaConfig, LlamaForCausalLM

from steel.config import UserError
from steel.model.decoding import Sampling, choose, filter_top_p, generate, stream, uniforms

PROMPTS = [random_tokens(1, n, seed=n)[0].tolist() for n in (3, 1, 9, 6, 9)]
STOPS = range(40, VOCABULARY)  # many, so that some rows end early


def llama():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=VOCABULARY, num_attention_heads=2, **shape)
    return LlamaForCausalLM(config).double().eval()


def make(kind: str):
    return llama() if kind == "llama" else double_model(tiny(kind))


@pytest.mark.parametrize("kind", [*CAUSAL, "llama"])
def test_a_batch_of_prompts_of_different_lengths_equals_each_alone(kind):
    model = make(kind)
    sampling = Sampling(max_new_tokens=9)
    for completion, prompt in zip(generate(model, PROMPTS, STOPS, sampling), PROMPTS, strict=True):
        assert [completion] == generate(model, [prompt], STOPS, sampling)
        with torch.no_grad():
            for at, token in enumerate(completion.ids):  # the plain forward, without a cache
                ids = torch.tensor([prompt + completion.ids[:at]])
                assert model(ids, use_cache=False).logits[0, -1].argmax() == token
        assert completion.finished == (completion.ids[-1] in STOPS)
        assert not any(token in STOPS for token in completion.ids[:-1])
        assert completion.finished or len(completion.ids) == 9


@pytest.mark.parametrize("kind", ["causal_soft_moe", "llama"])
def test_sampled_rows_are_a_pure_function_of_their_numbers(kind):
    model, sampling = make(kind), Sampling(temperature=1.3, top_p=0.9, max_new_tokens=8, seed=5)
    u_RN = uniforms(len(PROMPTS), 8, 5, 3)
    first = generate(model, PROMPTS, STOPS, sampling, u_RN=u_RN)
    assert first == generate(model, PROMPTS, STOPS, sampling, u_RN=u_RN)
    assert first[1:3] == generate(model, PROMPTS[1:3], STOPS, sampling, u_RN=u_RN[1:3])
    by_seed = generate(model, PROMPTS, STOPS, sampling)
    assert by_seed == generate(model, PROMPTS, STOPS, sampling) != first


@pytest.mark.parametrize("kind", NON_CAUSAL)
def test_a_model_that_mixes_the_row_decodes_prompts_of_one_length_only(kind):
    model = double_model(tiny(kind, soft_moe_normalize_slots=True))
    with pytest.raises(UserError, match=f"needs a causal model: feed_forward={kind}"):
        generate(model, PROMPTS, STOPS, Sampling(max_new_tokens=3))
    same = [PROMPTS[2], PROMPTS[4]]
    together = generate(model, same, [], Sampling(max_new_tokens=5))
    assert together == [generate(model, [p], [], Sampling(max_new_tokens=5))[0] for p in same]


def test_tokens_arrive_as_they_are_chosen_and_the_mode_comes_back():
    model = double_model(tiny("dense")).train()
    arriving = stream(model, PROMPTS, STOPS, Sampling(max_new_tokens=4))
    assert next(arriving)[0] == 1  # the shortest prompt speaks first
    arriving.close()
    assert model.training
    rows = [[] for _ in PROMPTS]
    for row, token in stream(model, PROMPTS, STOPS, Sampling(max_new_tokens=4)):
        rows[row].append(token)
    assert rows == [c.ids for c in generate(model, PROMPTS, STOPS, Sampling(max_new_tokens=4))]
    assert model.training


def test_decoding_in_the_middle_of_training_with_checkpointing_is_the_same():
    model = double_model(tiny("causal_soft_moe"))
    expected = generate(model, PROMPTS, STOPS, Sampling(max_new_tokens=9))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert generate(model.train(), PROMPTS, STOPS, Sampling(max_new_tokens=9)) == expected


def test_only_the_allowed_tokens_are_chosen():
    model, allowed = double_model(tiny("dense")), {0: [7], 1: [8, 9]}

    def rule(row, ids):
        return allowed.get(row) if len(ids) < 2 else None

    free = generate(model, PROMPTS[:3], [], Sampling(max_new_tokens=3))
    held = generate(model, PROMPTS[:3], [], Sampling(max_new_tokens=3), allowed=rule)
    assert held[0].ids[:2] == [7, 7] and set(held[1].ids[:2]) <= {8, 9} and held[2] == free[2]


def test_ranks_that_are_done_keep_the_others_company():
    model, asked = double_model(tiny("causal_soft_moe")), []

    def all_done(done):
        asked.append(done)
        return done and len(asked) >= 30

    together = generate(model, PROMPTS, STOPS, Sampling(max_new_tokens=4), all_done=all_done)
    assert len(asked) == 30 and together == generate(
        model, PROMPTS, STOPS, Sampling(max_new_tokens=4)
    )


def test_inverse_transform_draws_the_softmax_distribution():
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0, -30.0])
    u = torch.linspace(0, 1, 100_001)[:-1]
    drawn = choose(logits.expand(len(u), -1), u, temperature=1.3, top_p=1.0)
    share = torch.bincount(drawn, minlength=5) / len(u)
    torch.testing.assert_close(share, (logits / 1.3).softmax(-1), rtol=0, atol=2e-5)
    # u = 1 can come from rounding: then the likeliest
    assert choose(logits[None], torch.tensor([1.0]), 1.0, 1.0).item() == 0
    assert choose(logits[None], u[:1], 0.0, 1.0).item() == 0


def test_top_p_keeps_the_fewest_tokens_that_reach_the_mass():
    p = torch.tensor([[0.1, 0.5, 0.15, 0.25]])
    assert filter_top_p(p, 0.5).tolist() == [[0, 0.5, 0, 0]]
    assert torch.equal(filter_top_p(p, 0.7) > 0, torch.tensor([[False, True, False, True]]))
    assert filter_top_p(p, 1.0) is p


def test_settings_without_a_meaning_are_refused():
    for bad in ({"temperature": -1}, {"top_p": 0}, {"max_new_tokens": 0}):
        with pytest.raises(UserError):
            Sampling(**bad)
    with pytest.raises(AssertionError):
        generate(double_model(tiny("dense")), [[]], [2], Sampling(max_new_tokens=1))
