"""Small corpora of made-up text, and one tokenizer, for the data tests."""

import json
import random
from pathlib import Path

import pytest
import zstandard

from steel.data import pack
from steel.tokenizer import bpe

LETTERS = "春夏秋冬风花雪月山水江河 abcdefgh 0123,.。"


def texts(count: int, seed: object) -> list[str]:
    rng = random.Random(str(seed))
    return ["".join(rng.choices(LETTERS, k=rng.randint(1, 90))).strip() or "一" for _ in range(count)]


def write_lines(path: Path, lines: list[bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"".join(line + b"\n" for line in lines)
    path.write_bytes(zstandard.ZstdCompressor().compress(data) if path.suffix == ".zst" else data)
    return path


def write_documents(path: Path, contents: list[str]) -> Path:
    records = [{"id": f"{path.name}-{i}", "text": t, "source": path.name.split(".")[0], "lang": "zh", "meta": {}}
               for i, t in enumerate(contents)]
    return write_lines(path, [json.dumps(r, ensure_ascii=False).encode() for r in records])


def files(root: Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes: folders are equal when these are."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    bpe.save(bpe.train(texts(200, "tokenizer"), 300), folder)
    return folder


@pytest.fixture(scope="session")
def docs(tmp_path_factory) -> Path:
    """Three sources of different sizes."""
    root = tmp_path_factory.mktemp("docs")
    for name, count in (("web", 300), ("wiki", 60), ("qa", 9)):
        write_documents(root / f"{name}.jsonl.zst", texts(count, name))
    return root


@pytest.fixture(scope="session")
def packed(docs, tokenizer_folder, tmp_path_factory) -> Path:
    """`docs` as shards, several per source."""
    out = tmp_path_factory.mktemp("shards")
    pack(docs, out, tokenizer_folder, shard_tokens=2000)
    return out
