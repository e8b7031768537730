import json
import subprocess
import sys

import pytest
import torch

from steel.config import ModelConfig, UserError
from steel.model import build
from steel.model.folder import save_model
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


AS = """
import json, sys, torch
sys.modules["steel"] = None
from transformers import AutoModelForCausalLM, AutoTokenizer
for folder in sys.argv[1:]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer.encode("你好，cafe\\u0301 世界")
    print(json.dumps([type(model).__name__, ids, model(torch.tensor([ids])).logits[0].tolist()]))
"""
PLAIN = [
    ({}, "llama"),
    ({}, "qwen2"),
    ({"qkv_bias": False}, "llama"),
    ({"qkv_bias": False}, "qwen2"),
    ({"qkv_bias": False, "qk_norm": True}, "qwen3"),
]


def test_a_plain_model_leaves_as_a_class_of_transformers(tmp_path, served):
    """Equal logits in a process without `steel`, without trusted code. Of a qwen2 folder transformers
    5 takes the vocabulary and cuts text by Qwen2's rules, after NFC; of the others all that we wrote.
    """
    models, outs = [], []
    for number, (shape, kind) in enumerate(PLAIN):
        fields = {**served[0].config.to_dict(), **shape}
        shape = {k: fields[k] for k in vars(ModelConfig()) if k in fields}
        model = build(ModelConfig(**shape), seed=4)
        draw = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.1 * torch.randn(weight.shape, generator=draw)
        folder = save_model(tmp_path / f"hf-{number}", model, tokenizer=served[1])
        outs.append(export_hf(folder, tmp_path / f"out-{number}", architecture=kind))
        models.append(model.eval())
        assert not list(outs[-1].glob("*.py"))
    command = [sys.executable, "-c", AS, *map(str, outs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    seen = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    for (name, ids, logits), (_, kind), model in zip(seen, PLAIN, models, strict=True):
        assert name == f"{kind.capitalize()}ForCausalLM"
        assert (ids == served[1].encode("你好，cafe\u0301 世界")) == (kind != "qwen2")
        with torch.no_grad():
            ours = model(torch.tensor([ids])).logits[0]
        torch.testing.assert_close(torch.tensor(logits), ours, rtol=1e-5, atol=1e-5)


def test_an_architecture_that_does_not_fit_is_refused(folder, tmp_path):
    for kind in ("qwen3", "gpt2"):
        with pytest.raises(UserError, match=f"qwen2 or a llama, not a {kind}"):
            export_hf(folder, tmp_path / "out", architecture=kind)
    assert not list(tmp_path.iterdir())
