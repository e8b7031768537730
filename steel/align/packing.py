"""Dialogues packed into fixed-length sequences without tearing one.

Shapes: B sequences, T tokens, N dialogues. Every dialogue is a document of the batch, so attention
ends with it, and a packed batch gives each dialogue exactly the loss it has alone.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from ..data.batch import IGNORED, Batch, positions
from ..data.order import permute_array, round_keys


def best_fit_decreasing(
    lengths: Sequence[int], capacity: int, order: Sequence[int] | None = None
) -> list[list[int]]:
    """Bins of item indices: the longest item first, each into the fullest bin that still holds it.

    lengths: N lengths in 1..capacity [tokens]. order: a permutation of range(N), which breaks ties
    between equal lengths; the number of bins does not depend on it, so every epoch has the same
    number of sequences. Time O(N log N + N·D), D distinct remainders (D <= capacity).
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    assert len(lengths) == 0 or (lengths.min() >= 1 and lengths.max() <= capacity)
    order = np.arange(len(lengths)) if order is None else np.asarray(order, dtype=np.int64)
    bins: list[list[int]] = []
    by_room: dict[int, list[int]] = defaultdict(list)  # free tokens -> bins with that many free
    rooms = [capacity]  # sorted keys of by_room that hold a bin; at last an empty bin, always there
    for item in order[np.argsort(-lengths[order], kind="stable")].tolist():
        at = bisect.bisect_left(rooms, lengths[item])
        room = rooms[at]
        if not by_room[room]:
            by_room[room].append(len(bins))
            bins.append([])
        index = by_room[room].pop()
        if not by_room[room] and room < capacity:
            rooms.pop(at)
        bins[index].append(item)
        if left := room - int(lengths[item]):
            if not by_room[left]:
                bisect.insort(rooms, left)
            by_room[left].append(index)
    return bins


@dataclass
class Dialogues:
    """N tokenised dialogues in flat arrays, 5 bytes a token: millions of them fit in memory."""

    tokens: np.ndarray  # uint32, all dialogues end to end
    answer: np.ndarray  # bool, True where a token belongs to an answer and counts in the loss
    start: np.ndarray  # int64 (N + 1,), dialogue i is [start[i], start[i+1])

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.start)

    @classmethod
    def from_encoded(cls, encoded: Iterable[tuple[Sequence[int], Sequence[int]]]) -> Dialogues:
        """From (ids, loss_mask) pairs as `steel.tokenizer.chat.encode_chat` returns them."""
        tokens, answer, start = [np.zeros(0, np.uint32)], [np.zeros(0, bool)], [0]
        for ids, mask in encoded:
            assert len(ids) == len(mask)
            tokens.append(np.asarray(ids, dtype=np.uint32))
            answer.append(np.asarray(mask, dtype=bool))
            start.append(start[-1] + len(ids))
        return cls(np.concatenate(tokens), np.concatenate(answer), np.array(start))


def lay_out(
    data: Dialogues,
    bins: Sequence[Sequence[int]],
    sequence_length: int,
    pad_id: int = 0,
    joined: Container[int] = (),
) -> Batch:
    """Write bins of dialogues into rows; `joined`: rows whose dialogues are one document.

    The target of a token is its successor inside the same dialogue, where that successor belongs to
    an answer. The last token of a dialogue has none, so nothing is predicted across a boundary;
    padding is a document of its own.
    """
    shape = (len(bins), sequence_length)
    ids, targets = np.full(shape, pad_id, dtype=np.int64), np.full(shape, IGNORED, dtype=np.int64)
    ends: list[int] = []
    for row, items in enumerate(bins):
        at = 0
        for item in items:
            low, high = data.start[item : item + 2]
            tokens, stop = data.tokens[low:high].astype(np.int64), at + high - low
            ids[row, at:stop] = tokens
            targets[row, at : stop - 1] = np.where(data.answer[low + 1 : high], tokens[1:], IGNORED)
            if row not in joined or item == items[-1]:
                ends.append(row * sequence_length + stop)
            at = stop
        if at < sequence_length:
            ends.append((row + 1) * sequence_length)
    ends_N = np.array(ends, dtype=np.int64)
    input_ids, targets = torch.from_numpy(ids), torch.from_numpy(targets)
    return Batch(input_ids, targets, positions(ends_N, *shape), torch.from_numpy(ends_N))


class PackedEpochs:
    """The endless stream of packed sequences; sequence i is a pure function of (data, seed, i).

    Every epoch holds every dialogue exactly once, packed and ordered anew. joined: share of the
    sequences in which a dialogue reads those before it, as the turns of one conversation [1].
    """

    def __init__(
        self,
        data: Dialogues,
        sequence_length: int,
        seed: int = 0,
        pad_id: int = 0,
        joined: float = 0.0,
    ):
        self.data, self.sequence_length = data, sequence_length
        self.seed, self.pad_id, self.joined = seed, pad_id, joined
        self._plan = lru_cache(maxsize=2)(self._pack_epoch)  # a step may straddle two epochs
        self.per_epoch = len(self._plan(0))

    def _pack_epoch(self, epoch: int) -> list[tuple[list[int], bool]]:
        """(its dialogues, whether they are joined) of each sequence."""

        def shuffled(n: int, what: str) -> np.ndarray:
            return permute_array(np.arange(n), n, round_keys(self.seed, what, epoch))

        order = shuffled(len(self.data), "dialogues")
        bins = best_fit_decreasing(self.data.lengths, self.sequence_length, order)
        joined = shuffled(len(bins), "joined") < self.joined * len(bins)
        place = np.argsort(order)  # a packed bin has its longest first; a conversation has not
        plan = [
            (sorted(found, key=place.__getitem__) if one else found, one)
            for found, one in zip(bins, joined.tolist(), strict=True)
        ]
        return [plan[i] for i in shuffled(len(bins), "sequences")]

    def bins(self, draws: Iterable[int]) -> list[list[int]]:
        """Dialogue indices of these sequences of the stream."""
        return [items for items, _ in self._sequences(draws)]

    def batch(self, draws: Iterable[int]) -> Batch:
        """These sequences of the stream."""
        rows = self._sequences(draws)
        joined = {row for row, (_, one) in enumerate(rows) if one}
        bins = [items for items, _ in rows]
        return lay_out(self.data, bins, self.sequence_length, self.pad_id, joined)

    def _sequences(self, draws: Iterable[int]) -> list[tuple[list[int], bool]]:
        places = (divmod(i, self.per_epoch) for i in draws)
        return [self._plan(epoch)[at] for epoch, at in places]
