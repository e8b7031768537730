"""Faults beside kill -9: dead and silent ranks, a full disk, a cut shard, a batch that gives NaN, SIGTERM.

Each leaves one clear line, and the next start goes on as if nothing had been.
"""

import pytest

from figures.experiments.drill_run import prepare, train
from figures.experiments.drills import FAULTS


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """(folder, configuration) with a run that nobody broke."""
    root = tmp_path_factory.mktemp("faults")
    cfg = prepare(root, 1, 16, background=True)
    assert train(root, cfg, "unbroken") == [0]
    return root, cfg


def drilled(ground, name):
    found = FAULTS[name](*ground)
    assert found["passed"], found
    return found


def test_one_rank_two_ranks_and_one_again_and_a_dead_rank_ends_the_other(ground):
    found = drilled(ground, "ranks")
    assert found["survivor_exit_code"] == 75 and found["survivor_seconds"] < 30
    assert "rank 0 of 2 lost another rank at step" in found["line"]
    assert found["samples"] == {"due": 64, "once": 64, "twice_or_more": 0, "consistent": True}
    assert [stage["ranks"] for stage in found["plan"]] == [1, 2, 2] and len(
        found["resumed_at"]
    ) >= 2


def test_a_silent_rank_is_waited_for_as_long_as_was_said(ground):
    found = drilled(ground, "silent rank")
    assert found["survivor_seconds"] < 30 and "Timed out" in found["line"]


def test_a_full_disk_is_one_line_and_with_room_the_same_command_goes_on(ground):
    found = drilled(ground, "full disk")
    assert found["how"] in ("tmpfs", "injected ENOSPC") and "the disk is full" in found["line"]


def test_a_shard_cut_short_is_named_during_the_run_and_at_the_next_start(ground):
    found = drilled(ground, "damaged shard")
    for when in ("during_run", "at_start"):
        assert found[when]["exit_code"] == 2 and "bytes instead of" in found[when]["line"]


def test_a_bad_batch_is_skipped_and_bad_batches_without_end_stop_the_run(ground):
    assert drilled(ground, "bad batch")["skipped_steps"] == [9]


def test_sigterm_saves_and_the_next_start_is_bit_equal(ground):
    assert drilled(ground, "SIGTERM")["equal"]
