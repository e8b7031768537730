"""The drill: answerable from its first lines alone, no person in it, and a mixture that lets it go first."""

import re
from collections import Counter

import pytest

from steel.config import UserError, load
from steel.corpus.world import build_world
from steel.corpus.world.drill import ASKED, DRILLS, SHOWN, pools, with_drills, write_drills
from steel.documents import read_documents
from steel.train.schedule import mixture


def test_every_letter_asked_for_stands_above_and_letters_are_balanced(tmp_path):
    cfg = load("smoke")
    write_drills(tmp_path, cfg.world, cfg.seed)
    world = build_world(cfg.world, cfg.seed)
    names, letters = [n for p in world.people for n in (p.zh, p.en)], Counter()
    values = {name: {v for pool in found for v in pool} for name, found in pools(world).items()}
    for drill in DRILLS:
        documents = list(read_documents(tmp_path / f"{drill}.jsonl.zst"))
        assert len(documents) == cfg.world.drills
        for document in documents:
            found = [
                re.fullmatch(r"(?:- )?(.+) ([A-D])", x).groups() for x in document.text.split("\n")
            ]
            shown, asked = dict(found[:SHOWN]), found[SHOWN:]
            assert len(shown) == SHOWN and len(asked) == ASKED and set(shown) <= values[drill]
            assert sorted(shown.values()) == list("ABCD")
            assert all(shown[value] == letter for value, letter in asked)
            assert not any(name in document.text for name in names)
            letters.update(letter for _, letter in asked)
    assert min(letters.values()) > 0.23 * letters.total()


def test_the_drills_go_first_and_without_them_nothing_changes():
    cfg = with_drills(load("laptop"))
    sources = [*DRILLS, "moss", "skypile"]
    phases = mixture(cfg, sources)
    assert [phase["step"] for phase in phases] == [0, *cfg.world.drill_steps]
    assert {k for k, v in phases[0]["weights"].items() if v} == {"drill_1"}
    assert phases[3]["weights"]["drill_3"] == cfg.world.drill_share
    plain = load("cpu")
    assert with_drills(plain) is plain
    own = load("laptop", ["data.weights={moss: 1, '*': 0}"])
    assert with_drills(own) is own


def test_a_step_for_each_drill_or_one_line():
    with pytest.raises(UserError, match="needs 3 steps"):
        with_drills(load("laptop", ["world.drill_steps=[10,20]"]))


def test_stretches_out_of_order_are_refused():
    cfg = load(
        "cpu", ["data.curriculum=[{until: 9, weights: {a: 1}}, {until: 9, weights: {b: 1}}]"]
    )
    with pytest.raises(UserError, match="until=9 comes after 9"):
        mixture(cfg, ["a", "b"])
