import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from made_up import documents

from steel import cli
from steel.config import UserError
from steel.data import ShardSet, pack
from steel.data.litpkds import read_chunk, without_padding


def write_chunk(path: Path, tokens, code=4, dtype="<i4", version=1) -> Path:
    path.parent.mkdir(exist_ok=True)
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
    tokens = read_chunk(write_chunk(tmp_path / "a.bin", [2, 9, 5, 9, 9], code, dtype))
    assert tokens.tolist() == [2, 9, 5, 9, 9]
    assert without_padding(tokens, 9).tolist() == [2, 9, 5]


def test_chunks_are_packed_by_the_command(tmp_path, tokenizer_folder):
    """`steel pack CHUNKS OUT --litpkds`: shards like any others, one source a set, padding gone."""
    for i, tokens in enumerate(([5, 9, 5, 7], [8, 9, 0, 0])):
        write_chunk(tmp_path / f"chunks/train_poems_0_{i:010d}.bin", tokens)
    out = tmp_path / "out"
    args = ["pack", str(tmp_path / "chunks"), str(out), "-t", str(tokenizer_folder), "--litpkds"]
    cli.app(args, standalone_mode=False)
    shards = ShardSet.open(out)
    assert shards.sources == ["train_poems"]
    assert [ids.tolist() for _, ids in documents(shards)] == [[5, 9, 5, 7], [8, 9]]
    assert shards.manifest["documents"] == 2 and shards.manifest["bytes"] > 0
    cli.app(["data", "verify", str(out)], standalone_mode=False)
    write_chunk(tmp_path / "other/a.bin", [300, 1])
    with pytest.raises(UserError, match="give the tokenizer that made it"):
        pack(tmp_path / "other", tmp_path / "no", tokenizer_folder, litpkds=True)


def test_other_and_torn_files_are_named(tmp_path):
    good = write_chunk(tmp_path / "good.bin", [1, 2, 3])
    (tmp_path / "torn.bin").write_bytes(good.read_bytes()[:-1])
    (tmp_path / "text.bin").write_bytes(b"hello" * 9)
    write_chunk(tmp_path / "new.bin", [1], version=2)
    for name, what in (("torn", "cut off"), ("text", "not a LITPKDS chunk"), ("new", "version 2")):
        with pytest.raises(UserError, match=f"{name}.bin.*{what}"):
            read_chunk(tmp_path / f"{name}.bin")


@pytest.mark.skipif(
    not os.environ.get("STEEL_REAL_DATA"), reason="needs the original's chunks (STEEL_REAL_DATA)"
)
def test_the_originals_chunks_hold_the_originals_tokens():
    root = Path(os.environ["STEEL_REAL_DATA"]) / "parity/litpkds"
    if not root.is_dir():
        pytest.skip("STEEL_REAL_DATA has no parity/litpkds")
    meta, tokens = json.loads((root / "meta.json").read_text()), np.load(root / "tokens.npy")
    files = [root / name for name in meta["files"]]
    chunks = [read_chunk(file) for file in files]
    whole = without_padding(np.concatenate(chunks), meta["pad_token"])
    assert np.array_equal(whole, tokens) and len(tokens) == meta["n_tokens"]
    assert {len(chunk) for chunk in chunks} == {meta["chunk_size"]}
    assert {str(chunk.dtype) for chunk in chunks} == {meta["dtype"]}
