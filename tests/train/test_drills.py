"""kill -9 at random moments of a real run: nothing is lost, nothing is seen twice, nothing differs."""

import json

import pytest

from figures.experiments.drill_run import BATCH, is_whole, samples
from figures.experiments.drills import render, run_drills
from steel.config import UserError


def test_kills_at_random_moments_and_inside_an_append_leave_the_run_bit_equal(tmp_path):
    report = run_drills(tmp_path / "drills", kills=5, seed=2, steps=30, appends=1, faults=[])
    assert report["passed"], report
    assert (
        report["curve_bit_equal"]
        and report["weights_bit_equal"]
        and report["half_checkpoints_loaded"] == 0
    )
    assert report["samples"] == {"due": 120, "once": 120, "twice_or_more": 0, "consistent": True}
    assert [r["exit_code"] for r in report["kills"]] == [-9] * 5
    assert sum(r["in"] == "append 1" for r in report["kills"]) >= 1
    assert (
        report["appends"]["equal"] and "appended samples are mixed" in report["appends"]["mixed"][0]
    )
    assert json.loads((tmp_path / "drills" / "drills.json").read_text()) == report
    assert "verdict           passed" in render(report)


def test_the_drill_itself_would_notice(tmp_path):
    seen = tmp_path / "seen"
    rows = [["a", "b", "c", "d"], ["e", "f", "g", "h"], ["e", "f", "g", "x"], ["a", "f", "g", "h"]]

    def found(*lines):
        seen.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return samples([seen], [1, 2], 2 * BATCH)

    assert found([0, 0, 1, rows[0]], [0, 1, 1, rows[1]]) == {
        "due": 8,
        "once": 8,
        "twice_or_more": 0,
        "consistent": True,
    }
    assert found([0, 0, 1, rows[0]], [0, 1, 1, rows[3]])["twice_or_more"] == 1
    assert not found([0, 0, 1, rows[0]], [0, 1, 1, rows[1]], [1, 1, 1, rows[2]])["consistent"]
    assert found([0, 0, 1, rows[0]], [0, 1, 1, rows[1]], [1, 1, 2, rows[2]])["consistent"], (
        "other data, other rows"
    )
    torn = tmp_path / "step-00000001"
    torn.mkdir()
    (torn / "state.json").write_text("{}")
    (torn / ".metadata").write_bytes(b"\x80")
    assert not is_whole(torn)


def test_drills_refuse_what_they_cannot_do(tmp_path):
    (tmp_path / "x").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        run_drills(tmp_path)
    with pytest.raises(UserError, match="kills"):
        run_drills(kills=0)
    with pytest.raises(UserError, match="no drill is called 'flood'; there are ranks, silent rank"):
        run_drills(faults=["flood"])
