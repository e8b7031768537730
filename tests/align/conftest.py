import os

import pytest
from align_world import base_model


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("STEEL_QUIET", "1")


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """(folder, model, tokenizer): an untrained model of 40 k parameters; do not train it in place."""
    os.environ["STEEL_QUIET"] = "1"
    return base_model(tmp_path_factory.mktemp("base") / "hf")


class Crash(RuntimeError):
    """Stands for a kill."""


@pytest.fixture
def crash_at(monkeypatch):
    """crash_at(step): the loop dies before that step, once; crash_at(None) lets it run."""
    from steel.train import loop

    whole = loop.train_step

    def arm(step):
        def train_step(stage, state, world):
            if state.step == step:
                raise Crash
            return whole(stage, state, world)

        monkeypatch.setattr(loop, "train_step", train_step)

    return arm


@pytest.fixture
def resumed_equals_unbroken(crash_at, tmp_path):
    """check(run_stage, crash step): runs unbroken, and killed + resumed; every logged number must be bit-equal."""
    from safetensors.torch import load_file

    from steel.runlog import read_log

    def curve(folder):
        noise = ("time_s", "tokens_per_s", "peak_memory_bytes")
        return [
            {k: v for k, v in r.items() if k not in noise}
            for r in read_log(folder / "log.jsonl", "step")
        ]

    def check(run_stage, step):
        crash_at(None)
        run_stage(tmp_path / "unbroken")
        crash_at(step)
        with pytest.raises(Crash):
            run_stage(tmp_path / "killed")
        crash_at(None)
        run_stage(tmp_path / "killed")
        assert any(
            r["what"] == "resume" for r in read_log(tmp_path / "killed" / "log.jsonl", "event")
        )
        assert curve(tmp_path / "killed") == curve(tmp_path / "unbroken")
        left, right = (
            load_file(tmp_path / name / "hf" / "model.safetensors")
            for name in ("unbroken", "killed")
        )
        assert left.keys() == right.keys() and all(left[k].equal(right[k]) for k in left)
        return curve(tmp_path / "unbroken")

    return check
