"""A GGUF file read by three programs that know nothing of Steel: NumPy, transformers, llama.cpp.

Tolerances. NumPy works in fp64 and PyTorch here in fp32, so logits of order 10 differ by their rounding, some 1e-5.
transformers unpacks the file into its own Qwen2 in fp32: the same arithmetic, 1e-5. llama.cpp with f32 weights, an f32
cache and no fused attention adds in another order: 1e-4 on log-probabilities. With its default cache in f16 it is
7e-3, which is the cache's and not the file's.
"""

import json

import numpy as np
import pytest
import torch

from figures.experiments.shipping import LlamaCpp, numpy_logits
from steel.config import ModelConfig, UserError
from steel.model import build
from steel.model.folder import open_model, save_model
from steel.serve.gguf import DTYPES, export_gguf
from steel.tokenizer import bpe
from steel.tokenizer.chat import encode_chat

gguf = pytest.importorskip("gguf")
SHAPES = {
    "qwen2": {},
    "grouped, untied": {"num_key_value_heads": 2, "tie_word_embeddings": False},
    "no bias": {"qkv_bias": False},
    "qwen3": {"qkv_bias": False, "qk_norm": True, "num_key_value_heads": 2, "head_dim": 32},
}
TEXT = "你好，世界。hello user 12 assistant\n"


def model_folder(folder, **shape):
    """A model with lively weights and biases, its vocabulary and rows of the embedding to spare."""
    small = {"vocab_size": 310, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 96}
    model = build(ModelConfig(**{**small, **shape}), seed=3)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight += 0.3 * torch.randn(weight.shape, generator=draw)
            elif "embed" in name:
                weight *= 8
    return save_model(folder, model, tokenizer=bpe.train([TEXT] * 5, 300))


@pytest.fixture(scope="module", params=SHAPES)
def shipped(request, tmp_path_factory):
    """(folder, model, token ids, their logits, {dtype: file}) of one shape."""
    place = tmp_path_factory.mktemp("gguf")
    folder = model_folder(place / "hf", **SHAPES[request.param])
    model, tokenizer = open_model(folder, device="cpu")
    ids = tokenizer.encode(TEXT * 2)[:60]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double().numpy()
    files = {dtype: export_gguf(folder, place / f"{dtype}.gguf", dtype) for dtype in DTYPES}
    return folder, model, ids, logits, files


def test_numpy_reads_the_same_function(shipped):
    _, _, ids, logits, files = shipped
    worst = {d: np.abs(numpy_logits(path, ids) - logits).max() for d, path in files.items()}
    assert worst["f32"] < 1e-4 < worst["f16"] < worst["bf16"] < worst["q8_0"] < 0.3


def test_sizes_are_those_of_the_types(shipped):
    _, model, _, _, files = shipped
    size = {d: path.stat().st_size for d, path in files.items()}
    matrices = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    assert size["f16"] == size["bf16"] and size["f32"] - size["f16"] == 2 * matrices
    assert size["f32"] - size["q8_0"] == pytest.approx(matrices * (4 - 34 / 32), abs=999)


def test_transformers_reads_the_file(shipped):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, model, ids, logits, files = shipped
    place, name = files["f32"].parent, files["f32"].name
    tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name)
    ours = open_model(folder, device="cpu")[1]
    assert tokenizer.encode(TEXT) == ours.encode(TEXT)
    marks = ("<|im_end|>", "<|endoftext|>")
    assert (tokenizer.eos_token, tokenizer.pad_token) == marks
    hello = [{"role": "user", "content": "你好"}]
    said = tokenizer.apply_chat_template(hello, add_generation_prompt=True, return_dict=False)
    assert said == encode_chat(ours, hello, add_generation_prompt=True)[0]
    if model.config.qk_norm:
        return  # transformers does not read the width of a qwen3's head from the file
    twin = AutoModelForCausalLM.from_pretrained(place, gguf_file=name, dtype=torch.float32)
    with torch.no_grad():
        got = twin.eval()(torch.tensor([ids])).logits[0].double().numpy()
    np.testing.assert_allclose(got, logits, atol=2e-5)


def test_llama_cpp_reads_the_same_function(shipped):
    pytest.importorskip("xllamacpp")
    _, model, ids, logits, files = shipped
    V = model.config.vocab_size
    log_p = torch.from_numpy(logits).log_softmax(-1).numpy()
    for cache, tolerance in (("f32", 1e-4), ("f16", 0.05)):
        other = LlamaCpp(files["f32"], cache, context=96)
        found = [other.next_logprobs(ids[:n], V) for n in range(1, 30)]
        pairs = [(a, b) for a, b in zip(found, log_p) if a is not None]
        assert len(pairs) > 10
        assert max(np.abs(a - b).max() for a, b in pairs) < tolerance


def test_llama_cpp_cuts_and_joins_text_as_we_do(tmp_path):
    pytest.importorskip("xllamacpp")
    from steel.tokenizer.bpe import encode_text

    folder = model_folder(tmp_path / "hf")
    _, tokenizer = open_model(folder, device="cpu")
    other = LlamaCpp(export_gguf(folder, tmp_path / "m.gguf", "f32"), context=96)
    hard = [
        "2024年12月，world's  end\n\n 你好<|im_end|>世界",
        "🙂 ab\tc",
        " user",
        "1,234.5%",
        "世　界",
    ]
    for text in hard:
        assert other.encode(text) == encode_text(tokenizer, text), text
    turns = [{"role": "user", "content": "你好"}]
    ids = encode_chat(tokenizer, turns, add_generation_prompt=True)[0]
    marked = "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"
    assert other.encode(marked, special=True) == ids
    drawn = {"temperature": 0, "max_tokens": 12, "logprobs": False}
    said = other.chat(turns, **drawn)["message"]["content"]
    assert said == other.complete(prompt=ids, **drawn)["text"]


@pytest.mark.parametrize("stop", [0, 2])
def test_llama_cpp_stops_at_either_end_token(tmp_path, stop):
    """A model that can only say one token: the end of a document, or of a turn."""
    pytest.importorskip("xllamacpp")
    shape = {"vocab_size": 310, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1}
    model = build(ModelConfig(**shape, tie_word_embeddings=False))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "norm" in name or "embed" in name else 0.0)
        model.lm_head.weight[stop] = 1.0
    save_model(tmp_path / "hf", model, tokenizer=bpe.train([TEXT] * 5, 300))
    other = LlamaCpp(export_gguf(tmp_path / "hf", tmp_path / "m.gguf", "f32"), context=96)
    found = other.complete(prompt=[10, 11], max_tokens=20, temperature=0)
    assert (found["text"], found["finish_reason"]) == ("", "stop")


def test_what_travels_inside(tmp_path):
    folder = model_folder(tmp_path / "hf")
    _, tokenizer = open_model(folder, device="cpu")
    reader = gguf.GGUFReader(export_gguf(folder, tmp_path / "m.gguf"))
    fact = {name: field.contents() for name, field in reader.fields.items()}
    tokens, types = fact["tokenizer.ggml.tokens"], fact["tokenizer.ggml.token_type"]
    assert tokens[:3] == bpe.SPECIAL_TOKENS and types[:4] == [3, 3, 3, 1]
    assert tokens[300:] == [f"[PAD{i}]" for i in range(300, 310)] and set(types[300:]) == {5}
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert fact["tokenizer.ggml.merges"] == [" ".join(pair) for pair in merges]
    ends = [fact[f"tokenizer.ggml.{k}_token_id"] for k in ("eos", "bos", "padding")]
    assert ends == [2, 0, 0] and fact["tokenizer.ggml.add_bos_token"] is False
    template = fact["tokenizer.chat_template"]
    assert "<|im_start|>" in template and "generation %}" not in template
    assert fact["qwen2.context_length"] == 96 and fact["general.file_type"] == 1


REFUSED = [
    ({"feed_forward": "causal_soft_moe", "num_shared_experts": 1}, "causal_soft_moe"),
    ({"feed_forward": "soft_moe_v3"}, "soft_moe_v3"),
    ({"feed_forward": "top_k_moe"}, "top_k_moe"),
    ({"expert": "double_swiglu"}, "double_swiglu"),
    ({"qk_norm": True}, "qkv_bias=True"),
    ({"vocab_size": 262}, "262 rows"),
    ({"head_dim": 32}, "4 heads of 32 channels"),
]


@pytest.mark.parametrize(("shape", "word"), REFUSED, ids=[word for _, word in REFUSED])
def test_what_gguf_cannot_hold_is_refused_in_one_line_and_leaves_nothing(tmp_path, shape, word):
    folder = model_folder(tmp_path / "hf", **shape)
    with pytest.raises(UserError, match=word) as refused:
        export_gguf(folder, tmp_path / "m.gguf")
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
    assert "steel serve" in str(refused.value) or "rows" in word


def test_a_file_is_never_replaced_nor_half_written(tmp_path, monkeypatch):
    folder = model_folder(tmp_path / "hf")
    (tmp_path / "mine.gguf").write_text("x")
    with pytest.raises(UserError, match="exists"):
        export_gguf(folder, tmp_path / "mine.gguf")
    with pytest.raises(UserError, match="q2_k"):
        export_gguf(folder, tmp_path / "m.gguf", "q2_k")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(OSError):
        export_gguf(folder, tmp_path / "m.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "mine.gguf"]


def test_a_tokenizer_that_llama_cpp_would_cut_otherwise_is_refused(tmp_path):
    from tokenizers import pre_tokenizers

    folder = model_folder(tmp_path / "hf")
    model, tokenizer = open_model(folder, device="cpu")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    save_model(tmp_path / "other", model, tokenizer=tokenizer)
    with pytest.raises(UserError, match="cuts text otherwise"):
        export_gguf(tmp_path / "other", tmp_path / "m.gguf")
