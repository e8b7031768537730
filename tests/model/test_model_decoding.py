"""One model, many ways to run it: full forward, cached steps, chunks, ragged batches, packed rows, beams."""

import pytest
import torch
from model_helpers import CAUSAL, SEGMENT, double_model, prefill_then_steps, random_tokens, tiny
from transformers import AutoModelForCausalLM, DynamicCache

from steel.model.decoding import CACHE

TIME = 19
TOLERANCE = {"rtol": 0.0, "atol": 1e-11}


def full(model, tokens, **kwargs):
    with torch.no_grad():
        return model(tokens, use_cache=False, **kwargs).logits


@pytest.mark.parametrize("expert", ["swiglu", "double_swiglu"])
@pytest.mark.parametrize("feed_forward", CAUSAL)
def test_cached_decoding_equals_the_full_forward(feed_forward, expert):
    model = double_model(tiny(feed_forward, expert))
    tokens = random_tokens(2, TIME)
    expected = full(model, tokens)
    for prefill in (0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, TIME - 1):
        torch.testing.assert_close(
            prefill_then_steps(model, tokens, prefill), expected, **TOLERANCE
        )


@pytest.mark.parametrize("chunk", [2, 3, SEGMENT, 7])
@pytest.mark.parametrize("feed_forward", CAUSAL)
def test_chunked_prefill_equals_the_full_forward(feed_forward, chunk):
    model = double_model(tiny(feed_forward))
    tokens = random_tokens(2, TIME)
    for prefill in (chunk, 1, 5):
        torch.testing.assert_close(
            prefill_then_steps(model, tokens, prefill, chunk), full(model, tokens), **TOLERANCE
        )


@pytest.mark.parametrize("feed_forward", CAUSAL)
def test_packed_documents_equal_separate_documents(feed_forward):
    model = double_model(tiny(feed_forward, "double_swiglu"))
    rows = [[5, 1, 9, 4], [8, 8, 3], [19]]
    tokens = random_tokens(len(rows), 19)
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in rows])
    packed = full(model, tokens, position_ids=positions)
    with_cache = model(tokens, position_ids=positions, use_cache=True).logits
    torch.testing.assert_close(with_cache, packed, **TOLERANCE)
    for index, row in enumerate(rows):
        start = 0
        for length in row:
            alone = full(model, tokens[index : index + 1, start : start + length])
            torch.testing.assert_close(
                packed[index : index + 1, start : start + length], alone, **TOLERANCE
            )
            start += length


@pytest.mark.parametrize("feed_forward", CAUSAL)
def test_document_ends_say_what_positions_say(feed_forward):
    model = double_model(tiny(feed_forward))
    rows = [[5, 1, 9, 4], [8, 8, 3], [19]]
    tokens = random_tokens(3, 19)
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in rows])
    ends = torch.tensor([n for row in rows for n in row]).cumsum(0)
    for chosen in (slice(0, 3), slice(2, 3)):  # the last row alone is one document
        given = {"position_ids": positions[chosen]}
        part = ends if chosen.start == 0 else torch.tensor([19])
        with_ends = full(model, tokens[chosen], **given, document_ends=part)
        torch.testing.assert_close(with_ends, full(model, tokens[chosen], **given), rtol=0, atol=0)
    for wrong in ([5, 6, 15], [5, 6, 15, 19, 27, 35, 37, 57], []):
        with pytest.raises(ValueError, match="document_ends must"):
            full(model, tokens, position_ids=positions, document_ends=torch.tensor(wrong).long())
    with pytest.raises(ValueError, match="document_ends needs position_ids"):
        full(model, tokens, document_ends=ends)


@pytest.mark.parametrize("feed_forward", CAUSAL)
def test_a_row_that_begins_inside_a_document_is_cut_at_the_next(feed_forward):
    """Also when no other row of the batch is packed: rows must not depend on their neighbours."""
    model = double_model(tiny(feed_forward))
    tokens = random_tokens(2, 12)
    positions = torch.stack((torch.cat((torch.arange(5, 9), torch.arange(8))), torch.arange(12)))
    changed = tokens.clone()
    changed[0, 1] = (changed[0, 1] + 1) % model.config.vocab_size
    before, after = (full(model, t[:1], position_ids=positions[:1]) for t in (tokens, changed))
    torch.testing.assert_close(after[:, 4:], before[:, 4:], **TOLERANCE)
    assert (after[:, 1:4] - before[:, 1:4]).abs().max() > 1e-6
    packed = positions.clone()
    packed[1] = torch.arange(12) % 6
    with_neighbour = full(model, tokens, position_ids=packed)
    torch.testing.assert_close(with_neighbour[:1], before, **TOLERANCE)


@pytest.mark.parametrize("feed_forward", CAUSAL)
def test_another_document_behind_cached_tokens_is_refused(feed_forward):
    model = double_model(tiny(feed_forward))
    cache = model(random_tokens(1, 5), use_cache=True).past_key_values
    positions = torch.tensor([[5, 6, 0, 1]])
    with pytest.raises(ValueError, match="behind cached tokens"):
        model(random_tokens(1, 4), position_ids=positions, past_key_values=cache)


def test_a_mask_that_slots_cannot_follow_is_refused():
    mask = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
    full(double_model(tiny("dense")), random_tokens(1, 6), attention_mask=mask)
    with pytest.raises(ValueError, match="4-D"):
        full(double_model(tiny("causal_soft_moe")), random_tokens(1, 6), attention_mask=mask)


def left_pad(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ragged rows -> tokens and attention mask, padding (id 0) on the left."""
    width = max(len(row) for row in rows)
    tokens = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0)) for row in rows])
    mask = torch.stack([torch.arange(width) >= width - len(row) for row in rows]).long()
    return tokens, mask


def test_an_attention_that_would_mix_packed_documents_is_refused():
    """transformers' flash attention has no mask that keeps documents apart."""
    config = tiny("dense")
    with pytest.raises(ValueError, match="not support"):
        AutoModelForCausalLM.from_config(config, attn_implementation="flash_attention_2")


@pytest.mark.parametrize("feed_forward", CAUSAL)
def test_ragged_left_padded_batch_equals_each_row_alone(feed_forward):
    """Prefill and decoding: rows reach the ends of their segments at different steps."""
    model = double_model(tiny(feed_forward, "double_swiglu"))
    prompts = [random_tokens(1, n, seed=n)[0] for n in (1, SEGMENT, 6, 11)]
    continuation = random_tokens(len(prompts), 9, seed=99)
    expected = [
        full(model, torch.cat((p, c))[None])[0] for p, c in zip(prompts, continuation, strict=True)
    ]
    tokens, mask = left_pad(prompts)
    with torch.no_grad():
        out = model(tokens, attention_mask=mask, use_cache=True)
        for index, prompt in enumerate(prompts):
            alone = expected[index][: len(prompt)]
            torch.testing.assert_close(out.logits[index, -len(prompt) :], alone, **TOLERANCE)
        for step in range(9):
            mask = torch.cat((mask, mask.new_ones(len(prompts), 1)), dim=1)
            out = model(
                continuation[:, step : step + 1],
                attention_mask=mask,
                past_key_values=out.past_key_values,
                use_cache=True,
            )
            for index, prompt in enumerate(prompts):
                alone = expected[index][len(prompt) + step]
                torch.testing.assert_close(out.logits[index, 0], alone, **TOLERANCE)


def test_slot_experts_run_for_those_rows_only_that_filled_a_segment():
    """Rows out of step: each runs its slots once a segment, not whenever some other row does."""
    model = double_model(tiny("causal_soft_moe"))
    tokens, mask = left_pad([random_tokens(1, n, seed=n)[0] for n in (1, 2, 3, 4)])
    runs = []
    with torch.no_grad():
        cache = model(tokens, attention_mask=mask, use_cache=True).past_key_values
        experts = model.model.layers[0].mlp.experts
        experts.register_forward_hook(lambda module, given, out: runs.append(given[0].shape[1]))
        for _ in range(SEGMENT):
            mask = torch.cat((mask, mask.new_ones(4, 1)), dim=1)
            model(tokens[:, -1:], attention_mask=mask, past_key_values=cache, use_cache=True)
    assert sum(runs) == 4 * model.config.slots_per_expert


@pytest.mark.parametrize("chunk", [1, 3, SEGMENT])
@pytest.mark.parametrize("feed_forward", CAUSAL)
def test_ragged_prefill_in_chunks_equals_each_row_alone(feed_forward, chunk):
    """Chunks that are padding from end to end in some rows, and single padded tokens, leave the state untouched."""
    model = double_model(tiny(feed_forward))
    prompts = [random_tokens(1, n, seed=n)[0] for n in (2, 7, 13)]
    tokens, mask = left_pad(prompts)
    cache, parts = None, []
    with torch.no_grad():
        for at in range(0, tokens.shape[1], chunk):
            end = min(at + chunk, tokens.shape[1])
            out = model(
                tokens[:, at:end],
                attention_mask=mask[:, :end],
                past_key_values=cache,
                use_cache=True,
            )
            cache = out.past_key_values
            parts.append(out.logits)
    logits = torch.cat(parts, dim=1)
    for index, prompt in enumerate(prompts):
        torch.testing.assert_close(
            logits[index, -len(prompt) :], full(model, prompt[None])[0], **TOLERANCE
        )


@pytest.mark.parametrize("feed_forward", CAUSAL + ["soft_moe_v2", "soft_moe_v3"])
def test_padding_does_not_change_the_prompt(feed_forward):
    """Prefill only: v2 and v3 have no cached decoding that equals their full forward."""
    model = double_model(tiny(feed_forward))
    prompts = [random_tokens(1, n, seed=n)[0] for n in (3, 8)]
    tokens, mask = left_pad(prompts)
    padded = full(model, tokens, attention_mask=mask)
    for index, prompt in enumerate(prompts):
        torch.testing.assert_close(
            padded[index, -len(prompt) :], full(model, prompt[None])[0], **TOLERANCE
        )


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_cache_goes_by_either_of_transformers_names(name):
    """5.24 renamed it; a name that is swallowed would decode from the last token alone."""
    model = double_model(tiny("causal_soft_moe"))
    tokens = random_tokens(2, TIME)
    with torch.no_grad():
        cache = model(tokens[:, :9], use_cache=True)[CACHE]
        out = model(tokens[:, 9:], use_cache=True, **{name: cache})
    assert out[CACHE] is cache and cache.get_seq_length() == TIME
    torch.testing.assert_close(out.logits, full(model, tokens)[:, 9:], **TOLERANCE)


@pytest.mark.parametrize("feed_forward", ["dense", "causal_soft_moe"])
def test_cache_rows_can_be_reordered_repeated_and_selected(feed_forward):
    model = double_model(tiny(feed_forward))
    tokens = random_tokens(3, TIME)
    continuation = random_tokens(6, 7, seed=5)
    order = torch.tensor([2, 0, 0, 1, 2, 1])
    expected = full(model, torch.cat((tokens[order, :10], continuation), dim=1))[:, 10:]

    def decode(change):
        cache = model(tokens[:, :10], use_cache=True).past_key_values
        change(cache)
        parts = []
        for step in range(7):
            out = model(continuation[:, step : step + 1], past_key_values=cache, use_cache=True)
            parts.append(out.logits)
        return torch.cat(parts, dim=1)

    def repeat_then_reorder(cache):
        cache.batch_repeat_interleave(2)
        cache.reorder_cache(2 * order)

    with torch.no_grad():
        for change in (
            lambda cache: cache.reorder_cache(order),
            lambda cache: cache.batch_select_indices(order),
            repeat_then_reorder,
        ):
            torch.testing.assert_close(decode(change), expected, **TOLERANCE)


@pytest.mark.parametrize("feed_forward", CAUSAL)
def test_generation_with_and_without_cache_agree(feed_forward):
    model = double_model(tiny(feed_forward, eos_token_id=None, pad_token_id=0))
    prompts = [random_tokens(1, n, seed=n)[0].clamp_min(1) for n in (2, 5, 9)]
    tokens, mask = left_pad(prompts)
    settings = {"max_new_tokens": 12, "do_sample": False}
    cached = model.generate(tokens, attention_mask=mask, **settings)
    torch.testing.assert_close(
        model.generate(tokens, attention_mask=mask, use_cache=False, **settings), cached
    )
    beams = model.generate(tokens, attention_mask=mask, num_beams=3, **settings)
    slow = model.generate(tokens, attention_mask=mask, num_beams=3, use_cache=False, **settings)
    torch.testing.assert_close(beams, slow)
    for index, prompt in enumerate(prompts):
        alone = model.generate(prompt[None], **settings)
        torch.testing.assert_close(cached[index, -12:], alone[0, -12:])


def test_causal_soft_moe_refuses_caches_that_cannot_hold_its_state():
    model = double_model(tiny("causal_soft_moe"))
    dense = double_model(tiny("dense"))
    tokens = random_tokens(1, 6)
    with torch.no_grad():
        filled = dense(tokens, use_cache=True).past_key_values
        with pytest.raises(ValueError, match="past_key_values.*empty DynamicCache"):
            model(tokens, past_key_values=filled, use_cache=True)
        cache = model(tokens, past_key_values=DynamicCache(), use_cache=True).past_key_values
        with pytest.raises(ValueError, match="cannot drop tokens"):
            cache.crop(-1)
        cache.reset()
        again = model(tokens, past_key_values=cache, use_cache=True).logits
    torch.testing.assert_close(again, full(model, tokens), **TOLERANCE)


def test_slot_experts_run_once_per_segment_when_decoding():
    """Between the ends of segments a decoding step reuses the slot outputs it has."""
    model = double_model(tiny("causal_soft_moe"))
    calls = []
    experts = model.model.layers[0].mlp.experts
    handle = experts.register_forward_hook(lambda *_: calls.append(1))
    tokens = random_tokens(1, 4 * SEGMENT + 1)
    prefill_then_steps(model, tokens, prefill=0)
    handle.remove()
    assert (
        len(calls) == 1 + 4
    )  # the prior's outputs before the first token, then one per completed segment
