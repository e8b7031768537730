"""Reading LITPKDS chunks: the packed format in which the original (and TinyLlama before it) stored its tokens.

A chunk is a 24-byte header and `chunk_size` tokens, all little-endian: magic "LITPKDS", version (uint64, 1), dtype code
(uint8), chunk_size (uint64). The last chunk is filled up with a pad token, and documents end with `<|im_end|>`, as
turns do, so document boundaries cannot be recovered.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..config import UserError

MAGIC = b"LITPKDS"
_HEADER = struct.Struct("<7sQBQ")
HEADER_BYTES = _HEADER.size
DTYPES = {
    1: np.uint8,
    2: np.int8,
    3: np.int16,
    4: np.int32,
    5: np.int64,
    6: np.float32,
    7: np.float64,
    8: np.uint16,
}


def read_chunk(path: Path | str) -> np.ndarray:
    """The tokens of one chunk, as a read-only memory map of `chunk_size` entries. UserError for any other file."""
    path = Path(path)
    with open(path, "rb") as file:
        head = file.read(HEADER_BYTES)
    if len(head) < HEADER_BYTES or head[:7] != MAGIC:
        raise UserError(f"{path} is not a LITPKDS chunk")
    _, version, code, size = _HEADER.unpack(head)
    if version != 1 or code not in DTYPES:
        raise UserError(
            f"{path} has LITPKDS version {version} and dtype code {code}; only version 1 can be read"
        )
    dtype = np.dtype(DTYPES[code]).newbyteorder("<")
    expected = HEADER_BYTES + size * dtype.itemsize
    if path.stat().st_size != expected:
        raise UserError(
            f"{path} has {path.stat().st_size:,} bytes instead of {expected:,}: it is cut off"
        )
    return np.memmap(path, dtype=dtype, mode="r", offset=HEADER_BYTES, shape=(size,))


def read_tokens(files: Iterable[Path | str], pad_token: int | None = None) -> np.ndarray:
    """All tokens of the chunks in the given order; trailing `pad_token`s of the whole stream are removed."""
    tokens = np.concatenate([read_chunk(path) for path in files])
    if pad_token is not None:
        real = np.flatnonzero(tokens != pad_token)
        tokens = tokens[: real[-1] + 1 if real.size else 0]
    return tokens


def read_blocks(path: Path | str, block_size: int) -> np.ndarray:
    """(blocks, block_size): what the original's loader yields from one chunk; block_size is L + 1, without overlap."""
    tokens = read_chunk(path)
    if block_size < 2 or len(tokens) % block_size:
        raise UserError(
            f"{path} holds {len(tokens)} tokens, not a multiple of block_size {block_size}"
        )
    return tokens.reshape(-1, block_size)
