"""Token shards on disk: writing one, opening a folder of them, reading tokens and document ends.

    OUT/manifest.json                      what there is: counts, hashes, tokenizer, inputs
    OUT/tokenizer/                         the tokenizer that made the tokens
    OUT/rejects.json                       records that became no document, by reason
    OUT/<source>/GGG-FFFF-SSSSS.bin        token stream: little-endian uint16 (vocabulary <= 65,536) or uint32
    OUT/<source>/GGG-FFFF-SSSSS.idx        document ends: little-endian int64, document i is tokens [end[i-1], end[i])
    OUT/<source>/GGG-FFFF-SSSSS.json       the shard's own record, written last: without it the shard is not finished

G is the generation (0 = first pack, then one per append), F the input file, S the slice of it; ".val" before ".bin"
marks documents held out for validation. Every document ends with the separator `<|endoftext|>`, which belongs to it.

A *piece* is what one generation gives to one source: its shards, joined. Sample s of a piece of T tokens is tokens
[sL, sL+L] (L+1 tokens: L inputs and their shifted targets), so a piece holds ceil((T-1)/L) samples; the last one may be
short and is padded (targets -100). Hence every token but the first is a target exactly once per epoch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config import UserError

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
EDGE = 1 << 16  # bytes of head and tail that the quick check reads
SPLITS = ("train", "validation")
EAGER = 256  # shards that are checked when a folder is opened; of more, each when it is first read
_OPEN_SHARDS = 128  # kept open at once; each costs two file descriptors


def token_dtype(vocab_size: int) -> np.dtype:
    """Smallest of uint16 and uint32 that holds every id of a vocabulary."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def hash_file(path: Path, limit: int | None = None) -> str:
    """blake2b-128 of a file; with `limit`, of its size, first and last `limit` bytes."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        if limit is None:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        else:
            size = path.stat().st_size
            digest.update(size.to_bytes(8, "little"))
            digest.update(file.read(limit))
            file.seek(max(size - limit, 0))
            digest.update(file.read(limit))
    return digest.hexdigest()


def tokenizer_hash(folder: Path | str) -> str:
    """blake2b-128 over the files that decide how text becomes ids."""
    digest = hashlib.blake2b(digest_size=16)
    found = [path for name in TOKENIZER_FILES if (path := Path(folder) / name).is_file()]
    for path in found[:1] if found and found[0].name == "tokenizer.json" else sorted(found):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def copy_tokenizer(folder: Path | str, to: Path) -> None:
    """Copy the files of a tokenizer, so that shards, and what is trained on them, keep it."""
    from ..runlog import atomic_write

    for name in TOKENIZER_FILES:
        if (Path(folder) / name).is_file():
            atomic_write(to / name, (Path(folder) / name).read_bytes())


def canonical(value) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def generation_hash(manifest: dict, generation: int) -> str:
    """What a run remembers of a corpus: order, size and content of one generation's shards."""
    rows = [
        [s["path"], s["source"], s["split"], s["tokens"], s["hash"]]
        for s in manifest["shards"]
        if s["generation"] == generation
    ]
    head = [FORMAT, manifest["dtype"], manifest["separator_id"], manifest["tokenizer_hash"]]
    return hashlib.blake2b(canonical([head, rows]), digest_size=16).hexdigest()


class ShardWriter:
    """Collects documents and writes `<stem>.bin` and `<stem>.idx`."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype
        self._documents: list[np.ndarray] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._documents)

    def add(self, ids: list[int], utf8_bytes: int) -> None:
        """One document's token ids, separator included."""
        self._documents.append(np.asarray(ids, dtype=self.dtype))
        self._bytes += utf8_bytes

    def write(self, root: Path, stem: str) -> dict:
        """Write both files (durable before the caller writes the record) and return the shard's facts."""
        from ..runlog import atomic_write

        tokens = np.concatenate(self._documents) if self._documents else np.empty(0, self.dtype)
        ends = np.cumsum([len(d) for d in self._documents], dtype="<i8")
        binary, index = root / f"{stem}.bin", root / f"{stem}.idx"
        atomic_write(binary, tokens.tobytes())
        atomic_write(index, ends.tobytes())
        return {
            "path": f"{stem}.bin",
            "tokens": len(tokens),
            "documents": len(ends),
            "bytes": self._bytes,
            "hash": hash_file(binary),
            "index_hash": hash_file(index),
            "edge_hash": hash_file(binary, EDGE),
        }


@dataclass
class Piece:
    """The shards that one generation gives to one source. Offsets are tokens from the start of the piece."""

    generation: int
    source: str
    shards: list[dict]

    def __post_init__(self):
        self.offsets = np.concatenate(([0], np.cumsum([s["tokens"] for s in self.shards]))).astype(
            np.int64
        )
        self.tokens = int(self.offsets[-1])

    def samples(self, sequence_length: int) -> int:
        """ceil((T-1)/L) samples of `sequence_length` inputs."""
        return max(-(-(self.tokens - 1) // sequence_length), 0)


class ShardSet:
    """A folder of shards, opened for one split. Raises UserError for a folder or shard that is not as recorded."""

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
        self.pieces = [Piece(g, source, groups[g, source]) for g, source in sorted(groups)]
        self._maps: OrderedDict[str, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._unseen: dict[str, dict] = {}  # shards to check before they are read

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

    @classmethod
    def open(
        cls, folder: Path | str, split: str = "train", *, check: bool = True, verify: bool = False
    ) -> ShardSet:
        """Open `folder` (as written by `pack`). A split without documents opens with no pieces.

        check: compare size, head and tail of every shard with the manifest: at once up to EAGER shards; of more, only
        missing files are found at once, the rest before each is first read. verify: hash every byte, too (slow).
        """
        if split not in SPLITS:
            raise UserError(f"split is {split!r}; choose one of {', '.join(SPLITS)}")
        root = Path(folder)
        shards = cls(root, read_manifest(root), split)
        if verify or check and len(shards.manifest["shards"]) <= EAGER:
            check_shards(root, shards.manifest, verify=verify)
        elif check:
            _refuse_missing(root, shards.manifest)
            shards._unseen = {
                s["path"]: s for s in shards.manifest["shards"]
            }  # of the other split, too
        return shards

    def check_all(self, part: int = 0, of: int = 1) -> None:
        """Check now what `open` left for later, in both splits: before a long run starts.

        Of several processes each looks at every `of`-th shard, from `part` on.
        """
        for shard in list(self._unseen.values())[part::of]:
            check_shard(self.root, shard, self.dtype.itemsize)
        self._unseen.clear()

    def __getstate__(self) -> dict:  # memory maps do not travel to worker processes
        return {**self.__dict__, "_maps": OrderedDict()}

    def arrays(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        """(tokens, document ends) of one shard, memory-mapped; the last few shards asked for stay open."""
        found = self._maps.get(path)
        if found is None:
            if shard := self._unseen.pop(path, None):
                check_shard(self.root, shard, self.dtype.itemsize)
            found = self._map(path, self.dtype), self._map(path[:-4] + ".idx", "<i8")
            self._maps[path] = found
            if len(self._maps) > _OPEN_SHARDS:
                self._maps.popitem(last=False)
        else:
            self._maps.move_to_end(path)
        return found

    def _map(self, path: str, dtype) -> np.ndarray:
        try:
            return np.asarray(
                np.memmap(self.root / path, dtype=dtype, mode="r")
            )  # plain arrays are cut much faster
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read shard {self.root / path}: {error}") from None

    def read(self, piece: Piece, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [start, stop) of a piece (fewer at its end) as int64, and the document ends inside (start, stop).

        The ends are offsets from `start`: a document begins at each of them.
        """
        stop = min(stop, piece.tokens)
        first = int(np.searchsorted(piece.offsets, start, side="right")) - 1
        tokens, ends = [], []
        for i in range(first, len(piece.shards)):
            offset, shard = int(piece.offsets[i]), piece.shards[i]
            if offset >= stop:
                break
            check_sizes(
                self.root, shard, self.dtype.itemsize
            )  # a map of a file that was cut ends in SIGBUS, wordless
            stream, index = self.arrays(shard["path"])
            low, high = max(start - offset, 0), min(stop - offset, shard["tokens"])
            tokens.append(stream[low:high])
            a, b = np.searchsorted(index, [low, high], side="right")
            ends.append(index[a:b] + (offset - start))
        joined = np.concatenate(ends)
        return np.concatenate(tokens).astype(np.int64), joined[joined < stop - start]

    def documents(self, source: str | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """(source, token ids without the separator) of every document of the split, in stored order."""
        for piece in self.pieces:
            if source not in (None, piece.source):
                continue
            for shard in piece.shards:
                tokens, ends = self.arrays(shard["path"])
                start = 0
                for end in ends.tolist():
                    yield piece.source, np.asarray(tokens[start : end - 1], dtype=np.int64)
                    start = end


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


def check_shards(root: Path, manifest: dict, *, verify: bool = False) -> None:
    """Raise UserError naming the first shard whose files are missing, of another size, or changed."""
    width = np.dtype(manifest["dtype"]).itemsize
    for shard in manifest["shards"]:
        check_shard(root, shard, width)
        path = root / shard["path"]
        if verify and (
            hash_file(path) != shard["hash"]
            or hash_file(path.with_suffix(".idx")) != shard["index_hash"]
        ):
            raise _changed(path)


def check_shard(root: Path, shard: dict, width: int) -> None:
    """The same for one shard: sizes, head and tail."""
    check_sizes(root, shard, width)
    if hash_file(root / shard["path"], EDGE) != shard["edge_hash"]:
        raise _changed(root / shard["path"])


def _refuse_missing(root: Path, manifest: dict) -> None:
    """UserError when a file of the manifest is not there: one look into each folder, none at the files."""
    folders = {s["path"].rpartition("/")[0] for s in manifest["shards"]}
    there = {f"{f}/{name}" for f in folders if (root / f).is_dir() for name in os.listdir(root / f)}
    for shard in manifest["shards"]:
        if shard["path"] not in there or shard["path"][:-4] + ".idx" not in there:
            check_sizes(root, shard, np.dtype(manifest["dtype"]).itemsize)


def check_sizes(root: Path, shard: dict, width: int) -> None:
    """UserError when a file of a shard is missing or has another size than the manifest says."""
    name = shard["path"]
    for path, size in (
        (name, shard["tokens"] * width),
        (name[:-4] + ".idx", shard["documents"] * 8),
    ):
        found = (root / path).stat().st_size if (root / path).is_file() else None
        if found != size:
            what = "is missing" if found is None else f"has {found:,} bytes instead of {size:,}"
            raise UserError(
                f"shard {root / path} {what}; restore it from a copy, or pack the documents again"
            )


def _changed(binary: Path) -> UserError:
    return UserError(
        f"shard {binary} was changed since it was written (its hash differs from {MANIFEST}); "
        "restore it from a copy, or pack the documents again"
    )


def describe(folder: Path | str, sequence_length: int | None = None) -> dict:
    """Counts of a shard folder, per source and in total: what `steel data` shows.

    {"tokens", "documents", "bytes" (UTF-8 bytes of text), "dtype", "generations", "records", "rejected", "sources":
    {name: {"documents", "tokens", "bytes", "bytes_per_token", "share", "validation_documents", "shards", "samples"}}};
    "samples" (training, of `sequence_length` tokens) only when it is given.
    """
    manifest = read_manifest(folder)
    sources: dict[str, dict] = {}
    for shard in manifest["shards"]:
        row = sources.setdefault(
            shard["source"],
            {
                "documents": 0,
                "tokens": 0,
                "bytes": 0,
                "shards": 0,
                "validation_documents": 0,
                "validation_tokens": 0,
            },
        )
        row["shards"] += 1
        prefix = "validation_" if shard["split"] == "validation" else ""
        row[prefix + "documents"] += shard["documents"]
        row[prefix + "tokens"] += shard["tokens"]
        row["bytes"] += shard["bytes"]
    total = sum(r["tokens"] for r in sources.values())
    for row in sources.values():
        row["share"] = row["tokens"] / total if total else 0.0
        row["bytes_per_token"] = row["bytes"] / max(row["tokens"] + row["validation_tokens"], 1)
    if sequence_length:
        for row in sources.values():
            row["samples"] = 0
        for piece in ShardSet(Path(folder), manifest, "train").pieces:
            sources[piece.source]["samples"] += piece.samples(sequence_length)
    keys = (
        "tokens",
        "documents",
        "bytes",
        "records",
        "rejected",
        "dtype",
        "tokenizer_hash",
        "hold_out",
    )
    return {
        **{k: manifest[k] for k in keys},
        "generations": len(manifest["generations"]),
        "sources": dict(sorted(sources.items())),
    }
