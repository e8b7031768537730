"""What pretraining looks at before its first step."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from train_world import make_shards, tiny
from transformers import AutoTokenizer

from steel.config import UserError
from steel.data import Loader, ShardSet
from steel.runlog import read_log
from steel.tokenizer import bpe
from steel.train.parallel import World
from steel.train.pretrain import pretrain, target_filter, validator


def test_a_changed_shard_among_very_many_is_named_before_training(corpus, tmp_path):
    shards = tmp_path / "shards"
    shutil.copytree(corpus[0], shards)
    victim = sorted(shards.rglob("*.bin"))[-1]
    victim.write_bytes(victim.read_bytes()[:-2] + b"\x07\x07")
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


def test_the_model_gets_the_tokenizer_of_its_shards_and_no_other(corpus, tmp_path):
    pretrain(tiny(train__steps=1), corpus[0], tmp_path / "run")
    saved = AutoTokenizer.from_pretrained(tmp_path / "run" / "hf")
    assert saved.get_vocab() == AutoTokenizer.from_pretrained(corpus[1]).get_vocab()
    make_shards(tmp_path / "other", {"web": 30})
    bpe.save(bpe.train(["quite other text " * 20], 280), tmp_path / "other" / "tokenizer")
    with pytest.raises(UserError, match="is not the tokenizer that packed"):
        pretrain(tiny(), corpus[0], tmp_path / "again", tmp_path / "other" / "tokenizer")


def test_a_vocabulary_beyond_the_models_rows_is_one_line_before_anything_is_built(corpus, tmp_path):
    with pytest.raises(UserError, match="a vocabulary of 300 entries, model.vocab_size is 256"):
        pretrain(tiny(model__vocab_size=256), corpus[0], tmp_path / "run")
    assert not (tmp_path / "run" / "log.jsonl").exists()


@pytest.mark.parametrize("tied", [True, False])
def test_rows_without_an_entry_are_counted_in_parameters_and_flops(corpus, tmp_path, capsys, tied):
    cfg = tiny(model__vocab_size=1300, model__tie_word_embeddings=tied, train__steps=1)
    pretrain(cfg, corpus[0], tmp_path / "run")
    parameters = 1000 * 32 * (1 if tied else 2)
    line = capsys.readouterr().err
    assert f"{parameters:,} parameters and {6 * 1000 * 32:,} FLOPs per token are wasted" in line
    events = {e["what"]: e for e in read_log(tmp_path / "run" / "log.jsonl", "event")}
    assert events["vocabulary"]["wasted_parameters"] == parameters


def test_the_check_of_the_shards_is_shared_and_leaves_none_out(corpus, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "steel.data.shards.check_edge", lambda root, shard: seen.append(shard["path"])
    )
    for rank in range(3):
        shards = ShardSet.open(corpus[0])
        before = len(seen)
        shards.check_all(rank, 3)
        assert len(seen) - before <= -(-len(shards.manifest["shards"]) // 3)
    assert sorted(seen) == sorted(s["path"] for s in shards.manifest["shards"])


def test_only_the_wanted_tokens_of_a_source_are_predicted(corpus):
    shards = ShardSet.open(corpus[0])
    words, loader = bpe.load(corpus[1]), Loader(shards, 16, 8)
    name, batch = loader.sources[0], loader.batch(0)
    common = batch.targets[batch.targets >= 0].mode().values.item()
    before = batch.targets.clone()
    text = words.decode([common])
    keep = target_filter({name: text}, loader.sources, words)
    after = keep(batch).targets
    own = (batch.source == 0)[:, None] & (before != common)
    assert own.any() and (after[own] == -100).all() and torch.equal(after[~own], before[~own])
    with pytest.raises(UserError, match="source 'nowhere'"):
        target_filter({"nowhere": text}, loader.sources, words)
