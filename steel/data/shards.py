"""Token shards on disk: opening a folder of them, reading and checking tokens. `pack` writes them.

    OUT/manifest.json                  what there is: counts, hashes, tokenizer, inputs
    OUT/tokenizer/                     the tokenizer that made the tokens
    OUT/rejects.json                   records that became no document, by reason
    OUT/<source>/GGG-FFFF-SSSSS.bin    a shard (see `shard_file`), and beside it its index .idx
    OUT/<source>/GGG-FFFF.json         the record of an input file, written last: without it the
                                       file's shards are not finished

G is the generation (0 = first pack, then one per append), F the input file, S the shard of it;
".val" before ".bin" marks documents held out for validation. Every document ends with the separator
`<|endoftext|>`, which belongs to it and stands nowhere else.

A *piece* is what one generation gives to one source: its shards, joined. Sample s of a piece of T
tokens is tokens [sL, sL+L] (L+1 tokens: L inputs and their shifted targets), so a piece holds
ceil((T-1)/L) samples; the last one may be short and is padded (targets -100). Hence every token but
the first is a target exactly once per epoch.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..config import UserError, sound
from ..runlog import atomic_write, read_json
from .shard_file import ShardFile, blake2b_128, changed, check_edge, check_sizes, hash_file

FORMAT = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"
TOKENIZER_FILES = (
    "tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json "
    "chat_template.jinja vocab.json merges.txt tokenizer.model"
).split()
KEYS = {  # of the manifest and of its rows, beside those that a generation's hash covers
    "": "tokenizer vocab_size shard_tokens hold_out litpkds records rejected tokens documents bytes",
    "inputs": "file generation documents records rejected text_hash",
    "shards": "file documents index_hash edge_hash block_bytes",
    "generations": "hash",
}
SPLITS = ("train", "validation")
SPARE_FILES = 256  # open files that are left to the rest of the process


def tokenizer_hash(folder: Path | str) -> str:
    """blake2b-128 over the files that decide how text becomes ids."""
    digest = blake2b_128()
    found = [path for name in TOKENIZER_FILES if (path := Path(folder) / name).is_file()]
    for path in found[:1] if found and found[0].name == "tokenizer.json" else sorted(found):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def copy_tokenizer(folder: Path | str, to: Path) -> None:
    """Copy the files of a tokenizer, so that shards, and what is trained on them, keep it."""
    for name in TOKENIZER_FILES:
        if (Path(folder) / name).is_file():
            atomic_write(to / name, (Path(folder) / name).read_bytes())


def generation_hash(manifest: dict, generation: int) -> str:
    """What a run remembers of a corpus: order, size and content of one generation's shards."""
    rows = [
        [s["path"], s["source"], s["split"], s["tokens"], s["hash"]]
        for s in manifest["shards"]
        if s["generation"] == generation
    ]
    head = [FORMAT, manifest["dtype"], manifest["separator_id"], manifest["tokenizer_hash"]]
    text = json.dumps([head, rows], ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return blake2b_128(text.encode()).hexdigest()


class Piece(NamedTuple):
    """The shards that one generation gives to one source; `first` counts all pieces of the split."""

    generation: int
    source: str
    shards: list[dict]
    first: int
    tokens: int

    def samples(self, sequence_length: int) -> int:
        """ceil((T-1)/L) samples of `sequence_length` inputs."""
        return max(-(-(self.tokens - 1) // sequence_length), 0)


class ShardSet:
    """A folder of shards, opened for one split. UserError for a folder or shard that is not as recorded.

    The pieces of the split, in order of generation and source, are read as one line of `tokens`
    tokens, in which every piece knows its `first`.
    """

    def __init__(self, root: Path, manifest: dict, split: str):
        self.root, self.manifest, self.split = root, manifest, split
        self.dtype = np.dtype(manifest["dtype"]).newbyteorder("<")
        self.separator_id: int = manifest["separator_id"]
        self.sources: list[str] = sorted({s["source"] for s in manifest["shards"]})
        self.generations: list[str] = [g["hash"] for g in manifest["generations"]]
        groups = defaultdict(list)
        for shard in manifest["shards"]:
            if shard["split"] == split and shard["tokens"]:
                groups[shard["generation"], shard["source"]].append(shard)
        self.pieces: list[Piece] = []
        self._shards: list[ShardFile] = []
        self._first = [0]  # token of the split at which each shard begins, and the end of the last
        for generation, source in sorted(groups):
            first, records = self.tokens, groups[generation, source]
            for record in records:
                self._shards.append(ShardFile(root, record, self.dtype.itemsize))
                self._first.append(self.tokens + record["tokens"])
            self.pieces.append(Piece(generation, source, records, first, self.tokens - first))
        most, shards = _file_limit(len(self._shards)), self._shards
        self._open = lru_cache(most)(lambda number: shards[number].open())  # the rest are closed

    @classmethod
    def open(cls, folder: Path | str, split: str = "train", *, check: bool = True) -> ShardSet:
        """Open `folder` (as written by `pack`). A split without documents opens with no pieces.

        check: look that every file is there and has its size. What is in them is checked block by
        block as it is first read; `check_all` and `verify` look before.
        """
        if split not in SPLITS:
            raise UserError(f"split is {split!r}; choose one of {', '.join(SPLITS)}")
        root = Path(folder)
        shards = cls(root, read_manifest(root), split)
        if check:
            for shard in shards.manifest["shards"]:
                check_sizes(root, shard, shards.dtype.itemsize)
        return shards

    def check_all(self, part: int = 0, of: int = 1) -> None:
        """Compare head and tail of the shards of both splits: before a long run, not in the middle.

        Of several processes each looks at every `of`-th shard, from `part` on.
        """
        for shard in self.manifest["shards"][part::of]:
            check_edge(self.root, shard)

    @property
    def tokens(self) -> int:
        """Tokens of the split."""
        return self._first[-1]

    @property
    def vocab_size(self) -> int:
        """Entries of the tokenizer that made the tokens: every id is below."""
        return self.manifest["vocab_size"]

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer that made the tokens. UserError when its files have changed."""
        folder = self.root / self.manifest[TOKENIZER]
        self.check_vocabulary(self.vocab_size, folder)
        return folder

    def check_vocabulary(self, vocab_size: int, tokenizer: Path | str | None = None) -> None:
        """UserError when a model of `vocab_size` rows, or another tokenizer, is to read these tokens."""
        if self.vocab_size > vocab_size:
            what = f"{self.root} was packed with a vocabulary of {self.vocab_size:,} entries"
            rows = f"model.vocab_size is {vocab_size:,}"
            raise UserError(f"{what}, {rows}; raise it, or pack with a smaller tokenizer")
        if tokenizer and tokenizer_hash(tokenizer) != self.manifest["tokenizer_hash"]:
            what = f"{tokenizer} is not the tokenizer that packed {self.root}"
            raise UserError(f"{what}; give the same one")

    def samples(self, sequence_length: int, since: int = 0) -> int:
        """Samples of `sequence_length` tokens in one pass over the generations from `since` on."""
        new = (piece for piece in self.pieces if piece.generation >= since)
        return sum(piece.samples(sequence_length) for piece in new)

    def read(self, at: int, out: np.ndarray) -> None:
        """Fill `out` (n,), contiguous and of `self.dtype`, with tokens [at, at + n) of the split."""
        number = bisect_right(self._first, at) - 1
        while (left := self._first[number + 1] - at) < len(out):
            self._shards[number].read(self._open(number), at - self._first[number], out[:left])
            at, out, number = at + left, out[left:], number + 1
        self._shards[number].read(self._open(number), at - self._first[number], out)


def _file_limit(wanted: int) -> int:
    """How many shards this process may keep open; raises its soft limit as far as it may."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * wanted + SPARE_FILES  # another split, or another loader, may be open beside
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max((soft - SPARE_FILES) // 2, 1)


def read_manifest(root: Path | str) -> dict:
    """The manifest of a shard folder; UserError when there is none or it is of another version."""
    path = Path(root) / MANIFEST
    if not path.is_file():
        command = f"steel pack DOCS {root} --tokenizer T"
        raise UserError(f"no {MANIFEST} in {root}; '{command}' writes shards, or goes on with it")
    with sound(path, "restore it from a copy, or pack the documents again"):
        manifest = read_json(path)
        if (version := manifest["format"]) != FORMAT:
            raise ValueError(f"format {version}, not {FORMAT}")
        for rows, keys in KEYS.items():
            found = manifest[rows] if rows else [manifest]
            _ = [row[key] for row in found for key in keys.split()]
        for number, generation in enumerate(manifest["generations"]):
            if generation["hash"] != generation_hash(manifest, number):
                raise ValueError("its checksum differs")
    return manifest


def verify(folder: Path | str) -> dict:
    """Read every byte of a shard folder and compare it with the manifest.

    Returns {"shards", "tokens"}: how many. UserError names the first file that is missing or changed.
    """
    from ..machine import progress

    shards = ShardSet(Path(folder), read_manifest(folder), "train")
    _ = shards.tokenizer  # refuses a changed one
    with progress(shards.manifest["tokens"], "verifying", "tokens") as bar:
        for shard in shards.manifest["shards"]:
            check_sizes(shards.root, shard, shards.dtype.itemsize)
            path = shards.root / shard["path"]
            index = path.with_suffix(".idx")
            for file, digest in ((path, shard["hash"]), (index, shard["index_hash"])):
                if hash_file(file) != digest:
                    raise changed(file)
            bar.advance(shard["tokens"])
    return {"shards": len(shards.manifest["shards"]), "tokens": shards.manifest["tokens"]}
