"""The ladder: laws recover what made the data, families differ in width alone, and the forecast precedes its target."""

import json
import random

import numpy as np
import pytest

from figures.experiments import command, ladder, laws, town
from steel.config import UserError, from_dict, load
from steel.model import build
from steel.plan import count_parameters

N_X = np.array([2.5e4, 4e4, 5.7e4, 8e4, 1.4e5])


def test_fit_recovers_the_law_that_made_the_points():
    for floor, coefficient, alpha in ((1.5, 300.0, 0.4), (0.0, 40.0, 0.2), (3.0, 2e4, 0.9)):
        law = laws.fit(N_X, floor + coefficient * N_X**-alpha)
        assert law(1e6) == pytest.approx(floor + coefficient * 1e6**-alpha, rel=5e-3)
        assert law.alpha == pytest.approx(alpha, rel=0.03) and law.floor == pytest.approx(
            floor, abs=0.06
        )


def test_fit_never_promises_a_loss_below_zero():
    law = laws.fit(N_X, 5 - 0.3 * np.log(N_X / N_X[0]))  # falls without end
    assert law.floor == 0 and law(1e12) > 0
    assert laws.fit(N_X, 2 + 9 * N_X**-0.3, floor=1.0).floor == 1.0


@pytest.mark.parametrize(
    ("x", "loss"),
    [
        ([1, 2], [3, 2]),
        ([1, 1, 2, 2], [3, 3, 2, 2]),
        ([1, 2, 3], [3, 2, -1]),
        ([1, 2, 3], [3, 2]),
        ([0, 2, 3], [3, 2, 1]),
    ],
)
def test_fit_refuses_what_no_law_goes_through(x, loss):
    with pytest.raises(UserError, match="law needs"):
        laws.fit(x, loss)


def test_the_seed_interval_holds_as_often_as_it_says_and_the_honest_one_at_least_as_often():
    rng, truth, held, honest = np.random.default_rng(0), laws.Law(2.0, 1.5, 0.35, 6e4), 0, 0
    for trial in range(60):
        noisy = truth(N_X) * np.exp(0.004 * rng.standard_normal(5))
        guess = laws.forecast(N_X, noisy, at=3e5, noise=0.004, freedom=100, draws=100, seed=trial)
        seen = truth(3e5) * np.exp(0.004 * rng.standard_normal())
        held += guess.low <= seen <= guess.high
        honest += guess.honest[0] <= seen <= guess.honest[1]
        assert guess.honest[0] <= guess.low and guess.honest[1] >= guess.high
    assert held >= 45 and honest >= held


def test_noise_is_pooled_over_repeated_rungs_and_needs_one():
    assert laws.seed_noise([[2.0, 2.0], [3.0]]) == (0, 1)
    assert laws.seed_noise([np.exp([0.1, -0.1])])[0] == pytest.approx(0.1 * 2**0.5)
    sure, unsure = (
        laws.forecast(N_X, 2 + 90 * N_X**-0.4, 3e5, 0.004, freedom) for freedom in (100, 2)
    )
    assert unsure.high - unsure.low > 1.2 * (sure.high - sure.low), (
        "two pairs of seeds know the noise badly"
    )
    with pytest.raises(UserError, match="two seeds"):
        laws.seed_noise([[2.0], [3.0]])


def test_the_edges_of_an_interval_hardly_depend_on_what_was_drawn():
    drawn = [
        laws.forecast(N_X, 2 + 90 * N_X**-0.4, 3e5, 0.02, 2, seed=seed) for seed in range(1, 7)
    ]
    for edges in ([f.low for f in drawn], [f.high for f in drawn]):
        assert max(edges) / min(edges) < 1.015, "a verdict would hang on the bootstrap's seed"


def test_surface_recovers_and_refuses_one_ratio_for_all():
    truth = laws.Surface(1.7, 80.0, 200.0, 0.3, 0.35)
    N, D = (v.ravel() for v in np.meshgrid(N_X, [5e5, 1e6, 4e6]))
    found = laws.fit_surface(N, D, truth(N, D))
    assert found(1e6, 2e7) == pytest.approx(truth(1e6, 2e7), rel=5e-3)
    with pytest.raises(UserError, match="tokens per parameter"):
        laws.fit_surface(np.tile(N_X, 2), np.tile(8 * N_X, 2), np.ones(10))


@pytest.mark.parametrize("surface", [laws.CHINCHILLA, laws.CHINCHILLA_REFIT])
def test_optimum_is_the_lowest_loss_of_its_budget(surface):
    N, D = surface.optimum(7.5e21)
    assert pytest.approx(7.5e21) == 6 * N * D
    grid = np.geomspace(N / 9, N * 9, 4001)
    assert grid[surface(grid, 7.5e21 / 6 / grid).argmin()] == pytest.approx(N, rel=2e-3)


# -- the family --------------------------------------------------------------------------------------------------------


def test_a_family_differs_in_width_alone():
    gpu = load("gpu1").model
    assert ladder.default_widths(gpu) == [192, 256, 320, 384, 512]
    small = ladder.model_at(gpu, 192)
    assert (small.num_attention_heads, small.head_dim, small.intermediate_size) == (3, 64, 512)
    assert small.num_hidden_layers == gpu.num_hidden_layers and small.vocab_size == gpu.vocab_size
    counted = sum(p.numel() for p in build(small, device="meta").parameters())
    assert counted == count_parameters(small)["total"]
    with pytest.raises(UserError, match="multiple of 64"):
        ladder.model_at(gpu, 200)
    with pytest.raises(UserError, match="head_dim"):
        ladder.default_widths(load("cpu").model)


def test_every_rung_has_its_own_schedule_of_the_same_shape():
    cfg = load("gpu1")
    short, long = (ladder.config_of(cfg, ladder.rung(cfg, w, 20)).train for w in (192, 768))
    assert long.steps > 5 * short.steps
    assert long.warmup_steps / long.steps == pytest.approx(
        short.warmup_steps / short.steps, rel=0.05
    )
    assert short.decay_fraction == long.decay_fraction and short.batch_size == long.batch_size
    fast = ladder.config_of(cfg, ladder.Rung(192, 10**8, rate=2.0, optimizer="adamw")).train
    assert (fast.learning_rate, fast.muon_learning_rate, fast.optimizer) == (2e-3, 0.04, "adamw")


# -- the experiment ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    from steel.data import pack
    from steel.documents import Document, write_documents
    from steel.tokenizer import bpe

    root, rng = tmp_path_factory.mktemp("ladder"), random.Random(7)
    texts = [
        "".join(rng.choices("春夏秋冬风花雪月 abcdefgh,.。", k=rng.randint(20, 120)))
        for _ in range(120)
    ]
    write_documents(
        root / "docs" / "web.jsonl.zst",
        [Document(f"web-{i}", text, "web", "zh", {}) for i, text in enumerate(texts)],
    )
    bpe.save(bpe.train(texts, 300), root / "tokenizer")
    pack(root / "docs", root / "shards", root / "tokenizer", hold_out=0.1)
    pack(root / "docs", root / "shards-whole", root / "tokenizer")
    return root


def tiny(**train):
    values = {
        "steps": 6,
        "batch_size": 4,
        "micro_batch_size": 4,
        "optimizer": "adamw",
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "checkpoint_every": 0,
        "eval_every": 0,
    }
    return from_dict(
        {
            "seed": 3,
            "data": {"sequence_length": 32},
            "train": values | train,
            "model": {
                "vocab_size": 300,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 1,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "max_position_embeddings": 64,
            },
        }
    )


SMALL = {"widths": [8, 16, 24, 32], "target": 40, "tokens_per_parameter": 0.05, "repeats": 1}


def test_the_forecast_is_written_before_the_target_and_a_killed_ladder_goes_on(
    shards, tmp_path, monkeypatch
):
    monkeypatch.setenv("STEEL_QUIET", "1")
    train, calls, deaths = ladder.train_rung, [], [24, 40]

    def dying(cfg, data, folder, one, **options):
        if deaths and one.width == deaths[0]:
            deaths.pop(0)
            raise KeyboardInterrupt
        calls.append(one.name)
        return train(cfg, data, folder, one, **options)

    monkeypatch.setattr(ladder, "train_rung", dying)
    arguments = (tiny(), shards / "shards", tmp_path / "out")
    for rows in (2, 6):  # dies in the third rung, then in the target
        with pytest.raises(KeyboardInterrupt):
            ladder.run_ladder(*arguments, **SMALL)
        content = json.loads((tmp_path / "out" / "ladder.json").read_text())
        assert (
            len(content["rows"]) == rows
            and ("forecast" in content) == (rows == 6)
            and "result" not in content
        )
    promised = content["forecast"]
    content = ladder.run_ladder(*arguments, **SMALL)
    assert content["forecast"] == promised
    assert len(calls) == len(set(calls)) == 7, (
        "four rungs, two further seeds, one target, each trained once"
    )
    assert content["rows"][-1]["width"] == 40 and content["forecast"]["rows"] == 6
    assert set(content["result"]["by"]) == {"total", "non_embedding", "active_per_token", "flops"}
    rungs, goal = content["rows"][:-1], content["rows"][-1]
    assert ladder.share_of_cost(rungs, goal["flops"]) == pytest.approx(
        sum(r["flops"] for r in rungs) / goal["flops"]
    )
    row = content["rows"][0]
    assert row["curve"]["tokens"][-1] == row["tokens"] and row["loss"] == pytest.approx(
        row["by_source"]["web"]
    )
    assert not list((tmp_path / "out").glob("*/checkpoints")), "finished rungs keep their log alone"
    assert (
        "forecast" in ladder.render(content)
        and len(ladder.render(content).splitlines()) == 1 + 7 + 4 + 1
    )


def test_what_cannot_be_a_ladder_is_refused(shards, tmp_path):
    cfg, data, out = tiny(), shards / "shards", tmp_path / "out"
    for wrong in ({"widths": [8, 16, 24]}, {"target": 32}, {"repeats": 0}, {"target": 42}):
        with pytest.raises(UserError):
            ladder.run_ladder(cfg, data, out, **(SMALL | wrong))
    with pytest.raises(UserError, match="validation"):
        ladder.climb(
            cfg,
            shards / "shards-whole",
            tmp_path / "whole",
            [ladder.Rung(8, 128, optimizer="adamw")],
        )
    ladder.climb(cfg, data, out, [ladder.Rung(8, 128, optimizer="adamw")])
    with pytest.raises(UserError, match="another config"):
        ladder.climb(tiny(learning_rate=2e-2), data, out, [])


def test_the_command_says_what_is_wrong_in_one_line(tmp_path, capsys, monkeypatch):
    for arguments, word in (
        (["--data", f"{tmp_path}/none"], "manifest"),
        (["--data", "x", "--widths", "8,x"], "--widths"),
    ):
        monkeypatch.setattr("sys.argv", ["ladder", "--out", f"{tmp_path}/out", *arguments])
        with pytest.raises(SystemExit) as stop:
            command(ladder.main)
        error = capsys.readouterr().err
        assert stop.value.code == 2 and word in error and error.count("\n") == 1


def test_the_cheapest_model_of_a_loss_has_that_loss_and_costs_a_share_of_the_budget():
    for law in (laws.CHINCHILLA, laws.CHINCHILLA_REFIT):
        n, d, share = laws.same_loss(law, 1.1e9, 1.1e12)
        assert law(n, d) == pytest.approx(float(law(1.1e9, 1.1e12)), abs=1e-9)
        assert 6 * n * d == pytest.approx(share * 6 * 1.1e9 * 1.1e12) and 0 < share < 1
        best = law.optimum(7e21)
        assert laws.same_loss(law, *best)[2] == pytest.approx(1, abs=1e-4)


def test_the_town_of_chapter_12_is_a_family_that_reads_less_than_it_holds():
    base = load("cpu")
    cfg = town.settings(base)
    assert base == load("cpu") != cfg, "settings must leave what they are given as it is"
    sizes = [count_parameters(ladder.model_at(cfg.model, w))["total"] for w in town.WIDTHS]
    assert sizes == sorted(sizes) and max(town.WIDTHS) < town.TARGET
    assert ladder.rung(cfg, town.TARGET, town.RATIO).tokens < 1e6
    with pytest.raises(UserError, match="--what"):
        town.main(None, "everything")
