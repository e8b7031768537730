"""The loop learns, accumulates exactly, resumes bit for bit, survives bad batches and stops when it is told to."""

import copy
import math
from functools import partial

import pytest
import torch
from train_world import (
    Crash,
    Toy,
    crash_before,
    curve,
    equal,
    in_process,
    read_all,
    tiny,
    toy_batches,
    toy_config,
    toy_fit,
    toy_loss,
    toy_run_signalled,
)

from steel.config import UserError
from steel.data import Loader, ShardSet
from steel.model.build import build
from steel.runlog import read_log
from steel.train import checkpoint
from steel.train.build import computing
from steel.train.loop import Stage, State, fit, train_step
from steel.train.metrics import Speed
from steel.train.optim import build_optimizers
from steel.train.parallel import World
from steel.train.pretrain import next_token_loss
from steel.train.run_folder import RunFolder


def events(folder, what):
    return [r for r in read_log(folder / "log.jsonl", "event") if r["what"] == what]


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(x.equal(y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_the_loss_falls_and_every_step_stands_in_the_log(tmp_path):
    _, result = toy_fit(tmp_path, toy_config(steps=60))
    steps = curve(tmp_path)
    assert [r["step"] for r in steps] == list(range(1, 61))
    assert steps[-1]["loss"] < 0.6 * steps[0]["loss"] and result.loss == steps[-1]["loss"]
    assert all(r["rows"] == 8 and r["grad_norm"] > 0 for r in steps)
    end = events(tmp_path, "end")[0]
    assert end["step"] == 60 and set(end["phases"]) >= {
        "data",
        "forward_backward",
        "update",
        "checkpoint",
    }


def test_accumulation_equals_one_big_batch(tmp_path):
    big, _ = toy_fit(tmp_path / "big", toy_config(steps=4))
    small, _ = toy_fit(
        tmp_path / "small", toy_config(steps=4), lambda step: toy_batches(step, micro=3)
    )
    assert len(toy_batches(0, micro=3)) == 3, "micro-batches of 3, 3 and 2 rows"
    for a, b in zip(big.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    for a, b in zip(curve(tmp_path / "big"), curve(tmp_path / "small"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


@pytest.mark.parametrize("background", [False, True], ids=["waiting", "background"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_ten_steps_are_five_a_crash_and_five_bit_for_bit(tmp_path, optimizer, background):
    cfg = toy_config(optimizer=optimizer, async_checkpoint=background)
    whole, result = toy_fit(tmp_path / "whole", cfg)
    with crash_before(7), pytest.raises(Crash):
        toy_fit(tmp_path / "broken", cfg)
    assert [r["step"] for r in curve(tmp_path / "broken")] == list(range(1, 8)), (
        "two steps past the checkpoint"
    )
    again, resumed = toy_fit(tmp_path / "broken", cfg, model=Toy(seed=9))
    assert resumed.resumed_from == 5 and resumed.loss == result.loss
    assert same(whole, again)
    assert curve(tmp_path / "whole") == curve(tmp_path / "broken"), (
        "each step once, every number equal"
    )
    a, b = (
        read_all(tmp_path / name / "checkpoints" / "step-00000010") for name in ("whole", "broken")
    )
    assert equal(a, b) and len(a["optimizers"]["state"]), "weights, moments and settings"


def test_a_resumed_run_obeys_its_new_learning_rate(tmp_path):
    with crash_before(5), pytest.raises(Crash):
        toy_fit(tmp_path, toy_config(schedule="constant"))
    toy_fit(tmp_path, toy_config(schedule="constant", learning_rate=2e-3))
    assert [r["lr"] for r in curve(tmp_path)][4:6] == [1e-2, 2e-3]


def test_a_finished_run_is_left_as_it_is(tmp_path):
    _, first = toy_fit(tmp_path, toy_config())
    before = curve(tmp_path)
    _, second = toy_fit(tmp_path, toy_config())
    assert curve(tmp_path) == before and second.loss == first.loss and second.tokens == first.tokens


def test_resume_never_refuses_a_folder_with_checkpoints(tmp_path):
    toy_fit(tmp_path, toy_config())
    with pytest.raises(UserError, match="already holds checkpoints"):
        toy_fit(tmp_path, toy_config(), resume="never")


def poisoned(*bad):
    def batches(step):
        scale = math.nan if step in bad else 1.0
        return [scale * x for x in toy_batches(step)]

    return batches


def test_a_bad_batch_is_skipped_and_logged_and_harms_nothing(tmp_path):
    model, result = toy_fit(tmp_path, toy_config(steps=20), poisoned(3, 4))
    assert math.isfinite(result.loss) and all(bool(p.isfinite().all()) for p in model.parameters())
    skipped = events(tmp_path, "skipped step")
    assert [e["step"] for e in skipped] == [4, 5] and "non-finite" in skipped[0]["why"]
    assert [r["step"] for r in curve(tmp_path) if r["loss"] is None] == [4, 5]
    assert result.loss < curve(tmp_path)[0]["loss"]


def test_bad_steps_in_a_row_end_the_run_with_one_clear_line(tmp_path):
    with pytest.raises(
        UserError,
        match="3 steps in a row had a non-finite loss.*last at step 7.* the stage's learning_rate",
    ):  # of any stage: train.learning_rate is pretraining's
        toy_fit(tmp_path, toy_config(max_bad_steps=3), poisoned(*range(4, 20)))
    assert len(events(tmp_path, "skipped step")) == 3


def test_a_gradient_spike_is_skipped_when_asked_for(tmp_path):
    def batches(step):
        return [(100.0 if step == 8 else 1.0) * x for x in toy_batches(step)]

    toy_fit(tmp_path, toy_config(steps=12, spike_factor=5.0), batches)
    assert [(e["step"], e["why"]) for e in events(tmp_path, "skipped step")] == [
        (9, "gradient spike")
    ]


def test_what_looks_like_a_spike_while_the_rate_rises_is_trained_on(tmp_path):
    def batches(step):
        return [b * (100 if step == 2 else 1) for b in toy_batches(step)]

    toy_fit(tmp_path, toy_config(steps=6, warmup_steps=4, spike_factor=5.0), batches)
    assert not events(tmp_path, "skipped step")


def test_the_mean_that_a_spike_is_measured_against_moves_slowly(tmp_path):
    """A fiftieth of the way at each step: one large gradient does not excuse the next, larger one."""

    def batches(step):
        return [b * {5: 2, 6: 4}.get(step, 1) for b in toy_batches(step)]

    toy_fit(tmp_path, toy_config(steps=8, warmup_steps=1, spike_factor=6.0), batches)
    assert [e["step"] for e in events(tmp_path, "skipped step")] == [7]


def test_clipping_bounds_the_step_and_logs_the_true_norm(tmp_path):
    toy_fit(tmp_path / "clipped", toy_config(steps=1, grad_clip=1e-3))
    toy_fit(tmp_path / "free", toy_config(steps=1, grad_clip=0.0))
    assert (
        curve(tmp_path / "clipped")[0]["grad_norm"]
        == curve(tmp_path / "free")[0]["grad_norm"]
        > 1e-3
    )


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_saves_and_exits_with_zero_and_the_run_goes_on(tmp_path, name):
    process = in_process(toy_run_signalled, tmp_path / "run", name, 6, stderr=tmp_path / "stderr")
    process.join(600)
    assert process.exitcode == 0
    assert f"stopped by {name} at step 7" in (tmp_path / "stderr").read_text()
    assert [c.name for c in checkpoint.complete(tmp_path / "run" / "checkpoints")] == [
        "step-00000007"
    ]
    assert events(tmp_path / "run", "stopped")[0]["signal"] == name
    again, result = toy_fit(tmp_path / "run", toy_config(steps=20, checkpoint_every=0))
    whole, _ = toy_fit(tmp_path / "whole", toy_config(steps=20, checkpoint_every=0))
    assert result.resumed_from == 7 and same(again, whole)
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")


def test_validation_and_samples_run_in_the_precision_of_training(tmp_path):
    """Once they ran outside of it: in other numbers, and on a GPU with kernels that refuse fp32."""
    seen = {}

    def look(where, model):
        seen[where] = next(model.parameters()).dtype, torch.is_grad_enabled()

    def evaluate(model, step):
        look("evaluate", model)
        assert not model.training
        return {}

    def sample(model, step):
        look("sample", model)
        return []

    def loss(model, x):
        look("train", model)
        assert model.training
        return toy_loss(model, x.bfloat16())

    stage = Stage("test", toy_config(steps=2, precision="bf16"), Toy(), toy_batches, loss)
    stage.evaluate, stage.sample, stage.save_hf = evaluate, sample, False
    fit(stage, RunFolder(tmp_path))
    bf16 = torch.bfloat16
    assert seen == {"train": (bf16, True), "evaluate": (bf16, False), "sample": (bf16, False)}
    assert next(stage.model.parameters()).dtype == torch.float32


class Tied(torch.nn.Module):
    """An embedding that is its own head, and a weight that does not learn."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = torch.nn.Embedding(11, 8), torch.nn.Linear(8, 11)
        self.head.weight = self.embed.weight
        self.fixed = torch.nn.Parameter(torch.ones(8), requires_grad=False)

    def forward(self, x):
        return self.head(torch.tanh(self.embed(x)) * self.fixed)


def test_bf16_weights_have_fp32_masters_and_an_fp32_sum_of_gradients():
    """Weights, also tied ones, are rounded for the computation alone; the sum over micro-batches is not."""
    model, cfg, world = Tied(), toy_config(precision="bf16"), World()
    names = {name: id(p) for name, p in model.named_parameters()}
    rounded = copy.deepcopy(model).bfloat16()
    rows = torch.randint(11, (6, 4), generator=torch.Generator().manual_seed(1))
    wanted = dict.fromkeys(("embed.weight", "head.bias"), 0.0)
    with computing(model, cfg, world):
        for row in rows:
            for m in (model, rounded):
                m(row).float().logsumexp(-1).sum().backward()
            for name in wanted:
                wanted[name] = wanted[name] + rounded.get_parameter(name).grad.float()
            rounded.zero_grad()
        assert model.head.weight is model.embed.weight and model.fixed.dtype == torch.bfloat16
    assert {name: id(p) for name, p in model.named_parameters()} == names
    for name, gradient in wanted.items():
        found = model.get_parameter(name).grad
        assert found.dtype == torch.float32 and torch.equal(found, gradient), name
    assert model.fixed.grad is None
    with torch.no_grad():
        model.fixed += (
            1e-4  # too small for bf16; the master keeps it, and the next copy has it rounded
        )
        model.head.bias += 1.0
    with computing(model, cfg, world):
        assert model.head.bias.equal(model.head.bias.master.bfloat16())
    assert float(model.fixed[0]) == pytest.approx(1.0001)


def steps_with(optimizer: str, fused: bool, **given) -> tuple[list[dict], dict]:
    """What ten steps log, and the weights after them."""
    cfg = toy_config(optimizer=optimizer, micro_batch_size=2, grad_clip=0.5, **given)
    stage = Stage("test", cfg, Toy(), partial(toy_batches, micro=2), toy_loss)
    state = State(build_optimizers(stage.model, cfg), Speed(World()))
    for one in state.optimizers:
        if fused and isinstance(one, torch.optim.AdamW):
            for group in one.param_groups:
                group["fused"], group["foreach"] = True, False
    return [train_step(stage, state, World()) for _ in range(10)], stage.model.state_dict()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_update_that_scales_and_clips_as_it_reads_is_the_plain_one(optimizer):
    rows, weights = steps_with(optimizer, fused=True)
    plain_rows, plain = steps_with(optimizer, fused=False)
    for a, b in zip(rows, plain_rows, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    assert max(row["grad_norm"] for row in rows) > 0.5, "it has clipped"
    for name, weight in weights.items():
        torch.testing.assert_close(weight, plain[name], rtol=1e-4, atol=1e-5)


def test_a_fused_step_waits_once_for_the_device(monkeypatch):
    waits = []
    for name in ("item", "tolist", "__int__", "__float__", "__bool__", "cpu", "numpy"):
        before = getattr(torch.Tensor, name)

        def counted(self, *args, name=name, before=before, **given):
            waits.append(name)
            return before(self, *args, **given)

        monkeypatch.setattr(torch.Tensor, name, counted)
    steps_with("adamw", fused=True)
    assert waits == ["tolist"] * 10


def test_document_ends_stay_on_the_host_under_fsdp(corpus, monkeypatch):
    """FSDP2 moves the tensors among a model's arguments to its device; the model needs these here."""
    from torch.distributed.utils import _to_kwargs

    model, seen = build(tiny().model), {}
    whole = type(model).forward

    def forward(self, **given):
        seen.update(_to_kwargs((), given, torch.device("meta"), False)[1][0])
        return whole(self, **given)

    monkeypatch.setattr(type(model), "forward", forward)
    batch = Loader(ShardSet.open(corpus[0]), 32, 4).batch(0)
    loss, *_ = next_token_loss()(model, batch)
    assert seen["input_ids"].device.type == "meta"
    assert seen["document_ends"].tolist() == batch.ends.tolist()
    assert bool(loss.isfinite())
