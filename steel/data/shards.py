"""Token shards on disk: writing one, opening a folder of them, reading and checking tokens.

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

import hashlib
import json
import os
import warnings
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config import UserError
from ..runlog import atomic_write
from .shard_file import ShardFile, changed, check_edge, hash_file

FORMAT = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
SPLITS = ("train", "validation")
SPARE_FILES = 256  # open files that are left to the rest of the process


def tokenizer_hash(folder: Path | str) -> str:
    """blake2b-128 over the files that decide how text becomes ids."""
    digest = hashlib.blake2b(digest_size=16)
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
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass
class Piece:
    """The shards that one generation gives to one source; `first` counts all pieces of the split."""

    generation: int
    source: str
    shards: list[dict]
    first: int

    def __post_init__(self):
        self.tokens = sum(shard["tokens"] for shard in self.shards)

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
        groups: dict[tuple[int, str], list[dict]] = {}
        for shard in manifest["shards"]:
            if shard["split"] == split and shard["tokens"]:
                groups.setdefault((shard["generation"], shard["source"]), []).append(shard)
        self.pieces: list[Piece] = []
        self._shards: list[ShardFile] = []
        first = [0]  # token of the split at which each shard begins, and the end of the last
        for generation, source in sorted(groups):
            records = groups[generation, source]
            self.pieces.append(Piece(generation, source, records, first[-1]))
            for record in records:
                self._shards.append(ShardFile(root, record, self.dtype))
                first.append(first[-1] + record["tokens"])
        self._first = np.array(first)
        self._open: OrderedDict[int, ShardFile] = OrderedDict()
        self._most_open = 0

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
            check_sizes(root, shards.manifest)
            if any("block_bytes" not in shard for shard in shards.manifest["shards"]):
                warnings.warn(
                    f"{root} was packed by an older version, without block checksums: of each shard "
                    "only head and tail are checked; 'steel data verify' reads everything",
                    stacklevel=2,
                )
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
        return int(self._first[-1])

    @property
    def vocab_size(self) -> int:
        """Entries of the tokenizer that made the tokens: every id is below."""
        return self.manifest["vocab_size"]

    @property
    def tokenizer(self) -> Path | None:
        """Folder of the tokenizer that made the tokens; None for shards that were packed without it.

        UserError when its files have changed.
        """
        if "tokenizer" not in self.manifest:
            return None
        folder = self.root / self.manifest["tokenizer"]
        self._refuse_tokenizer(folder)
        return folder

    def check_vocabulary(self, vocab_size: int, tokenizer: Path | str | None = None) -> None:
        """UserError when a model of `vocab_size` rows, or another tokenizer, is to read these tokens."""
        if self.vocab_size > vocab_size:
            raise UserError(
                f"{self.root} was packed with a vocabulary of {self.vocab_size:,} entries, "
                f"model.vocab_size is {vocab_size:,}; raise it, or pack with a smaller tokenizer"
            )
        if tokenizer is not None:
            self._refuse_tokenizer(tokenizer)

    def _refuse_tokenizer(self, folder: Path | str) -> None:
        if tokenizer_hash(folder) != self.manifest["tokenizer_hash"]:
            raise UserError(
                f"{folder} is not the tokenizer that packed {self.root}; give the same one"
            )

    def samples(self, sequence_length: int, generations: Collection[int] | None = None) -> int:
        """Samples of `sequence_length` tokens in one pass, of all or of some generations."""
        return sum(
            piece.samples(sequence_length)
            for piece in self.pieces
            if generations is None or piece.generation in generations
        )

    def read(self, at: int, out: np.ndarray) -> None:
        """Fill `out` (n,), contiguous and of `self.dtype`, with tokens [at, at + n) of the split."""
        number = int(np.searchsorted(self._first, at, side="right")) - 1
        while len(out):
            inside, left = at - self._first[number], self._first[number + 1] - at
            self._opened(number).read(int(inside), out[:left])
            at, out, number = at + left, out[left:], number + 1

    def read_rows(self, at_B: np.ndarray, count_B: np.ndarray, out_BN: np.ndarray) -> None:
        """`read` for the first count_B tokens of each row of `out_BN`."""
        number_B = np.searchsorted(self._first, at_B, side="right") - 1
        inside_B = at_B - self._first[number_B]
        whole_B = count_B == out_BN.shape[1]
        whole_B &= at_B + count_B <= self._first[number_B + 1]  # in one shard: nearly all
        rows = zip(number_B.tolist(), inside_B.tolist(), whole_B.tolist(), out_BN, strict=True)
        for row, (number, inside, whole, out_N) in enumerate(rows):
            if whole:
                self._opened(number).read(inside, out_N)
            else:
                self.read(int(at_B[row]), out_N[: count_B[row]])

    def _opened(self, number: int) -> ShardFile:
        """A shard whose file is open; those read longest ago are closed when there are too many."""
        shard = self._open.get(number)
        if shard is None:
            self._most_open = self._most_open or _file_limit(len(self._shards))
            shard = self._shards[number]
            shard.open()
            self._open[number] = shard
            if len(self._open) > self._most_open:
                self._open.popitem(last=False)[1].close()
        elif len(self._shards) > self._most_open:
            self._open.move_to_end(number)
        return shard

    def __getstate__(self) -> dict:  # open files do not travel to other processes
        return {**self.__dict__, "_open": OrderedDict()}

    def documents(self, source: str | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """(source, int64 token ids without the separator) of every document, in stored order."""
        for piece in self.pieces:
            at = piece.first
            for shard in piece.shards if source in (None, piece.source) else ():
                tokens = np.empty(shard["tokens"], self.dtype)
                self.read(at, tokens)
                at += len(tokens)
                ends = np.flatnonzero(tokens == self.separator_id) + 1
                for document in np.split(tokens, ends)[:-1]:
                    yield piece.source, document[:-1].astype(np.int64)


def _file_limit(wanted: int) -> int:
    """How many shards this process may keep open; raises its soft limit as far as it may."""
    try:
        import resource
    except ImportError:  # not a Unix system
        return 256
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * wanted + SPARE_FILES  # another split, or another loader, may be open beside
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max((soft - SPARE_FILES) // 2, 1)


def read_manifest(root: Path | str) -> dict:
    """The manifest of a shard folder; UserError when there is none or it is of another format."""
    path = Path(root) / MANIFEST
    if not path.is_file():
        raise UserError(
            f"no {MANIFEST} in {root}; write shards there with 'steel pack DOCS {root} --tokenizer T'"
            " (an interrupted pack goes on with the same command)"
        )
    try:
        from orjson import loads  # a corpus of 10^11 tokens has ten thousand shards
    except ImportError:
        from json import loads
    try:
        manifest = loads(path.read_bytes())
        version = manifest["format"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not a shard manifest; pack into an empty folder") from None
    if version != FORMAT:
        raise UserError(
            f"{path} has format {version}, this version reads {FORMAT}; pack the documents again"
        )
    return manifest


def check_sizes(root: Path, manifest: dict) -> None:
    """UserError naming the first file of a shard that is missing or has another size."""
    folders = {shard["path"].rpartition("/")[0] for shard in manifest["shards"]}
    found = {
        f"{folder}/{entry.name}": entry.stat().st_size
        for folder in folders
        if (root / folder).is_dir()
        for entry in os.scandir(root / folder)
    }
    width = np.dtype(manifest["dtype"]).itemsize
    for shard in manifest["shards"]:
        token_bytes = shard["tokens"] * width
        blocks = -(-token_bytes // shard["block_bytes"]) if "block_bytes" in shard else 0
        index = shard["path"].removesuffix(".bin") + ".idx"
        expected = {shard["path"]: token_bytes, index: 8 * shard["documents"] + 4 * blocks}
        for name, size in expected.items():
            if found.get(name) != size:
                there = f"has {found[name]:,} bytes instead of {size:,}" if name in found else ""
                raise UserError(
                    f"shard {root / name} {there or 'is missing'}; "
                    "restore it from a copy, or pack the documents again"
                )


def verify(folder: Path | str) -> dict:
    """Read every byte of a shard folder and compare it with the manifest.

    Returns {"shards", "tokens", "bytes"}. UserError names the first file that is missing or changed.
    """
    from ..machine import progress

    root, manifest = Path(folder), read_manifest(folder)
    check_sizes(root, manifest)
    ShardSet(root, manifest, "train").tokenizer  # noqa: B018 (refuses a changed one)
    size = sum((root / shard["path"]).stat().st_size for shard in manifest["shards"])
    with progress(size / 1e6, "verifying", "MB") as bar:
        for shard in manifest["shards"]:
            path = root / shard["path"]
            index = path.with_suffix(".idx")
            for part, digest in ((path, shard["hash"]), (index, shard["index_hash"])):
                if hash_file(part) != digest:
                    raise changed(part)
            bar.advance(path.stat().st_size / 1e6)
    return {"shards": len(manifest["shards"]), "tokens": manifest["tokens"], "bytes": size}


def describe(folder: Path | str, sequence_length: int | None = None) -> dict:
    """Counts of a shard folder, per source and in total: what `steel data` shows.

    {"tokens", "documents", "bytes" (UTF-8 bytes of text), "dtype", "generations", "records",
    "rejected", "tokenizer_hash", "hold_out", "sources": {name: {"documents", "tokens", "bytes",
    "bytes_per_token", "share", "validation_documents", "validation_tokens", "shards", "samples"}}};
    "samples" (training, of `sequence_length` tokens) only when it is given.
    """
    manifest = read_manifest(folder)
    counted = "documents tokens bytes shards validation_documents validation_tokens".split()
    sources = {s["source"]: dict.fromkeys(counted, 0) for s in manifest["shards"]}
    for shard in manifest["shards"]:
        row = sources[shard["source"]]
        prefix = "validation_" if shard["split"] == "validation" else ""
        row[prefix + "documents"] += shard["documents"]
        row[prefix + "tokens"] += shard["tokens"]
        row["bytes"] += shard["bytes"]
        row["shards"] += 1
    total = sum(row["tokens"] for row in sources.values())
    for row in sources.values():
        row["share"] = row["tokens"] / total if total else 0.0
        row["bytes_per_token"] = row["bytes"] / max(row["tokens"] + row["validation_tokens"], 1)
    if sequence_length:
        for row in sources.values():
            row["samples"] = 0
        for piece in ShardSet(Path(folder), manifest, "train").pieces:
            sources[piece.source]["samples"] += piece.samples(sequence_length)
    kept = "tokens documents bytes records rejected dtype tokenizer_hash hold_out".split()
    return {
        **{key: manifest[key] for key in kept},
        "generations": len(manifest["generations"]),
        "sources": dict(sorted(sources.items())),
    }
