"""A small exam, and a model whose every answer is known."""

import csv
import random
from types import SimpleNamespace

import torch

from steel.model.decoding import CACHE

CITIES = {
    "zh": ["青岩", "云州", "临江", "白沙"],
    "en": ["Oakhill", "Cloudcity", "Riverbend", "Whitesand"],
}


class Bigram(torch.nn.Module):
    """p(next | last token) from a table (V, V) of logits: everything about it can be worked out by hand."""

    def __init__(self, logits_VV: torch.Tensor, max_length: int | None = None):
        super().__init__()
        self.table = torch.nn.Parameter(logits_VV)
        self.config = SimpleNamespace(max_position_embeddings=max_length, vocab_size=len(logits_VV))
        self.rows = 0

    def forward(self, input_ids, logits_to_keep=0, **_):
        self.rows += len(input_ids)
        logits = self.table[input_ids][:, -logits_to_keep:]
        return SimpleNamespace(logits=logits, **{CACHE: None})


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
                    question = (
                        f"Where does person {i} live?"
                        if english
                        else f"{subject}：第{i}号人物住在哪里？"
                    )
                    writer.writerow([f"{split}{i}", question, *options, rng.choice("ABCD"), ""])
    return folder
