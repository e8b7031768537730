"""Fixtures: a small exam, a small tokenizer, small random models."""

import pytest
import torch
from known_models import write_exam

from steel.tokenizer import bpe


@pytest.fixture(scope="session")
def exam_folder(tmp_path_factory):
    return write_exam(tmp_path_factory.mktemp("exam"))


@pytest.fixture(scope="session")
def tok(exam_folder):
    texts = [file.read_text(encoding="utf-8") for file in sorted(exam_folder.rglob("*.csv"))]
    return bpe.train(["user\nassistant\n", *texts], 420)


@pytest.fixture(scope="session")
def model(tok):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tok),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def steel_model(tok):
    from steel.config import ModelConfig
    from steel.model import build

    return build(
        ModelConfig(
            feed_forward="causal_soft_moe",
            num_experts=2,
            num_shared_experts=1,
            segment_length=16,
            vocab_size=len(tok),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
        ),
        seed=0,
    )
