"""One shard on disk: two files, written whole, and read with every block checked once.

    <stem>.bin    tokens: little-endian uint16 (vocabulary <= 65,536) or uint32
    <stem>.idx    document ends: little-endian int64, document i is tokens [end[i-1], end[i]);
                  then a CRC-32 (uint32) of every BLOCK_BYTES of the .bin

The manifest has the hash of both files: of the index, and with it of the checksums, when the shard
is opened; of a block when a token of it is first read.
"""

import hashlib
import os
import zlib
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from ..config import UserError
from ..runlog import atomic_write

EDGE = 1 << 16  # bytes of head and tail that are compared before a run starts
BLOCK_BYTES = 1 << 14  # what one checksum covers
blake2b_128 = partial(hashlib.blake2b, digest_size=16)


def token_dtype(vocab_size: int) -> np.dtype:
    """Smallest of uint16 and uint32 that holds every id of a vocabulary."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def hash_file(path: Path, limit: int | None = None) -> str:
    """blake2b-128 of a file; with `limit`, of its size, first and last `limit` bytes."""
    with open(path, "rb") as file:
        if limit is None:
            return hashlib.file_digest(file, blake2b_128).hexdigest()
        size = path.stat().st_size
        digest = blake2b_128(size.to_bytes(8, "little") + file.read(limit))
        file.seek(max(size - limit, 0))
        digest.update(file.read(limit))
    return digest.hexdigest()


def write_shard(root: Path, stem: str, tokens: np.ndarray, ends: np.ndarray) -> dict:
    """Write `<stem>.bin` and `<stem>.idx` below `root`, durably; returns the shard's facts.

    tokens: little-endian uint16 or uint32. ends: int64, the exclusive end of every document.
    """
    data = tokens.tobytes()
    blocks = range(0, len(data), BLOCK_BYTES)
    sums = np.array([zlib.crc32(data[at : at + BLOCK_BYTES]) for at in blocks], dtype="<u4")
    index = ends.astype("<i8").tobytes() + sums.tobytes()
    atomic_write(root / f"{stem}.bin", data)
    atomic_write(root / f"{stem}.idx", index)
    return {
        "path": f"{stem}.bin",
        "tokens": len(tokens),
        "documents": len(ends),
        "hash": blake2b_128(data).hexdigest(),
        "index_hash": blake2b_128(index).hexdigest(),
        "edge_hash": hash_file(root / f"{stem}.bin", EDGE),
        "block_bytes": BLOCK_BYTES,
    }


class ShardFile:
    """The tokens of one shard, read by position: no memory map, which dies of SIGBUS when a file is cut."""

    def __init__(self, root: Path, record: dict, width: int):
        self.root, self.record, self.width = root, record, width
        self.sums: np.ndarray | None = None  # uint32, CRC-32 of every block
        self.unread = bytearray()  # one byte a block: 1 until it is checked
        self.left = 0  # how many are still 1

    @property
    def path(self) -> Path:
        return self.root / self.record["path"]

    def open(self) -> IO[bytes]:
        """The open file; the first time, its checksums are read, too."""
        try:
            if self.sums is None:
                self._read_sums()
            return open(self.path, "rb", buffering=0)
        except OSError as error:
            raise UserError(f"cannot read shard {self.path}: {error}") from None

    def read(self, file: IO[bytes], first: int, out: np.ndarray) -> None:
        """Fill `out` with the tokens from `first` on. UserError when the file is cut or changed."""
        low = first * self.width
        if self.left:
            self._check_blocks(file, low // BLOCK_BYTES, (low + out.nbytes - 1) // BLOCK_BYTES + 1)
        if os.preadv(file.fileno(), [out], low) != out.nbytes:
            raise self._broken(file)

    def _read_sums(self) -> None:
        index = self.path.with_suffix(".idx").read_bytes()
        if blake2b_128(index).hexdigest() != self.record["index_hash"]:
            raise changed(self.path.with_suffix(".idx"))
        self.sums = np.frombuffer(index, "<u4", offset=8 * self.record["documents"]).copy()
        self.unread, self.left = bytearray(b"\1") * len(self.sums), len(self.sums)

    def _check_blocks(self, file: IO[bytes], begin: int, end: int) -> None:
        while (block := self.unread.find(1, begin, end)) >= 0:
            data = os.pread(file.fileno(), BLOCK_BYTES, block * BLOCK_BYTES)
            if zlib.crc32(data) != self.sums[block]:
                raise self._broken(file)
            self.unread[block] = 0
            self.left -= 1

    def _broken(self, file: IO[bytes]) -> UserError:
        found, expected = os.fstat(file.fileno()).st_size, self.record["tokens"] * self.width
        return changed(self.path) if found == expected else wrong_size(self.path, found, expected)


def check_sizes(root: Path, shard: dict, width: int) -> None:
    """UserError when a file of a shard, of `width` bytes a token, is missing or has another size."""
    size = shard["tokens"] * width
    blocks = -(-size // shard["block_bytes"])
    path = f"{root}/{shard['path']}"
    index, index_size = path.removesuffix(".bin") + ".idx", 8 * shard["documents"] + 4 * blocks
    for file, expected in ((path, size), (index, index_size)):
        try:
            found = os.stat(file).st_size
        except FileNotFoundError:
            found = None
        if found != expected:
            raise wrong_size(file, found, expected)


def check_edge(root: Path, shard: dict) -> None:
    """UserError unless head and tail of a shard are as recorded."""
    if hash_file(root / shard["path"], EDGE) != shard["edge_hash"]:
        raise changed(root / shard["path"])


def changed(path: Path) -> UserError:
    what = f"shard {path} was changed since it was written (its checksum differs)"
    return UserError(f"{what}; restore it from a copy, or pack the documents again")


def wrong_size(path: Path | str, found: int | None, expected: int) -> UserError:
    there = "is missing" if found is None else f"has {found:,} bytes instead of {expected:,}"
    return UserError(f"shard {path} {there}; restore it from a copy, or pack the documents again")
