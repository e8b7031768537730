"""What is saved is what is loaded: in this process, in one without steel, tied and untied, from the meta device."""

import os
import subprocess
import sys
from dataclasses import MISSING, fields

import pytest
import torch
from model_helpers import CAUSAL, NON_CAUSAL, double_model, perturb, random_tokens, tiny
from transformers import AutoConfig, AutoModelForCausalLM

from steel.config import ModelConfig, UserError, from_dict
from steel.model import SteelConfig, SteelForCausalLM, build, decoder_layers, initialize

SCRIPT = """
import os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_MODULES_CACHE"] = sys.argv[1] + "/modules"
sys.modules["steel"] = None  # importing it raises ImportError, also where the package is installed
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
given = load_file(sys.argv[1] + "/given.safetensors")
out = {}
for name in sys.argv[2].split(","):
    model = AutoModelForCausalLM.from_pretrained(f"{sys.argv[1]}/{name}", trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules.")
    with torch.no_grad():
        out[name] = model(given["tokens"]).logits
        out[name + "_generated"] = model.generate(given["tokens"], max_new_tokens=6, do_sample=False)
        model.save_pretrained(f"{sys.argv[1]}/again_{name}")
save_file(out, sys.argv[1] + "/out.safetensors")
"""


def test_a_fresh_process_without_steel_loads_and_generates(tmp_path):
    """All variants in one subprocess: isolated (-I), started elsewhere, steel not importable."""
    from safetensors.torch import load_file, save_file

    tokens = random_tokens(2, 9)
    expected = {}
    for feed_forward in CAUSAL + NON_CAUSAL:
        torch.manual_seed(0)
        model = perturb(SteelForCausalLM(tiny(feed_forward, "double_swiglu", qk_norm=True)).eval())
        model.save_pretrained(tmp_path / feed_forward)
        with torch.no_grad():
            expected[feed_forward] = model(tokens).logits
            expected[feed_forward + "_generated"] = model.generate(
                tokens, max_new_tokens=6, do_sample=False
            )
    save_file({"tokens": tokens}, tmp_path / "given.safetensors")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # v2 differs by 5e-6 with others
    names = ",".join(CAUSAL + NON_CAUSAL)
    command = [sys.executable, "-I", "-c", SCRIPT, str(tmp_path), names]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    for name, value in load_file(tmp_path / "out.safetensors").items():
        # Not bit for bit: tensors read from a file lie at other memory alignments, so sums round differently.
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    saved_again = {path.name for path in (tmp_path / "again_dense").iterdir()}
    assert {"modeling.py", "configuration.py", "causal_soft_moe.py", "config.json"} <= saved_again


def test_the_copied_code_imports_neither_steel_nor_anything_unusual(tmp_path):
    SteelForCausalLM(tiny("causal_soft_moe")).save_pretrained(tmp_path)
    lines = [line for path in tmp_path.glob("*.py") for line in path.read_text().splitlines()]
    roots = {
        line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))
    }
    assert roots <= {"", "torch", "transformers", "math", "dataclasses", "functools", "typing"}
    assert not (tmp_path / "build.py").exists() and not (tmp_path / "original.py").exists()


@pytest.mark.parametrize("feed_forward", CAUSAL + NON_CAUSAL)
@pytest.mark.parametrize("tied", [False, True])
def test_save_and_load_in_process(feed_forward, tied, tmp_path):
    model = double_model(tiny(feed_forward, tie_word_embeddings=tied))
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert isinstance(again, SteelForCausalLM)
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    tokens = random_tokens(2, 9)
    torch.testing.assert_close(again(tokens).logits, model(tokens).logits, rtol=0, atol=1e-13)
    changed = {k for k, v in again.config.to_dict().items() if model.config.to_dict()[k] != v}
    assert changed <= {"auto_map", "_name_or_path"}


def test_top_k_is_no_sampling_parameter(tmp_path):
    """transformers reads a configuration's `top_k` as the sampling parameter: Steel must not store it there."""
    model = SteelForCausalLM(tiny("top_k_moe", experts_per_token=1))
    assert model.config.experts_per_token == 1 and model.generation_config.top_k is None
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).experts_per_token == 1


def test_steel_1b_has_the_published_number_of_parameters():
    cfg = ModelConfig(
        vocab_size=151936,
        hidden_size=1792,
        intermediate_size=448,
        num_hidden_layers=18,
        num_attention_heads=32,
        num_key_value_heads=32,
        feed_forward="soft_moe_v3",
        expert="double_swiglu",
        num_experts=6,
        tie_word_embeddings=False,
    )
    model = build(cfg, device="meta")
    assert model.num_parameters() == 1_122_922_770
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not list(model.buffers())  # nothing to re-fill after the meta device


@pytest.mark.parametrize("feed_forward", CAUSAL + NON_CAUSAL)
def test_meta_model_filled_from_a_seed_equals_a_built_one(feed_forward):
    cfg = ModelConfig(
        vocab_size=67, hidden_size=32, intermediate_size=16, feed_forward=feed_forward
    )
    built = build(cfg, seed=7)
    empty = build(cfg, device="meta")
    initialize(empty, seed=7)
    for (name, a), (_, b) in zip(built.named_parameters(), empty.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    tokens = random_tokens(1, 5)
    built.eval(), empty.eval()
    assert torch.equal(built(tokens).logits, empty(tokens).logits)


def test_build_is_a_function_of_its_seed_and_leaves_the_global_one_alone():
    cfg = ModelConfig(vocab_size=67)
    torch.manual_seed(5)
    first, after = build(cfg, seed=1), torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    same, other = build(cfg, seed=1), build(cfg, seed=2)
    assert torch.equal(first.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_build_takes_any_transformers_model_from_a_folder(tmp_path):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    small = {
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "hidden_size": 8,
        "intermediate_size": 8,
    }
    qwen = Qwen2ForCausalLM(Qwen2Config(vocab_size=11, num_hidden_layers=2, **small))
    qwen.save_pretrained(tmp_path)
    cfg = ModelConfig(source="hf", path=str(tmp_path))
    loaded = build(cfg)
    assert torch.equal(loaded.lm_head.weight, qwen.lm_head.weight)
    assert build(cfg, device="meta").lm_head.weight.is_meta
    assert len(decoder_layers(loaded)) == 2
    (tmp_path / "model.safetensors").unlink()
    assert type(build(cfg, seed=3)) is Qwen2ForCausalLM  # a configuration alone: random weights
    with pytest.raises(UserError, match="model.path"):
        build(ModelConfig(source="hf", path=str(tmp_path / "nowhere")))


REFUSED = [
    ({"hidden_size": 30}, "hidden_size=30"),
    ({"num_attention_heads": 0}, "num_attention_heads=0"),
    ({"num_key_value_heads": 3}, "num_key_value_heads=3"),
    ({"hidden_size": 12, "num_attention_heads": 4, "num_key_value_heads": 4}, "head_dim"),
    ({"num_experts": 0}, "num_experts=0"),
    ({"num_shared_experts": -1}, "num_shared_experts=-1"),
    ({"slots_per_expert": 0}, "slots_per_expert=0"),
    ({"segment_length": 0}, "segment_length=0"),
    ({"feed_forward": "mlp"}, "feed_forward='mlp'"),
    ({"expert": "gelu"}, "expert='gelu'"),
    ({"intermediate_size": 0}, "intermediate_size=0"),
    ({"vocab_size": 0}, "vocab_size=0"),
    ({"num_hidden_layers": 0}, "num_hidden_layers=0"),
    ({"feed_forward": "top_k_moe", "experts_per_token": 4}, "experts_per_token=4"),
    ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refused_at_construction_with_the_field_named(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**({"feed_forward": "causal_soft_moe"} | changes))


def test_build_refuses_with_a_user_error_in_one_line():
    with pytest.raises(UserError, match="model.feed_forward='mlp'") as caught:
        build(ModelConfig(feed_forward="mlp"))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="exactly one of input_ids"):
        SteelForCausalLM(tiny("dense"))()


def test_the_model_section_and_the_saved_configuration_have_the_same_fields():
    """The defaults and meanings are typed once, in `ModelConfig`; old keys are read under their new names."""
    shape = {f.name for f in fields(SteelConfig) if f.default is MISSING} - {"transformers_version"}
    assert set(ModelConfig.__dataclass_fields__) - {"source", "path"} == shape
    with pytest.raises(TypeError, match="rope_theta"):
        SteelConfig(**dict.fromkeys(shape - {"rope_theta"}, 1))
    old = from_dict({"model": {"feed_forward": "top_k_moe", "top_k": 3}})
    assert old.model.experts_per_token == 3
