"""What the closed world plants among its raw records is found, and the rest is kept."""

import json
import re

import pytest
from raw_samples import assert_sums_close

from steel.config import load
from steel.corpus.pipeline import prepare
from steel.corpus.sources import inside, survey
from steel.corpus.sources.readers import records
from steel.documents import read_documents


def place(document) -> str:
    return f"{document.source}/{document.meta['file']}:{document.meta['record']}"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    from steel.corpus.world import write_world

    root = tmp_path_factory.mktemp("world")
    config = load("smoke")
    write_world(root / "world", config.world, config.seed)
    report = prepare(root / "world/raw", root / "out")
    assert_sums_close(report, root / "out")
    truth = json.loads((root / "world/truth.json").read_text())["plants"]
    everything = {
        f"{name}/{inside(file, root / 'world/raw', name)}:{number}"
        for name, files in survey(root / "world/raw")[0].items()
        for file in files
        for number, _ in records(file)
    }
    return truth, {place(d): d.readable() for d in read_documents(root / "out")}, everything


def spot(plant: dict) -> str:
    return f"{plant['source']}/{plant['file']}:{plant['record']}"


def test_planted_copies_are_found_in_the_closed_world(world):
    truth, kept, everything = world
    for kind, least in (("exact_duplicate", 1.0), ("near_duplicate", 0.95)):
        plants = [p for p in truth if p["kind"] == kind]
        assert all(spot(p) in everything for p in plants)
        found = sum(not (spot(p) in kept and spot(p["of"]) in kept) for p in plants)
        assert found >= least * len(plants), f"{kind}: {found} of {len(plants)}"


@pytest.mark.parametrize(
    ("kind", "least"),
    [
        ("broken_json", 1),
        ("bad_utf8", 1),
        ("bad_role_order", 1),
        ("symbols", 0.85),
        ("repetition", 0.85),
        ("mojibake", 0.85),
        ("html", 0.85),
        ("wrong_type", 0.8),
        ("missing_field", 0.65),
        ("too_short", 0.4),
    ],
)
def test_planted_junk_is_removed_or_mended_in_the_closed_world(world, kind, least):
    """Where the damaged field is one that a record can do without (desc, input), it is kept."""
    truth, kept, _ = world
    plants = [spot(p) for p in truth if p["kind"] == kind]
    signs = {"mojibake": "[锛銆鐨鍦涓â]", "html": "</|<br|&nbsp"}
    good = sum(
        p not in kept or (kind in signs and not re.search(signs[kind], kept[p])) for p in plants
    )
    assert good >= least * len(plants), f"{kind}: {good} of {len(plants)}"


def test_good_records_of_the_closed_world_are_kept(world):
    truth, kept, everything = world
    touched = {spot(p) for p in truth} | {spot(p["of"]) for p in truth if p["of"]}
    lost = [
        p
        for p in everything - touched
        if p not in kept and not p.startswith(("zhihu_kol", "starcoder"))
    ]
    assert len(lost) <= 0.02 * len(everything), lost[:5]
