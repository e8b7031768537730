import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steel.data.batch import Batch, attention_pairs, positions


def made(rows, length, cuts):
    """A batch whose documents end at `cuts` and at the end of every row."""
    borders = {row * length for row in range(1, rows + 1)}
    ends = torch.tensor(sorted(borders | {c for c in cuts if 0 < c < rows * length}))
    ids = torch.arange(rows * length).reshape(rows, length)
    return Batch(ids, ids + 1, positions(ends.numpy(), rows, length), ends, torch.arange(rows))


@given(st.integers(1, 5), st.integers(1, 9), st.sets(st.integers(0, 44)), st.data())
def test_rows_of_a_batch_take_their_document_ends_along(rows, length, cuts, data):
    batch = made(rows, length, cuts)
    chosen = data.draw(st.lists(st.integers(0, rows - 1), max_size=6))
    for part in (*batch.split(data.draw(st.integers(1, rows))), batch.select(chosen)):
        flat = part.position_ids.flatten()
        starts = (flat == 0).nonzero()[:, 0].tolist()
        assert part.ends.tolist() == [*starts[1:], len(flat)][: len(starts)]
        assert torch.equal(positions(part.ends.numpy(), len(part), length), part.position_ids)
    assert torch.equal(batch.select(chosen).input_ids, batch.input_ids[chosen])
    assert batch.select(chosen).source.tolist() == chosen


def test_without_document_masks_there_are_no_ends():
    ids = torch.zeros(4, 6, dtype=torch.long)
    batch = Batch(ids, ids, positions(None, 4, 6))
    assert [part.ends for part in batch.split(3)] == [None, None]
    assert torch.equal(batch.position_ids, torch.arange(6).expand(4, 6))


def test_ends_stay_on_the_host():
    batch = made(2, 4, {3}).to("meta")
    assert batch.input_ids.is_meta and batch.ends.device.type == "cpu"


@pytest.mark.parametrize("ends", [[1], [5], [1, 4, 9], [4, 8, 12]])
def test_attention_pairs_are_the_causal_pairs_inside_documents(ends):
    owner = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    counted = np.tril(owner[:, None] == owner[None, :]).sum()
    assert attention_pairs(torch.tensor(ends)) == counted
