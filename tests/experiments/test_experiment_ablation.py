"""The ablation engine: budgets are what they say, rows resume, and the honest losses part where a layer looks ahead."""

import json
import random
import string

import pytest
import torch

from figures.experiments import ablation
from steel.config import UserError, from_dict
from steel.data import pack
from steel.documents import Document, write_documents
from steel.model.build import build
from steel.plan import count_parameters, flops_per_token
from steel.tokenizer import bpe


def config(**train):
    return from_dict(
        {
            "seed": 3,
            "data": {"sequence_length": 32, "mask_documents": False},
            "model": {
                "vocab_size": 300,
                "hidden_size": 24,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_experts": 4,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "segment_length": 4,
                "max_position_embeddings": 32,
            },
            "train": {
                "steps": 6,
                "batch_size": 4,
                "micro_batch_size": 4,
                "eval_every": 3,
                "checkpoint_every": 3,
                **train,
            },
        }
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("ablation"), random.Random(0)
    texts = ["".join(rng.choices(string.ascii_lowercase + " ", k=200)) for _ in range(60)]
    write_documents(
        folder / "docs" / "web.jsonl.zst",
        [Document(str(i), t, "web", "en", {}) for i, t in enumerate(texts)],
    )
    bpe.save(bpe.train(texts, 300), folder / "tokenizer")
    pack(folder / "docs", folder / "shards", folder / "tokenizer", hold_out=0.2, progress=False)
    return folder / "shards"


def test_variants_have_the_parameters_of_the_dense_layer():
    model = config().model
    experts = {
        n: count_parameters(ablation.variant_model(model, n))["experts"] for n in ablation.VARIANTS
    }
    full = experts["dense"]
    assert experts["none"] == 0 and experts["one expert"] == full // model.num_experts
    assert all(experts[n] == full for n in ablation.VARIANTS if n not in ("none", "one expert"))
    for name in ablation.VARIANTS:
        variant = ablation.variant_model(model, name)
        assert (
            sum(p.numel() for p in build(variant, "meta").parameters())
            == count_parameters(variant)["total"]
        )


@pytest.mark.parametrize("name", ablation.VARIANTS)
def test_a_budget_of_flops_is_spent_to_within_a_step(name):
    cfg = config(steps=400)
    row, dense = (ablation.row_config(cfg, n, 1, "flops") for n in (name, "dense"))
    work = [r.train.steps * flops_per_token(r.model, 32).total for r in (row, dense)]
    assert (
        abs(work[0] - work[1]) <= flops_per_token(row.model, 32).total and dense.train.steps == 400
    )
    assert ablation.row_config(cfg, name, 1, "tokens").train.steps == 400


def test_rows_are_written_one_by_one_and_not_trained_twice(shards, tmp_path, monkeypatch):
    out, trained = tmp_path / "rows.json", []
    train_row = ablation.train_row

    def dies_at_the_third(cfg, *rest, **options):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append((cfg.model.feed_forward, cfg.seed))
        return train_row(cfg, *rest, **options)

    monkeypatch.setattr(ablation, "train_row", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        ablation.run_ablation(
            config(), shards, out, variants=("dense", "causal"), seeds=2, say=lambda _: None
        )
    before = json.loads(out.read_text())["rows"]
    assert [(r["variant"], r["seed"]) for r in before] == [("dense", 3), ("causal", 3)]
    monkeypatch.setattr(ablation, "train_row", train_row)
    report = ablation.run_ablation(
        config(), shards, out, variants=("dense", "causal"), seeds=2, say=lambda _: None
    )
    assert (
        report["rows"][:2] == before
        and len(report["rows"]) == 4
        and json.loads(out.read_text()) == report
    )
    assert list(tmp_path.iterdir()) == [out], "work in progress was left behind"
    dense = report["rows"][0]
    assert [t for t, _ in dense["curve"]] == [0, 3 * 4 * 32, 6 * 4 * 32] and dense["curve"][-1][
        1
    ] == dense["loss"]
    assert [step for step, _ in dense["ratio"]] == [0, 3, 6] and all(
        len(r) == 2 for _, r in dense["ratio"]
    )
    assert ablation.summary(report)["dense"]["loss_range"][2] == 2
    with pytest.raises(UserError, match="another config"):
        ablation.run_ablation(config(steps=7), shards, out)


@pytest.mark.parametrize("name", ablation.VARIANTS)
def test_the_three_losses_agree_for_causal_layers_only(name, shards):
    model = build(ablation.variant_model(config().model, name), dtype=torch.float64, seed=1).eval()
    with torch.no_grad():  # a dead layer cannot look ahead: wake it
        for layer in model.model.layers:
            for p in layer.mlp.parameters() if layer.mlp is not None else ():
                p.normal_(std=0.5)
    found = ablation.honest_losses(model, shards, 32, rows=4, points=4)
    gaps = [abs(found[k] - found["paired_loss"]) for k in ("prefix_loss", "cached_loss")]
    if name.startswith(("v2", "v3")):
        assert min(gaps) > 1e-4
    else:
        assert max(gaps) < 1e-6  # the losses themselves are taken in float32


@pytest.mark.parametrize(
    "change, word",
    [
        ({"intermediate_size": 50}, "multiple of"),
        ({"num_experts": 1}, "above 1"),
        ({"feed_forward": "none"}, "dense"),
    ],
)
def test_a_preset_that_cannot_be_shared_out_is_refused(change, word, shards, tmp_path):
    values = config().to_dict()
    values["model"] |= change
    with pytest.raises(UserError, match=word):
        ablation.run_ablation(from_dict(values), shards, tmp_path / "x.json")
    with pytest.raises(UserError, match="unknown variant 'v4'"):
        ablation.run_ablation(config(), shards, tmp_path / "x.json", variants=("v4",))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_slots_of_the_placebo_hold_no_token_before_and_after_training(shards, tmp_path, precision):
    """Its weights and work are those of *causal*; a token of an earlier segment moves no later output."""
    cfg = ablation.row_config(config(learning_rate=0.05, precision=precision), "placebo", 3)
    plain = ablation.train_row(cfg, shards, tmp_path / "causal")
    row = ablation.train_row(cfg, shards, tmp_path / "placebo", empty_slots=True)
    same = ("steps", "tokens", "parameters", "flops_per_token")
    assert [row[k] for k in same] == [plain[k] for k in same] and row["loss"] != plain["loss"]
    for folder, content in (("causal", True), ("placebo", False)):
        layer = ablation._load(tmp_path / folder).model.layers[0].mlp
        x_BTD = torch.randn(1, 12, 24, generator=torch.Generator().manual_seed(0))
        other_BTD = x_BTD.clone()
        other_BTD[0, 1] += 1.0
        with torch.no_grad():
            moved_T = (layer(x_BTD) - layer(other_BTD)).abs().amax(dim=(0, 2))
        assert bool(moved_T[4:].max() > 0) is content  # segments of four tokens


def test_a_variant_gets_its_own_best_rate_also_just_beyond_the_range(shards, tmp_path, capsys):
    """No start is lost to a list that was too short: it grows by twice or half the end, two times at most."""
    losses = {1e-4: 5.0, 1e-3: 4.0, 1e-2: 4.5, 2e-3: 3.9, 4e-3: 4.2, 8e-3: 4.4, 1.6e-2: 4.6}
    asked = []

    def fake(cfg, *_, **__):
        asked.append(cfg.train.learning_rate)
        loss = losses[cfg.train.learning_rate] - (cfg.model.feed_forward == "none") / 100
        return {"steps": 6, "tokens": 768, "loss": loss, "cpu_seconds": 0.1}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "train_row", fake)
        out = tmp_path / "rates.json"
        best = ablation.tune_rates(config(), shards, out, ("dense", "none"), [1e-4, 1e-3, 1e-2])
        assert best == {"dense": 1e-3, "none": 1e-3}
        assert len(json.loads(out.read_text())["rows"]) == 6
        assert ablation.tune_rates(config(), shards, out, ("dense",), [1e-4, 1e-3]) == {
            "dense": 2e-3
        }
        assert asked[6:] == [2e-3, 4e-3], "rows that are there are not trained again"
        assert not capsys.readouterr().out
        asked.clear()
        short = ablation.tune_rates(
            config(), shards, tmp_path / "b.json", ("dense",), [8e-3, 1.6e-2]
        )
        assert short == {"dense": 2e-3} and asked == [8e-3, 1.6e-2, 4e-3, 2e-3]
        assert "dense: 0.002 is best and the end" in capsys.readouterr().out
    report = ablation.run_ablation(
        config(),
        shards,
        tmp_path / "rows.json",
        variants=("dense",),
        seeds=1,
        rates=best,
        say=print,
    )
    assert report["rows"][0]["learning_rate"] == 1e-3
