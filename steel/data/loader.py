"""The loader: `batch(step)` is a pure function of the step, the rank and the number of ranks.

    step -> global slots -> (stream, draw) by `mixture` -> sample by `order` -> tokens by `shards`

Nothing is consumed and nothing has to be fast-forwarded: a resumed run asks for the next step. The
state that a checkpoint needs is one small JSON object, equal on all ranks, valid at any number of
ranks. Rank r of W gets the slots t of the step with t ≡ r (mod W), in order; so the ranks' rows
together are the one-rank batch.

Letters: B batch (rows), T time (tokens of a sample, L in `shards`), W ranks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..config import UserError
from .batch import IGNORED, Batch, positions
from .mixture import POOL, Mixture, quotas, quotas_by_size
from .order import Stream
from .shards import ShardSet

STATE_FORMAT = 1
PLANNED = 2048  # rows of one rank whose order is computed at once, which is cheaper than one by one
SAME = ("sequence_length", "seed", "mask_documents")  # settings that a resumed run may not change


@dataclass
class _Rows:
    """Where rows lie, int64 each: slot, piece, first token in the split, targets before the piece ends."""

    slot: np.ndarray
    piece: np.ndarray
    at: np.ndarray
    targets: np.ndarray


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

    def locate(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draws -> (index of the piece in the shard set, sample inside it), both int64."""
        samples, _ = self.stream.samples(draws)
        which = np.searchsorted(self.first, samples, side="right") - 1
        return self.numbers[which], samples - self.first[which]


class Loader:
    """Batches of packed token samples.

    batch_size: rows per step over all ranks. sequence_length: T.
    mixture:
        None (or {}) = every source by its size: one epoch is exactly one pass over all samples;
        {source: weight} = shares of samples; each source has its own epochs; 0 leaves a source
        out; all are named;
        [{"step": s, "weights": {…} or None}, …] = weights that change at given steps, for example
        for annealing (None there: in proportion to size, and every source carries on where the
        step before left it).
        A run that began without any weights and gets them at a resume draws each source from a
        fresh epoch.
    mask_documents: positions restart at every document; False gives 0 … T-1.
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
    ):
        _positive(sequence_length=sequence_length, batch_size=batch_size, world=world)
        if not shards.pieces:
            hint = "hold_out above 0" if shards.split == "validation" else "some documents"
            raise UserError(f"{shards.root} holds no {shards.split} tokens; pack with {hint}")
        if not 0 <= rank < world:
            raise UserError(f"rank {rank} is outside [0, {world})")
        self.shards, self.sequence_length, self.seed = shards, sequence_length, seed
        self.rank, self.world, self.mask_documents = rank, world, mask_documents
        self.sources, pieces = shards.sources, shards.pieces
        self._piece_source = np.array([self.sources.index(p.source) for p in pieces], np.int64)
        self._piece_first = np.array([p.first for p in pieces], np.int64)
        self._piece_tokens = np.array([p.tokens for p in pieces], np.int64)
        self.events: list[str] = []
        self._first_generations = len(shards.generations)
        self._appended_at: list[int] = []
        self._batches = [(0, 0, batch_size)]  # (first step, first slot, rows per step)
        self._groups: dict[str, _Group] = {}
        self._plan = (0, 0, None)  # (first step, last step, their rows)
        self.mixture = Mixture.plan(seed, self._wanted(mixture))

    # -- what a run asks for -----------------------------------------------------------------------

    def batch(self, step: int) -> Batch:
        """This rank's rows of `step`, in slot order. UserError names a shard that was cut or changed."""
        import torch

        rows, T, separator = self._rows(step), self.sequence_length, self.shards.separator_id
        stored = np.empty((len(rows.at), T + 1), dtype=self.shards.dtype)
        self.shards.read_rows(rows.at, rows.targets + 1, stored)
        short = [(row, int(rows.targets[row])) for row in np.flatnonzero(rows.targets < T)]
        inputs_BT, targets_BT = stored[:, :-1].astype(np.int64), stored[:, 1:].astype(np.int64)
        for row, count in short:  # the piece ends in this row: padding
            inputs_BT[row, count:], targets_BT[row, count:] = separator, IGNORED
        ends = None
        if self.mask_documents:
            is_end_BT = stored[:, :-1] == separator
            is_end_BT[:, -1] = True
            for row, count in short:  # padding is a document of its own
                is_end_BT[row, count:-1], is_end_BT[row, count - 1] = False, True
            ends = np.flatnonzero(is_end_BT) + 1
        return Batch(
            torch.from_numpy(inputs_BT),
            torch.from_numpy(targets_BT),
            positions(ends, len(stored), T),
            None if ends is None else torch.from_numpy(ends),
            torch.from_numpy(self._piece_source[rows.piece]),
        )

    def one_pass(self, most: int | None = None) -> Iterator[Batch]:
        """Batches that hold every sample once, or the first `most` of them; the last may be smaller.

        For one rank and no weights, where the first epoch of the order is one pass.
        """
        _, rows = self._span(0)
        left = self.samples if most is None else min(self.samples, most)
        for step in range(-(-left // rows)):
            yield self.batch(step).split(min(rows, left - step * rows))[0]

    @property
    def samples(self) -> int:
        """Samples of all sources together (one pass), of `sequence_length` tokens."""
        return self.shards.samples(self.sequence_length)

    # -- state -------------------------------------------------------------------------------------

    def state(self, step: int) -> dict:
        """What `from_state` needs to go on with `step` as the next step: JSON, equal on all ranks."""
        slot, _ = self._span(step)
        if slot < max([0, *self._appended_at]):
            raise ValueError(f"no state for step {step}: data was appended after it")
        known = self._first_generations + len(self._appended_at)
        return {
            "format": STATE_FORMAT,
            "step": step,
            "slot": slot,
            **{key: getattr(self, key) for key in SAME},
            "batches": [list(b) for b in self._batches],
            "phases": self.mixture.to_json(),
            "generations": self.shards.generations[:known],
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
        batch_size: int | None = None,
        **given,
    ) -> Loader:
        """The loader that goes on from `state`, at this or another number of ranks.

        given: settings of the resumed run. sequence_length, seed and mask_documents must agree with
        the state; batch_size and mixture may differ and then change from this step on, with the
        past kept. Shards that were appended since the state was saved are mixed with exactly the
        samples not yet seen. `events` says what changed. UserError when the shards are not those
        of the state.
        """
        if state.get("format") != STATE_FORMAT:
            raise UserError(
                f"the data state has format {state.get('format')!r}, this version reads {STATE_FORMAT}"
            )
        for key in SAME:
            if given.get(key, state[key]) != state[key]:
                raise UserError(
                    f"the run was started with {key} {state[key]}, now it is {given[key]}; "
                    "set it back, or start a new run folder"
                )
        if unknown := set(given) - {*SAME, "mixture"}:
            raise TypeError(f"unknown settings: {', '.join(sorted(unknown))}")
        _same_corpus(shards, state["generations"])
        same = {key: state[key] for key in SAME}
        loader = cls(shards, batch_size=1, rank=rank, world=world, **same)
        loader._first_generations = state["first_generations"]
        loader._appended_at = list(state["appended_at"])
        loader._batches = [tuple(b) for b in state["batches"]]
        loader.mixture = Mixture.from_json(state["seed"], state["phases"])
        loader._change(state["step"], batch_size, given)
        return loader

    def _change(self, step: int, batch_size: int | None, given: Mapping) -> None:
        """Take on, from `step`, another batch size, another mixture, and appended shards."""
        slot, rows = self._span(step)
        if batch_size is not None and batch_size != rows:
            _positive(batch_size=batch_size)
            earlier = [b for b in self._batches if b[0] < step]
            self._batches = [*earlier, (step, slot, batch_size)]
            self.events.append(f"batch size {rows} → {batch_size} sequences from step {step}")
        known = self._first_generations + len(self._appended_at)
        new = len(self.shards.generations) - known
        if "mixture" in given:
            before = self.mixture.at(slot).quotas
            self.mixture = self.mixture.changed(slot, self._wanted(given["mixture"]))
            if self.mixture.at(slot).quotas != before:
                self.events.append(f"new mixture from step {step}")
        elif new:
            self._refuse_unweighted(known)
        if new:
            self._appended_at += [slot] * new
            self._groups.clear()
            added = self.shards.samples(self.sequence_length, range(known, known + new))
            self.events.append(
                f"{added:,} appended samples are mixed with the unseen ones from step {step}"
            )

    # -- inside ------------------------------------------------------------------------------------

    def _span(self, step: int) -> tuple[int, int]:
        """(first slot, rows) of a step."""
        if step < 0:
            raise ValueError(f"step is {step}; steps count from 0")
        first, slot, rows = self._batches[self._section(step)]
        return slot + (step - first) * rows, rows

    def _section(self, step: int) -> int:
        """Which entry of `_batches` a step belongs to."""
        return bisect_right(self._batches, step, key=lambda section: section[0]) - 1

    def _group(self, name: str) -> _Group:
        if name not in self._groups:
            self._groups[name] = _Group(self, name)
        return self._groups[name]

    def _rows(self, step: int) -> _Rows:
        """Where this rank's rows of a step lie; computed for many steps at once, and remembered."""
        slot, size = self._span(step)
        first, last, rows = self._plan
        if not first <= step < last:
            first, last = self._planned_with(step, size)
            low, high = self._span(first)[0], self._span(last - 1)[0] + size
            mine = np.arange(low + (self.rank - low) % self.world, high, self.world, dtype=np.int64)
            rows = self._locate(mine)
            self._plan = first, last, rows  # exchanged whole: two threads may ask for two steps
        begin, end = np.searchsorted(rows.slot, (slot, slot + size))
        return _Rows(*(part[begin:end] for part in vars(rows).values()))

    def _planned_with(self, step: int, size: int) -> tuple[int, int]:
        """[first, last) steps whose rows are computed together with those of `step`."""
        section = self._section(step)
        begin = self._batches[section][0]
        together = max(1, PLANNED * self.world // size)
        first = begin + (step - begin) // together * together
        next_begins = [later[0] for later in self._batches[section + 1 : section + 2]]
        return first, min([first + together, *next_begins])

    def _locate(self, slots: np.ndarray) -> _Rows:
        """Slots -> pieces and tokens."""
        piece, sample = np.empty_like(slots), np.empty_like(slots)
        for name, at, draws in self.mixture.draws(slots):
            piece[at], sample[at] = self._group(name).locate(draws)
        start = sample * self.sequence_length  # inside the piece
        targets = np.minimum(self.sequence_length, self._piece_tokens[piece] - 1 - start)
        return _Rows(slots, piece, self._piece_first[piece] + start, targets)

    def _wanted(self, mixture) -> list[tuple[int, dict[str, int]]]:
        """[(first slot, quotas)] of a mixture setting."""
        if not isinstance(mixture, (list, tuple)):
            mixture = [{"step": 0, "weights": mixture}]
        phases = [(int(phase["step"]), phase["weights"] or None) for phase in mixture]
        steps = [step for step, _ in phases]
        if not steps or steps[0] != 0 or steps != sorted(set(steps)):
            raise UserError(
                f"mixture phases start at steps {steps}; the first is 0 and they increase"
            )
        if not any(weights for _, weights in phases):
            by_size = {POOL: 1 << 16}
        else:
            by_size = quotas_by_size(self._sizes())
        return [
            (self._span(step)[0], by_size if weights is None else self._quotas(weights))
            for step, weights in phases
        ]

    def _sizes(self) -> dict[str, int]:
        sizes = dict.fromkeys(self.sources, 0)
        for piece in self.shards.pieces:
            sizes[piece.source] += piece.samples(self.sequence_length)
        return sizes

    def _quotas(self, weights: Mapping[str, float]) -> dict[str, int]:
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
        return quotas(weights)

    def _refuse_unweighted(self, known: int) -> None:
        """UserError when a source came with the generations from `known` on and no weight says how often."""
        weighted = set().union(*(phase.quotas for phase in self.mixture.phases))
        if POOL in weighted:
            return
        old = {piece.source for piece in self.shards.pieces if piece.generation < known}
        for name in sorted(set(self.sources) - old - weighted):
            raise UserError(
                f"source {name!r} was appended and has no weight in the mixture; give the mixture anew"
            )


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
