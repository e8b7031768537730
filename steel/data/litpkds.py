"""Reading LITPKDS chunks: the packed format in which the original (and TinyLlama before it) stored its tokens.

A chunk is a 24-byte header and `chunk_size` tokens, all little-endian: magic "LITPKDS", version
(uint64, 1), dtype code (uint8), chunk_size (uint64). The last chunk is filled up with a pad token.
Documents end with `<|im_end|>`, as turns do, so document boundaries cannot be recovered.
"""

import struct
from pathlib import Path

import numpy as np

from ..config import UserError

_HEADER = struct.Struct("<7sQBQ")
_DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}


def read_chunk(path: Path | str) -> np.ndarray:
    """The tokens of one chunk, as a read-only memory map (chunk_size,). UserError for any other file."""
    path = Path(path)
    with open(path, "rb") as file:
        head = file.read(_HEADER.size)
    if len(head) < _HEADER.size or not head.startswith(b"LITPKDS"):
        raise UserError(f"{path} is not a LITPKDS chunk")
    _, version, code, size = _HEADER.unpack(head)
    if version != 1 or code not in _DTYPES:
        what = f"{path} has LITPKDS version {version} and dtype code {code}"
        raise UserError(f"{what}; only whole numbers of version 1 can be read")
    dtype = np.dtype(_DTYPES[code])
    found, expected = path.stat().st_size, _HEADER.size + size * dtype.itemsize
    if found != expected:
        raise UserError(f"{path} has {found:,} bytes instead of {expected:,}: it is cut off")
    return np.memmap(path, dtype=dtype, mode="r", offset=_HEADER.size, shape=(size,))


def without_padding(tokens: np.ndarray, pad_token: int) -> np.ndarray:
    """The tokens before the last run of `pad_token`."""
    real = np.flatnonzero(tokens != pad_token)
    return tokens[: real[-1] + 1 if real.size else 0]
