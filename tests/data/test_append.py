import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import files, texts, write_documents, write_lines

from steel.cli import main
from steel.config import UserError
from steel.data import Loader, ShardSet, append
from steel.data.pack import find_state
from steel.documents import read_chunks
from steel.tokenizer import bpe

L = 32


@pytest.fixture(scope="module")
def grown(packed, tokenizer_folder, tmp_path_factory):
    """The corpus before, after one and after two appends (a known source, then a new one as well)."""
    root = tmp_path_factory.mktemp("grown")
    steps = [packed]
    for i, names in enumerate((("web",), ("web", "code")), 1):
        out = root / f"shards{i}"
        shutil.copytree(steps[-1], out)
        for name in names:
            write_documents(root / f"new{i}/{name}.jsonl.zst", texts(120, (i, name)))
        append(out, root / f"new{i}", tokenizer_folder)
        steps.append(out)
    return [ShardSet.open(s) for s in steps]


def names(loader, first, last):
    """What identifies the samples of steps [first, last)."""
    return [
        (loader.sources[s], tuple(row.tolist()))
        for step in range(first, last)
        for batch in [loader.batch(step)]
        for s, row in zip(batch.source, batch.targets, strict=True)
    ]


@settings(max_examples=8, deadline=None)
@given(a=st.integers(0, 60), b=st.integers(0, 60), seed=st.integers(0, 3))
def test_appending_keeps_the_past_and_reads_the_rest_exactly_once(grown, a, b, seed):
    loader0 = Loader(grown[0], L, 4, seed)
    loader1 = Loader.from_state(grown[1], json.loads(json.dumps(loader0.state(a))))
    loader2 = Loader.from_state(grown[2], json.loads(json.dumps(loader1.state(a + b))))
    a, b = min(a, loader0.samples // 4), min(b, loader1.samples // 4)
    assert names(loader2, 0, a) == names(loader0, 0, a)
    assert names(loader2, a, a + b) == names(loader1, a, a + b)
    if 4 * a < loader0.samples and 4 * (a + b) < loader1.samples:
        epoch = names(loader2, 0, loader2.samples // 4)
        # reading every sample once, whatever was appended when: two equal samples would be equal texts, none here
        assert len(epoch) == len(set(epoch)) == loader2.samples // 4 * 4
    assert loader2.state(a + b + 7)["generations"] == grown[2].generations


def test_two_appends_between_two_runs_are_both_mixed_in(grown):
    loader = Loader.from_state(grown[2], Loader(grown[0], L, 4, 0).state(20))
    epoch = names(loader, 0, loader.samples // 4)
    assert len(set(epoch)) == len(epoch) == loader.samples // 4 * 4
    assert {"code", "web", "wiki", "qa"} == {name for name, _ in epoch[80:]}
    assert "appended samples are mixed" in loader.events[0] and "step 20" in loader.events[0]


def test_a_crash_before_the_next_checkpoint_mixes_the_same_again(grown):
    state = Loader(grown[0], L, 4, 0).state(20)
    first, second = (Loader.from_state(grown[1], state, rank=1, world=2) for _ in range(2))
    assert names(first, 20, 40) == names(second, 20, 40)
    assert first.state(33) == second.state(33)


def test_with_weights_a_source_goes_on_with_its_unseen_and_new_samples(grown):
    weights = {"web": 1, "wiki": 1, "qa": 2}
    old = Loader(grown[0], L, 4, 0, weights)
    new = Loader.from_state(grown[1], old.state(50), mixture=weights)
    assert names(new, 0, 50) == names(old, 0, 50)
    total = sum(p.samples(L) for p in grown[1].pieces if p.source == "web")
    web, step = [], 0
    while len(web) < total:
        web += [n for n in names(new, step, step + 1) if n[0] == "web"]
        step += 1
    assert len(set(web[:total])) == total


def test_a_new_source_needs_a_weight_when_the_others_have_one(grown):
    weights = {"web": 1, "wiki": 1, "qa": 2}
    state = Loader(grown[0], L, 4, 0, weights).state(50)
    with pytest.raises(UserError, match="'code' was appended and has no weight"):
        Loader.from_state(grown[2], state)
    with pytest.raises(UserError, match="'code' has no weight"):
        Loader.from_state(grown[2], state, mixture=weights)
    new = Loader.from_state(grown[2], state, mixture={**weights, "code": 4})
    assert {"code"} <= {name for name, _ in names(new, 50, 60)} and names(new, 0, 50) == names(
        Loader(grown[0], L, 4, 0, weights), 0, 50
    )


def test_append_names_the_new_sources_that_a_run_with_shares_will_ask_for(
    tmp_path, packed, tokenizer_folder, capsys
):
    """The command announced samples to a run that then refused to start."""
    out = tmp_path / "out"
    shutil.copytree(packed, out)
    shares = {"web": 1, "wiki": 1, "qa": 2}
    for i, (weights, source, missing) in enumerate(
        ((shares, "code", ["code"]), (shares | {"code": 1}, "qa", []), (None, "novel", []))
    ):
        state = Loader(ShardSet.open(out), L, 4, 0, weights).state(20)
        folder = tmp_path / f"run{i}/checkpoints/step-00000020"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps({"step": 20, "data": state}))
        write_documents(tmp_path / f"new{i}/{source}.jsonl.zst", texts(40, i))
        docs, run = tmp_path / f"new{i}", tmp_path / f"run{i}"
        if missing:
            with pytest.raises(SystemExit):
                main(["data", "append", str(out), str(docs), "--run", str(run)])
            assert "name code in data.weights" in capsys.readouterr().out
        else:
            assert append(out, docs, tokenizer_folder, consumed=run)["without_share"] == []


def test_the_state_before_an_append_is_gone_and_says_so(grown):
    loader = Loader.from_state(grown[1], Loader(grown[0], L, 4).state(20))
    with pytest.raises(ValueError, match="appended after it"):
        loader.state(19)
    with pytest.raises(UserError, match="appended shards are missing"):
        Loader.from_state(grown[0], loader.state(20))


def test_duplicates_are_refused_with_both_files_named(
    tmp_path, packed, docs, grown, tokenizer_folder
):
    out = tmp_path / "out"
    shutil.copytree(packed, out)
    before = files(out)
    shutil.copy(docs / "wiki.jsonl.zst", tmp_path / "fresh.jsonl.zst")
    with pytest.raises(UserError, match="fresh.jsonl.zst repeats the content of wiki.jsonl.zst"):
        append(out, tmp_path / "fresh.jsonl.zst", tokenizer_folder)
    write_documents(
        tmp_path / "ids.jsonl.zst", texts(60, "wiki")[::-1]
    )  # other ids, other order, same texts
    lines = b"".join(read_chunks(docs / "web.jsonl.zst")).splitlines()
    write_lines(tmp_path / "longer.jsonl.zst", [*lines, b'{"text": "more"}'])
    (tmp_path / "a").mkdir()
    shutil.copy(docs / "web.jsonl.zst", tmp_path / "a/web.jsonl.zst")
    for name, other in (
        ("ids.jsonl.zst", "wiki.jsonl.zst"),
        ("longer.jsonl.zst", "web.jsonl.zst"),
        ("a/web.jsonl.zst", "web.jsonl.zst"),
    ):
        with pytest.raises(UserError, match=f"{name.split('/')[-1]}.* repeats the .* of {other}"):
            append(out, tmp_path / name, tokenizer_folder)
        assert files(out) == before


def test_the_same_append_twice_is_refused(tmp_path, packed, tokenizer_folder):
    out = tmp_path / "out"
    shutil.copytree(packed, out)
    write_documents(tmp_path / "more.jsonl.zst", texts(40, "m"))
    append(out, tmp_path / "more.jsonl.zst")  # with the tokenizer that the shards carry
    with pytest.raises(
        UserError, match=r"more.jsonl.zst repeats the content of more.jsonl.zst \(appended as"
    ):
        append(out, tmp_path / "more.jsonl.zst", tokenizer_folder)


def test_append_reports_what_a_run_will_mix(tmp_path, packed, tokenizer_folder):
    out, run = tmp_path / "out", tmp_path / "run"
    shutil.copytree(packed, out)
    state = Loader(ShardSet.open(out), L, 4, 0).state(20)
    for step in (10, 20):
        folder = run / f"checkpoints/step-{step:08d}"
        folder.mkdir(parents=True)
        data = {**state, "step": step, "slot": 4 * step}
        (folder / "state.json").write_text(json.dumps({"step": step, "data": data}))
    assert find_state(run)["step"] == 20
    old = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.glob("*/*")}
    write_documents(tmp_path / "more.jsonl.zst", [*texts(40, "m"), " "])
    result = append(out, tmp_path / "more.jsonl.zst", tokenizer_folder, consumed=run)
    assert result["generation"] == 1 and result["documents"] == 40
    assert result["from_step"] == 20
    added = [row for row in ShardSet.open(out).manifest["inputs"] if row["generation"] == 1]
    assert [row["file"] for row in added] == ["more.jsonl.zst"]
    assert (
        f"{result['new_samples']:,} appended"
        in Loader.from_state(ShardSet.open(out), state).events[0]
    )
    assert all(
        (out / name).read_bytes() == data for name, data in old.items()
    )  # a running job notices nothing
    manifest = ShardSet.open(out).manifest
    assert len(manifest["generations"]) == 2 and manifest["rejected"] == {"empty": 1}


def test_the_newest_data_state_is_found_among_all_stages(tmp_path, packed):
    """A later stage without a data state may have made more steps."""
    states = {"pretrain": {"data": Loader(ShardSet.open(packed), L, 4).state(20)}, "sft": {}}
    for (stage, state), step in zip(states.items(), (20, 300), strict=True):
        folder = tmp_path / f"{stage}/checkpoints/step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps({"step": step, **state}))
    assert find_state(tmp_path)["step"] == 20
    with pytest.raises(UserError, match="sft holds no data state"):
        find_state(tmp_path / "sft")


def test_mistakes_are_refused_before_anything_is_written(tmp_path, packed, grown, tokenizer_folder):
    out = tmp_path / "out"
    shutil.copytree(packed, out)
    new = write_documents(tmp_path / "more.jsonl.zst", texts(40, "m"))
    bpe.save(bpe.train(texts(50, "x"), 270), tmp_path / "tok")
    before = files(out)
    with pytest.raises(UserError, match="not the tokenizer"):
        append(out, new, tmp_path / "tok")
    with pytest.raises(UserError, match="no checkpoint"):
        append(out, new, tokenizer_folder, consumed=tmp_path)
    with pytest.raises(UserError, match="appended shards are missing"):
        append(out, new, tokenizer_folder, consumed=Loader(grown[1], L, 4).state(3))
    assert files(out) == before
    with pytest.raises(UserError, match=r"no manifest.json"):
        append(tmp_path / "none", new, tokenizer_folder)
