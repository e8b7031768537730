"""The last part of a wsd run reads the chosen data, and a crash at the border changes nothing."""

import shutil

import pytest
from train_world import Crash, crash_before, curve, tiny

from steel.config import UserError
from steel.data import Loader, ShardSet
from steel.runlog import read_log
from steel.train.preflight import dry_run, passes
from steel.train.pretrain import pretrain
from steel.train.schedule import mixture


def config(**given):
    return tiny(
        data__anneal_weights={"wiki": 1.0},
        train__steps=10,
        train__schedule="wsd",
        train__decay_fraction=0.4,
        **given,
    )


def run(cfg, corpus, folder, seen):
    def on_batch(step, batch):
        seen[step] = (batch.source.tolist(), batch.input_ids.tolist())

    return pretrain(cfg, corpus[0], folder, on_batch=on_batch)


def test_the_mixture_switches_at_the_step_at_which_the_decay_starts(corpus, tmp_path):
    seen = {}
    run(config(), corpus, tmp_path / "run", seen)
    early, late = (
        [s for step in steps for s in seen[step][0]] for steps in (range(6), range(6, 10))
    )
    assert set(early) == {0, 1} and set(late) == {1}, "web and wiki, then wiki alone"
    rates = [r["lr"] for r in curve(tmp_path / "run")]
    assert rates[5] == rates[6] > rates[7]
    assert read_log(tmp_path / "run" / "log.jsonl", "header")[0]["anneal_from_step"] == 6
    rows = [tuple(row) for _, ids in seen.values() for row in ids]
    pieces = ShardSet.open(corpus[0]).pieces
    wiki = sum(piece.samples(32) for piece in pieces if piece.source == "wiki")
    assert wiki >= 16 + early.count(1) or len(set(rows)) < len(rows)
    if wiki >= 16 + early.count(1):
        assert len(set(rows)) == len(rows), (
            "the annealing stage goes on where the stage before left each source"
        )


@pytest.mark.parametrize("crash", [5, 6, 7, 9])
def test_a_crash_around_the_border_changes_nothing(corpus, tmp_path, crash):
    whole, broken = {}, {}
    run(config(), corpus, tmp_path / "whole", whole)
    with crash_before(crash), pytest.raises(Crash):
        run(config(), corpus, tmp_path / "run", broken)
    run(config(), corpus, tmp_path / "run", broken)
    assert whole == broken and curve(tmp_path / "whole") == curve(tmp_path / "run")


def test_weights_before_and_none_named_after():
    cfg = tiny(
        data__weights={"a": 0.25, "b": 0.75}, data__anneal_weights={"b": 2.0}, train__steps=100
    )
    assert mixture(cfg, ["a", "b"]) == [
        {"step": 0, "weights": {"a": 0.25, "b": 0.75}},
        {"step": 80, "weights": {"a": 0.0, "b": 2.0}},
    ]
    assert mixture(tiny(), ["a"]) is None


def test_a_schedule_without_decay_stage_and_an_unknown_source_are_named(corpus, tmp_path):
    with pytest.raises(UserError, match="train.schedule=wsd, not cosine"):
        mixture(tiny(data__anneal_weights={"wiki": 1.0}, train__schedule="cosine"), ["wiki"])
    with pytest.raises(UserError, match="names source 'books'"):
        pretrain(tiny(data__anneal_weights={"books": 1.0}), corpus[0], tmp_path / "run")


def test_batches_read_ahead_are_the_loaders(corpus):
    from steel.train.pretrain import ahead

    loader = Loader(ShardSet.open(corpus[0]), 32, 4, seed=3)
    read = ahead(Loader(ShardSet.open(corpus[0]), 32, 4, seed=3).batch)
    for step in (0, 1, 2, 7, 8, 3):
        assert read(step).input_ids.equal(loader.batch(step).input_ids)


@pytest.mark.parametrize("weights", [{}, {"web": 3.0, "wiki": 1.0}])
@pytest.mark.parametrize("anneal", [{}, {"wiki": 1.0}])
def test_the_dry_run_counts_the_passes_that_the_loader_makes(corpus, weights, anneal):
    given = {"data__weights": weights, "data__anneal_weights": anneal, "train__steps": 40}
    cfg = tiny(**given, train__schedule="wsd", train__decay_fraction=0.4)
    shards = ShardSet.open(corpus[0])
    loader = Loader(shards, 32, cfg.train.batch_size, cfg.seed, mixture(cfg, shards.sources))
    drawn = [loader.batch(step).source.tolist() for step in range(40)]
    for number, source in enumerate(shards.sources):
        own = sum(piece.samples(32) for piece in shards.pieces if piece.source == source)
        seen = [sum(step.count(number) for step in part) / own for part in (drawn[:24], drawn[24:])]
        near = 1e-9 if weights or anneal else 0.35  # one pool: a source gets its share on average
        assert passes(cfg, shards)[source] == pytest.approx(seen, abs=near)


def test_a_source_that_is_read_too_often_is_named(corpus):
    often = tiny(data__anneal_weights={"wiki": 1.0}, train__schedule="wsd", train__steps=400)
    page = dry_run(often, "CPU", 1, corpus[0])
    assert "decay from step 320" in page and page.count("WARNING") == 1
    assert "wiki: past 4 passes" in page.partition("WARNING")[2].replace("web, ", "")
    assert "WARNING" not in dry_run(tiny(), "CPU", 1, corpus[0])


def test_beside_a_run_a_checkpoint_becomes_a_model_and_another_decay(corpus, tmp_path):
    """As the runbook says: copy the checkpoint into a new run folder, and start there."""
    seen = {}
    run(config(train__keep_at_decay=True), corpus, tmp_path / "run", {})
    for name in ("probe", "fork"):
        copy = tmp_path / name / "checkpoints" / "step-00000006"
        shutil.copytree(tmp_path / "run" / "checkpoints" / copy.name, copy)
    probe = config()
    probe.train.steps = 6
    found = run(probe, corpus, tmp_path / "probe", seen)
    assert found.step == 6 and not seen and (tmp_path / "probe" / "hf" / "config.json").is_file()
    other = config()
    other.data.anneal_weights = {"web": 1.0}
    found = run(other, corpus, tmp_path / "fork", seen)
    assert found.resumed_from == 6 and sorted(seen) == [6, 7, 8, 9]
    assert {source for sources, _ in seen.values() for source in sources} == {0}
