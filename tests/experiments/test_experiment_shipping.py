"""Chapter 18's strangers: what they read is what stands in the files, and a planted mistake is seen."""

import numpy as np
import pytest

from figures.experiments.shipping import numpy_logits, stranger, token_bytes
from steel.config import ModelConfig
from steel.model import build
from steel.model.folder import save_model
from steel.serve.gguf import export_gguf
from steel.tokenizer import bpe

TEXT = "你好，世界。hello 12 é\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    small = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    model = build(ModelConfig(**small, max_position_embeddings=64), seed=1)
    place = tmp_path_factory.mktemp("shipping") / "hf"
    return save_model(place, model, tokenizer=bpe.train([TEXT] * 5, 300))


def test_the_bytes_of_all_entries_are_those_of_the_text(folder):
    tokenizer = bpe.load(folder)
    text = TEXT + "🙂 \t" + "".join(map(chr, range(32, 256)))
    ids = bpe.encode_text(tokenizer, text)
    assert b"".join(token_bytes(tokenizer, i) for i in ids) == text.encode()


def test_a_misread_fact_changes_the_logits(folder, tmp_path):
    path, ids = export_gguf(folder, tmp_path / "m.gguf", "f32"), list(range(3, 30))
    right = numpy_logits(path, ids)
    for wrong in ({"attention.layer_norm_rms_epsilon": 10}, {"rope.freq_base": 1.01}):
        assert 1e-6 < np.abs(numpy_logits(path, ids, wrong) - right).max() < 1


def test_a_stranger_says_what_was_missing(tmp_path):
    (tmp_path / "empty").mkdir()
    found = stranger([(tmp_path / "empty", [{"role": "user", "content": "?"}], False)], tmp_path)
    assert list(found[0]) == ["error"]
