"""Attention is picked by a probe that checks before it times; documents never see each other, whoever computes."""

from types import SimpleNamespace

import pytest
import torch

from steel.config import load
from steel.kernels import Sizes, attention, choose, install
from steel.model.build import build

CPU = torch.device("cpu")
SMALL = Sizes(heads=4, key_heads=2, head_dim=16, batch=2, length=24, documents=True)


def test_on_a_cpu_the_probe_tries_and_takes_what_pytorch_has():
    found = attention.select("flex", SMALL, CPU, torch.float32)
    assert (found.plain, found.documents) == ("reference", "reference")
    tried = {(t.name, t.documents): t for t in found.trials}
    assert tried["reference", True].error < 1e-5 and tried["reference", True].milliseconds > 0
    assert "not usable here" in tried["flex", True].note, (
        "FlexAttention has no backward pass on a CPU"
    )
    table = found.table()
    assert table.count("<- picked") == 2 and "forward and backward" in table


def test_auto_on_a_cpu_and_unknown_shapes_ask_nobody():
    assert attention.select("auto", SMALL, CPU, torch.float32).trials == []
    assert attention.select("cudnn", Sizes(), CPU, torch.float32).trials == []


def test_a_wrong_candidate_is_refused_and_a_slow_one_is_not_taken(monkeypatch):
    right = attention.attend

    def wrong(name, *args):
        return right("reference", *args) * (1.05 if name == "efficient" else 1.0)

    monkeypatch.setattr(attention, "attend", wrong)
    monkeypatch.setattr(
        attention, "_time", lambda call, name, *a: {"cudnn": 1.0, "flash": 3.0}.get(name, 2.0)
    )
    found = _probe_as_on_a_gpu(monkeypatch)
    assert found.plain == "cudnn"
    notes = {t.name: t.note for t in found.trials if not t.documents}
    assert notes["efficient"].startswith("wrong: differs from fp32")
    assert found.documents == "cudnn"


def _probe_as_on_a_gpu(monkeypatch):
    """`select` told that it has a GPU, with every tensor on the CPU and every candidate given the dense mask."""
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    try_one, documents_for = attention.try_one, attention.documents_for
    monkeypatch.setattr(
        attention, "try_one", lambda name, sizes, device, *rest: try_one(name, sizes, CPU, *rest)
    )
    monkeypatch.setattr(
        attention, "documents_for", lambda name, place: documents_for("reference", place)
    )
    return attention.select("auto", SMALL, SimpleNamespace(type="cuda"), torch.float32)


def test_every_form_of_documents_says_the_same():
    place = attention.positions(2, 24, CPU)
    mask = attention.documents_for("reference", place).mask[:, 0]
    blocks = attention.documents_for("flex", place).blocks
    visible = torch.stack(
        [
            torch.stack(
                [
                    torch.stack(
                        [
                            blocks.mask_mod(
                                torch.tensor(b), torch.tensor(0), torch.tensor(q), torch.tensor(k)
                            )
                            for k in range(24)
                        ]
                    )
                    for q in range(24)
                ]
            )
            for b in range(2)
        ]
    )
    assert torch.equal(visible, mask)
    ends = attention.documents_for("varlen", place).ends.tolist()
    number = torch.zeros(48, dtype=torch.long)
    for start in ends[1:-1]:
        number[start:] += 1
    number = number.reshape(2, 24)
    same = (number[:, :, None] == number[:, None, :]) & torch.ones(24, 24).tril().bool()
    assert ends[0] == 0 and ends[-1] == 48 and torch.equal(same, mask)


@pytest.fixture
def packed():
    """A small model, a batch whose rows hold three documents each, and the loss of the model's own code."""
    model = build(load("cpu").model, seed=3).train()
    tokens = torch.arange(96).reshape(2, 48) * 7 % 50
    position = torch.arange(48).remainder(20).expand(2, -1)
    return model, lambda: model(tokens, position_ids=position, shift_labels=tokens).loss


@pytest.mark.parametrize("name", ["flex", "varlen", "flash_attn"])
def test_an_installed_choice_gets_documents_in_its_own_form(packed, monkeypatch, name):
    """Whoever is picked, each query sees its own document up to itself: computed here by the formula."""
    model, loss = packed
    wanted = loss()

    def attend(asked, query, key, value, scale, documents=None, alone=True):
        assert asked == name and (documents.blocks is not None) == (name == "flex")
        if name == "flex":
            T = query.shape[2]
            grid = torch.meshgrid(
                torch.arange(len(query)), torch.arange(T), torch.arange(T), indexing="ij"
            )
            mask = documents.blocks.mask_mod(grid[0], 0, grid[1], grid[2])[:, None]
        else:
            T, ends = query.shape[2], documents.ends
            number = torch.bucketize(
                torch.arange(query.shape[0] * T), ends[1:], right=True
            ).reshape(-1, T)
            mask = (
                (number[:, :, None] == number[:, None]) & torch.ones(T, T, dtype=torch.bool).tril()
            )[:, None]
        return attention._formula(query, key, value, scale, mask)

    monkeypatch.setattr(attention, "attend", attend)
    choice = choose("reference")
    choice.names["attention"] = name
    choice.functions["attention"] = attention.Attention("reference", name)
    changed = install(model, choice)
    assert changed == {"SteelModel": 1}
    torch.testing.assert_close(loss(), wanted)
    model.eval()
    with torch.no_grad():  # generation has a cache and no documents: the model's own code
        model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False)


def test_a_backend_of_pytorch_is_a_preference_not_a_must(packed):
    model, loss = packed
    wanted = loss()
    choice = choose("reference")
    choice.names["attention"], choice.functions["attention"] = (
        "cudnn",
        attention.Attention("cudnn", "efficient"),
    )
    install(model, choice)
    torch.testing.assert_close(loss(), wanted)  # neither exists on a CPU: the others take over
    for layer in model.model.layers:
        layer.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(loss(), wanted)
