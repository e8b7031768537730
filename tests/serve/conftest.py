import pytest

from steel.config import ModelConfig
from steel.model import build
from steel.model.folder import open_model
from steel.tokenizer import bpe


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("STEEL_QUIET", "1")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """An untrained model with its tokenizer, as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("served") / "hf"
    cfg = ModelConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=96,
    )
    build(cfg, seed=3).save_pretrained(folder)
    bpe.save(bpe.train(["你好，世界。hello user assistant\n"] * 5, 300), folder)
    return folder


@pytest.fixture(scope="session")
def served(folder):
    """(model, tokenizer) of `folder`."""
    return open_model(folder, device="cpu")
