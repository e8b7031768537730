"""Kernels compute what their references do, compile for the GPUs they are for, and step aside where they cannot run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from figures.experiments import aot
from steel.config import load
from steel.kernels import OPERATIONS, Sizes, _triton, choose, install, select, sizes_of
from steel.kernels.linear_cross_entropy import chunk_tokens
from steel.model.build import steel_config

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "figures/runs/kernels-aot.json"
CHECKS = (
    "rms_norm",
    "swiglu",
    "rope",
    "soft_moe",
    "linear_cross_entropy",
    "selection",
    "layers",
    "registration",
    "compiled_blocks",
    "install",
)
FUSED = tuple(op for op in OPERATIONS if op not in ("experts", "attention"))
needs_triton = pytest.mark.skipif(
    _triton.triton is None, reason="Triton is not installed on this machine"
)


def python(*args: str, **environment: str) -> subprocess.CompletedProcess:
    """A fresh interpreter: Triton reads TRITON_INTERPRET once, at import."""
    inherited = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    paths = os.pathsep.join([str(ROOT), *filter(None, [inherited.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, *args],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**inherited, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
    )


@pytest.fixture(scope="module")
def interpreted():
    """Results of all checks, run once in Triton's interpreter."""
    done = python("tests/kernels/kernel_checks.py", TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_triton
@pytest.mark.parametrize("name", CHECKS)
def test_in_the_interpreter(interpreted, name):
    result = interpreted[f"check_{name}"]
    assert result["passed"], result["trace"]


@needs_triton
def test_every_kernel_compiles_for_sm_90_without_spills(tmp_path):
    out = tmp_path / "aot.json"
    done = python(
        "-m",
        "figures.experiments.aot",
        "--target",
        "90",
        "--out",
        str(out),
        TRITON_CACHE_DIR=str(tmp_path),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(out.read_text())["kernels"]
    assert {r["kernel"] for r in rows} == {case["name"] for case in aot.cases()}
    assert all(r["spill_bytes"] == 0 and 0 < r["registers"] <= 255 for r in rows)


def test_committed_report_names_every_kernel():
    rows = json.loads(REPORT.read_text())["kernels"]
    expected = {(case["name"], f"sm_{t}") for case in aot.cases() for t in aot.TARGETS}
    assert {(r["kernel"], r["target"]) for r in rows} == expected, (
        "python -m figures.experiments.aot --out " + str(REPORT)
    )
    assert not any(r["spill_bytes"] for r in rows)


def test_imports_and_chooses_without_triton():
    code = """
import sys, importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "triton" else find(name, *a)
import torch, steel.kernels as k
from steel.kernels import _triton
assert _triton.triton is None
lines = []
choice = k.choose("triton", say=lines.append)
assert set(choice.names.values()) == {"reference"}, choice.names
assert len(lines) == 6 and "Triton is not installed" in lines[0] and not choice.hooks, lines
assert lines[5].startswith("kernels on cpu") and "rope reference" in lines[5], lines
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_automatic_choice():
    assert set(choose(device="cpu").names.values()) == {"reference"}
    for bad in (
        {"rmsnorm": "triton"},
        {"rms_norm": "liger"},
        "compile",
        {"rope": "flash"},
        {"all": "flash"},
    ):
        with pytest.raises(ValueError, match="choose from"):
            choose(bad)


def test_on_a_gpu_elementwise_operations_are_left_to_the_compiler(monkeypatch):
    monkeypatch.setattr(_triton, "can_run", lambda device: True)
    picked = {op: select.automatic(op, torch.device("cuda")) for op in select.REGISTRY}
    triton = {"linear_cross_entropy": "triton", "soft_moe": "triton"}
    left = dict.fromkeys(("rms_norm", "rope", "swiglu"), "reference")
    assert picked == triton | left | {"experts": "torch"}


def test_all_stands_for_the_operations_that_are_not_named():
    lines = []
    choice = choose({"all": "auto", "experts": "torch"}, say=lines.append)
    assert choice.names == dict.fromkeys(OPERATIONS, "reference") | {"experts": "torch"}
    assert len(lines) == 1 and "experts torch" in lines[0] and choice.errors["experts"] < 1e-5, (
        "one table, once"
    )
    assert choose("reference").names == dict.fromkeys(OPERATIONS, "reference")


@pytest.mark.parametrize("preset", ["steel-1b-causal", "gpu1"])
def test_presets_for_gpus_ask_for_kernels_under_a_start_up_check(preset):
    """auto only: what is chosen has computed an example on the run's own device at the run's sizes."""
    cfg = load(preset)
    assert cfg.train.kernels == {"all": "auto"}
    sizes = sizes_of(
        steel_config(cfg.model),
        batch=cfg.train.micro_batch_size,
        length=cfg.data.sequence_length,
        documents=cfg.data.mask_documents,
    )
    assert (sizes.hidden_size, sizes.vocab_size) == (
        cfg.model.hidden_size,
        cfg.model.vocab_size,
    ) and sizes.documents
    assert (
        sizes.num_attention_heads * sizes.head_dim == sizes.hidden_size
        and sizes.length == cfg.data.sequence_length
    )


def test_a_kernel_that_leaves_the_gpu_unusable_is_said_loudly(monkeypatch):
    def dead(device=None):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", dead)
    with pytest.raises(RuntimeError, match="train.kernels={all: auto, rope: reference}"):
        select._still_alive(torch.device("cuda"), "rope", "triton", "an illegal memory access")
    select._still_alive(
        torch.device("cpu"), "rope", "triton", "a wrong number"
    )  # nothing to fear there


def test_install_leaves_reference_and_foreign_models_alone():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.RMSNorm(3))
    assert install(model, choose("reference")) == {}
    assert "forward" not in model[1].__dict__


@pytest.mark.parametrize("op", FUSED)
def test_references_pass_their_own_start_up_check(op):
    device = torch.device("cpu")
    reference = select.implementation(op, "reference", device)
    assert select.verify(op, reference, device, torch.float32, Sizes()) < 1e-5


def test_chunks_are_large_on_a_gpu():
    for tokens in (0, 100, 16_384, 16_385, 50_000):
        for vocabulary in (2_048, 32_000, 151_936):
            rows = chunk_tokens(tokens, vocabulary)
            chunks = -(-tokens // rows)
            assert rows % 128 == 0 and rows <= 4096 and chunks * rows < tokens + 128 * chunks + 1
            assert rows >= 1024 or chunks <= 1  # nothing to do is no chunk at all
