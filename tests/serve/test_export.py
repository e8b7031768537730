import json
import subprocess
import sys

import pytest
import torch

from steel.config import UserError
from steel.serve.export import export_hf

LOAD = """
import sys, torch
sys.modules["steel"] = None  # as on a machine without it
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
ids = torch.tensor([tokenizer.encode("你好，世界")])
print(model(input_ids=ids).logits.double().sum().item(), model.generation_config.eos_token_id)
"""


def test_an_export_loads_with_equal_logits_where_steel_is_not_installed(
    folder, served, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    out = export_hf(folder, tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(out)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    model, tokenizer = served
    with torch.no_grad():
        expected = (
            model(input_ids=torch.tensor([tokenizer.encode("你好，世界")]))
            .logits.double()
            .sum()
            .item()
        )
    value, stops = done.stdout.splitlines()[-1].split(" ", 1)
    assert float(value) == pytest.approx(expected, rel=1e-6) and json.loads(stops) == [2, 0]


def test_bf16_halves_the_weights(folder, tmp_path):
    sizes = [
        (export_hf(folder, tmp_path / d, d) / "model.safetensors").stat().st_size
        for d in ("fp32", "bf16")
    ]
    assert 0.4 < sizes[1] / sizes[0] < 0.6


def test_nothing_is_overwritten_and_nothing_half_written_is_left(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        export_hf(folder, tmp_path / "out")
    with pytest.raises(UserError, match="dtype"):
        export_hf(folder, tmp_path / "other", "int3")
    with pytest.raises(UserError, match="not a model folder"):
        export_hf(tmp_path, tmp_path / "other")
    (tmp_path / "empty").mkdir()
    export_hf(folder, tmp_path / "empty")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "out"]
