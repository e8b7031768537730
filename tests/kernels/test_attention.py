"""Attention is settled by a rule, a check and one clock; documents never see each other, whoever computes."""

from types import SimpleNamespace

import pytest
import torch

from steel.config import load
from steel.kernels import Choice, Sizes, attention, choose, install
from steel.model.attention import ends_from_starts, starts_from_positions
from steel.model.build import build

CPU = torch.device("cpu")
SMALL = Sizes(
    num_attention_heads=4, num_key_value_heads=2, head_dim=16, batch=2, length=24, documents=True
)


def test_a_name_that_cannot_run_here_leaves_the_models_own_and_says_why():
    found = attention.select("flex", SMALL, CPU, torch.float32)
    assert (found.plain, found.documents) == ("reference", "reference")
    tried = {(t.name, t.documents): t for t in found.trials}
    assert tried["reference", True].error < 1e-5 and tried["reference", True].milliseconds > 0
    assert "not usable here" in str(tried["flex", True]), "no backward pass on a CPU"
    lines = []
    choose({"all": "reference", "attention": "flex"}, sizes=SMALL, say=lines.append)
    assert lines[0].startswith("kernels: attention: flex is not usable here") and len(lines) == 2


def test_auto_on_a_cpu_and_unknown_shapes_ask_nobody():
    assert attention.select("auto", SMALL, CPU, torch.float32).trials == []
    assert attention.select("cudnn", Sizes(), CPU, torch.float32).trials == []


@pytest.mark.parametrize(
    "milliseconds, documents", [({"varlen": 1.0}, "varlen"), ({"varlen": 1.99}, "reference")]
)
def test_the_first_that_agrees_is_timed_once_beside_the_models_own(
    monkeypatch, milliseconds, documents
):
    tried = []

    def try_one(name, sizes, device, dtype, documents, compiled):
        tried.append((name, documents))
        note = "it differs from the reference by 5.0e-02" if name == "flash_attn_3" else ""
        return attention.Trial(name, documents, 1e-3, milliseconds.get(name, 2.0), note)

    monkeypatch.setattr(attention, "try_one", try_one)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    gpu = SimpleNamespace(type="cuda")
    found = attention.select("auto", SMALL, gpu, torch.bfloat16)
    assert (found.plain, found.documents) == ("reference", documents)
    names = ("reference", "flash_attn_3", "varlen")  # flex is not asked: varlen works
    assert tried == [("reference", False), *((name, True) for name in names)]
    forced = attention.select("cudnn", SMALL, gpu, torch.bfloat16)
    assert (forced.plain, forced.documents) == ("cudnn", "cudnn"), "a name is used where it passes"


def test_a_wrong_candidate_is_refused(monkeypatch):
    right = attention.Form.attend
    monkeypatch.setattr(attention.Form, "attend", lambda *args: right(*args) * 1.05)
    trial = attention.try_one("reference", SMALL, CPU, torch.float32, True)
    assert trial.note.startswith("it differs from the reference") and trial.milliseconds is None


def test_the_clock_pays_for_what_is_made_anew_for_each_batch(monkeypatch):
    """A15: a block mask made once flatters FlexAttention, which needs a new one for every batch."""
    made, own = [], attention.Form.__init__

    def count(self, name, ends, shape, device, alone=False):
        made.append(shape)
        own(self, name, ends, shape, device, alone)

    monkeypatch.setattr(attention.Form, "__init__", count)
    sizes = Sizes(
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        batch=3,
        length=24,
        documents=True,
    )
    assert attention.try_one("reference", sizes, CPU, torch.float32, True).milliseconds > 0
    assert made.count((3, 24)) == 10, "three to warm up, seven on the clock"


def visible(form, B: int, T: int) -> torch.Tensor:
    """(B, T, T), True where a query may look, whatever the form holds."""
    if form.mask is not None:
        return form.mask[:, 0]
    if form.blocks is not None:
        row, query, key = torch.meshgrid(
            torch.arange(B), torch.arange(T), torch.arange(T), indexing="ij"
        )
        return form.blocks.mask_mod(row, 0, query, key)
    number = torch.bucketize(torch.arange(B * T), form.edges[1:], right=True).view(B, T)
    return (number[:, :, None] == number[:, None]) & torch.ones(T, T, dtype=torch.bool).tril()


@pytest.mark.parametrize("name", ["flex", "varlen", "flash_attn"])
def test_every_form_of_documents_says_the_same(name):
    ends = attention.example_ends(2, 24)
    wanted = attention.Form("reference", ends, (2, 24), CPU)
    form = attention.Form(name, ends, (2, 24), CPU)
    assert torch.equal(visible(form, 2, 24), visible(wanted, 2, 24))


def test_ends_of_documents_by_position_ids_cover_every_row():
    """A16: positions (1, T) for a batch of three rows once gave the ends of one."""
    position = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6])
    assert ends_from_starts(starts_from_positions(position.expand(3, 12), None, 0)).tolist() == [
        5,
        12,
        17,
        24,
        29,
        36,
    ]
    inside = starts_from_positions(position[None] + 7, None, 0)
    assert ends_from_starts(inside).tolist() == [12], "a row that begins inside a document"


@pytest.fixture
def packed():
    """A small model, a batch whose rows hold three documents each, and the loss of the model's own code."""
    model = build(load("cpu").model, seed=3).train()
    tokens = torch.arange(96).reshape(2, 48) * 7 % 50
    position = torch.arange(48).remainder(20)[None]
    return model, lambda: model(tokens, position_ids=position, shift_labels=tokens).loss


@pytest.mark.parametrize("name", ["flex", "varlen", "flash_attn"])
def test_an_installed_choice_gets_documents_in_its_own_form(packed, monkeypatch, name):
    """Whoever is picked, each query sees its own document up to itself: computed here by the formula."""
    model, loss = packed
    wanted = loss()

    def attend(self, query, key, value, scale):
        assert self.name == name and (self.blocks is not None) == (name == "flex")
        mask = visible(self, query.shape[0], query.shape[2])[:, None]
        return attention.formula(query, key, value, scale, mask)

    monkeypatch.setattr(attention.Form, "attend", attend)
    picked = attention.Attention("reference", name)
    assert install(model, Choice(hooks={"attention_form": picked.form})) == {"attention_form": 1}
    torch.testing.assert_close(loss(), wanted)
    model.eval()
    with torch.no_grad():  # generation has a past and no documents: the model's own code
        model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False)


def test_a_backend_of_pytorch_is_a_preference_not_a_must(packed):
    model, loss = packed
    wanted = loss()
    picked = attention.Attention("cudnn", "efficient")
    install(model, Choice(hooks={"attention_form": picked.form}))
    torch.testing.assert_close(loss(), wanted)  # neither exists on a CPU: the others take over
    for layer in model.model.layers:
        layer.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(loss(), wanted)
