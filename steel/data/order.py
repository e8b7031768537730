"""The order in which samples are read: pure functions of (seed, stream, epoch, append log, position).

This is the order within one source; `mixture` says which source gives the next sample.

Nothing here has state. A position in an epoch is mapped to a sample by a keyed permutation, so
"where was I" is one integer, any position of 10^9 samples is reached in well under a millisecond,
and no index array is ever stored.

The permutation F_n is a Feistel network over the mixed radix a*b >= n (the generalised Feistel
cipher "FE" of Black and Rogaway, *Ciphers with Arbitrary Finite Domains*, 2002) with cycle-walking
for the few values >= n. It shuffles; it is not cryptography.

Appending. For one epoch with append log [(c_1, m_1), ...]: c_j samples of the epoch were consumed
when m_j samples were added, N_j = N_{j-1} + m_j and R_j = N_{j-1} - c_j were left unseen.

    sigma_0(t) = F_{N_0}(t)
    t <  c_j:   sigma_j(t) = sigma_{j-1}(t)                      the past never changes
    t >= c_j:   u = F_{R_j + m_j}(t - c_j)                       unseen and new are shuffled together
                sigma_j(t) = sigma_{j-1}(c_j + u)   if u < R_j
                           = N_{j-1} + u - R_j      otherwise

By induction sigma_j is a bijection of [0, N_j). Names in this file: n domain size, t position in an
epoch, u position after one permutation, c consumed, m added.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import isqrt
from typing import NamedTuple

import numpy as np

ROUNDS = 6
MAX_DOMAIN = 1 << 62  # both radices stay below 2^32, so a 32-bit hash times a radix fits in uint64


@lru_cache(maxsize=4096)
def round_keys(*parts: int | str) -> tuple[int, ...]:
    """The ROUNDS 64-bit round keys of `parts` (for example seed, stream, epoch, append number)."""
    name = "/".join(f"{type(p).__name__}:{p}" for p in parts).encode()
    digest = hashlib.blake2b(name, digest_size=8 * ROUNDS, person=b"steel-order").digest()
    return tuple(int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(ROUNDS))


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014) on 64-bit integers."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _network(t: np.ndarray, a: int, b: int, keys: Sequence[int]) -> np.ndarray:
    a64, b64, half = np.uint64(a), np.uint64(b), np.uint64(32)
    left, right = np.divmod(t, b64)
    for i, key in enumerate(keys):
        if i % 2 == 0:
            left = left + (((_mix(right ^ np.uint64(key)) >> half) * a64) >> half)
            left = np.where(left >= a64, left - a64, left)
        else:
            right = right + (((_mix(left ^ np.uint64(key)) >> half) * b64) >> half)
            right = np.where(right >= b64, right - b64, right)
    return left * b64 + right


def permute_array(t: np.ndarray, n: int, keys: Sequence[int]) -> np.ndarray:
    """F_n(t) for an int64 array of positions in [0, n); returns int64 of the same shape."""
    t = np.asarray(t, dtype=np.int64)
    if t.size == 0:
        return t.copy()
    if n > MAX_DOMAIN or t.min() < 0 or t.max() >= n:
        raise ValueError(f"positions [{t.min()}, {t.max()}] are outside [0, {n})")
    b = isqrt(n - 1) + 1
    a = -(-n // b)  # a*b - n < b, so that cycle-walking seldom needs a second step
    out = _network(t.astype(np.uint64), a, b, keys)
    walking = np.flatnonzero(out >= np.uint64(n))
    while walking.size:
        out.flat[walking] = _network(out.flat[walking], a, b, keys)
        walking = walking[out.flat[walking] >= np.uint64(n)]
    return out.astype(np.int64)


def sigma_array(t: np.ndarray, n0: int, log: Sequence[tuple[int, int]], key: tuple) -> np.ndarray:
    """sigma_J(t) of the module docstring: int64 positions in one epoch -> int64 samples.

    n0: samples at its start. log: [(c, m), …]. key: parts for `round_keys`, without j.
    """
    t = np.array(t, dtype=np.int64)
    size = n0 + sum(m for _, m in log)
    if t.size and (t.min() < 0 or t.max() >= size):
        raise ValueError(f"positions [{t.min()}, {t.max()}] are outside an epoch of {size} samples")
    unmapped = np.ones(t.shape, dtype=bool)  # to be mapped by an earlier level
    for j in range(len(log), 0, -1):
        c, m = log[j - 1]
        size -= m
        later = unmapped & (t >= c)
        left = size - c
        u = permute_array(t[later] - c, left + m, round_keys(*key, j))
        t[later] = np.where(u < left, c + u, size + u - left)
        unmapped[later] = u < left
    t[unmapped] = permute_array(t[unmapped], n0, round_keys(*key, 0))
    return t


class _Era(NamedTuple):
    """Epochs `epoch`, `epoch`+1, ... from draw `start`, each of n0 samples; or, with a log, one epoch."""

    start: int
    epoch: int
    n0: int
    log: tuple[tuple[int, int], ...] = ()

    @property
    def size(self) -> int:
        return self.n0 + sum(m for _, m in self.log)

    def grown(self, d: int, m: int) -> list[_Era]:
        """This epoch with m samples added at draw d, and the epochs after it."""
        now = self._replace(log=(*self.log, (d - self.start, m)))
        return [now, _Era(now.start + now.size, now.epoch + 1, now.size)]


class Stream:
    """An endless stream of draws over a set that may grow: draw d is sample `self.samples([d])[0]`.

    n0: samples at the start. appends: [(d, m), ...] in order: when d draws had been made, m samples
    were added. They are shuffled into the rest of the epoch that draw d-1 belongs to; later epochs
    shuffle everything as one pool.
    """

    def __init__(self, name: str, seed: int, n0: int, appends: Iterable[tuple[int, int]] = ()):
        self.name, self.seed = name, seed
        eras, last = [_Era(0, 0, n0)], 0
        for d, m in appends:
            if d < last or m < 0:
                raise ValueError(f"append log of {name!r} not in order: {(d, m)} after {last}")
            last = d
            eras = _append(eras, int(d), int(m))
        self._eras = [era for era in eras if era.size > 0]
        self._starts = [era.start for era in self._eras]

    def locate(self, d: int) -> tuple[int, int, int]:
        """Draw d -> (epoch, position in the epoch, samples in that epoch)."""
        era = self._eras[bisect_right(self._starts, d) - 1]
        laps, t = divmod(d - era.start, era.size)
        return era.epoch + laps, t, era.size

    def samples(self, draws: np.ndarray) -> np.ndarray:
        """int64 draws -> int64 samples of the same shape."""
        draws = np.asarray(draws, dtype=np.int64)
        out = np.empty_like(draws)
        if not self._eras:
            raise ValueError(f"stream {self.name!r} is empty")
        which = np.searchsorted(self._starts, draws, side="right") - 1
        for i in np.unique(which):
            era, rows = self._eras[i], np.flatnonzero(which == i)
            laps, t = np.divmod(draws.flat[rows] - era.start, era.size)
            for lap in np.unique(laps):
                key = (self.seed, self.name, era.epoch + int(lap))
                out.flat[rows[laps == lap]] = sigma_array(t[laps == lap], era.n0, era.log, key)
        return out


def _append(eras: list[_Era], d: int, m: int) -> list[_Era]:
    """Eras after m samples were added at draw d >= start of the last era."""
    *before, last = eras
    if last.size > 0 and d > last.start:
        # Draw d-1 decides: at an exact end of an epoch nothing is unseen, so the new samples alone
        # extend that epoch.
        laps = (d - 1 - last.start) // last.size
        head = [last] if laps else []
        current = _Era(last.start + laps * last.size, last.epoch + laps, last.size)
        return before + head + current.grown(d, m)
    if before and before[-1].log:  # again in the epoch that already grew
        return before[:-1] + before[-1].grown(d, m)
    return [*before, last._replace(n0=last.n0 + m)]  # nothing drawn yet
