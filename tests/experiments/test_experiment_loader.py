"""The loader benchmark at a size of seconds: its figures, its experiments, and what it says of absent peers."""

import importlib.util
import json

import pytest

from figures.experiments import loader
from figures.experiments.loader_peers import CONTENDERS
from steel.config import UserError


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """This project's loader and torch, which are always there, and whatever else is asked for but not installed."""
    out = tmp_path_factory.mktemp("bench") / "loader.json"
    absent = [name for name, c in CONTENDERS.items() if importlib.util.find_spec(c.needs) is None]
    found = loader.run_bench(
        out, samples=512, index=5000, length=64, repeats=1, names=["steel", "torch", *absent]
    )
    assert json.loads(out.read_text()) == json.loads(json.dumps(found))
    found["by_name"] = {row["name"]: row for row in found["rows"]}
    return found


def test_every_figure_is_measured(report):
    for name in ("steel", "torch"):
        row = report["by_name"][name]
        assert row["index_samples"] >= 5000 and row["resume"]["position"] == 4480
        for figure in ("tokens", "tokens_and_positions"):
            assert row[figure]["samples"] == 4 * 32 and row[figure]["samples_per_cpu_s"] > 0
        for figure in ("start", "resume"):
            assert (
                row[figure]["rows"] == 32
                and row[figure]["cpu_s"] > 0
                and row[figure]["memory_bytes"] >= 0
            )


def test_many_files_are_timed_where_there_are_many(report):
    assert report["by_name"]["steel"]["index_tokens"]["samples_per_cpu_s"] > 0
    assert "index_tokens" not in report["by_name"]["torch"]


def test_this_loader_survives_all_and_a_permutation_neither_an_append_nor_a_mixture(report):
    verdicts = {
        name: {k: v["survives"] for k, v in row["survives"].items()}
        for name, row in report["by_name"].items()
    }
    assert all(verdicts["steel"].values())
    assert verdicts["torch"] == {"resume": True, "world": True, "append": False, "mixture": False}
    assert report["by_name"]["steel"]["survives"]["append"]["once"] == 1280
    lost = report["by_name"]["torch"]["survives"]["append"]
    assert lost["never"] > 0 and lost["again"] > 0


def test_rendering_names_every_contender_and_the_command_for_an_absent_one(report):
    text = loader.render(report)
    for name in report["by_name"]:
        assert loader.LABELS[name] in text
    for name, command in report["skipped"].items():
        assert f"{loader.LABELS[name]} is not installed: {command}" in text and command.startswith(
            "pip install "
        )


@pytest.mark.parametrize(
    "wrong", [{"names": ["nonsense"]}, {"batch": 6}, {"samples": 64}, {"index": 100}]
)
def test_sizes_that_cannot_work_are_refused(wrong):
    with pytest.raises(UserError):
        loader.run_bench(**wrong)
