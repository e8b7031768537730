import json
import os
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import texts, write_documents

from steel.config import UserError
from steel.data import Loader, ShardSet, pack
from steel.data.shard_file import BLOCK_BYTES, ShardFile
from steel.data.shards import verify

L = 32


@pytest.fixture(scope="module")
def shards(packed):
    return ShardSet.open(packed)


def rows(batch):
    parts = (batch.input_ids, batch.targets, batch.position_ids, batch.source[:, None])
    return [tuple(row) for row in torch.cat(parts, 1).tolist()]


def whole(shards, piece):
    """All tokens of a piece."""
    tokens = np.empty(piece.tokens, shards.dtype)
    shards.read(piece.first, tokens)
    return tokens


def same(a, b):
    return rows(a) == rows(b)


MIXTURES = [
    None,
    {"qa": 1, "web": 2, "wiki": 3},
    {"qa": 0.5, "*": 0.5},
    [{"step": 0, "weights": None}, {"step": 3, "weights": {"qa": 5, "web": 1, "wiki": 0}}],
]


@pytest.mark.parametrize("mask", [True, False])
def test_one_epoch_has_every_token_as_a_target_exactly_once(shards, mask):
    loader = Loader(shards, L, 1, mask_documents=mask)
    got: dict[int, list] = {i: [] for i in range(3)}
    for step in range(loader.samples):
        batch = loader.batch(step)
        real = (batch.targets[0] != -100).sum()
        got[int(batch.source)].append(
            (batch.input_ids[0, :real].tolist(), batch.targets[0, :real].tolist())
        )
        assert (batch.input_ids[0, real:] == 0).all()
    for piece in shards.pieces:
        stream = whole(shards, piece)
        expected = [
            (stream[a : min(a + L, piece.tokens - 1)].tolist(), stream[a + 1 : a + L + 1].tolist())
            for a in range(0, piece.tokens - 1, L)
        ]
        assert sorted(got[shards.sources.index(piece.source)]) == sorted(expected)
        assert sum(len(x) for x, _ in expected) == piece.tokens - 1
    again = Loader(shards, L, 1, mask_documents=mask)
    assert (
        len({tuple(rows(again.batch(loader.samples + s))[0]) for s in range(20)}) > 15
    )  # the next epoch goes on


def test_positions_restart_at_documents(shards):
    loader = Loader(shards, L, 8)
    for step in range(20):
        batch = loader.batch(step)
        for ids, targets, positions in zip(
            batch.input_ids, batch.targets, batch.position_ids, strict=True
        ):
            expected, at = [], 0
            real = int((targets != -100).sum())
            for i, token in enumerate(ids.tolist()):
                if i == real:
                    at = 0  # padding is a document of its own
                expected.append(at)
                at = 0 if token == 0 and i < real else at + 1
            assert positions.tolist() == expected
        starts = (batch.position_ids.flatten() == 0).nonzero()[:, 0].tolist()
        assert batch.ends.tolist() == [*starts[1:], batch.input_ids.numel()]
    flat = Loader(shards, L, 8, mask_documents=False).batch(0)
    assert flat.ends is None and torch.equal(flat.position_ids, torch.arange(L).expand(8, L))
    assert torch.equal(flat.input_ids, loader.batch(0).input_ids)


@settings(max_examples=40, deadline=None)
@given(
    world=st.integers(1, 9),
    size=st.integers(1, 12),
    step=st.integers(0, 40),
    mixture=st.sampled_from(MIXTURES),
    seed=st.integers(0, 5),
)
def test_the_ranks_together_are_the_single_rank_in_order(shards, world, size, step, mixture, seed):
    single = rows(Loader(shards, L, size, seed, mixture).batch(step))
    parts = [
        rows(Loader(shards, L, size, seed, mixture, rank=r, world=world).batch(step))
        for r in range(world)
    ]
    first = step * size
    joined = [parts[t % world].pop(0) for t in range(first, first + size)]
    assert joined == single and not any(parts)


@settings(max_examples=25, deadline=None)
@given(stop=st.integers(0, 30), world=st.integers(1, 4), mixture=st.sampled_from(MIXTURES))
def test_a_resumed_run_sees_the_same_batches_at_any_world_size(shards, stop, world, mixture):
    loader = Loader(shards, L, 8, 1, mixture)
    state = json.loads(json.dumps(loader.state(stop)))
    assert len(json.dumps(state)) < 2000
    assert state == Loader(shards, L, 8, 1, mixture, rank=0, world=3).state(stop)
    parts = [
        Loader.from_state(
            shards,
            state,
            rank=r,
            world=world,
            mixture=mixture,
            batch_size=8,
            seed=1,
            sequence_length=L,
        )
        for r in range(world)
    ]
    assert all(p.events == [] and p.state(stop) == state for p in parts)
    for step in (stop, stop + 1, stop + 17):
        joined = [
            row
            for group in zip(*(rows(p.batch(step)) for p in parts), strict=False)
            for row in group
        ]
        if 8 % world == 0:
            assert joined == rows(loader.batch(step))
        assert sum(len(p.batch(step)) for p in parts) == 8


@pytest.mark.parametrize("size, most", [(8, None), (7, None), (8, 20), (10**4, 3)])
def test_one_pass_has_every_sample_once(shards, size, most):
    loader = Loader(shards, L, size)
    found = [row for batch in loader.one_pass(most) for row in rows(batch)]
    assert len(found) == len(set(found)) == min(loader.samples, most or 10**9)


def test_a_star_stands_for_the_sources_not_named_by_their_size(shards):
    loader = Loader(shards, L, 8, mixture={"qa": 0.25, "*": 0.75})
    sizes = {p.source: p.samples(L) for p in shards.pieces if p.source != "qa"}
    quotas = loader.mixture.phases[0].quotas
    total = sum(quotas.values())
    assert quotas["qa"] / total == pytest.approx(0.25, abs=1e-4)
    for name, size in sizes.items():
        assert quotas[name] / total == pytest.approx(0.75 * size / sum(sizes.values()), abs=1e-4)


def test_weights_are_met_and_zero_leaves_out(shards):
    loader = Loader(shards, L, 64, 0, {"qa": 0.5, "web": 0.5, "wiki": 0})
    source = torch.cat([loader.batch(s).source for s in range(30)])
    share = {name: float((source == i).float().mean()) for i, name in enumerate(loader.sources)}
    assert share["wiki"] == 0 and abs(share["qa"] - 0.5) < 0.03


def test_every_source_has_epochs_of_its_own(shards):
    loader = Loader(shards, L, 16, 0, {"qa": 1, "web": 1, "wiki": 1})
    size = next(p for p in shards.pieces if p.source == "qa").samples(L)
    seen, step = [], 0
    while len(seen) < 3 * size:
        batch = loader.batch(step)
        seen += [r for r in rows(batch) if r[-1] == 0]
        step += 1
    epochs = [seen[i * size : (i + 1) * size] for i in range(3)]
    assert all(len(set(e)) == size for e in epochs) and set(epochs[0]) == set(epochs[1])
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_new_mixture_changes_only_the_future(shards):
    old = Loader(shards, L, 8, 0, {"qa": 1, "web": 1, "wiki": 1})
    new = Loader.from_state(shards, old.state(10), mixture={"qa": 0, "web": 1, "wiki": 9})
    assert all(same(old.batch(s), new.batch(s)) for s in range(10))
    source = torch.cat([new.batch(s).source for s in range(10, 40)])
    assert (source == 0).sum() == 0 and (source == 2).float().mean() > 0.8
    assert new.events == ["new mixture from step 10"]
    twice = Loader.from_state(shards, new.state(20), mixture={"qa": 0, "web": 1, "wiki": 9})
    assert twice.events == [] and same(twice.batch(33), new.batch(33))


def test_sources_carry_on_through_planned_weights(shards):
    """None before a planned change means by size, and what the annealing draws was not read before."""
    only_web = {"qa": 0, "web": 1, "wiki": 0}
    loader = Loader(
        shards, L, 8, 0, [{"step": 0, "weights": None}, {"step": 6, "weights": only_web}]
    )
    web = [
        r for s in range(20) for r in rows(loader.batch(s)) if r[-1] == loader.sources.index("web")
    ]
    assert len(web) == len(set(web)) > 100


def test_another_batch_size_goes_on_where_the_run_was(shards):
    old = Loader(shards, L, 8, 0)
    new = Loader.from_state(shards, old.state(5), batch_size=12)
    assert same(new.batch(4), old.batch(4))
    slots = [r for s in range(20) for r in rows(old.batch(s))]
    assert rows(new.batch(5)) + rows(new.batch(6)) == slots[40:64]
    assert new.events == ["batch size 8 → 12 sequences from step 5"]
    again = Loader.from_state(shards, json.loads(json.dumps(new.state(7))))
    assert same(again.batch(7), new.batch(7)) and same(again.batch(2), old.batch(2))


@pytest.mark.parametrize(
    "given, what",
    [
        ({"seed": 2}, "seed"),
        ({"sequence_length": 64}, "sequence_length"),
        ({"mask_documents": False}, "mask_documents"),
    ],
)
def test_settings_that_would_change_the_past_are_refused(shards, given, what):
    state = Loader(shards, L, 8, 1).state(3)
    with pytest.raises(UserError, match=f"started with {what}") as error:
        Loader.from_state(shards, state, **given)
    assert "\n" not in str(error.value)


def test_other_data_is_refused(shards, tmp_path, tokenizer_folder):
    write_documents(tmp_path / "web.jsonl.zst", texts(30, "other"))
    pack(tmp_path / "web.jsonl.zst", tmp_path / "out", tokenizer_folder)
    with pytest.raises(UserError, match="not the data that the run was started with"):
        Loader.from_state(ShardSet.open(tmp_path / "out"), Loader(shards, L, 8).state(3))
    with pytest.raises(UserError, match="format"):
        Loader.from_state(shards, {"format": 9})


@pytest.mark.parametrize(
    "settings_, what",
    [
        ({"mixture": {"web": 1}}, "no weight"),
        ({"mixture": {"web": 1, "wiki": 1, "qa": 1, "wbe": 1}}, "'wbe'"),
        ({"mixture": [{"step": 1, "weights": None}]}, "first is 0"),
        ({"rank": 2, "world": 2}, "rank 2"),
        ({"batch_size": 0}, "batch_size"),
        ({"sequence_length": 0}, "sequence_length"),
    ],
)
def test_a_users_mistake_gets_one_line(shards, settings_, what):
    with pytest.raises(UserError, match=what):
        Loader(**{"shards": shards, "sequence_length": L, "batch_size": 8, **settings_})


def test_a_source_shorter_than_a_sample_is_not_lost(tmp_path, tokenizer_folder):
    write_documents(tmp_path / "docs/one.jsonl.zst", ["春"])
    write_documents(tmp_path / "docs/two.jsonl.zst", ["夏秋", "冬"])
    pack(tmp_path / "docs", tmp_path / "out", tokenizer_folder)
    loader = Loader(ShardSet.open(tmp_path / "out"), 128, 2)
    batch = loader.batch(0)
    assert loader.samples == 2 and sorted(batch.source.tolist()) == [0, 1]
    assert batch.tokens == sum(p.tokens - 1 for p in loader.shards.pieces)


def test_a_split_without_documents_opens_but_gives_no_batches(packed):
    validation = ShardSet.open(packed, "validation")
    assert validation.pieces == []
    with pytest.raises(UserError, match="holds no validation tokens; pack with hold_out"):
        Loader(validation, L, 2)
    with pytest.raises(UserError, match="split is 'test'"):
        ShardSet.open(packed, "test")


def test_batches_split_and_move(shards):
    batch = Loader(shards, L, 10).batch(0)
    parts = batch.split(4)
    assert [len(p) for p in parts] == [4, 4, 2] and [r for p in parts for r in rows(p)] == rows(
        batch
    )
    assert same(batch.to("cpu"), batch) and batch.input_ids.dtype == torch.int64


@pytest.mark.parametrize(
    "damage, what",
    [("cut", "bytes instead of"), ("gone", "is missing"), ("index", "bytes instead of")],
)
def test_a_cut_shard_is_named_when_the_folder_is_opened(tmp_path, packed, damage, what):
    root = tmp_path / "out"
    shutil.copytree(packed, root)
    victim = root / ("wiki/000-0000-00000.bin" if damage != "index" else "wiki/000-0000-00000.idx")
    data = victim.read_bytes()
    victim.unlink()
    if damage != "gone":
        victim.write_bytes(data[:-2])
    with pytest.raises(UserError, match=f"{victim.name}.*{what}"):
        ShardSet.open(root)


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def read_all(root):
    loader = Loader(ShardSet.open(root), L, 8)
    for step in range(loader.samples // 8 + 1):
        loader.batch(step)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_flipped_byte_anywhere_is_found_before_it_is_trained_on(tmp_path_factory, packed, data):
    root = tmp_path_factory.mktemp("flipped") / "out"
    shutil.copytree(packed, root)
    victim = data.draw(st.sampled_from(sorted([*root.glob("*/*.bin"), *root.glob("*/*.idx")])))
    flip(victim, data.draw(st.integers(0, victim.stat().st_size - 1)))
    with pytest.raises(UserError, match=f"{victim.name} was changed") as error:
        read_all(root)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=f"{victim.name} was changed"):
        verify(root)


def test_only_the_blocks_that_are_read_are_checked(tmp_path, tokenizer_folder):
    write_documents(tmp_path / "web.jsonl.zst", texts(1500, "long"))
    pack(tmp_path / "web.jsonl.zst", tmp_path / "out", tokenizer_folder)
    victim = tmp_path / "out/web/000-0000-00000.bin"
    assert victim.stat().st_size > 5 * BLOCK_BYTES
    flip(victim, 4 * BLOCK_BYTES + 7)
    shards = ShardSet.open(tmp_path / "out")
    shards.read(0, np.empty(BLOCK_BYTES, shards.dtype))
    with pytest.raises(UserError, match="was changed"):
        shards.read(2 * BLOCK_BYTES, np.empty(1, shards.dtype))


def test_verify_reads_a_sound_folder_to_its_end(packed):
    found = verify(packed)
    assert found["tokens"] == ShardSet.open(packed).tokens and found["shards"] > 5


def test_a_shard_that_is_cut_during_a_run_is_named(tmp_path, packed):
    root = tmp_path / "out"
    shutil.copytree(packed, root)
    shards = ShardSet.open(root)
    tokens = np.empty(10, shards.dtype)
    shards.read(shards.tokens - 10, tokens)
    last = root / shards.pieces[-1].shards[-1]["path"]
    os.truncate(last, last.stat().st_size - 2)
    with pytest.raises(UserError, match=f"{last.name} has .* bytes instead of"):
        shards.read(shards.tokens - 10, tokens)


def older(packed, root):
    """A copy of shards as they were before they had checksums."""
    shutil.copytree(packed, root)
    manifest = json.loads((root / "manifest.json").read_text())
    for shard in manifest["shards"]:
        del shard["block_bytes"]
    (root / "manifest.json").write_text(json.dumps(manifest))
    return root


def test_shards_without_checksums_are_refused(tmp_path, packed):
    with pytest.raises(UserError, match="block_bytes.*pack the documents again"):
        ShardSet.open(older(packed, tmp_path / "out"))


@pytest.mark.parametrize(
    "content, what",
    [
        (None, "no manifest.json"),
        ("{", "manifest.json is damaged"),
        ('{"format": 99}', "format 99"),
    ],
)
def test_a_folder_without_a_sound_manifest_is_refused(tmp_path, content, what):
    if content:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=what):
        ShardSet.open(tmp_path)


def test_more_shards_than_may_be_open_are_read(packed, monkeypatch):
    many = ShardSet.open(packed)
    Loader(many, L, 8).batch(0)
    monkeypatch.setattr("steel.data.shards._file_limit", lambda wanted: 3)
    few = ShardSet.open(packed)
    for step in range(10):
        assert same(Loader(few, L, 8).batch(step), Loader(many, L, 8).batch(step))
        assert few._open.cache_info().currsize <= 3 < many._open.cache_info().currsize


def test_a_shard_is_opened_once_however_many_there_are(tmp_path, tokenizer_folder, monkeypatch):
    """Beyond 128 shards every row opened a file anew, at a fifteenth of the speed."""
    write_documents(tmp_path / "web.jsonl.zst", texts(900, "many"))
    pack(tmp_path / "web.jsonl.zst", tmp_path / "out", tokenizer_folder, shard_tokens=100)
    shards, opened = ShardSet.open(tmp_path / "out"), []
    assert len(shards.pieces[0].shards) > 150
    real = ShardFile.open
    monkeypatch.setattr(ShardFile, "open", lambda self: opened.append(self.path) or real(self))
    loader = Loader(shards, L, 8)
    for step in range(2 * loader.samples // 8):
        loader.batch(step)
    assert len(opened) == len(set(opened)) == len(shards.pieces[0].shards)


def test_head_and_tail_of_every_shard_are_compared_before_a_run(tmp_path, packed):
    root = tmp_path / "out"
    shutil.copytree(packed, root)
    shards = ShardSet.open(root)
    shards.check_all()
    victim = root / "wiki/000-0000-00000.bin"
    flip(victim, -1)
    with pytest.raises(UserError, match=f"{victim.name} was changed"):
        shards.check_all()
