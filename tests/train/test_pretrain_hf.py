"""Any transformers causal LM trains: from a config.json, and from a folder with weights."""

import pytest
import torch
from train_world import Crash, crash_before, curve, tiny

from steel.config import UserError
from steel.data import Loader, ShardSet
from steel.model.build import decoder_layers
from steel.train.build import make_model
from steel.train.parallel import World
from steel.train.pretrain import next_token_loss, pretrain

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}


@pytest.fixture(params=["llama", "qwen2"])
def folder(request, tmp_path):
    from transformers import LlamaConfig, Qwen2Config

    made = {"llama": LlamaConfig, "qwen2": Qwen2Config}[request.param](**SHAPE)
    made.save_pretrained(tmp_path / request.param)
    return tmp_path / request.param


def of(folder, **given):
    return tiny(model__source="hf", model__path=str(folder), **given)


def test_a_config_alone_trains_resumes_and_loads_again(folder, corpus, tmp_path):
    from transformers import AutoModelForCausalLM

    cfg = of(folder, train__steps=8, train__learning_rate=2e-2)
    result = pretrain(cfg, corpus[0], tmp_path / "run", corpus[1])
    losses = [r["loss"] for r in curve(tmp_path / "run")]
    assert losses[-1] < losses[0] - 0.3 and result.step == 8
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "hf")
    assert type(model).__name__.lower().startswith(folder.name) and len(decoder_layers(model)) == 2
    with crash_before(5), pytest.raises(Crash):
        pretrain(cfg, corpus[0], tmp_path / "again")
    pretrain(cfg, corpus[0], tmp_path / "again")
    assert curve(tmp_path / "again") == curve(tmp_path / "run")
    start = make_model(of(tmp_path / "run" / "hf"), World())
    for a, b in zip(start.parameters(), model.parameters(), strict=True):
        assert a.equal(b), "a folder with weights is the starting point, not only its shape"


def test_documents_in_one_row_do_not_see_each_other(folder, corpus):
    model = make_model(of(folder), World()).double().eval()
    loader = Loader(ShardSet.open(corpus[0]), 32, 4, seed=3)
    batch = next(b for b in map(loader.batch, range(20)) if (b.position_ids[:, 1:] == 0).any())
    row = int((batch.position_ids[:, 1:] == 0).any(1).nonzero()[0, 0])
    cuts = [*(batch.position_ids[row] == 0).nonzero()[:, 0].tolist(), 32]
    loss_fn = next_token_loss()

    def loss(a, b):
        part = type(batch)(
            *(
                getattr(batch, f)[row : row + 1, a:b]
                for f in ("input_ids", "targets", "position_ids")
            )
        )
        return loss_fn(model, part)[0]

    apart = sum(loss(a, b) for a, b in zip(cuts, cuts[1:], strict=False))
    torch.testing.assert_close(loss(0, 32), apart, rtol=1e-9, atol=0)


def test_z_loss_is_refused_rather_than_ignored(folder, corpus, tmp_path):
    with pytest.raises(UserError, match="set train.z_loss=0 with model.source=hf"):
        pretrain(of(folder, train__z_loss=1e-4), corpus[0], tmp_path / "run")
