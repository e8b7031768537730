import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from steel.config import UserError
from steel.data.litpkds import read_blocks, read_chunk, read_tokens


def write_chunk(path: Path, tokens, code=4, dtype="<i4", version=1) -> Path:
    path.write_bytes(
        b"LITPKDS"
        + struct.pack("<Q", version)
        + bytes([code])
        + struct.pack("<Q", len(tokens))
        + np.asarray(tokens, dtype).tobytes()
    )
    return path


@pytest.mark.parametrize("code, dtype", [(4, "<i4"), (5, "<i8"), (8, "<u2")])
def test_chunks_come_back_without_their_padding(tmp_path, code, dtype):
    parts = [
        write_chunk(tmp_path / f"{i}.bin", t, code, dtype)
        for i, t in enumerate(([5, 9, 5, 1], [2, 9, 9, 9]))
    ]
    assert read_tokens(parts).tolist() == [5, 9, 5, 1, 2, 9, 9, 9]
    assert read_tokens(parts, pad_token=9).tolist() == [5, 9, 5, 1, 2]
    assert read_blocks(parts[0], 2).tolist() == [[5, 9], [5, 1]]


def test_other_and_torn_files_are_named(tmp_path):
    good = write_chunk(tmp_path / "good.bin", [1, 2, 3])
    (tmp_path / "torn.bin").write_bytes(good.read_bytes()[:-1])
    (tmp_path / "text.bin").write_bytes(b"hello" * 9)
    write_chunk(tmp_path / "new.bin", [1], version=2)
    for name, what in (("torn", "cut off"), ("text", "not a LITPKDS chunk"), ("new", "version 2")):
        with pytest.raises(UserError, match=f"{name}.bin.*{what}"):
            read_chunk(tmp_path / f"{name}.bin")
    with pytest.raises(UserError, match="not a multiple"):
        read_blocks(good, 2)


@pytest.mark.skipif(
    not os.environ.get("STEEL_REAL_DATA"), reason="needs the original's chunks (STEEL_REAL_DATA)"
)
def test_the_originals_chunks_hold_the_originals_tokens():
    root = Path(os.environ["STEEL_REAL_DATA"]) / "parity/litpkds"
    if not root.is_dir():
        pytest.skip("STEEL_REAL_DATA has no parity/litpkds")
    meta, tokens = json.loads((root / "meta.json").read_text()), np.load(root / "tokens.npy")
    files = [root / name for name in meta["files"]]
    assert (
        np.array_equal(read_tokens(files, meta["pad_token"]), tokens)
        and len(tokens) == meta["n_tokens"]
    )
    assert all(
        len(read_chunk(f)) == meta["chunk_size"] and str(read_chunk(f).dtype) == meta["dtype"]
        for f in files
    )
    blocks = np.concatenate([read_blocks(f, meta["block_size"]) for f in files])
    padded = np.append(tokens, np.full(blocks.size - len(tokens), meta["pad_token"]))
    assert np.array_equal(blocks, padded.reshape(-1, meta["block_size"]))
