"""A small exam, a small tokenizer, a small random model, and a model whose every answer is known."""

import csv
import random
from types import SimpleNamespace

import pytest
import torch

from steel.tokenizer import bpe

CITIES = {"zh": ["青岩", "云州", "临江", "白沙"], "en": ["Oakhill", "Cloudcity", "Riverbend", "Whitesand"]}


class Bigram(torch.nn.Module):
    """p(next | last token) from a table (V, V) of logits: everything about it can be worked out by hand."""

    def __init__(self, logits_VV: torch.Tensor, max_length: int | None = None):
        super().__init__()
        self.table = torch.nn.Parameter(logits_VV)
        self.config = SimpleNamespace(max_position_embeddings=max_length, vocab_size=len(logits_VV))
        self.rows = 0

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=None, logits_to_keep=0):
        self.rows += len(input_ids)
        return SimpleNamespace(logits=self.table[input_ids][:, -logits_to_keep:], past_key_values=None)


def write_exam(folder, people=6, seed=0):
    """dev and test splits of city_zh, city_en, hop2_zh and arith_zh."""
    rng = random.Random(seed)
    for split in ("dev", "test"):
        (folder / split).mkdir(parents=True)
        for subject in ("city_zh", "city_en", "hop2_zh", "arith_zh"):
            with open(folder / split / f"{subject}.csv", "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["id", "question", "A", "B", "C", "D", "answer", "explanation"])
                for i in range(people):
                    options = rng.sample(CITIES["en" if subject.endswith("en") else "zh"], 4)
                    english = subject.endswith("en")
                    question = f"Where does person {i} live?" if english else f"{subject}：第{i}号人物住在哪里？"
                    writer.writerow([f"{split}{i}", question, *options, rng.choice("ABCD"), ""])
    return folder


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
        vocab_size=len(tok), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=256, initializer_range=0.2, tie_word_embeddings=True)
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def steel_model(tok):
    from steel.config import ModelConfig
    from steel.model import build

    return build(ModelConfig(vocab_size=len(tok), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
                             num_attention_heads=2, num_key_value_heads=2, head_dim=16), seed=0)
