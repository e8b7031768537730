"""The mixture: which stream each global slot draws from, by integer quotas, without state.

Slots are numbered 0, 1, 2, … over the whole run; step b of batch size B takes slots [bB, (b+1)B). A
phase begins at a recorded slot t0 and cuts what follows into blocks of BLOCK = 2^16 slots. In every
block stream k gets exactly q_k slots (largest-remainder rounding of its weight), placed by the
keyed permutation F_BLOCK. So

    draws of k before slot t = base_k + floor((t - t0) / BLOCK) * q_k + (slots of k before t in its block)

where base_k is what k had drawn when the phase began. A change of weights is a new phase; nothing
before it moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import floor, isfinite

import numpy as np

from ..config import UserError
from .order import permute_array, round_keys

BLOCK = 1 << 16
POOL = "*"
"""Name of the stream that holds every source: without weights, an epoch is one pass over all samples."""


def quotas(weights: Mapping[str, float]) -> dict[str, int]:
    """Slots per block for each stream with weight > 0, by largest remainder; they sum to BLOCK.

    UserError for weights that are negative, not finite, all zero, or too small to get one slot.
    """
    for name, weight in weights.items():
        if not isinstance(weight, (int, float)) or not isfinite(weight) or weight < 0:
            raise UserError(f"the weight of source {name!r} is {weight!r}; give a number ≥ 0")
    total = float(sum(weights.values()))
    if total <= 0:
        raise UserError("all source weights are zero; give at least one source a weight above 0")
    share = {name: BLOCK * weight / total for name, weight in sorted(weights.items()) if weight > 0}
    result = {name: floor(slots) for name, slots in share.items()}
    shortest = sorted(share, key=lambda name: (result[name] - share[name], name))
    for name in shortest[: BLOCK - sum(result.values())]:
        result[name] += 1
    for name, quota in result.items():
        if quota == 0:
            what = f"the weight of source {name!r} is below 1/{BLOCK} of the total"
            raise UserError(f"{what}; raise it, or set it to 0")
    return result


def quotas_by_size(sizes: Mapping[str, int]) -> dict[str, int]:
    """Quotas in proportion to `sizes`, where even the smallest non-empty stream gets one slot."""
    least = sum(sizes.values()) / BLOCK
    return quotas({name: max(size, least) for name, size in sizes.items() if size > 0})


@lru_cache(maxsize=8)
def _block(seed: int, slot: int, number: int, sizes: tuple[int, ...]):
    """One block's layout: for each of its slots the stream's index, and how many of it come before."""
    length = sum(sizes)
    if len(sizes) == 1:
        return np.zeros(length, np.int64), np.arange(length)
    u = permute_array(np.arange(length), length, round_keys(seed, "slots", slot, number))
    stream = np.searchsorted(np.cumsum(sizes), u, side="right")
    before = np.empty(length, dtype=np.int64)
    for k, size in enumerate(sizes):
        before[stream == k] = np.arange(size)
    return stream, before


@dataclass(frozen=True)
class Phase:
    """From `slot` on, `quotas` slots per block; `base` draws were made before."""

    slot: int
    quotas: dict[str, int]
    base: dict[str, int]


def _streams(phase: Phase) -> tuple[list[str], tuple[int, ...]]:
    """The streams of a phase in the order of its blocks, and their quotas."""
    names = sorted(phase.quotas)
    return names, tuple(phase.quotas[name] for name in names)


class Mixture:
    """The phases of a run in order of their slots. Immutable; `changed` returns a new one."""

    def __init__(self, seed: int, phases: list[Phase]):
        self.seed, self.phases = seed, tuple(phases)

    @classmethod
    def plan(cls, seed: int, steps: list[tuple[int, dict[str, int]]]) -> Mixture:
        """Phases from [(first slot, quotas)], each carrying on from the draws of the ones before it."""
        mixture = cls(seed, [])
        for slot, quota in steps:
            base = mixture.drawn(slot) if mixture.phases else {}
            mixture = cls(seed, [*mixture.phases, Phase(slot, dict(quota), base)])
        return mixture

    def at(self, slot: int) -> Phase:
        """The phase that `slot` belongs to."""
        return [phase for phase in self.phases if phase.slot <= slot][-1]

    def drawn(self, slot: int) -> dict[str, int]:
        """Draws of every stream before `slot`."""
        phase = self.at(slot)
        number, at = divmod(slot - phase.slot, sum(phase.quotas.values()))
        names, sizes = _streams(phase)
        stream_of, _ = _block(self.seed, phase.slot, number, sizes)
        inside = np.bincount(stream_of[:at], minlength=len(names)).tolist()
        total = dict(phase.base)
        for name, size, more in zip(names, sizes, inside, strict=True):
            total[name] = total.get(name, 0) + number * size + more
        return total

    def draws(self, slots: np.ndarray) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """[(stream, rows, draws)] for increasing int64 slots: whom they serve, in every phase."""
        found = []
        bounds = [*np.searchsorted(slots, [phase.slot for phase in self.phases]), len(slots)]
        for phase, first, last in zip(self.phases, bounds, bounds[1:]):
            number, at = np.divmod(slots[first:last] - phase.slot, sum(phase.quotas.values()))
            stream, before = np.empty_like(at), np.empty_like(at)
            names, sizes = _streams(phase)
            for block in np.unique(number):
                rows = number == block
                stream_of, before_in = _block(self.seed, phase.slot, int(block), sizes)
                stream[rows], before[rows] = stream_of[at[rows]], before_in[at[rows]]
            for k, name in enumerate(names):
                rows = np.flatnonzero(stream == k)
                if rows.size:
                    draws = phase.base.get(name, 0) + number[rows] * sizes[k] + before[rows]
                    found.append((name, first + rows, draws))
        return found

    def changed(self, slot: int, steps: list[tuple[int, dict[str, int]]]) -> Mixture:
        """The same past before `slot`, and from there what `steps` (as for `plan`) wants."""
        past = [(p.slot, p.quotas) for p in self.phases if p.slot < slot]
        wanted = [quota for first, quota in steps if first <= slot][-1]
        future = [(first, quota) for first, quota in steps if first > slot]
        now = [] if past and past[-1][1] == wanted else [(slot, wanted)]
        return Mixture.plan(self.seed, past + now + future)

    def to_json(self) -> list[dict]:
        return [asdict(phase) for phase in self.phases]

    @classmethod
    def from_json(cls, seed: int, data: list[dict]) -> Mixture:
        return cls(seed, [Phase(**phase) for phase in data])
