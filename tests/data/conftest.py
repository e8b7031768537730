"""Small corpora of made-up text, and one tokenizer, for the data tests."""

from pathlib import Path

import pytest
from made_up import texts, write_documents

from steel.data import pack
from steel.tokenizer import bpe


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
