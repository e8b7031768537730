"""What a run says of itself: memory before the first step, speed, curves for TensorBoard, a trace."""

import json
import sys

import pytest
import torch
from train_world import curve, tiny, toy_config, toy_fit

from steel import config
from steel.config import UserError
from steel.data.batch import attention_pairs
from steel.plan import flops_per_token
from steel.runlog import read_log
from steel.train import metrics, preflight
from steel.train.metrics import Speed, executed, token_flops
from steel.train.parallel import World
from steel.train.pretrain import pretrain


def test_a_run_reports_its_memory_before_the_first_step(corpus, tmp_path):
    pretrain(tiny(train__steps=2), corpus[0], tmp_path)
    log = read_log(tmp_path / "log.jsonl")
    at = {r.get("what", r["kind"]): i for i, r in reversed(list(enumerate(log)))}
    report = log[at["memory"]]
    assert at["header"] == 0 and at["memory"] < at["step"]
    assert report["fits"] and report["estimated_bytes"]["parameters"] > 0
    assert report["estimated_bytes"]["total"] < report["available_bytes"]


def test_what_will_not_fit_is_said_with_a_remedy_and_nothing_is_stopped(capsys, monkeypatch):
    monkeypatch.setattr(preflight, "available_bytes", lambda world: 80 * 2**30)
    cfg = config.load("steel-1b", ["train.micro_batch_size=256", "train.compile=true"])
    report = preflight.memory_report(cfg, World(0, 8))
    assert not report["fits"] and "train.micro_batch_size=" in report["advice"]
    line = capsys.readouterr().err
    assert (
        line.count("\n") == 1
        and "GiB a rank are needed, 80.0 GiB are there" in line
        and report["advice"] in line
    )
    size = int(report["advice"].split("micro_batch_size=")[1].split()[0])
    smaller = config.load(
        "steel-1b",
        [
            f"train.micro_batch_size={size}",
            "train.compile=true",
            f"train.activation_checkpointing={'activation' in report['advice']}".lower(),
        ],
    )
    assert preflight.memory_report(smaller, World(0, 8))["fits"], "the remedy works"
    monkeypatch.setattr(preflight, "available_bytes", lambda world: 2**20)
    assert "no micro-batch fits" in preflight.memory_report(cfg, World(0, 8))["advice"]


def test_mfu_stands_in_the_log_in_three_conventions_on_a_known_gpu(monkeypatch):
    monkeypatch.setattr(metrics, "device_name", lambda: "H800")
    clock = [0.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: clock[0])
    cfg = config.load("steel-1b")
    speed = Speed(World(0, 8, torch.device("cuda")), token_flops(cfg))
    speed.start(0)
    clock[0] = 10.0
    measured = speed.measure(8 * 10 * 15_000)
    assert measured["tokens_per_s"] == 120_000
    for name, share in measured["mfu"].items():
        wanted = 15_000 * flops_per_token(cfg.model, 2048, name).total / 989.5e12
        assert share == pytest.approx(wanted, abs=1e-4)
    assert set(measured["mfu"]) == {"executed_causal", "executed_full", "seed"}
    assert speed.note(1_200_000, 10, 1_070_000)["left"].endswith("days")


def test_mfu_counts_only_the_attention_that_document_masks_leave():
    """Three documents a row: PyTorch executes a third of the causal half, so MFU counts a third."""
    cfg = config.load("steel-1b-causal")
    T, flops = 2049, token_flops(config.load("steel-1b-causal", ["data.sequence_length=2049"]))
    third = torch.arange(1, 7) * T // 3
    share = attention_pairs(third) / (2 * T * (T + 1) / 2)
    counted = executed(flops, share)
    planned = flops_per_token(cfg.model, T, document_length=T / 3).total
    assert counted["executed_causal"] == pytest.approx(planned, rel=1e-3)
    assert executed(flops, 1.0) == flops and executed({}, share) == {}
    assert {k: counted[k] for k in ("executed_full", "seed")} == {
        k: flops[k] for k in ("executed_full", "seed")
    }


def test_the_share_of_attention_stands_in_the_log(corpus, tmp_path):
    T, rows = 64, []
    overrides = {"data__sequence_length": T, "data__mask_documents": True, "train__steps": 2}
    pretrain(tiny(**overrides), corpus[0], tmp_path, on_batch=lambda _, batch: rows.append(batch))
    for record, batch in zip(read_log(tmp_path / "log.jsonl", "step"), rows, strict=True):
        whole = len(batch) * T * (T + 1) / 2
        assert record["attention_share"] == pytest.approx(attention_pairs(batch.ends) / whole)
        assert 0 < record["attention_share"] < 1


def test_on_a_cpu_only_the_throughput_is_logged(tmp_path):
    toy_fit(tmp_path, toy_config(), flops={"seed": 1.0})
    steps = read_log(tmp_path / "log.jsonl", "step")
    assert all(r["tokens_per_s"] > 0 and "mfu" not in r for r in steps)


def test_tensorboard_holds_the_logged_curve(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    toy_fit(tmp_path, toy_config(tensorboard=True))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == list(range(1, 11))
    assert [e.value for e in events.Scalars("loss")] == pytest.approx(
        [r["loss"] for r in curve(tmp_path)]
    )


@pytest.mark.parametrize(
    ("package", "setting"),
    [("torch.utils.tensorboard", {"tensorboard": True}), ("wandb", {"wandb": "steel"})],
)
def test_a_missing_package_is_named_with_the_way_to_get_it(tmp_path, monkeypatch, package, setting):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match="pip install"):
        toy_fit(tmp_path, toy_config(**setting))


def test_wandb_gets_every_number_with_its_step(tmp_path, monkeypatch):
    logged = []

    class Run:
        def log(self, values, step):
            logged.append((step, values))

        def finish(self):
            logged.append("finished")

    class Package:
        @staticmethod
        def init(project, **_):
            assert project == "steel"
            return Run()

    monkeypatch.setitem(sys.modules, "wandb", Package)
    toy_fit(tmp_path, toy_config(wandb="steel"))
    assert [step for step, _ in logged[:-1]] == list(range(1, 11)) and logged[-1] == "finished"
    assert {"loss", "lr", "grad_norm", "tokens", "tokens_per_s"} <= set(logged[0][1])


def test_a_profiled_run_leaves_a_trace_and_trains_the_same(tmp_path):
    toy_fit(tmp_path / "plain", toy_config())
    toy_fit(tmp_path / "traced", toy_config(profile_steps=2))
    trace = json.loads((tmp_path / "traced" / "trace.json").read_text())
    assert len(trace["traceEvents"]) > 10 and not (tmp_path / "plain" / "trace.json").exists()
    assert curve(tmp_path / "plain") == curve(tmp_path / "traced")
