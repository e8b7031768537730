"""One thing changed in a run: what must keep every bit does, what must not differs by roundings, a kill is survived."""

import random

import numpy as np
import pytest

from figures.experiments import bits
from figures.experiments.drill_run import write_texts
from steel.data import pack
from steel.tokenizer import bpe

STEPS = 12


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("bits")
    texts = write_texts(root / "docs" / "made.jsonl.zst", random.Random(1), 200)
    bpe.save(bpe.train(texts, 300), root / "tokenizer")
    pack(root / "docs", root / "shards", root / "tokenizer", hold_out=0.1, progress=False)
    return root / "shards"


@pytest.fixture(scope="module")
def base(shards, tmp_path_factory):
    return bits.run(bits.settings(STEPS), shards, tmp_path_factory.mktemp("base") / "run")


@pytest.mark.parametrize(
    "change",
    [
        bits.Change(reverse=True),
        bits.Change(overrides=("train.micro_batch_size=4",)),
        bits.Change(bit=7),
    ],
    ids=["reversed", "micro-batches", "one bit"],
)
def test_another_order_or_one_bit_is_a_rounding_away(shards, base, tmp_path, change):
    other = bits.run(bits.settings(STEPS, change=change), shards, tmp_path / "run", change)
    found = bits.gap(other, base)
    assert not found["equal"]
    assert max(found["loss"]) < 1e-4 and 0 < found["weights"][-1] < 1e-4


def test_the_same_run_has_the_same_bits_and_another_seed_has_not(shards, base, tmp_path):
    again = bits.gap(bits.run(bits.settings(STEPS), shards, tmp_path / "again"), base)
    assert again["equal"] and again["steps_equal"] == STEPS
    seed = bits.gap(bits.run(bits.settings(STEPS, seed=2), shards, tmp_path / "seed"), base)
    assert not seed["equal"] and seed["weights"][-1] > 0.1


def test_one_bit_is_one_bit(base):
    """The first snapshot of a run with one bit differs from the unchanged one in one weight, by its last place."""
    import torch

    from steel.train.build import make_model
    from steel.train.parallel import World

    one, two = (make_model(bits.settings(STEPS), World()) for _ in range(2))
    bits.move_one_bit(two, 7)
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    apart = torch.cat([(b.view(torch.int32) - a.view(torch.int32)).flatten() for a, b in pairs])
    assert apart.abs().sum() == 1


def test_a_killed_run_in_a_process_of_its_own_keeps_every_bit(shards, base, tmp_path):
    change = bits.Change(overrides=("train.checkpoint_every=4",), die_after=9)
    cfg = bits.settings(STEPS, change=change)
    killed = bits.fresh(cfg, shards, tmp_path / "killed", change)
    assert (tmp_path / "killed" / "died").exists()
    assert (killed.losses == base.losses).all()
    assert np.array_equal(killed.weights_EP, base.weights_EP)
