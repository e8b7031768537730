"""Made-up documents, and files of them, for the data tests."""

import json
import random
from pathlib import Path

import numpy as np
import zstandard

LETTERS = "春夏秋冬风花雪月山水江河 abcdefgh 0123,.。"


def texts(count: int, seed: object) -> list[str]:
    rng = random.Random(str(seed))
    return [
        "".join(rng.choices(LETTERS, k=rng.randint(1, 90))).strip() or "一" for _ in range(count)
    ]


def write_lines(path: Path, lines: list[bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"".join(line + b"\n" for line in lines)
    path.write_bytes(zstandard.ZstdCompressor().compress(data) if path.suffix == ".zst" else data)
    return path


def write_documents(path: Path, contents: list[str]) -> Path:
    records = [
        {
            "id": f"{path.name}-{i}",
            "text": t,
            "source": path.name.split(".")[0],
            "lang": "zh",
            "meta": {},
        }
        for i, t in enumerate(contents)
    ]
    return write_lines(path, [json.dumps(r, ensure_ascii=False).encode() for r in records])


def files(root: Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes: folders are equal when these are."""
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def documents(shards, source=None):
    """(source, token ids without the separator) of every document of a ShardSet, in stored order."""
    for piece in shards.pieces:
        tokens = np.empty(piece.tokens, shards.dtype)
        shards.read(piece.first, tokens)
        ends = np.flatnonzero(tokens == shards.separator_id) + 1
        for ids in np.split(tokens, ends)[:-1] if source in (None, piece.source) else ():
            yield piece.source, ids[:-1].astype(np.int64)
