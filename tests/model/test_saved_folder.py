"""`model.folder`: any folder opens on the right device, and a folder is written whole or not at all."""

import json

import pytest
import torch
from model_helpers import random_tokens, tiny

from steel.config import UserError, first_line
from steel.model import SteelForCausalLM, decoder_layers
from steel.model.build import require_causal
from steel.model.folder import open_model, save_model, stop_ids
from steel.tokenizer import bpe


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.train(["你好，世界。hello user assistant\n"] * 5, 300)


@pytest.fixture
def mesh(tmp_path):
    """A process group of one, so that FSDP2 runs in the test's own process."""
    from torch.distributed.device_mesh import init_device_mesh

    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def model_of(tokenizer):
    return SteelForCausalLM(tiny("causal_soft_moe", vocab_size=len(tokenizer))).eval()


def test_a_folder_opens_in_evaluation_mode_where_generate_stops(tokenizer, tmp_path):
    model = model_of(tokenizer).train()
    assert save_model(tmp_path / "a" / "hf", model, tokenizer=tokenizer) == tmp_path / "a" / "hf"
    again, words = open_model(tmp_path / "a" / "hf", dtype=torch.float64, device="cpu")
    assert not again.training and again.dtype == torch.float64 and len(words) == len(tokenizer)
    assert again.generation_config.eos_token_id == [2, 0] == stop_ids(words)
    assert again.generation_config.pad_token_id == 0
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["hf"]  # no leftovers


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"num_hidden_layers": 9}, "is missing"),  # drawn at random, with a warning
        ({"intermediate_size": 40}, "another shape"),
        (None, "is damaged"),
    ],
)
def test_a_folder_without_all_its_weights_is_refused_in_one_line(
    tokenizer, tmp_path, change, word, capfd
):
    folder = save_model(tmp_path / "hf", model_of(tokenizer), tokenizer=tokenizer)
    if change is None:  # cut off on the way
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=word):
        open_model(folder, device="cpu")
    assert not capfd.readouterr().err


def test_the_device_is_the_gpu_where_there_is_one(tokenizer, tmp_path, monkeypatch):
    """`steel eval` on a box with GPUs must not compute on its CPU."""
    save_model(tmp_path / "hf", model_of(tokenizer), tokenizer=tokenizer)
    seen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(SteelForCausalLM, "to", lambda self, device: seen.append(device) or self)
    open_model(tmp_path / "hf")
    open_model(tmp_path / "hf", device="cpu")
    assert seen == ["cuda", "cpu"]


def test_a_sharded_and_compiled_model_is_saved_under_its_own_class(tokenizer, tmp_path, mesh):
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.fsdp import fully_shard

    model = model_of(tokenizer)
    save_model(tmp_path / "plain", model)
    for layer in [*decoder_layers(model), model]:
        layer.compile(backend="eager")
        fully_shard(layer, mesh=mesh)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    save_model(tmp_path / "hf", model, get_model_state_dict(model, options=options), tokenizer)
    assert type(model).__name__ == "FSDPSteelForCausalLM"  # still sharded
    plain, saved = (json.loads((tmp_path / n / "config.json").read_text()) for n in ("plain", "hf"))
    assert saved == plain and saved["architectures"] == ["SteelForCausalLM"]
    code = {path.name for path in (tmp_path / "plain").glob("*.py")}
    assert code == {path.name for path in (tmp_path / "hf").glob("*.py")}
    again, _ = open_model(tmp_path / "hf", device="cpu")
    expected = SteelForCausalLM.from_pretrained(tmp_path / "plain")(random_tokens(1, 9)).logits
    torch.testing.assert_close(again(random_tokens(1, 9)).logits, expected)


def test_a_save_that_fails_leaves_the_old_folder_alone(tokenizer, tmp_path, monkeypatch):
    folder = save_model(tmp_path / "hf", model_of(tokenizer), tokenizer=tokenizer)
    before = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr(type(tokenizer), "save_pretrained", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_model(folder, model_of(tokenizer), tokenizer=tokenizer)
    assert (folder / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_stop_ids_are_the_tokenizers_own(tokenizer):
    """A foreign tokenizer's ids 0 and 2 are characters: nothing may stop at them."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"!": 0, '"': 1, "#": 2, "</s>": 3, "?": 4}, unk_token="?"))
    foreign = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="?")
    assert stop_ids(foreign) == [3] and stop_ids(tokenizer) == [2, 0]
    with pytest.raises(UserError, match="no <|im_start|>"):
        stop_ids(foreign, chat=True)


def test_only_causal_models_may_share_rows():
    for kind in ("dense", "causal_soft_moe", "top_k_moe", "soft_moe_v1", "none"):
        require_causal(SteelForCausalLM(tiny(kind)), "SFT")
    for kind in ("soft_moe_v2", "soft_moe_v3"):
        with pytest.raises(UserError, match=f"SFT needs a causal model: feed_forward={kind}"):
            require_causal(SteelForCausalLM(tiny(kind)), "SFT")
    require_causal(torch.nn.Linear(2, 2), "SFT")  # a foreign model says nothing: taken as causal


def test_an_error_without_text_has_a_first_line():
    assert first_line(ValueError()) == "ValueError"
    assert first_line(ValueError("\none\ntwo")) == "one"
