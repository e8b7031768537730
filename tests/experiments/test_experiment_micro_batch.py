"""The sweep of micro-batches: a file after every row, nothing twice, and what failed once more."""

import json
import subprocess
import sys

import pytest

from figures.experiments import micro_batch
from steel.config import UserError

TOY = """model.vocab_size=300 model.hidden_size=24 model.intermediate_size=48 model.num_attention_heads=2
model.num_key_value_heads=2 model.num_hidden_layers=1 data.sequence_length=16""".split()


def test_rows_are_kept_and_what_failed_is_tried_again(tmp_path, monkeypatch):
    out, asked, ends = tmp_path / "m.json", [], iter(["ok", "failed", "out of memory"])

    def one(preset, overrides, options, seconds):
        rows = json.loads(out.read_text())["rows"] if out.exists() else []
        asked.append((preset, overrides[-1], len(rows)))
        row = {"status": next(ends, "ok"), "reason": "", "tokens_per_s": 1.0, "memory_bytes": 1}
        return row | {"mfu": {"executed_causal": {"peak": 0.5, "measured": 0.5}}}

    monkeypatch.setattr(micro_batch, "one", one)
    given = {"presets": "steel-1b,cpu", "micro_batches": "8,16"}
    assert micro_batch.main(out, [], **given) == 75, "one has failed"
    size = "train.micro_batch_size="
    assert asked == [("steel-1b", size + "8", 0), ("steel-1b", size + "16", 1),
                     ("cpu", size + "8", 2), ("cpu", size + "16", 3)]  # fmt: skip
    assert micro_batch.main(out, [], **given) == 0
    assert asked[4:] == [("steel-1b", size + "16", 4)]
    assert len(json.loads(out.read_text())["rows"]) == 4
    assert micro_batch.main(out, [], **given) == 0 and len(asked) == 5
    assert (
        micro_batch.main(tmp_path / "n.json", [], seconds=-1.0, **given) == 75 and len(asked) == 5
    )
    with pytest.raises(UserError, match="another options"):
        micro_batch.main(out, [], steps=2, **given)


def test_a_row_is_measured_in_a_process_of_its_own_and_its_death_is_said(tmp_path):
    out, options = tmp_path / "m.json", {"presets": "cpu", "device": "cpu", "steps": 1}
    assert micro_batch.main(out, TOY, micro_batches="2", accumulation=2, **options) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert row["status"] == "ok" and row["accumulation"] == 2 and row["micro_batch"] == 2
    assert row["memory_bytes"] > 0 and row["card_bytes"] is None and row["tokens_per_s"] > 0
    bad = micro_batch.one("cpu", ["model.hidden_size=-1"], {"device": "cpu"}, 120.0)
    assert bad["status"] == "failed" and "hidden_size" in bad["reason"]


def test_the_program_itself_starts_its_rows(tmp_path):
    """As `python -m`, where the row's function stood in a module without a name."""
    words = f"--out {tmp_path / 'm.json'} --presets cpu --micro-batches 2 --device cpu --steps 1"
    program = [sys.executable, "-m", "figures.experiments.micro_batch", *words.split()]
    done = subprocess.run([*program, "--accumulation", "1", *TOY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "m.json").read_text())["rows"][0]["status"] == "ok"
