"""What pretraining looks at before its first step."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from train_world import tiny

from steel.config import UserError
from steel.data import ShardSet
from steel.train.parallel import World
from steel.train.pretrain import pretrain, validator


def test_a_changed_shard_among_very_many_is_named_before_training(corpus, tmp_path, monkeypatch):
    shards = tmp_path / "shards"
    shutil.copytree(corpus[0], shards)
    victim = sorted(shards.rglob("*.bin"))[-1]
    victim.write_bytes(victim.read_bytes()[:-2] + b"\x07\x07")
    monkeypatch.setattr(
        "steel.data.shards.EAGER", 0
    )  # as if there were more than are checked when a folder is opened
    seen = []
    with pytest.raises(UserError, match=f"{victim.name}.*was changed"):
        pretrain(tiny(), shards, tmp_path / "run", on_batch=lambda step, batch: seen.append(step))
    assert not seen


def test_validation_counts_every_held_out_sample_once(corpus):
    cfg, scored = tiny(train__micro_batch_size=4), []

    def model(input_ids, labels, **_):
        scored.extend(tuple(row) for row in labels.tolist())
        return SimpleNamespace(loss=torch.tensor(0.0))

    validator(cfg, corpus[0], World())(model, 0)
    held_out = ShardSet.open(corpus[0], "validation")
    samples = sum(p.samples(cfg.data.sequence_length) for p in held_out.pieces)
    assert samples % cfg.train.micro_batch_size, "a batch that is not full belongs to this test"
    assert len(scored) == len(set(scored)) == samples
