"""What a comparison says at three budgets, logs that are put together, and the clock of a step."""

import json

import pytest
import torch

from figures.experiments import ablation, ablation_times, reading
from steel.config import UserError, load
from steel.model import build

LOSS = {"dense": 3.0, "one expert": 3.06, "causal": 3.03, "placebo": 3.05, "top-2": 3.02}


def row(arm, seed, loss, tokens=1000):
    curve = [[0, 9.0], [500, loss + 1 + seed / 100], [tokens, loss + seed / 100]]
    return {"variant": arm, "seed": seed, "tokens": tokens, "tokens_per_s": 10.0,
            "flops_per_token": 2.0, "curve": curve, "loss": loss + seed / 100}  # fmt: skip


def test_differences_are_paired_and_read_where_the_budget_ends():
    rows = [row(arm, s, loss) for arm, loss in LOSS.items() for s in (1, 2, 3)]
    rows += [row("two gates", s, 3.0 + 0.03 * (-1) ** s, 1000) for s in (1, 2, 3)]
    found = reading.read({"rows": rows})
    slots = found["tokens"]["causal", "placebo"]
    assert slots.difference.mean == pytest.approx(-0.02) and slots.word == "ahead"
    assert str(slots).startswith("**-0.020") and slots.difference.seeds == 3
    gate = found["flops"]["two gates", "dense"]
    assert gate.sign == 0 and gate.word == "not told apart"
    # half as fast, causal is read where it has seen half the tokens
    slow = reading.read({"rows": rows}, {arm: 1.0 + (arm == "causal") for arm in reading.ARMS})
    assert slow["seconds"]["causal", "dense"].difference.mean == pytest.approx(1.03)
    assert slow["tokens"]["causal", "dense"].difference.mean == pytest.approx(0.03)
    header, lines = reading.table(found)
    assert len(lines) == len(reading.ASKED) and all(len(line) == len(header) for line in lines)


def test_a_difference_with_one_seed_is_left_out():
    rows = [row(arm, s, 3.0 + s / 50) for arm in ("dense", "causal") for s in (1, 2)]
    found = reading.read({"rows": [*rows, row("placebo", 1, 3.0)]})
    assert list(found["tokens"]) == [("causal", "dense")]


def test_logs_of_one_experiment_are_put_together_and_others_refused(tmp_path):
    head = {"kind": "ablation", "budget": "flops", "config_hash": "1", "config": {}, "commit": "c",
            "packages": {}, "hardware": {}}  # fmt: skip
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    rows = [[row("dense", 1, 3.0), row("dense", 2, 3.0)], [row("causal", 1, 3.0)]]
    for file, mine in zip(files, rows, strict=True):
        file.write_text(json.dumps(head | {"rows": mine}))
    out = tmp_path / "out.json"
    reading.merge(files, out, drop=("loss",))
    found = json.loads(out.read_text())
    assert found["commit"] == "c" and found["budget"] == "flops"
    assert [(r["variant"], r["seed"]) for r in found["rows"]] == [
        ("dense", 1),
        ("causal", 1),
        ("dense", 2),
    ]
    assert not any("loss" in r for r in found["rows"])
    with pytest.raises(UserError, match="again"):
        reading.merge([files[0], files[0]], out)
    files[1].write_text(json.dumps(head | {"config_hash": "2", "rows": []}))
    with pytest.raises(UserError, match="configuration"):
        reading.merge(files, out)


def test_a_step_of_every_arm_is_timed_beside_dense(tmp_path, capsys):
    small = ["model.vocab_size=128", "train.batch_size=2", "data.sequence_length=16",
             "model.num_hidden_layers=1"]  # fmt: skip
    ablation_times.main(tmp_path / "times.json", small, rounds=2)
    found = json.loads((tmp_path / "times.json").read_text())
    assert found["relative"]["dense"] == 1 and found["relative"].keys() >= set(reading.ARMS)
    assert all(r["quartiles"][0] <= r["relative"] <= r["quartiles"][1] for r in found["rows"])


def test_loudness_is_of_the_stream_that_a_layer_joins():
    shape = load("ablation").model
    model, ids_BT = build(shape, seed=1).eval(), torch.arange(64).reshape(2, 32)
    streams, layer = [], model.model.layers[0]
    layer.register_forward_hook(lambda _, args, out: streams.append(out))
    layer.mlp.register_forward_hook(lambda _, args, out: streams.append(out))
    with torch.no_grad():
        model(input_ids=ids_BT, use_cache=False)
    branch, after = streams
    rms = lambda x: x.square().mean().sqrt().item()  # noqa: E731
    assert ablation.branch_ratios(model, ids_BT)[0] == pytest.approx(
        rms(branch) / rms(after - branch), rel=1e-3
    )
