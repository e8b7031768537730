"""The batch that every training stage reads, and the one fact about its documents: where they end.

Letters: B rows, T tokens of a row, N documents in all rows together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # imported when it is first used: packing processes start without torch
    import torch

IGNORED = -100
"""Target of padding, and of tokens that nobody has to predict: no loss there."""


@dataclass
class Batch:
    """Rows of tokens; `targets` are already shifted, and -100 (`IGNORED`) does not count.

    `ends` says where each document of the flattened (B·T) tokens ends (exclusive), in ascending
    order; the end of every row is among them, so the last is B·T. None: one document a row, and
    attention is not masked. It stays on the host, where masks and lengths are planned from it.
    """

    input_ids: torch.Tensor  # (B, T) int64
    targets: torch.Tensor  # (B, T) int64
    position_ids: torch.Tensor  # (B, T) int64, 0 where a document starts
    ends: torch.Tensor | None = None  # (N,) int64, on the host
    source: torch.Tensor | None = None  # (B,) int64, on the host: index into `Loader.sources`

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def tokens(self) -> int:
        """Targets that count in the loss."""
        return int((self.targets != IGNORED).sum())

    def to(self, device, non_blocking: bool = False) -> Batch:
        """The same batch with ids, targets and positions on `device`."""
        return self._with(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, for copies to a GPU that need not be waited for."""
        return self._with(lambda part: part.pin_memory())

    def split(self, rows: int) -> list[Batch]:
        """Micro-batches of `rows` rows (the last may be smaller), as views."""
        starts = range(0, len(self), rows)
        return [self._take(slice(at, at + rows), range(len(self))[at : at + rows]) for at in starts]

    def select(self, rows: Sequence[int]) -> Batch:
        """The given rows, copied, as a batch of their own."""
        return self._take(list(rows), rows)

    def _with(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        names = ("input_ids", "targets", "position_ids")
        return replace(self, **{name: change(getattr(self, name)) for name in names})

    def _take(self, index, rows: Sequence[int]) -> Batch:
        source = None if self.source is None else self.source[index]
        taken = self._with(lambda part: part[index])
        return replace(taken, ends=self._ends_of(rows), source=source)

    def _ends_of(self, rows: Sequence[int]) -> torch.Tensor | None:
        if self.ends is None:
            return None
        import torch

        length = self.input_ids.shape[1]
        borders = torch.arange(len(self) + 1) * length
        first = torch.searchsorted(self.ends, borders, right=True).tolist()
        moved = [
            self.ends[first[r] : first[r + 1]] + (to - r) * length for to, r in enumerate(rows)
        ]
        return torch.cat(moved) if moved else self.ends[:0]


def positions(ends: np.ndarray | None, rows: int, length: int) -> torch.Tensor:
    """(rows, length) int64: positions that restart at every end; for None 0 … length-1 in each row.

    Without `ends` it is one row seen `rows` times.
    """
    import torch

    if ends is None:
        return torch.arange(length).expand(rows, length)
    starts = np.concatenate(([0], ends[:-1]))[: len(ends)]
    counted = np.arange(rows * length) - np.repeat(starts, ends - starts)
    return torch.from_numpy(counted.reshape(rows, length))


def attention_pairs(ends: torch.Tensor) -> int:
    """Query-key pairs of causal attention inside documents: sum of d(d+1)/2 over lengths d."""
    lengths = np.diff(np.asarray(ends), prepend=0)
    return int((lengths * (lengths + 1) // 2).sum())
