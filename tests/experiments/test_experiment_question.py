"""The deciding experiment, rehearsed at toy size on a CPU by the command that a GPU box runs."""

import json
import random
import string
from types import SimpleNamespace

import pytest

from figures.experiments import question, trainer_check
from steel.config import UserError
from steel.documents import Document, write_documents

TOY = """model.vocab_size=300 tokenizer.vocab_size=300 model.hidden_size=24 model.intermediate_size=48
model.num_experts=6 model.num_hidden_layers=1 model.num_attention_heads=2 model.num_key_value_heads=2
model.segment_length=4 model.max_position_embeddings=32 data.sequence_length=32 data.validation_fraction=0.2
train.steps=6 train.batch_size=4 train.micro_batch_size=4 train.eval_every=2 train.checkpoint_every=2
train.precision=fp32 train.compile=false train.kernels={} train.warmup_steps=0""".split()


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("question"), random.Random(0)
    texts = ["".join(rng.choices(string.ascii_lowercase + " ", k=200)) for _ in range(60)]
    rows = [Document(str(i), t, "web", "en", {}) for i, t in enumerate(texts)]
    write_documents(folder / "web.jsonl.zst", rows)
    return folder


def test_prepare_check_tune_train_and_read_in_two_starts(docs, tmp_path, capsys, monkeypatch):
    data, out = tmp_path / "carry", tmp_path / "question.json"
    assert question.main(TOY, data=data, out=out, prepare_from=docs) == 0
    assert "MiB to carry" in capsys.readouterr().out
    monkeypatch.setattr(
        question.ablation, "tune_rates", lambda *_, **__: dict.fromkeys(question.ARMS, 1e-3)
    )
    # the first start has time for its check alone
    assert question.main(TOY, data=data, out=out, seeds=2, minutes=0.0) == 75
    said = capsys.readouterr().out
    assert "agrees with the plain one" in said and "goes on from here" in said
    assert question.main(TOY, data=data, out=out, seeds=2) == 0
    said = capsys.readouterr().out
    assert "causal - placebo (what content buys)" in said and "earn" in said
    report = json.loads(out.read_text(encoding="utf-8"))
    assert len(report["rows"]) == 10 and all(r["tokens_per_s"] > 0 for r in report["rows"])
    at = question.budgets(report)
    assert len(set(at["tokens"].values())) == 1 and len(set(at["flops"].values())) > 1
    first = {r["variant"]: r["loss_by_position"][0] for r in report["rows"] if r["seed"] == 1}
    assert first.keys() == set(question.ARMS)


def test_an_arm_that_computes_something_else_is_not_ranked(tmp_path, monkeypatch):
    def fake(cfg, data, folder, **_):
        return SimpleNamespace(steps=[], evals=[{"loss": 5.0 if cfg.train.kernels else 5.2}])

    monkeypatch.setattr(trainer_check, "train_run", fake)
    cfg = question.load("question", ["train.kernels={}"])
    with pytest.raises(UserError, match="dense: losses"):
        question.self_check(cfg, tmp_path, tmp_path / "check")


def test_too_much_to_carry_is_refused(docs, tmp_path, monkeypatch):
    monkeypatch.setattr(question, "CARRY", 1000)
    with pytest.raises(UserError, match="more than can be carried"):
        question.prepare(docs, tmp_path / "carry", question.load("question", TOY))


def test_the_verdict_follows_the_declared_rule():
    def row(arm, seed, loss):
        return {"variant": arm, "seed": seed, "tokens": 1000, "tokens_per_s": 10.0,
                "flops_per_token": 2.0, "curve": [[0, 9.0], [1000, loss + seed / 1000]]}  # fmt: skip

    losses = {"dense": 3.0, "one expert": 3.05, "causal": 3.0, "placebo": 3.04, "top-2": 3.01}
    rows = [row(arm, s, loss) for arm, loss in losses.items() for s in range(5)]
    assert question.verdict({"rows": rows}).endswith("The mixture earns its place.")
    losses["top-2"] = 2.98
    rows = [row(arm, s, loss) for arm, loss in losses.items() for s in range(5)]
    assert question.verdict({"rows": rows}).endswith("does not earn its place.")
