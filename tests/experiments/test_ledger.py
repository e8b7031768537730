"""The ledger that every experiment writes: rows once, other experiments refused, the file whole after every row."""

import json

import pytest

from figures.experiments.ledger import Ledger
from steel.config import UserError

SAME = {"config": {"width": 8, "rates": (1, 2)}, "budget": "tokens"}


def test_the_same_call_goes_on_and_works_out_only_what_is_missing(tmp_path):
    path, worked = tmp_path / "out" / "log.json", []

    def work(key):
        if key["name"] == "b" and len(worked) == 1:
            raise KeyboardInterrupt
        worked.append(key["name"])
        return {"loss": len(worked)}

    keys = [{"name": name, "seed": 1} for name in "abc"]
    with pytest.raises(KeyboardInterrupt):
        Ledger(path, "toy", SAME).fill(keys, work)
    assert [r["name"] for r in json.loads(path.read_text())["rows"]] == ["a"]
    worked.append("again")
    rows = Ledger(path, "toy", SAME).fill(keys, work)
    assert [r["name"] for r in rows] == ["a", "b", "c"] and worked == ["a", "again", "b", "c"]
    found = json.loads(path.read_text())
    assert found["rows"] == rows and found["budget"] == "tokens" and found["hardware"]["cores"]
    assert len(path.read_text().splitlines()) > len(rows), "one row a line"


@pytest.mark.parametrize("text", ["not json", "[]", '{"kind": "other", "rows": []}', "{}"])
def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path, text):
    path = tmp_path / "log.json"
    path.write_text(text)
    with pytest.raises(UserError, match="no log of this experiment"):
        Ledger(path, "toy", SAME)
    assert path.read_text() == text
    assert Ledger(path, "toy", SAME, fresh=True).rows == []


def test_rows_of_two_experiments_never_stand_together(tmp_path):
    path = tmp_path / "log.json"
    Ledger(path, "toy", SAME).add({"name": "a"})
    with pytest.raises(UserError, match="another budget"):
        Ledger(path, "toy", SAME | {"budget": "flops"})
    assert Ledger(path, "toy", SAME).find(name="a")
