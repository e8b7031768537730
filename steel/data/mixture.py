"""The mixture: which stream each global slot draws from, by integer quotas, without state.

Slots are numbered 0, 1, 2, … over the whole run; step b of batch size B takes slots [bB, (b+1)B). A phase begins at a
recorded slot t0 and cuts what follows into blocks of BLOCK = 2^16 slots. In every block stream k gets exactly q_k
slots (largest-remainder rounding of its weight), placed by the keyed permutation F_BLOCK. So

    draws of k before slot t = base_k + floor((t - t0) / BLOCK) * q_k + (slots of k before t in its block)

where base_k is what k had drawn when the phase began. A change of weights is a new phase; nothing before it moves.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import floor, isfinite

import numpy as np

from ..config import UserError
from .order import permute_array, round_keys

BLOCK = 1 << 16
POOL = "*"
"""Name of the stream that holds every source: without weights, one epoch is exactly one pass over all samples."""


def quotas(weights: Mapping[str, float], block: int = BLOCK) -> dict[str, int]:
    """Slots per block for each stream with weight > 0, by largest remainder; they sum to `block`.

    Raises UserError for weights that are negative, not finite, all zero, or too small to get one slot.
    """
    for name, weight in weights.items():
        if not isinstance(weight, (int, float)) or not isfinite(weight) or weight < 0:
            raise UserError(f"the weight of source {name!r} is {weight!r}; give a number ≥ 0")
    total = float(sum(weights.values()))
    if total <= 0:
        raise UserError("all source weights are zero; give at least one source a weight above 0")
    share = {name: block * weight / total for name, weight in sorted(weights.items()) if weight > 0}
    result = {name: floor(x) for name, x in share.items()}
    short = sorted(share, key=lambda name: (result[name] - share[name], name))[
        : block - sum(result.values())
    ]
    for name in short:
        result[name] += 1
    for name, quota in result.items():
        if quota == 0:
            raise UserError(
                f"the weight of source {name!r} is below 1/{block} of the total; raise it, or set it to 0"
            )
    return result


def quotas_by_size(sizes: Mapping[str, int], block: int = BLOCK) -> dict[str, int]:
    """Quotas in proportion to `sizes`, where even the smallest non-empty stream gets one slot per block."""
    sizes = {name: n for name, n in sizes.items() if n > 0}
    floor_weight = sum(sizes.values()) / block
    return quotas({name: max(n, floor_weight) for name, n in sizes.items()}, block)


@lru_cache(maxsize=8)
def _block(
    seed: int, slot: int, number: int, sizes: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """One block's layout: for each of its slots the stream's index and how many slots of it come before."""
    length = sum(sizes)
    u = permute_array(np.arange(length), length, round_keys(seed, "slots", slot, number))
    stream = np.searchsorted(np.cumsum(sizes), u, side="right")
    by_stream = np.argsort(stream, kind="stable")
    first = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    before = np.empty(length, dtype=np.int64)
    before[by_stream] = np.arange(length) - np.repeat(first, sizes)
    return stream, before


@dataclass(frozen=True)
class Phase:
    """From `slot` on, `quotas` slots per block; `base` draws were made before. Streams are in sorted order."""

    slot: int
    quotas: dict[str, int]
    base: dict[str, int] = field(default_factory=dict)

    def draws(self, seed: int, slots: np.ndarray) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """[(stream, rows, draws)]: which rows of `slots` (int64, all >= self.slot) it serves, and its draw numbers."""
        names = sorted(self.quotas)
        if len(names) == 1:
            return [
                (names[0], np.arange(len(slots)), slots - self.slot + self.base.get(names[0], 0))
            ]
        sizes = tuple(self.quotas[name] for name in names)
        number, at = np.divmod(slots - self.slot, sum(sizes))
        stream, before = np.empty_like(slots), np.empty_like(slots)
        for b in np.unique(number):
            rows = number == b
            layout = _block(seed, self.slot, int(b), sizes)
            stream[rows], before[rows] = layout[0][at[rows]], layout[1][at[rows]]
        found = []
        for k, name in enumerate(names):
            rows = np.flatnonzero(stream == k)
            if rows.size:
                found.append(
                    (name, rows, self.base.get(name, 0) + number[rows] * sizes[k] + before[rows])
                )
        return found

    def drawn(self, seed: int, slot: int) -> dict[str, int]:
        """Draws of every stream before `slot` >= self.slot."""
        names = sorted(self.quotas)
        sizes = tuple(self.quotas[name] for name in names)
        number, at = divmod(slot - self.slot, sum(sizes))
        inside = (
            [at]
            if len(names) == 1
            else np.bincount(_block(seed, self.slot, number, sizes)[0][:at], minlength=len(names))
            if at
            else [0] * len(names)
        )
        total = dict(self.base)
        for name, size, extra in zip(names, sizes, inside, strict=True):
            total[name] = total.get(name, 0) + number * size + int(extra)
        return total


class Mixture:
    """The phases of a run in order of their slots. Immutable; `changed` returns a new one."""

    def __init__(self, seed: int, phases: list[Phase]):
        assert phases and phases[0].slot == 0, "the first phase starts at slot 0"
        assert all(a.slot < b.slot for a, b in zip(phases, phases[1:], strict=False)), (
            "phases are in order"
        )
        self.seed, self.phases = seed, tuple(phases)
        self._starts = [phase.slot for phase in phases]

    @classmethod
    def plan(cls, seed: int, steps: list[tuple[int, dict[str, int]]]) -> Mixture:
        """Phases from [(first slot, quotas)], each carrying on from the draws of the ones before it."""
        phases: list[Phase] = []
        for slot, quota in steps:
            base = phases[-1].drawn(seed, slot) if phases else {}
            phases.append(Phase(slot, dict(quota), base))
        return cls(seed, phases)

    def at(self, slot: int) -> Phase:
        return self.phases[max(bisect_right(self._starts, slot) - 1, 0)]

    def drawn(self, slot: int) -> dict[str, int]:
        """Draws of every stream before `slot`."""
        return self.at(slot).drawn(self.seed, slot)

    def draws(self, slots: np.ndarray) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """[(stream, rows, draws)] for increasing int64 slots, across phases."""
        found = []
        which = np.searchsorted(np.asarray(self._starts), slots, side="right") - 1
        for i in np.unique(which):
            rows = np.flatnonzero(which == i)
            for name, inner, draws in self.phases[i].draws(self.seed, slots[rows]):
                found.append((name, rows[inner], draws))
        return found

    def changed(self, slot: int, steps: list[tuple[int, dict[str, int]]]) -> Mixture:
        """The same past before `slot`, and from there what `steps` (as for `plan`) wants."""
        past = [(p.slot, p.quotas) for p in self.phases if p.slot < slot]
        wanted = [quota for first, quota in steps if first <= slot][-1]
        future = [(first, quota) for first, quota in steps if first > slot]
        now = [] if past and past[-1][1] == wanted else [(slot, wanted)]
        return Mixture.plan(self.seed, past + now + future)

    def to_json(self) -> list[dict]:
        return [{"slot": p.slot, "quotas": p.quotas, "base": p.base} for p in self.phases]

    @classmethod
    def from_json(cls, seed: int, data: list[dict]) -> Mixture:
        return cls(seed, [Phase(p["slot"], dict(p["quotas"]), dict(p["base"])) for p in data])
