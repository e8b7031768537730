"""Two processes over gloo do what one does: same weights at birth, same losses, same samples, each exactly once."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_world import Crash, Toy, crash_before, curve, tiny, toy_batches, toy_config, toy_loss

from steel.config import UserError
from steel.data import ShardSet
from steel.model.build import build
from steel.model.folder import open_model
from steel.runlog import read_log
from steel.train.build import make_model
from steel.train.loop import Stage, fit
from steel.train.parallel import World
from steel.train.pretrain import pretrain
from steel.train.run_folder import RunFolder

HERE = Path(__file__).parent
SHARDINGS = ("full", "grad_op", "hybrid", "ddp")


def qwen2_folder(root: Path) -> Path:
    from transformers import Qwen2Config

    root.mkdir(parents=True)
    Qwen2Config(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    ).save_pretrained(root)
    return root


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory):
    """Folder with the runs of one process and, by one torchrun, those of two."""
    root = tmp_path_factory.mktemp("ranks")
    os.environ["STEEL_QUIET"] = "1"
    folder = qwen2_folder(root / "qwen2")
    variants = {
        "adamw": tiny(),
        "muon": tiny(
            train__optimizer="muon",
            model__feed_forward="causal_soft_moe",
            model__num_shared_experts=1,
            model__num_experts=2,
            model__segment_length=8,
        ),
        "hf": tiny(model__source="hf", model__path=str(folder)),
    }
    for name, cfg in variants.items():
        pretrain(cfg, corpus[0], root / f"one-{name}")
    with crash_before(3), pytest.raises(Crash):
        pretrain(tiny(), corpus[0], root / "resumed")
    jobs = [
        {"config": tiny(train__sharding=s, train__async_checkpoint=s == "full").to_dict(), "run": s}
        for s in SHARDINGS
    ]
    jobs += [
        {"config": tiny().to_dict(), "run": "resumed", "crash": 5},
        {"config": variants["muon"].to_dict(), "run": "muon"},
        {"config": variants["hf"].to_dict(), "run": "hf"},
        {"config": tiny().to_dict(), "run": "stale", "crash": 5},
        {"config": tiny().to_dict(), "run": "stale", "stale": True},
        {"config": tiny(train__steps=8).to_dict(), "run": "stale", "rate": 2.0},
        {"config": tiny().to_dict(), "run": "changed", "data": str(changed_shards(corpus, root))},
    ]
    (root / "jobs.json").write_text(
        json.dumps({"root": str(root), "data": str(corpus[0]), "jobs": jobs})
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(HERE / "ranks.py"),
        str(root / "jobs.json"),
    ]
    paths = os.pathsep.join([str(HERE.parents[1]), str(HERE), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    pretrain(tiny(), corpus[0], root / "resumed")
    return root


def changed_shards(corpus, root: Path) -> Path:
    """A copy of the shards whose second one, which rank 1 looks at, was changed."""
    shutil.copytree(corpus[0], root / "changed-shards")
    path = ShardSet.open(root / "changed-shards").manifest["shards"][1]["path"]
    with open(root / "changed-shards" / path, "r+b") as file:
        file.write(b"\x07\x07")
    return root / "changed-shards"


def assert_same_run(one: Path, many: Path):
    for a, b in zip(curve(one), curve(many), strict=True):
        assert (a["step"], a["tokens"], a["lr"]) == (b["step"], b["tokens"], b["lr"])
        assert b["loss"] == pytest.approx(a["loss"], rel=2e-5)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3)
    left, right = (load_file(folder / "hf" / "model.safetensors") for folder in (one, many))
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_two_ranks_train_as_one_does(runs, sharding):
    assert_same_run(runs / "one-adamw", runs / sharding)
    losses = [r["loss"] for r in curve(runs / sharding)]
    assert losses[-1] < losses[0]
    assert read_log(runs / sharding / "log.jsonl")[0]["ranks"] == 2


@pytest.mark.parametrize("name", ["muon", "hf"])
def test_muon_on_stacked_experts_and_a_transformers_model_train_sharded(runs, name):
    assert_same_run(runs / f"one-{name}", runs / name)


def test_the_ranks_share_the_work_of_muon(runs):
    """Each matrix was once orthogonalised by every rank."""
    shares = [json.loads((runs / f"muon.muon{rank}.json").read_text()) for rank in (0, 1)]
    assert [len(share) for share in shares] == [36, 36], "of 6 steps with 12 matrices and stacks"
    assert shares[0] != shares[1]


def test_weights_at_birth_do_not_depend_on_the_ranks(runs):
    first = [curve(runs / name)[0]["loss"] for name in ("one-adamw", *SHARDINGS)]
    assert first == pytest.approx([first[0]] * 5, rel=1e-6)


@pytest.mark.parametrize("feed_forward", ["dense", "causal_soft_moe", "soft_moe_v3"])
@pytest.mark.parametrize("tied", [True, False])
def test_weights_at_birth_are_those_of_a_model_built_anywhere(feed_forward, tied):
    """What the exam calls the untrained model is the one that training starts from."""
    cfg = tiny(
        model__feed_forward=feed_forward,
        model__num_shared_experts=1,
        model__tie_word_embeddings=tied,
    )
    built, made = build(cfg.model, seed=cfg.seed), make_model(cfg, World())
    for (name, a), (other, b) in zip(
        built.named_parameters(), made.named_parameters(), strict=True
    ):
        assert name == other and a.equal(b), name


def test_every_decoder_block_is_a_unit_of_sharding(runs):
    for rank in (0, 1):
        assert json.loads((runs / f"wrapped{rank}.json").read_text()) == [[True, True], True]


def test_a_run_goes_on_from_one_rank_to_two_and_back(runs):
    assert_same_run(runs / "one-adamw", runs / "resumed")
    resumes = [
        e["step"]
        for e in read_log(runs / "resumed" / "log.jsonl", "event")
        if e["what"] == "resume"
    ]
    assert resumes == [2, 4]
    assert [h["ranks"] for h in read_log(runs / "resumed" / "log.jsonl", "header")] == [1, 2, 1]


def test_the_ranks_see_every_sample_exactly_once(runs, corpus):
    from steel.data import Loader, ShardSet

    loader = Loader(ShardSet.open(corpus[0]), 32, 4, seed=3)
    wanted = {step: sorted(loader.batch(step).input_ids.tolist()) for step in range(6)}
    for name, steps in (("full", range(6)), ("resumed", range(2, 5))):
        parts = [
            dict(json.loads((runs / f"{name}.rows{rank}.json").read_text())) for rank in (0, 1)
        ]
        assert all(len(part[step]) == 2 for part in parts for step in part), (
            "half of the batch each"
        )
        assert {step: sorted(parts[0][step] + parts[1][step]) for step in parts[0]} == {
            s: wanted[s] for s in steps
        }
    rows = [tuple(row) for step in wanted.values() for row in step]
    assert len(set(rows)) == len(rows) == 24


def test_ranks_that_see_other_checkpoints_go_on_from_the_one_that_rank_0_sees(runs):
    assert_same_run(runs / "one-adamw", runs / "stale")
    resumes = read_log(runs / "stale" / "log.jsonl", "event")
    assert [e["step"] for e in resumes if e["what"] == "resume"] == [4]


def test_ranks_with_another_configuration_are_stopped_before_the_first_step(runs):
    for rank in (0, 1):
        assert "the ranks disagree about" in (runs / f"stale.error{rank}").read_text()


def test_a_shard_that_one_rank_finds_changed_ends_all_of_them(runs):
    found = [(runs / f"changed.error{rank}").read_text() for rank in (0, 1)]
    assert all("was changed since it was written" in text for text in found)
    assert found[0].startswith("rank 1: ") and not found[1].startswith("rank")


LOAD = """
import json, sys
sys.modules["steel"] = None  # importing it raises ImportError, also where the package is installed
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
found = {}
for folder in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    ids = torch.arange(3, 15)[None]
    out = model.generate(ids, max_new_tokens=4, do_sample=False)
    words = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    found[folder] = model(ids).logits[0, -1].tolist(), words("春夏").input_ids
    assert out.shape[1] > 12
print(json.dumps(found))
"""


def test_every_run_leaves_a_model_that_loads_without_the_package(runs):
    """Sharding swaps the class of a model; config.json once named torch's, and nothing could load it."""
    names = ("one-adamw", "one-muon", *SHARDINGS, "muon", "resumed")
    folders = [str(runs / name / "hf") for name in names]
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *folders], capture_output=True, text=True, env=clean, cwd=runs
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for name, folder in zip(names, folders, strict=True):
        files = sorted(p.name for p in Path(folder).iterdir())
        assert files == sorted(p.name for p in Path(folders[0]).iterdir()), name
        logits, ids = found[folder]
        assert ids == found[folders[0]][1], "the shards' tokenizer stands beside the model"
        model, _ = open_model(folder)
        torch.testing.assert_close(
            torch.tensor(logits), model(torch.arange(3, 15)[None]).logits[0, -1].detach()
        )


def test_what_fails_on_one_rank_alone_is_raised_as_it_is():
    with pytest.raises(UserError, match="^mine$"), World().together():
        raise UserError("mine")


def test_a_batch_that_does_not_divide_is_refused_by_every_stage_before_it_hangs(tmp_path):
    cfg = toy_config(batch_size=10)
    stage = Stage("DPO", cfg, Toy(), toy_batches, toy_loss, save_hf=False)
    with pytest.raises(UserError, match="batch_size 10 is not a multiple of 4 ranks; use 8"):
        fit(stage, RunFolder(tmp_path), World(0, 4))
