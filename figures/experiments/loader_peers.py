"""The contenders of the loader benchmark: this project's loader and three of its peers, behind one interface.

Every contender stores the same tokens in its own format and hands out shuffled batches as int64: inputs (B, T), targets
(B, T) and, if asked for, positions (B, T) that restart after a separator. Samples of the peers are T + 1 tokens, as
their users store them; ours share one token with their neighbour. B batch, T tokens of a sample, N samples, L = T + 1.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from steel.runlog import atomic_write

SEPARATOR = 0
SHARD_TOKENS = 1 << 24  # 64 MiB of uint32 a file, which is every contender's own default
SEED = 1


@dataclass
class Reader(ABC):
    """One contender's batches for one rank. open() starts or resumes; state() is what it would keep in a checkpoint.

    batch: rows over all ranks. positions: whether batches have positions. mixture: {source: weight} or None.
    """

    needs: ClassVar[
        str
    ]  # package to find, what pip calls it, and what a run imports before it begins
    pip: ClassVar[str]
    modules: ClassVar[tuple[str, ...]]
    many_files: ClassVar[bool] = (
        True  # of the large corpus, all links to one: reading them costs what files cost
    )

    folder: Path
    length: int
    batch: int
    rank: int = 0
    world: int = 1
    workers: int = 0
    positions: bool = False
    mixture: dict | None = None
    taken: int = 0  # batches, counted by whoever takes them

    @abstractmethod
    def open(self, state: dict | None) -> None:
        """Make `loader`, which is what the others ask."""

    def state(self) -> dict:
        return self.loader.state_dict()

    @abstractmethod
    def state_at(self, position: int) -> dict:
        """What it would have kept after `position` samples, without reading them."""

    def batches(self) -> Iterator[tuple]:
        """(inputs, targets, positions or None) until the end of the epoch."""
        return iter(self.loader)

    @staticmethod
    @abstractmethod
    def write(folder: Path, sources: dict[str, np.ndarray], length: int, part: int = 0) -> None:
        """Store samples_NL of each source (N samples of `length` + 1 tokens); part 1 is appended to part 0."""

    @staticmethod
    @abstractmethod
    def multiply(folder: Path, samples: int, length: int) -> int:
        """Turn a written folder into one that claims `samples` samples; files are links to one. Returns how many."""

    def stream(self, loader, state: dict | None, collate) -> None:
        """A peer's own loader of `data`, at its beginning or at `state`."""
        size, workers = self.batch // self.world, self.workers
        self.loader = loader(self.data, batch_size=size, num_workers=workers, collate_fn=collate)
        if state is not None:
            self.loader.load_state_dict(state)

    def split(self, rows: list | np.ndarray) -> tuple:
        """Rows of T + 1 tokens -> a batch. Documents are found by their separators, for want of an index."""
        import torch

        tokens = np.stack(rows).astype(np.int64)
        positions = None
        if self.positions:
            count = np.arange(self.length)
            starts = np.zeros((len(tokens), self.length), dtype=np.int64)
            starts[:, 1:] = np.where(tokens[:, : self.length - 1] == SEPARATOR, count[1:], 0)
            positions = torch.from_numpy(count - np.maximum.accumulate(starts, axis=1))
        rows_BT = torch.from_numpy(tokens)
        return rows_BT[:, :-1], rows_BT[:, 1:], positions


class _Steps:
    """Random access to steps, for worker processes."""

    def __init__(self, loader):
        self.loader = loader

    def __getitem__(self, step: int):
        return self.loader.batch(step)


class Steel(Reader):
    """This project's loader."""

    needs, pip, modules = "steel", "steel-book", ("steel.data",)

    def open(self, state):
        from steel.data import Loader, ShardSet

        shards = ShardSet.open(self.folder)
        place = {"rank": self.rank, "world": self.world}
        if state is None:
            order = (self.length, self.batch, SEED, self.mixture)
            self.loader = Loader(shards, *order, **place, mask_documents=self.positions)
            self.first = 0
        else:
            self.loader, self.first = Loader.from_state(shards, state, **place), state["step"]

    def state(self):
        return self.loader.state(self.first + self.taken)

    def state_at(self, position):
        self.open(None)
        return self.loader.state(position // self.batch)

    def batches(self):
        steps = range(self.first, self.loader.samples // self.batch)
        batches = map(self.loader.batch, steps)
        if self.workers:
            from torch.utils.data import DataLoader

            ahead = {"num_workers": self.workers, "prefetch_factor": 4}
            batches = DataLoader(_Steps(self.loader), batch_size=None, sampler=steps, **ahead)
        for b in batches:
            yield b.input_ids, b.targets, b.position_ids if self.positions else None

    @staticmethod
    def write(folder, sources, length, part=0):
        from steel.data.shard_file import token_dtype, write_shard
        from steel.data.shards import KEYS, generation_hash

        path = folder / "manifest.json"
        manifest = {"format": 1, "dtype": "uint32", "separator_id": SEPARATOR, "tokenizer_hash": ""}
        manifest |= {"inputs": [], "shards": [], "generations": []}
        manifest |= dict.fromkeys(KEYS[""].split(), 0)  # nobody packed these
        if part:
            manifest = json.loads(path.read_text())
        for source, samples_NL in sources.items():
            stream = np.append(samples_NL[:, :-1].ravel(), samples_NL[-1, -1:])
            stream = stream.astype(token_dtype(1 << 17))
            (folder / source).mkdir(parents=True, exist_ok=True)
            for i, at in enumerate(range(0, len(stream), SHARD_TOKENS)):
                tokens = stream[at : at + SHARD_TOKENS]
                separators = np.flatnonzero(tokens == SEPARATOR)
                ends = np.union1d(separators + 1, [len(tokens)]).astype("<i8")
                facts = write_shard(folder, f"{source}/{part:03d}-0000-{i:05d}", tokens, ends)
                place = {"source": source, "file": f"{source}.jsonl.zst", "generation": part}
                manifest["shards"].append({"split": "train", "bytes": 0, **facts, **place})
        manifest["generations"].append({"hash": generation_hash(manifest, part)})
        atomic_write(path, json.dumps(manifest))

    @staticmethod
    def multiply(folder, samples, length):
        from steel.data.shards import generation_hash

        manifest = json.loads((folder / "manifest.json").read_text())
        first = manifest["shards"][0]
        count = -(-samples * length // first["tokens"])
        for i in range(1, count):
            name = f"{first['source']}/000-0000-{i:05d}.bin"
            for suffix in (".bin", ".idx"):
                written, link = ((folder / n).with_suffix(suffix) for n in (first["path"], name))
                os.link(written, link)
            manifest["shards"].append(first | {"path": name})
        manifest["generations"] = [{"hash": generation_hash(manifest, 0)}]
        atomic_write(folder / "manifest.json", json.dumps(manifest))
        return count * first["tokens"] // length


class Torch(Reader):
    """torch's DataLoader over a memory map in the order of a NumPy permutation; the loop keeps its position itself."""

    needs, pip, modules = "torch", "torch", ("torch.utils.data",)
    many_files = False

    def open(self, state):
        import torch

        sources = sorted(self.folder.glob("*.bin"))
        size = 4 * (self.length + 1)
        counts = [path.stat().st_size // size for path in sources]
        self.maps = [
            np.memmap(p, np.uint32, "r", shape=(n, self.length + 1))
            for p, n in zip(sources, counts, strict=True)
        ]
        self.first = state["position"] if state else 0
        if self.mixture is None:
            order = np.random.default_rng(SEED).permutation(counts[0])
        else:
            share = [self.mixture[p.stem] / n for p, n in zip(sources, counts, strict=True)]
            generator, draws = torch.Generator().manual_seed(SEED), sum(counts)
            sampler = torch.utils.data.WeightedRandomSampler
            order = np.array([*sampler(np.repeat(share, counts), draws, generator=generator)])
        self.starts = np.cumsum([0, *counts])[:-1]
        mine = order[self.first :][self.rank :: self.world]
        how = {"sampler": mine, "num_workers": self.workers, "collate_fn": self.split}
        self.loader = torch.utils.data.DataLoader(self, self.batch // self.world, **how)

    def __getitem__(self, i):
        if len(self.maps) == 1:
            return self.maps[0][i]
        which = int(np.searchsorted(self.starts, i, side="right")) - 1
        return self.maps[which][i - self.starts[which]]

    def state(self):
        return {"position": self.first + self.taken * self.batch}

    def state_at(self, position):
        return {"position": position}

    @staticmethod
    def write(folder, sources, length, part=0):
        folder.mkdir(parents=True, exist_ok=True)
        for source, samples_NL in sources.items():
            with open(folder / f"{source}.bin", "ab" if part else "wb") as file:
                samples_NL.astype(np.uint32).tofile(file)

    @staticmethod
    def multiply(folder, samples, length):
        # sparse: zeros that take no disk
        os.truncate(next(folder.glob("*.bin")), samples * (length + 1) * 4)
        return samples


class LitData(Reader):
    """litdata's StreamingDataset with its TokensLoader, and its StreamingDataLoader."""

    needs, pip, modules = "litdata", "litdata", ("litdata",)

    def open(self, state):
        from litdata import (
            CombinedStreamingDataset,
            StreamingDataLoader,
            StreamingDataset,
            TokensLoader,
        )

        def dataset(name):
            how = {"item_loader": TokensLoader(block_size=self.length + 1), "shuffle": True}
            return StreamingDataset(str(self.folder / name), **how, seed=SEED)

        if self.mixture is None:
            self.data = dataset("a")
        else:
            names = sorted(self.mixture)
            how = {"weights": [self.mixture[name] for name in names], "iterate_over_all": False}
            self.data = CombinedStreamingDataset([*map(dataset, names)], seed=SEED, **how)
        self.stream(StreamingDataLoader, state, self.split)

    def state_at(self, position):
        self.open(None)
        next(self.batches())
        text = json.dumps(self.state())  # of one batch, with every count replaced
        for key in ("num_samples_yielded", "sample_in_epoch"):
            text = text.replace(f'"{key}": {self.batch}', f'"{key}": {position}')
        return json.loads(text)

    @staticmethod
    def write(folder, sources, length, part=0):
        import torch
        from litdata import TokensLoader
        from litdata.streaming import Cache

        for source, samples_NL in sources.items():
            target = folder / source if not part else folder / f"{source}.part"
            cache = Cache(
                input_dir=str(target),
                chunk_bytes=4 * SHARD_TOKENS,
                item_loader=TokensLoader(block_size=length + 1),
            )
            for i, row in enumerate(samples_NL):
                cache[i] = torch.from_numpy(row.astype(np.int32))
            cache.done()
            cache.merge()
            if part:  # as optimize(mode="append") does: more chunks, one index
                index = json.loads((folder / source / "index.json").read_text())
                for i, chunk in enumerate(
                    json.loads((target / "index.json").read_text())["chunks"]
                ):
                    name = f"chunk-{part}-{i}.bin"
                    os.rename(target / chunk["filename"], folder / source / name)
                    index["chunks"].append(chunk | {"filename": name})
                (folder / source / "index.json").write_text(json.dumps(index))

    @staticmethod
    def multiply(folder, samples, length):
        index = json.loads((folder / "a" / "index.json").read_text())
        first = index["chunks"][0]
        count = -(-samples // first["chunk_size"])
        index["chunks"] = [first | {"filename": f"chunk-0-{i}.bin"} for i in range(count)]
        for i in range(count):
            if not (folder / "a" / f"chunk-0-{i}.bin").exists():
                os.link(folder / "a" / first["filename"], folder / "a" / f"chunk-0-{i}.bin")
        (folder / "a" / "index.json").write_text(json.dumps(index))
        return count * first["chunk_size"]


class Mosaic(Reader):
    """mosaicml-streaming's StreamingDataset over MDS files, and its StreamingDataLoader."""

    needs, pip, modules = "streaming", "mosaicml-streaming", ("streaming",)

    def open(self, state):
        from streaming import Stream, StreamingDataLoader, StreamingDataset

        settings = {"shuffle": True, "shuffle_seed": SEED, "batch_size": self.batch // self.world}
        if self.mixture is None:
            self.data = StreamingDataset(local=str(self.folder / "a"), **settings)
        else:
            total = sum(self.mixture.values())
            self.data = StreamingDataset(
                streams=[
                    Stream(local=str(self.folder / k), proportion=w / total)
                    for k, w in sorted(self.mixture.items())
                ],
                **settings,
            )
        collate = lambda rows: self.split([r["tokens"] for r in rows])  # noqa: E731
        self.stream(StreamingDataLoader, state, collate)

    def state_at(self, position):
        return {
            "epoch": 0,
            "sample_in_epoch": position,
            "num_canonical_nodes": 1,
            "shuffle_seed": SEED,
            "initial_physical_nodes": 1,
        }

    @staticmethod
    def write(folder, sources, length, part=0):
        from streaming import MDSWriter
        from streaming.base.util import merge_index

        for source, samples_NL in sources.items():
            columns = {"tokens": f"ndarray:uint32:{length + 1}"}
            target = str(folder / source / f"part{part}")
            with MDSWriter(out=target, columns=columns, size_limit=4 * SHARD_TOKENS) as mds:
                for row in samples_NL:
                    mds.write({"tokens": row.astype(np.uint32)})
            (folder / source / "index.json").unlink(
                missing_ok=True
            )  # merge_index writes no file a second time
            merge_index(str(folder / source), keep_local=True)

    @staticmethod
    def multiply(folder, samples, length):
        path = folder / "a" / "index.json"
        index = json.loads(path.read_text())
        first = index["shards"][0]
        count = -(-samples // first["samples"])
        name = first["raw_data"]["basename"]
        index["shards"] = []
        for i in range(count):
            link = f"part0/link.{i:05d}.mds"
            os.link(folder / "a" / name, folder / "a" / link)
            index["shards"].append(first | {"raw_data": first["raw_data"] | {"basename": link}})
        path.write_text(json.dumps(index))
        return count * first["samples"]


CONTENDERS: dict[str, type[Reader]] = {
    "steel": Steel,
    "torch": Torch,
    "litdata": LitData,
    "streaming": Mosaic,
}
