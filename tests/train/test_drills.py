"""kill -9 at random moments of a real run: nothing is lost, nothing is seen twice, nothing differs."""

import json

import pytest

from steel.bench.drills import _is_whole, _samples, render, run_drills
from steel.config import UserError


def test_three_kills_at_random_moments_leave_the_run_bit_equal(tmp_path):
    report = run_drills(tmp_path / "drills", kills=3, seed=2, steps=30)
    assert report["passed"], report
    assert report["curve_bit_equal"] and report["weights_bit_equal"] and report["half_checkpoints_loaded"] == 0
    assert report["samples"] == {"due": 120, "once": 120, "twice_or_more": 0, "consistent": True}
    assert [r["exit_code"] for r in report["kills"]] == [-9] * 3
    assert json.loads((tmp_path / "drills" / "drills.json").read_text()) == report
    assert "verdict           passed" in render(report)


def test_the_drill_itself_would_notice(tmp_path):
    seen = tmp_path / "seen"
    seen.write_text('[0, ["a", "b"]]\n[1, ["c", "b"]]\n')
    assert _samples(seen, [1, 2], 4) == {"due": 4, "once": 2, "twice_or_more": 1, "consistent": True}
    seen.write_text('[0, ["a", "b"]]\n[1, ["c", "d"]]\n[1, ["c", "x"]]\n')
    assert not _samples(seen, [1, 2], 4)["consistent"]
    torn = tmp_path / "step-00000001"
    torn.mkdir()
    (torn / "state.json").write_text("{}")
    (torn / ".metadata").write_bytes(b"\x80")
    assert not _is_whole(torn)


def test_drills_refuse_what_they_cannot_do(tmp_path):
    (tmp_path / "x").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        run_drills(tmp_path)
    with pytest.raises(UserError, match="kills"):
        run_drills(kills=0)
