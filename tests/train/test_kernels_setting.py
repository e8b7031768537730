"""`train.kernels` puts the chosen operations into the model and refuses names that do not exist."""

import pytest
import torch

from steel import config
from steel.config import UserError
from steel.train.build import make_model, prepare
from steel.train.parallel import World


def loss_of(model):
    ids = torch.arange(40).remainder(23).reshape(2, 20)
    return float(
        model(
            input_ids=ids, labels=ids, shift_labels=ids, num_items_in_batch=1, use_cache=False
        ).loss
    )


def test_chosen_operations_give_the_same_loss(capsys):
    plain = make_model(config.load("cpu"), World())
    chosen = make_model(
        config.load("cpu", ["train.kernels={swiglu: reference, rms_norm: reference}"]), World()
    )
    assert "swiglu reference" in capsys.readouterr().out
    assert loss_of(chosen) == pytest.approx(loss_of(plain), rel=1e-6)


@pytest.mark.parametrize(
    "setting, message",
    [
        ("{swiglu: magic}", "train.kernels.swiglu='magic'"),
        ("{magic: auto}", "no operation 'magic'"),
    ],
)
def test_a_wrong_name_is_refused(setting, message):
    with pytest.raises(UserError, match=message):
        make_model(config.load("cpu", [f"train.kernels={setting}"]), World())


def test_a_foreign_model_keeps_its_own_code_and_says_so(capsys):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=16, num_hidden_layers=1, **sizes))
    prepare(model, config.TrainConfig(kernels={"all": "auto"}), World(), 8, False)
    assert capsys.readouterr().out.startswith("train.kernels: only Steel's own models")
