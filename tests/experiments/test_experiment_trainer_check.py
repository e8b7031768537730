"""The trainer check passes in bf16 with what a GPU box has, and sees a wrong kernel and a wrong resume."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from figures.experiments import trainer_check
from steel.config import UserError, load

ROOT = Path(__file__).resolve().parents[2]
TOY = """model.vocab_size=300 tokenizer.vocab_size=300 model.hidden_size=24 model.intermediate_size=48
model.num_attention_heads=2 model.num_key_value_heads=2 model.max_position_embeddings=32
data.sequence_length=32""".split()


def test_it_passes_in_bf16_on_a_bare_machine_and_is_not_repeated(tmp_path):
    """No typer, no rich, no orjson, no zstandard: one run of the command that `table2 --all` starts."""
    out = tmp_path / "trainer.json"
    blocked = "typer rich orjson zstandard pyarrow datatrove datasets matplotlib".split()
    program = (
        f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
        "from pathlib import Path\nfrom figures.experiments import trainer_check\n"
        f"raise SystemExit(trainer_check.main(Path({str(out)!r}), {TOY!r}, preset='cpu'))"
    )
    run = [sys.executable, "-c", program]
    first = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert first.returncode == 0, first.stdout + first.stderr[-2000:]
    found = json.loads(out.read_text())
    assert found["passed"] and found["tolerance"]["resumed"] == 0.0
    again = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0 and "checked before" in again.stdout


def test_what_computes_differently_or_does_not_go_on_is_named(tmp_path, monkeypatch):
    cfg, asked = load("cpu", TOY), []

    def run(own: float, plain: float, again: float):
        values = iter((own, plain, again))

        def fake(cfg, data, folder, **_):
            asked.append(cfg.train)
            for step in (1, 2):
                (folder / "checkpoints" / f"step-{step}").mkdir(parents=True, exist_ok=True)
            (folder / "hf").mkdir(exist_ok=True)
            return SimpleNamespace(steps=[{"loss": next(values)}], evals=[{"loss": 4.0}])

        monkeypatch.setattr(trainer_check, "train_run", fake)
        trainer_check.trainer_check(cfg, tmp_path, tmp_path / "work", "toy")

    run(5.0, 5.01, 5.0)
    assert [t.kernels for t in asked[::2]] == [cfg.train.kernels] * 2 and not (
        tmp_path / "work"
    ).exists()
    assert asked[1].kernels == {"all": "reference"} and not asked[1].compile
    with pytest.raises(UserError, match="toy: losses .* plain"):
        run(5.0, 5.1, 5.0)
    with pytest.raises(UserError, match="toy: losses .* plain"):
        run(float("nan"), float("nan"), 5.0)
    with pytest.raises(UserError, match="after a resume"):
        run(5.0, 5.0, 5.001)


def test_a_resume_that_forgets_the_moments_is_seen(tmp_path, monkeypatch):
    """Really trained: the third run starts with fresh optimizers, and its last validation tells."""
    real, runs = trainer_check.train_run, []

    def forgetful(cfg, data, folder, **options):
        runs.append(folder)
        if len(runs) == 3:
            from steel.train import loop

            restore = loop.State.restore

            def without(self, saved):
                restore(self, saved)
                for optimizer in self.optimizers:
                    optimizer.state.clear()

            monkeypatch.setattr(loop.State, "restore", without)
        return real(cfg, data, folder, **options)

    monkeypatch.setattr(trainer_check, "train_run", forgetful)
    data = trainer_check.letters(tmp_path)
    with pytest.raises(UserError, match="after a resume"):
        trainer_check.trainer_check(load("cpu", TOY), data, tmp_path / "work", "toy")
