"""What a run shows of its work: rejected documents, changed texts, flows that close; copies by every method."""

import json
import random
from collections import Counter

import numpy as np
import pytest
from raw_samples import write_raw

from steel.cli import main
from steel.config import UserError, load
from steel.corpus.dedup import (
    SIMHASH,
    Dedup,
    Near,
    _similar,
    find,
    keys,
    letters,
    normalise,
    s_curve,
)
from steel.corpus.operators import make
from steel.corpus.pipeline import prepare
from steel.corpus.recipe import load_recipe
from steel.corpus.report import read_rejects
from steel.documents import Document, read_documents

CHARACTERS = {"tokenization": "character", "window_size": 6, "lowercase": True}


@pytest.fixture(scope="module", params=["steel", "original"])
def world(tmp_path_factory, request):
    from steel.corpus.world import write_world

    root, config = tmp_path_factory.mktemp("evidence"), load("smoke")
    write_world(root / "world", config.world, config.seed)
    return root / "out", prepare(root / "world/raw", root / "out", request.param, trace=2)


def test_every_removed_document_can_be_read_with_its_reason(world):
    out, report = world
    counted = Counter()
    for part in report["sources"].values():
        counted += Counter(part["steps"]["clean"]["removed"])
        counted += Counter(part["steps"]["dedup"]["removed"])
    rejects = list(read_rejects(out))
    assert Counter(d.meta["rejected"]["operator"] for d in rejects) == counted and counted
    for document in rejects:
        said = document.meta["rejected"]
        if said["operator"].endswith("_filter"):
            assert said["value"] < said["limit"] or said["value"] > said["limit"]
    kept = {d.id for d in read_documents(out)}
    assert kept.isdisjoint(d.id for d in rejects)
    said = {d.id: d.meta["rejected"] for d in rejects}
    copies = {name: about["copy_of"] for name, about in said.items() if "copy_of" in about}
    assert copies, "the closed world has planted copies"
    for original in copies.values():
        while original in copies:  # an exact copy of what is a near copy of another
            original = copies[original]
        assert original in kept, "one of them stays"


def test_the_flows_of_the_sankey_figure_close(world):
    _, report = world
    into, outof = Counter(), Counter()
    for flow in report["flows"]:
        into[flow["to"]] += flow["documents"]
        outof[flow["from"]] += flow["documents"]
    assert {node: into[node] for node in ("convert", "clean", "dedup")} == {
        node: outof[node] for node in ("convert", "clean", "dedup")
    }
    assert into["documents"] == report["totals"]["dedup"]["kept"]


def test_traces_show_the_first_changes_of_each_operator(world):
    out, report = world
    for name, part in report["sources"].items():
        path = out / f"report/traces/{name}.jsonl"
        rows = [json.loads(line) for line in path.open()] if path.exists() else []
        shown = Counter(row["operator"] for row in rows)
        changed = part["steps"]["clean"]["changed"]
        assert shown == {operator: min(2, number) for operator, number in changed.items()}
        assert all(row["before"] != row["after"] for row in rows)


def test_the_command_lists_and_reads_what_was_thrown_away(tmp_path, capsys):
    out = tmp_path / "out"
    report = prepare(write_raw(tmp_path / "raw"), out)
    names = {n for p in report["sources"].values() for n in p["steps"]["dedup"]["removed"]}

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            main(["data", "rejects", str(out), *words])
        return stop.value.code, capsys.readouterr()

    code, printed = run()
    assert code == 0 and all(name in printed.out for name in names)
    code, printed = run("--operator", "exact", "--limit", "1")
    assert code == 0 and printed.out.count("exact copy") == 1
    code, printed = run("--operator", "nobody")
    assert code == 2 and "nobody removed nothing" in printed.err + printed.out
    with pytest.raises(UserError, match="no such folder"):
        list(read_rejects(tmp_path / "raw"))


def test_an_idle_operator_is_named_in_the_report(tmp_path):
    report = prepare(write_raw(tmp_path / "raw"), tmp_path / "out", "original")
    assert any("perplexity_filter did nothing" in line for line in report["warnings"])


# -- copies ------------------------------------------------------------------------------------

HAN = "".join(map(chr, range(0x4E00, 0x4E00 + 800)))


def page(seed: int, size: int = 300) -> str:
    return "".join(random.Random(seed).choices(HAN, k=size))


def removed(texts, settings):
    found = find(
        keys([Document(str(i), t, "skypile") for i, t in enumerate(texts)], settings), settings
    )
    return {pair.removed: (pair.kept, pair.kind) for pair in found}


BY_CHARACTERS = Dedup(False, None, {"text": CHARACTERS})
BY_SPACES = Dedup(False, None, {"text": {"tokenization": "space"}})


def test_simhash_over_spaces_takes_all_chinese_pages_for_one_and_over_characters_none():
    pages = [page(seed) for seed in range(50)]
    assert removed(pages, BY_SPACES) == dict.fromkeys(range(1, 50), (0, SIMHASH))
    assert removed(pages, BY_CHARACTERS) == {}
    assert removed(pages, Dedup(True, Near())) == {}


@pytest.mark.parametrize(
    "settings", [BY_CHARACTERS, Dedup(True, Near())], ids=["simhash", "minhash"]
)
def test_a_crowd_of_300_copies_leaves_one(settings):
    base = page(5, 1200)
    crowd = [base[:i] + "改" + base[i:] for i in range(300)]
    assert set(removed([*crowd, page(6)], settings)) == set(range(1, 300))


@pytest.mark.parametrize(("blocks", "distance"), [(6, 4), (4, 3), (8, 2)])
def test_fingerprints_within_the_distance_are_all_found_and_no_others(blocks, distance):
    rng = random.Random(blocks)
    centres = [rng.getrandbits(64) for _ in range(20)]
    values = centres + [
        value ^ sum(1 << bit for bit in rng.sample(range(64), rng.randrange(8)))
        for value in centres * 3
    ]
    root = list(range(len(values)))
    for i in range(len(values)):  # every pair, by definition: the first of what it is linked to
        for j in range(i):
            if bin(values[i] ^ values[j]).count("1") <= distance:
                low, high = sorted((root[i], root[j]))
                root = [low if r == high else r for r in root]
    parameters = {"num_blocks": blocks, "hamming_distance": distance}
    found = {later: first for later, first, _ in _similar(np.array(values, np.uint64), parameters)}
    assert found == {i: r for i, r in enumerate(root) if i != r}


def test_the_s_curve_is_the_share_of_pairs_that_become_candidates():
    rng = np.random.default_rng(0)
    similarity = np.array([0.3, 0.6, 0.75, 0.9])
    rows, count = 5, 12
    equal = rng.random((4, 4000, count, rows)) < similarity[:, None, None, None]
    share = equal.all(axis=-1).any(axis=-1).mean(axis=1)
    assert np.abs(s_curve(similarity, count, rows) - share).max() < 0.04


def test_near_copies_in_the_closed_world_are_truly_alike(tmp_path):
    """Precision by the texts themselves: the true Jaccard similarity of every pair found."""
    from steel.corpus.world import write_world

    config = load("smoke")
    write_world(tmp_path / "world", config.world, config.seed)
    prepare(tmp_path / "world/raw", tmp_path / "docs", steps=("convert",))
    prepare(tmp_path / "docs", tmp_path / "out", steps=("dedup",))
    grams = {}
    for document in read_documents(tmp_path / "docs"):
        codes = letters(normalise(document.readable())).tolist()
        grams[document.id] = {tuple(codes[i : i + 5]) for i in range(len(codes) - 4)}
    pairs = [json.loads(line) for line in (tmp_path / "out/report/duplicates.jsonl").open()]
    near = [pair for pair in pairs if pair["kind"] == "near"]
    assert len(near) > 20
    for pair in near:
        one, two = grams[pair["removed"]], grams[pair["kept"]]
        true = len(one & two) / len(one | two)
        assert true > 0.75 - 4 * (0.75 * 0.25 / 128) ** 0.5, (true, pair)


def test_a_deduplicator_stands_last(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"clean:\n  text: [{SIMHASH}, remove_control]\n")
    with pytest.raises(UserError, match="last operator"):
        load_recipe(path)
    path.write_text(f"clean:\n  text: [remove_control, {SIMHASH}: {{tokenization: character}}]\n")
    recipe = load_recipe(path)
    assert [op.name for op in recipe.operators("skypile")] == ["remove_control"]
    assert recipe.dedup.simhash == {"text": {"tokenization": "character"}}
    path.write_text(f"clean:\n  text: [{SIMHASH}]\n")  # as it comes, without a parameter
    assert load_recipe(path).dedup.groups() == [{}]


def test_a_source_whose_own_list_has_no_deduplicator_is_not_compared_by_its_kinds():
    """The original cleaned neither SkyPile nor WanJuan: their lists are empty."""
    settings = load_recipe("original").dedup
    sources = ("wikipedia_cn", "skypile", "wanjuan", "wanjuan_exam", "starcoder", "mine")
    documents = [Document(source, page(i), source) for i, source in enumerate(sources)]
    found = keys(documents, settings)
    assert found.group_N.tolist() == [0, -1, -1, -1, 1, 0]
    assert [pair.removed for pair in find(found, settings)] == [5]
    assert load_recipe("steel").dedup.groups() == []


def test_scores_tell_prose_from_a_menu():
    prose = (
        "早上的电车慢慢地开过桥，学生们在站台上等着；面包房的灯亮了，他们都说今天会是一个好天气。"
    )
    menu = "首页|登录|注册|购物车|排行榜|2024|VIP|客服|下载|APP|★★★★★|123456789|热门|推荐"
    score = make("quality_scores").function
    assert score(prose)["quality"] > score(menu)["quality"] + 0.3
    assert make("language_scores").function(prose)["zh"] == 1.0
    document = Document("x", prose, "skypile", meta={"scores": {"mine": 1}})
    scores = make("quality_scores")(document).meta["scores"]
    assert (
        scores["mine"] == 1
        and 0 <= scores["quality"] <= 1
        and document.meta["scores"] == {"mine": 1}
    )
