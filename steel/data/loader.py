"""The loader: `batch(step)` is a pure function of the step, the rank and the number of ranks.

    step -> global slots -> (stream, draw) by `mixture` -> sample by `order` -> tokens by `shards`

Nothing is consumed and nothing has to be fast-forwarded: a resumed run asks for the next step. The
state that a checkpoint needs is one small JSON object, equal on all ranks, valid at any number of
ranks. Rank r of W gets the slots t of the step with t ≡ r (mod W), in order; so the ranks' rows
together are the one-rank batch.

Letters: B batch (rows), T time (tokens of a sample, L in `shards`), W ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ..config import REST, UserError
from .batch import IGNORED, Batch, positions
from .mixture import POOL, Mixture, quotas, quotas_by_size
from .order import Stream
from .shards import ShardSet

STATE_FORMAT = 1
PLANNED = 2048  # rows of one rank whose order is computed at once, which is cheaper than one by one
SAME = ("sequence_length", "seed", "mask_documents")  # settings that a resumed run may not change


class Loader:
    """Batches of packed token samples.

    batch_size: rows per step over all ranks. sequence_length: T.
    mixture:
        None (or {}) = every source by its size: one epoch is exactly one pass over all samples;
        {source: weight} = shares of samples; each source has its own epochs; 0 leaves a source
        out; all are named, or the rest together as "*";
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
        if min(sequence_length, batch_size) < 1:
            raise UserError(f"{sequence_length=} and {batch_size=} have to be 1 or more")
        if not shards.pieces:
            hint = "hold_out above 0" if shards.split == "validation" else "some documents"
            raise UserError(f"{shards.root} holds no {shards.split} tokens; pack with {hint}")
        if not 0 <= rank < world:
            raise UserError(f"rank {rank} is outside [0, {world})")
        self.shards, self.sequence_length, self.seed = shards, sequence_length, seed
        self.rank, self.world, self.mask_documents = rank, world, mask_documents
        self.sources = shards.sources
        number = {source: number for number, source in enumerate(self.sources)}
        facts = [(p.generation, p.first, p.tokens, number[p.source]) for p in shards.pieces]
        self._pieces = np.array(facts, dtype=np.int64).T
        self._samples = np.array([p.samples(sequence_length) for p in shards.pieces], np.int64)
        self.events: list[str] = []
        self._first_generations = len(shards.generations)
        self._appended_at: list[int] = []
        self._batches = [(0, 0, batch_size)]  # (first step, first slot, rows per step)
        self._streams: dict[str, tuple[np.ndarray, np.ndarray, Stream]] = {}
        self._planned: tuple[int, np.ndarray | None] = (-1, None)
        self.mixture = Mixture.plan(seed, self._wanted(mixture))

    # -- what a run asks for -----------------------------------------------------------------------

    def batch(self, step: int) -> Batch:
        """This rank's rows of `step`, in slot order. UserError names a shard that was cut or changed."""
        import torch

        T, separator = self.sequence_length, self.shards.separator_id
        source_B, at_B, targets_B = self._rows(step)
        stored = np.empty((len(at_B), T + 1), dtype=self.shards.dtype)
        short = [(row, int(targets_B[row])) for row in np.flatnonzero(targets_B < T)]
        for row, at, targets in zip(stored, at_B.tolist(), targets_B.tolist(), strict=True):
            self.shards.read(at, row if targets == T else row[: targets + 1])
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
            torch.from_numpy(source_B),
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
        return int(self._samples.sum())

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
        if (version := state.get("format")) != STATE_FORMAT:
            raise UserError(f"the data state has format {version!r}, not {STATE_FORMAT}")
        for key in SAME:
            if given.get(key, state[key]) != state[key]:
                what = f"the run was started with {key} {state[key]}, now it is {given[key]}"
                raise UserError(f"{what}; set it back, or start a new run folder")
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
        if batch_size not in (None, rows):
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
            weighted = set().union(*(phase.quotas for phase in self.mixture.phases))
            old = {p.source for p in self.shards.pieces if p.generation < known}
            if POOL not in weighted and (names := sorted({*self.sources} - old - weighted)):
                what = f"source {names[0]!r} was appended and has no weight in the mixture"
                raise UserError(f"{what}; give the mixture anew")
        if new:
            self._appended_at += [slot] * new
            added = f"{self.shards.samples(self.sequence_length, since=known):,} appended samples"
            self.events.append(f"{added} are mixed with the unseen ones from step {step}")

    # -- inside ------------------------------------------------------------------------------------

    def _span(self, step: int) -> tuple[int, int]:
        """(first slot, rows) of a step."""
        first, slot, rows = [b for b in self._batches if b[0] <= step][-1]
        return slot + (step - first) * rows, rows

    def _rows(self, step: int) -> np.ndarray:
        """(3, B) int64, this rank's rows of a step: source, first token in the split, targets."""
        slot, size = self._span(step)
        stretch = PLANNED * self.world
        planned = range(slot // stretch, (slot + size - 1) // stretch + 1)
        rows = np.concatenate([self._plan(number) for number in planned], axis=1)
        begin, end = np.searchsorted(rows[0], (slot, slot + size))
        return rows[1:, begin:end].copy()

    def _plan(self, number: int) -> np.ndarray:
        """`_locate` of this rank's slots in a stretch of PLANNED times W; the last is remembered."""
        known, rows = self._planned
        if known != number:
            slots = (number * PLANNED + np.arange(PLANNED)) * self.world + self.rank
            rows = self._locate(slots)
            self._planned = number, rows  # exchanged whole: two threads may ask for two steps
        return rows

    def _locate(self, slots: np.ndarray) -> np.ndarray:
        """(4, N) int64: slots, sources, first tokens in the split, targets before the piece ends."""
        piece, sample = np.empty_like(slots), np.empty_like(slots)
        for name, at, draws in self.mixture.draws(slots):
            members, first, stream = self._stream(name)
            found = stream.samples(draws)
            which = np.searchsorted(first, found, side="right") - 1
            piece[at], sample[at] = members[which], found - first[which]
        _, first_token, tokens, source = self._pieces[:, piece]
        start = sample * self.sequence_length  # inside the piece
        targets = np.minimum(self.sequence_length, tokens - 1 - start)
        return np.stack((slots, source, first_token + start, targets))

    def _stream(self, name: str) -> tuple[np.ndarray, np.ndarray, Stream]:
        """The pieces of a stream of the mixture, the sample at which each begins, and its order."""
        if name not in self._streams:
            own = [name in (POOL, piece.source) for piece in self.shards.pieces]
            members = np.flatnonzero(own)
            first = np.concatenate(([0], np.cumsum(self._samples[members])))
            added = np.zeros(len(self.shards.generations), np.int64)  # samples by generation
            np.add.at(added, self._pieces[0, members], self._samples[members])
            start = self._first_generations
            appends = [
                (self.mixture.drawn(slot).get(name, 0), int(count))
                for slot, count in zip(self._appended_at, added[start:], strict=True)
                if count
            ]
            stream = Stream(name, self.seed, int(added[:start].sum()), appends)
            self._streams[name] = members, first, stream
        return self._streams[name]

    def _wanted(self, mixture) -> list[tuple[int, dict[str, int]]]:
        """[(first slot, quotas)] of a mixture setting."""
        if not isinstance(mixture, (list, tuple)):
            mixture = [{"step": 0, "weights": mixture}]
        steps = [int(phase["step"]) for phase in mixture]
        if not steps or steps[0] != 0 or steps != sorted(set(steps)):
            raise UserError(f"mixture phases start at {steps}; the first is 0 and they increase")
        sizes = dict.fromkeys(self.sources, 0)
        for piece in self.shards.pieces:
            sizes[piece.source] += piece.samples(self.sequence_length)
        weighted = any(phase["weights"] for phase in mixture)
        by_size = quotas_by_size(sizes if weighted else {POOL: self.samples})
        wanted = []
        for step, phase in zip(steps, mixture, strict=True):
            weights = phase["weights"]
            if weights:
                weights = _spread(weights, sizes)
                self._check_weights(weights, sizes)
            wanted.append((self._span(step)[0], quotas(weights) if weights else by_size))
        return wanted

    def _check_weights(self, weights: Mapping[str, float], sizes: Mapping[str, int]) -> None:
        for name in sorted(set(weights) ^ set(sizes)):
            if name in sizes:
                raise UserError(f"source {name!r} has no weight in the mixture; 0 leaves it out")
            known = ", ".join(self.sources)
            raise UserError(f"the mixture names source {name!r}; the shards have {known}")
        for name, weight in weights.items():
            if weight and not sizes[name]:
                what = f"source {name!r} has a weight but no {self.shards.split} samples"
                raise UserError(f"{what}; set it to 0")


def _spread(weights: Mapping[str, float], sizes: Mapping[str, int]) -> Mapping[str, float]:
    """Weights by source: what stands for the rest is spread over the sources not named, by size."""
    if REST not in weights:
        return weights
    rest = {name: size for name, size in sizes.items() if name not in weights}
    each = weights[REST] / max(1, sum(rest.values()))
    named = {name: weight for name, weight in weights.items() if name != REST}
    return named | {name: each * size for name, size in rest.items()}


def _same_corpus(shards: ShardSet, generations: list[str]) -> None:
    """UserError when a generation of shards that a run has read is missing or another."""
    for g, then in enumerate(generations):
        if g >= len(shards.generations):
            raise UserError(f"{shards.root}: appended shards are missing; restore the folder")
        if shards.generations[g] != then:
            what = f"{shards.root} is not the data that the run was started with"
            remedy = "point to the old folder, or start a new run folder"
            raise UserError(f"{what} (generation {g} differs); {remedy}")
