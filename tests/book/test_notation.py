"""The numbers in the legend are those of the presets."""

import re
from pathlib import Path

import pytest

from steel.config import load

ROOT = Path(__file__).resolve().parents[2]
FIELDS = {
    "B": lambda c: c.train.micro_batch_size,
    "T": lambda c: c.data.sequence_length,
    "V": lambda c: c.model.vocab_size,
    "D": lambda c: c.model.hidden_size,
    "F": lambda c: c.model.intermediate_size,
    "L": lambda c: c.model.num_hidden_layers,
    "H": lambda c: c.model.num_attention_heads,
    "K": lambda c: c.model.num_key_value_heads,
    "C": lambda c: c.model.head_dim or c.model.hidden_size // c.model.num_attention_heads,
    "E": lambda c: c.model.num_experts,
    "J": lambda c: c.model.num_experts * c.model.slots_per_expert,
    "G": lambda c: c.grpo.group_size,
}


@pytest.mark.parametrize(("preset", "column"), [("steel-1b", 2), ("cpu", 3)])
def test_legend_equals_preset(preset, column):
    text = (ROOT / "book" / "notation.md").read_text(encoding="utf-8")
    rows = [
        line.strip("| ").split("|") for line in text.splitlines() if re.match(r"\| [A-Z] \|", line)
    ]
    config, compared = load(preset), 0
    for row in rows:
        letter, value = row[0].strip(), row[column].strip().replace(",", "")
        if value not in ("–", ""):
            assert FIELDS[letter](config) == int(value), f"{letter} of {preset}"
            compared += 1
    assert compared >= 9
