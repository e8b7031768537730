"""What pretraining looks at before its first step."""

import shutil

import pytest
from train_world import tiny

from steel.config import UserError
from steel.train.pretrain import pretrain


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
