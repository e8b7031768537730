"""The speed table measures what it says, and never ranks a row that computes something else."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from figures.experiments import table2, table2_kernels, table2_measure, table2_peers, table2_steel
from figures.experiments.table2_rows import BY_ID, ROWS, SHAPES, shape_of
from steel.config import UserError
from steel.kernels import OPERATIONS
from steel.plan import count_parameters

ROOT = Path(__file__).parents[2]
NUMBERS = {
    "tokens_per_s",
    "flops_per_token",
    "tflops",
    "mfu",
    "memory_bytes",
    "compile",
    "kernel_shares",
    "gate",
    "losses",
    "ms",
    "parameters",
    "micro_batch",
    "tokens",
    "kernels",
    "notes",
    "versus_base",
    "seconds",
}


@pytest.fixture(scope="module")
def bench():
    settings = table2._settings("cpu", 60.0, 0)
    return table2_measure.Bench(settings)


def test_rows_are_well_formed():
    assert (
        len(BY_ID) == len(ROWS) and ROWS[-1].id == "A.again" and ROWS[-1].pieces == ROWS[0].pieces
    )
    for row in ROWS:
        assert row.shape in SHAPES and (not row.base or row.base in BY_ID)
        if row.engine == "steel":
            assert set(row.pieces) == {*OPERATIONS, "adamw", "compile"}
    assert count_parameters(SHAPES["v3"])["total"] == 1_122_922_770
    twin, mixture = (count_parameters(SHAPES[name])["experts"] for name in ("dense", "v3"))
    assert twin == mixture


@pytest.mark.parametrize(
    "id", ["A.eager", "B.triton", "B.v1", "B.causal-14x128", "E.8", "C.hf", "C.torchtitan"]
)
def test_rows_agree_with_the_models_own_code(bench, id):
    row = BY_ID[id]
    found = table2_measure.gate(bench, row, shape_of(row, toy=True), 2)
    assert (
        found["passed"] and found["worst_cosine"] > 0.99999 and found["curve_difference"] < 1e-4
    ), found


def test_the_gate_hears_v3_speak(bench):
    """At birth v3's feed-forward is silent; the gate's weights make every expert count in the loss."""
    wanted = table2_measure.reference(
        bench, replace(shape_of(BY_ID["A.eager"], toy=True), num_hidden_layers=2), 2
    )
    norms = {name: float(g.norm()) for name, g in wanted["gradients"].items()}
    assert min(norms.values()) > 1e-6 * max(norms.values()), norms


def _wrong_norm(x, weight, eps, residual=None):
    return table2_steel.seed_rms_norm(x, weight, 0.03, residual)


def _wrong_loss(x, weight, targets, z_loss=0.0):
    return table2_steel.seed_linear_cross_entropy(x, weight.detach(), targets)


@pytest.mark.parametrize(
    "op, function, said",
    [
        ("rms_norm", _wrong_norm, ""),
        ("linear_cross_entropy", _wrong_loss, "gradient of lm_head.weight"),
    ],
)
def test_a_row_that_computes_something_else_is_refused(bench, monkeypatch, op, function, said):
    monkeypatch.setitem(table2_steel.SEEDS, op, function)
    record = table2_measure.measure(bench, BY_ID["A.eager"])
    assert record["status"] == "refused" and said in record["reason"]
    assert record["tokens_per_s"]["accumulation_1"] > 0, "it is timed and printed all the same"


def test_twelve_steps_agree_between_all_sets_of_pieces(bench):
    """The model trains to the same loss with each set: 12 steps in fp32, within 0.5 %."""
    shape = replace(shape_of(BY_ID["A.eager"], toy=True), num_hidden_layers=2)
    curves = {}
    for id in ("A.eager", "A.moe", "B.triton", "B.triton-norm"):
        engine = bench.engine(shape, BY_ID[id], 2)
        optimizer = table2_steel.MasterAdamW(list(engine.model.parameters()), engine.fused_adamw)
        curves[id] = table2_measure._twelve_steps(
            bench, shape, 2, engine.backward, engine.gradients, optimizer
        )[0]
    last = [curve[-1] for curve in curves.values()]
    assert (max(last) - min(last)) / min(last) < 5e-3 and last[0] != curves["A.eager"][0]


def test_a_gpu_box_needs_few_packages():
    """torch, transformers, numpy, yaml, safetensors: what a rented machine has."""
    blocked = [
        "typer",
        "rich",
        "orjson",
        "zstandard",
        "pyarrow",
        "datatrove",
        "datasets",
        "matplotlib",
        "liger_kernel",
    ]
    program = (
        f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
        "import figures.experiments.table2, figures.experiments.table2_measure, figures.experiments.table2_micro\n"
        "import figures.experiments.table2_kernels, steel.train.bench\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_weights_go_to_the_peers_and_gradients_come_back():
    state = {
        "model.layers.0.self_attn.qkv_proj.weight": torch.arange(12.0).view(6, 2),
        "model.norm.weight": torch.ones(2),
        "model.layers.0.mlp.gate_up_proj.weight": torch.arange(8.0).view(4, 2),
    }
    there = table2_peers.to_qwen(state)
    assert there["model.layers.0.self_attn.k_proj.weight"].tolist() == [[4, 5], [6, 7]]
    back = table2_peers.from_qwen(there)
    assert back.keys() == state.keys() and all(
        torch.equal(back[name], state[name]) for name in state
    )


def test_out_of_memory_halves_the_micro_batch_and_then_gives_up(bench, monkeypatch):
    tried = []

    def gate(bench, row, shape, batch):
        tried.append(batch)
        raise torch.OutOfMemoryError("out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(table2_measure, "gate", gate)
    monkeypatch.setitem(bench.settings, "micro_batch", 8)
    record = table2_measure.measure(bench, BY_ID["A.eager"])
    assert tried == [8, 4, 2] and record["status"] == "oom" and "9 GiB" in record["reason"]


def test_a_table_is_cut_off_and_goes_on(tmp_path, monkeypatch):
    """Rows that are there are not measured again; one that dies or overruns is named, and the rest go on."""
    out, calls = tmp_path / "t.json", []
    measured = {
        "status": "ok",
        "reason": "",
        "tokens_per_s": {"accumulation_1": 1.0, "accumulation_8": 2.0},
        "mfu": {"executed_causal": {"peak": None, "measured": 0.5}},
        "memory_bytes": {"allocated": 1, "reserved": 1},
    }

    def messages(settings):
        calls.append(settings["rows"])
        yield "device", {"name": "made up", "matmul_flops": 1e12}
        if len(calls) == 1:
            yield "start", {"id": "A.eager"}
            yield "row", {"id": "A.eager", "seconds": 1.0, **measured}
            yield "start", {"id": "A.ce"}
            yield "end", {"code": -9, "said": table2.OVERRUN}
        elif len(calls) == 2:
            yield "start", {"id": "A.norm"}
            yield "end", {"code": -11, "said": "an illegal memory access"}
        elif len(calls) == 3:
            yield "start", {"id": "A.bmm"}
            yield "end", {"code": -9, "said": table2.CUT}
        else:
            yield "end", {"code": 0, "said": ""}

    monkeypatch.setattr(table2, "_messages", messages)
    lines = []
    report = table2.table2(out, device="cpu", rows=["A."], say=lines.append)
    status = {record["id"]: record["status"] for record in report["rows"]}
    assert (
        [len(rows) for rows in calls] == [9, 7, 6, 5] and not report["complete"] and len(lines) == 4
    )
    assert status == dict.fromkeys(status, "pending") | {
        "A.eager": "ok",
        "A.ce": "timeout",
        "A.norm": "failed",
    }
    text = table2.render(report)
    assert "illegal memory access" in text and "not reached within the budget: A.bmm" in text
    table2.table2(out, device="cpu", rows=["A."])
    assert "A.eager" not in calls[-1] and "A.norm" in calls[-1], (
        "what failed is tried again, what is there is not"
    )
    out.write_text("no JSON")
    with pytest.raises(UserError, match="no log of this experiment"):
        table2.table2(out, device="cpu")


def test_the_command_measures_rows_in_a_process_of_its_own(tmp_path):
    out = tmp_path / "t.json"
    assert table2.main(out, device="cpu", rows="B.triton-rope,D.operations") == 0
    check_report(json.loads(out.read_text()), {"B.triton-rope", "D.operations"})


def test_kernels_that_agreed_are_not_checked_again(tmp_path, monkeypatch):
    """What was wrong is; another card or commit begins anew."""
    out, asked = tmp_path / "kernels.json", []
    wrong = {"status": "wrong", "note": "made up"}

    def one(op, name, case, *_, **__):
        asked.append(op)
        own = wrong if op == asked[0] and len(asked) < 2 else {"status": "ok", "note": ""}
        return {"operation": op, "name": name, "case": case, "dtype": "float32", **own}

    monkeypatch.setattr(table2_kernels, "_one", one)
    assert table2_kernels.main(out, "cpu") == 1
    count = len(asked)
    assert table2_kernels.main(out, "cpu") == 0 and asked[count:] == asked[:1]
    assert table2_kernels.main(out, "cpu") == 0 and len(asked) == count + 1
    assert len(json.loads(out.read_text())["checks"]) == count
    monkeypatch.setattr(table2_kernels, "commit", lambda: "another")
    assert table2_kernels.main(out, "cpu") == 0 and len(asked) == 2 * count + 1


def test_everything_begins_with_the_trainer_and_one_failure_is_told(tmp_path, monkeypatch):
    asked, codes = [], {"trainer_check": 1}
    monkeypatch.setattr(
        table2, "_module", lambda name, *_: (asked.append(name), codes.get(name, 0))[1]
    )
    report = {"rows": [{"ranked": True}]}
    monkeypatch.setattr(table2, "table2", lambda *_, **__: report)
    monkeypatch.setattr(table2, "render", lambda _: "")
    lines = []
    assert table2.everything(tmp_path / "all", "cpu", 60.0, lines.append) == 1
    assert asked == ["trainer_check", "table2_kernels", "micro_batch"]
    assert lines[0] == "trainer: SOMETHING IS WRONG, see trainer.json"
    assert table2.everything(tmp_path / "all", "cpu", 60.0, codes.clear() or lines.append) == 0


def test_the_committed_toy_table_is_whole():
    report = json.loads((ROOT / "figures/runs/table2-cpu.json").read_text())
    assert report["toy"] and report["complete"] and report["device"]["kind"] == "cpu"
    check_report(report, set(BY_ID))
    assert set(report["micro"]) == {"attention", "head", "operations"} and all(
        report["micro"].values()
    )


def check_report(report: dict, ids: set[str]) -> None:
    """Every number that the chapters read is there and finite."""
    assert report["kind"] == "table2" and report["schema"] == table2.SCHEMA
    assert {record["id"] for record in report["rows"]} == ids
    for record in report["rows"]:
        assert record["status"] in ("ok", "skipped"), record
        if record["engine"] == "micro" or record["status"] == "skipped":
            continue
        assert record["ranked"] and set(record) >= NUMBERS and record["gate"]["passed"]
        assert all(math.isfinite(loss) for loss in record["losses"])
        assert set(record["mfu"]) == set(table2_measure.CONVENTIONS)
        assert (
            0
            < record["mfu"]["executed_causal"]["measured"]
            < record["mfu"]["executed_full"]["measured"]
        )
        assert sum(record["kernel_shares"].values()) == pytest.approx(1, abs=1e-3)
        backward, update = (record["ms"][part]["median"] for part in ("forward_backward", "update"))
        rate = 8e3 * record["tokens"] / (8 * backward + update)
        assert record["tokens_per_s"]["accumulation_8"] == pytest.approx(rate, rel=1e-3)
