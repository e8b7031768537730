import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steel.align.packing import Dialogues, PackedEpochs, best_fit_decreasing, lay_out
from steel.data.batch import IGNORED
from steel.tokenizer.chat import encode_chat


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 32), max_size=60), st.integers(32, 50), st.integers(0, 5))
def test_every_item_exactly_once_no_bin_overflows_and_the_count_is_constant(
    lengths, capacity, seed
):
    order = np.random.default_rng(seed).permutation(len(lengths))
    bins = best_fit_decreasing(lengths, capacity, order)
    assert sorted(i for items in bins for i in items) == list(range(len(lengths)))
    assert all(items and sum(lengths[i] for i in items) <= capacity for items in bins)
    assert len(bins) == len(best_fit_decreasing(lengths, capacity))
    for j, later in enumerate(bins):  # a bin is opened only for an item that fits nowhere
        assert all(
            sum(lengths[i] for i in items) + lengths[later[0]] > capacity for items in bins[:j]
        )


def dialogues(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return Dialogues.from_encoded(
        [(rng.integers(3, 99, n).tolist(), rng.integers(0, 2, n).tolist()) for n in lengths]
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=40), st.integers(0, 3), st.integers(1, 5))
def test_the_stream_holds_each_dialogue_once_an_epoch_and_is_a_pure_function(lengths, seed, world):
    data = dialogues(lengths)
    stream, again = PackedEpochs(data, 24, seed), PackedEpochs(data, 24, seed)
    n = stream.per_epoch
    for epoch in (0, 1):
        items = [i for items in stream.bins(range(epoch * n, (epoch + 1) * n)) for i in items]
        assert sorted(items) == list(range(len(lengths)))
    assert again.bins(range(n, 2 * n)) == stream.bins(range(n, 2 * n))  # asked in another order
    by_rank = [stream.bins(range(rank, n, world)) for rank in range(world)]
    assert [by_rank[i % world][i // world] for i in range(n)] == stream.bins(range(n))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=20), st.integers(0, 3))
def test_targets_are_the_next_answer_token_of_the_same_dialogue_and_nothing_else(lengths, seed):
    data = dialogues(lengths, seed)
    bins = best_fit_decreasing(data.lengths, 24)
    batch = lay_out(data, bins, 24)
    for row, items in enumerate(bins):
        expected_ids, expected_targets, expected_positions = [], [], []
        for i in items:
            ids = data.tokens[data.start[i] : data.start[i + 1]].tolist()
            answer = data.answer[data.start[i] : data.start[i + 1]].tolist()
            expected_ids += ids
            expected_targets += [ids[t] if answer[t] else IGNORED for t in range(1, len(ids))] + [
                IGNORED
            ]
            expected_positions += range(len(ids))
        pad = 24 - len(expected_ids)
        assert batch.input_ids[row].tolist() == expected_ids + [0] * pad
        assert batch.targets[row].tolist() == expected_targets + [IGNORED] * pad
        assert batch.position_ids[row].tolist() == expected_positions + list(range(pad))
    first_tokens = sum(int(data.answer[s]) for s in data.start[:-1])  # nobody can predict them
    assert batch.tokens == int(data.answer.sum()) - first_tokens


@pytest.mark.parametrize("joined", [0.0, 0.5, 1.0])
def test_joined_rows_are_one_conversation_and_the_others_are_not(joined):
    data = dialogues([5, 3] * 30)
    stream = PackedEpochs(data, 24, seed=1, joined=joined)
    n = stream.per_epoch
    items = [i for items in stream.bins(range(n)) for i in items]
    assert sorted(items) == list(range(60))
    batch, found = stream.batch(range(n)), []
    for row, items in enumerate(stream.bins(range(n))):
        starts = int((batch.position_ids[row] == 0).sum())
        padded = sum(data.lengths[i] for i in items) < 24
        found.append(starts - padded == 1)
        assert found[-1] or starts - padded == len(items)
    assert sum(found) == np.ceil(joined * n)


def test_a_joined_row_is_what_its_turns_are_as_one_dialogue(base):
    talk = ["你好", "你好。", "一加二？", "三。", "再见", "再见。"]
    turns = [{"role": ("user", "assistant")[i % 2], "content": said} for i, said in enumerate(talk)]
    parts = Dialogues.from_encoded([encode_chat(base[2], turns[i : i + 2]) for i in (0, 2, 4)])
    whole = Dialogues.from_encoded([encode_chat(base[2], turns)])
    length = len(whole.tokens) + 2
    found, expected = lay_out(parts, [[0, 1, 2]], length, joined={0}), lay_out(whole, [[0]], length)
    for name in ("input_ids", "targets", "position_ids", "ends"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_two_epochs_are_packed_differently():
    stream = PackedEpochs(dialogues([5] * 30), 24)
    n = stream.per_epoch
    assert stream.bins(range(n)) != stream.bins(range(n, 2 * n))
