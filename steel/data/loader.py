"""The loader: `batch(step)` is a pure function of the step, the rank and the number of ranks.

    step -> global slots -> (stream, draw) by `mixture` -> sample by `order` -> tokens by `shards`

Nothing is consumed and nothing has to be fast-forwarded: a resumed run asks for the next step. The state that a
checkpoint needs is one small JSON object, equal on all ranks, valid at any number of ranks and workers. Rank r of W
gets the slots t of the step with t ≡ r (mod W), in order; so the ranks' rows together are the one-rank batch.

Letters: B batch (rows), T time (tokens of a sample, L in `shards`), W ranks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from ..config import UserError
from .batch import IGNORED, Batch, positions
from .mixture import POOL, Mixture, quotas, quotas_by_size
from .order import Stream
from .shards import Piece, ShardSet, check_sizes

if (
    TYPE_CHECKING
):  # torch is imported by the first batch, so that packing processes start without it
    pass

STATE_FORMAT = 1
PLANNED = 2048  # rows of one rank whose order is computed at once


@dataclass
class _Rows:
    """Where samples lie, int64 each: piece of the shard set, first token in it, shard, first token in that."""

    piece: np.ndarray
    start: np.ndarray
    shard: np.ndarray
    at: np.ndarray


class _Group:
    """One stream of the mixture, and where its samples lie: pieces in order of generation, then source."""

    def __init__(self, loader: Loader, name: str):
        members = [(i, p) for i, p in enumerate(loader.shards.pieces) if name in (POOL, p.source)]
        self.numbers = np.array([i for i, _ in members], dtype=np.int64)
        counts = [p.samples(loader.sequence_length) for _, p in members]
        self.first = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        per_generation = [0] * len(loader.shards.generations)
        for (_, piece), count in zip(members, counts, strict=True):
            per_generation[piece.generation] += count
        start = loader._first_generations
        appends = [
            (loader.mixture.drawn(slot).get(name, 0), per_generation[start + i])
            for i, slot in enumerate(loader._appended_at)
        ]
        self.stream = Stream(
            name, loader.seed, sum(per_generation[:start]), [(d, m) for d, m in appends if m]
        )

    def locate(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(index of the piece in the shard set, sample inside it), both int64."""
        which = np.searchsorted(self.first, samples, side="right") - 1
        return self.numbers[which], samples - self.first[which]


class Loader:
    """Batches of packed token samples.

    batch_size: rows per step over all ranks. sequence_length: T.
    mixture:
        None (or {}) = every source by its size: one epoch is exactly one pass over all samples;
        {source: weight} = shares of samples; each source has its own epochs; 0 leaves a source out; all are named;
        [{"step": s, "weights": {…} or None}, …] = weights that change at given steps, for example for annealing
        (None there: in proportion to size, and every source carries on where the step before left it).
        A run that began without any weights and gets them at a resume draws each source from a fresh epoch.
    mask_documents: positions restart at every document; False gives 0 … T-1.
    max_epochs: UserError when a stream would start epoch number `max_epochs`; None repeats for ever.
    """

    def __init__(
        self,
        shards: ShardSet,
        sequence_length: int,
        batch_size: int,
        seed: int = 0,
        mixture=None,
        *,
        rank: int = 0,
        world: int = 1,
        mask_documents: bool = True,
        max_epochs: int | None = None,
    ):
        _positive(sequence_length=sequence_length, batch_size=batch_size, world=world)
        self._setup(shards, sequence_length, seed, rank, world, mask_documents, max_epochs)
        self._first_generations = len(shards.generations)
        self._appended_at: list[int] = []
        self._batches = [(0, 0, batch_size)]  # (first step, first slot, rows per step)
        self.mixture = Mixture.plan(seed, self._wanted(mixture))
        self.events: list[str] = []

    def _setup(
        self, shards, sequence_length, seed, rank, world, mask_documents, max_epochs
    ) -> None:
        if not shards.pieces:
            hint = (
                "; pack with hold_out above 0"
                if shards.split == "validation"
                else "; pack some documents"
            )
            raise UserError(f"{shards.root} holds no {shards.split} tokens{hint}")
        if not 0 <= rank < world:
            raise UserError(f"rank {rank} is outside [0, {world})")
        self.shards, self.sequence_length, self.seed = shards, sequence_length, seed
        self.rank, self.world, self.mask_documents, self.max_epochs = (
            rank,
            world,
            mask_documents,
            max_epochs,
        )
        self.sources = shards.sources
        self._groups: dict[str, _Group] = {}
        self._plans: dict[int, tuple[int, _Rows]] = {}
        # all pieces laid end to end, so that one search finds the shard of many samples
        self._records = [s for p in shards.pieces for s in p.shards]
        self._piece_first = np.cumsum([0, *(p.tokens for p in shards.pieces)])[:-1]
        self._shard_first = np.cumsum([0, *(s["tokens"] for s in self._records)])[:-1]
        self._piece_source = np.array(
            [self.sources.index(p.source) for p in shards.pieces], dtype=np.int64
        )

    # -- what a run asks for --------------------------------------------------------------------------------------

    def batch(self, step: int) -> Batch:
        """This rank's rows of `step`, in slot order."""
        import torch

        slot, rows = self._span(step)
        if self.max_epochs is not None:
            self._check_epochs(slot, rows, step)
        T, arrays, records = self.sequence_length, self.shards.arrays, self._records
        rows = self._rows(step)
        inputs_BT, targets_BT = (np.empty((len(rows.at), T), dtype=np.int64) for _ in range(2))
        ends: list[np.ndarray] = []  # where documents end, counted through all rows
        for row, (shard, at) in enumerate(zip(rows.shard.tolist(), rows.at.tolist(), strict=True)):
            stream, index = arrays(records[shard]["path"])
            tokens = stream[at : at + T + 1]
            if len(tokens) == T + 1:
                inputs_BT[row], targets_BT[row] = tokens[:-1], tokens[1:]
                first, last = index.searchsorted((at, at + T - 1), "right")
                inside = index[first:last] - at
            else:  # the sample goes on in the next shard, or the piece ends
                piece = self.shards.pieces[rows.piece[row]]
                inside = self._read_across(
                    piece, int(rows.start[row]), inputs_BT[row], targets_BT[row]
                )
            ends += (inside + row * T, [(row + 1) * T])
        ends_N = np.concatenate(ends or [[]]).astype(np.int64) if self.mask_documents else None
        return Batch(
            torch.from_numpy(inputs_BT),
            torch.from_numpy(targets_BT),
            positions(ends_N, len(inputs_BT), T),
            None if ends_N is None else torch.from_numpy(ends_N),
            torch.from_numpy(self._piece_source[rows.piece]),
        )

    def check_files(self, step: int) -> None:
        """UserError when a shard that `step` begins a row in has lost bytes since it was opened: memory maps go on with
        zeros, or die of SIGBUS."""
        for shard in set(self._rows(step).shard.tolist()):
            check_sizes(self.shards.root, self._records[shard], self.shards.dtype.itemsize)

    def batches(
        self, first: int, last: int, workers: int = 0, prefetch: int = 4, pin_memory: bool = False
    ) -> Iterator[tuple[int, Batch]]:
        """(step, batch) for first <= step < last, prepared ahead by `workers` processes; the same for any number."""
        if workers == 0:
            for step in range(first, last):
                yield step, self.batch(step)
            return
        from torch.utils.data import DataLoader

        ahead = DataLoader(
            _Steps(self),
            batch_size=None,
            sampler=range(first, last),
            num_workers=workers,
            prefetch_factor=prefetch,
            pin_memory=pin_memory,
        )
        yield from zip(range(first, last), ahead, strict=True)

    def one_pass(self, most: int | None = None) -> Iterator[Batch]:
        """Batches that hold every sample once, or the first `most` of them; the last may be smaller.

        For one rank and no weights, where the first epoch of the order is one pass.
        """
        rows = self._span(0)[1]
        left = self.samples if most is None else min(self.samples, most)
        for step in range(-(-left // rows)):
            yield self.batch(step).split(min(rows, left - step * rows))[0]

    def epochs(self, step: int) -> dict[str, float]:
        """Passes made over each stream before `step` (stream "*" is all sources together)."""
        drawn = self.mixture.drawn(self._span(step)[0])
        result = {}
        for name, d in sorted(drawn.items()):
            epoch, t, size = self._group(name).stream.locate(max(d - 1, 0))
            result[name] = epoch + (t + 1) / size if d else 0.0
        return result

    @property
    def samples(self) -> int:
        """Samples of all sources together (one pass), of `sequence_length` tokens."""
        return sum(p.samples(self.sequence_length) for p in self.shards.pieces)

    # -- state ----------------------------------------------------------------------------------------------------

    def state(self, step: int) -> dict:
        """What `from_state` needs to go on with `step` as the next step: JSON, equal on all ranks."""
        slot, rows = self._span(step)
        if slot < max([0, *self._appended_at]):
            raise ValueError(f"no state for step {step}: data was appended after it")
        return {
            "format": STATE_FORMAT,
            "step": step,
            "slot": slot,
            "seed": self.seed,
            "sequence_length": self.sequence_length,
            "mask_documents": self.mask_documents,
            "batches": [list(b) for b in self._batches],
            "phases": self.mixture.to_json(),
            "generations": self.shards.generations[
                : self._first_generations + len(self._appended_at)
            ],
            "first_generations": self._first_generations,
            "appended_at": list(self._appended_at),
        }

    @classmethod
    def from_state(
        cls,
        shards: ShardSet,
        state: Mapping,
        *,
        rank: int = 0,
        world: int = 1,
        max_epochs: int | None = None,
        **given,
    ) -> Loader:
        """The loader that goes on from `state`, at this or another number of ranks.

        given: settings of the resumed run, checked against the state. sequence_length, seed and mask_documents must
        agree; batch_size and mixture may differ and then change from this step on, with the past kept. Shards that
        were appended since the state was saved are mixed with exactly the samples not yet seen. `events` says what
        changed. UserError when the shards are not those of the state.
        """
        if state.get("format") != STATE_FORMAT:
            raise UserError(
                f"the data state has format {state.get('format')!r}, this version reads {STATE_FORMAT}"
            )
        for key in ("sequence_length", "seed", "mask_documents"):
            if key in given and given[key] != state[key]:
                raise UserError(
                    f"the run was started with {key} {state[key]}, now it is {given[key]}; "
                    "set it back, or start a new run folder"
                )
        unknown = set(given) - {
            "sequence_length",
            "seed",
            "mask_documents",
            "batch_size",
            "mixture",
        }
        if unknown:
            raise TypeError(f"unknown settings: {', '.join(sorted(unknown))}")
        _same_corpus(shards, state["generations"])
        loader = cls.__new__(cls)
        _positive(world=world)
        loader._setup(
            shards,
            state["sequence_length"],
            state["seed"],
            rank,
            world,
            state["mask_documents"],
            max_epochs,
        )
        loader._first_generations, loader._appended_at = (
            state["first_generations"],
            list(state["appended_at"]),
        )
        loader._batches = [tuple(b) for b in state["batches"]]
        loader.mixture = Mixture.from_json(state["seed"], state["phases"])
        loader.events = []
        loader._change(state["step"], given)
        return loader

    def _change(self, step: int, given: Mapping) -> None:
        slot, rows = self._span(step)
        new = self.shards.generations[self._first_generations + len(self._appended_at) :]
        size = given.get("batch_size")
        if size is not None and size != rows:
            _positive(batch_size=size)
            self._batches = [b for b in self._batches if b[0] < step] + [(step, slot, size)]
            self.events.append(f"batch size {rows} → {size} sequences from step {step}")
        if "mixture" in given:
            before = self.mixture.at(slot).quotas
            self.mixture = self.mixture.changed(slot, self._wanted(given["mixture"]))
            if self.mixture.at(slot).quotas != before:
                self.events.append(f"new mixture from step {step}")
        elif new:
            self._refuse_unweighted()
        if new:
            self._appended_at += [slot] * len(new)
            self._groups.clear()
            added = sum(
                p.samples(self.sequence_length)
                for p in self.shards.pieces
                if p.generation >= len(self.shards.generations) - len(new)
            )
            self.events.append(
                f"{added:,} appended samples are mixed with the unseen ones from step {step}"
            )

    # -- inside ----------------------------------------------------------------------------------------------------

    def _span(self, step: int) -> tuple[int, int]:
        """(first slot, rows) of a step."""
        if step < 0:
            raise ValueError(f"step is {step}; steps count from 0")
        first, slot, rows = self._batches[bisect_right([b[0] for b in self._batches], step) - 1]
        return slot + (step - first) * rows, rows

    def _group(self, name: str) -> _Group:
        if name not in self._groups:
            self._groups[name] = _Group(self, name)
        return self._groups[name]

    def _rows(self, step: int) -> _Rows:
        """Where this rank's rows of a step lie: computed for many steps at once, which is cheaper, and remembered."""
        after = bisect_right([b[0] for b in self._batches], step)
        begin, slot, size = self._batches[after - 1]
        steps = max(1, PLANNED * self.world // size)
        first = begin + (step - begin) // steps * steps
        plan = self._plans.get(first)
        if plan is None:
            last = min([first + steps, *(b[0] for b in self._batches[after : after + 1])])
            low, high = slot + (first - begin) * size, slot + (last - begin) * size
            slots = np.arange(
                low + (self.rank - low) % self.world, high, self.world, dtype=np.int64
            )
            plan = low, self._locate(slots)
            self._plans = {first: plan}  # exchanged whole: two threads may ask for different steps
        low, rows = plan
        origin = low + (self.rank - low) % self.world
        a, b = (-(-(slot + (s - begin) * size - origin) // self.world) for s in (step, step + 1))
        return _Rows(*(getattr(rows, f.name)[a:b] for f in fields(_Rows)))

    def _locate(self, slots: np.ndarray) -> _Rows:
        """Slots -> pieces and tokens."""
        piece, start = np.empty_like(slots), np.empty_like(slots)
        for name, at, draws in self.mixture.draws(slots):
            group = self._group(name)
            piece[at], start[at] = group.locate(group.stream.samples(draws)[0])
        start *= self.sequence_length
        flat = self._piece_first[piece] + start
        shard = np.searchsorted(self._shard_first, flat, side="right") - 1
        return _Rows(piece, start, shard, flat - self._shard_first[shard])

    def _read_across(
        self, piece: Piece, start: int, inputs: np.ndarray, targets: np.ndarray
    ) -> np.ndarray:
        """Fill one row from several shards, pad it where the piece ends; returns where documents end inside it."""
        T = self.sequence_length
        tokens, ends = self.shards.read(piece, start, start + T + 1)
        n = len(tokens) - 1
        inputs[:n], targets[:n] = tokens[:-1], tokens[1:]
        inputs[n:], targets[n:] = self.shards.separator_id, IGNORED
        ends = ends[ends < n]
        return np.append(ends, n) if n < T else ends

    def _wanted(self, mixture) -> list[tuple[int, dict[str, int]]]:
        """[(first slot, quotas)] of a mixture setting."""
        phases = (
            mixture if isinstance(mixture, (list, tuple)) else [{"step": 0, "weights": mixture}]
        )
        phases = [(int(p["step"]), p["weights"] or None) for p in phases]
        steps = [step for step, _ in phases]
        if not steps or steps[0] != 0 or steps != sorted(set(steps)):
            raise UserError(
                f"mixture phases start at steps {steps}; the first is 0 and they increase"
            )
        by_size = (
            {POOL: 1 << 16} if not any(w for _, w in phases) else quotas_by_size(self._sizes())
        )
        return [
            (self._span(step)[0], by_size if w is None else quotas(self._named(w)))
            for step, w in phases
        ]

    def _sizes(self) -> dict[str, int]:
        sizes = dict.fromkeys(self.sources, 0)
        for piece in self.shards.pieces:
            sizes[piece.source] += piece.samples(self.sequence_length)
        return sizes

    def _named(self, weights: Mapping[str, float]) -> Mapping[str, float]:
        sizes = self._sizes()
        for name in sorted(set(weights) - set(sizes)):
            raise UserError(
                f"the mixture names source {name!r}, which the shards do not have; "
                f"they have {', '.join(self.sources)}"
            )
        for name in sorted(set(sizes) - set(weights)):
            raise UserError(
                f"source {name!r} has no weight in the mixture; give it one (0 leaves it out)"
            )
        for name in weights:
            if weights[name] and not sizes[name]:
                raise UserError(
                    f"source {name!r} has a weight but no {self.shards.split} samples; set it to 0"
                )
        return weights

    def _refuse_unweighted(self) -> None:
        used = set().union(*(p.quotas for p in self.mixture.phases))
        if POOL not in used:
            known = set(self.shards.sources)
            old = {
                p.source
                for p in self.shards.pieces
                if p.generation < len(self.shards.generations) - 1
            }
            for name in sorted(known - old - used):
                raise UserError(
                    f"source {name!r} was appended and has no weight in the mixture; give the mixture anew"
                )

    def _check_epochs(self, slot: int, rows: int, step: int) -> None:
        for name, d in self.mixture.drawn(slot + rows).items():
            if d and self._group(name).stream.locate(d - 1)[0] >= self.max_epochs:
                what = "the data is" if name == POOL else f"source {name!r} is"
                raise UserError(
                    f"{what} exhausted at step {step} after {self.max_epochs} epoch(s); train fewer steps, "
                    "append data, or allow more epochs"
                )


class _Steps:
    """Random access to steps, for worker processes."""

    def __init__(self, loader: Loader):
        self.loader = loader

    def __getitem__(self, step: int) -> Batch:
        return self.loader.batch(step)


def _positive(**values: int) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{name} is {value!r}; it must be a whole number ≥ 1")


def _same_corpus(shards: ShardSet, generations: list[str]) -> None:
    if len(shards.generations) < len(generations):
        raise UserError(
            f"{shards.root} holds {len(shards.generations)} generation(s) of shards, the run has read "
            f"{len(generations)}: appended shards are missing; restore the folder"
        )
    for g, (now, then) in enumerate(zip(shards.generations, generations, strict=False)):
        if now != then:
            raise UserError(
                f"{shards.root} is not the data that the run was started with (generation {g} differs); "
                "point to the old folder, or start a new run folder"
            )
