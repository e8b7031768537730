"""A checkpoint is whole or absent: after kill -9 in the middle of a save, and on a full disk."""

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from train_world import (
    Crash,
    Toy,
    cli_on_a_full_disk,
    curve,
    equal,
    in_process,
    read_all,
    tiny,
    toy_config,
    toy_fit,
    toy_run_killed_in_save,
)

from steel.config import UserError
from steel.train import checkpoint
from steel.train.checkpoint import Checkpoints
from steel.train.parallel import World
from steel.train.pretrain import pretrain
from steel.train.run_folder import RunFolder


def names(folder):
    return [c.name for c in checkpoint.complete(folder / "checkpoints")]


@pytest.mark.parametrize("background", [False, True], ids=["waiting", "background"])
def test_kill_inside_a_save_leaves_the_checkpoint_before_and_never_half_of_one(
    tmp_path, background
):
    process = in_process(toy_run_killed_in_save, tmp_path / "run", background)
    process.join(600)
    assert process.exitcode == -signal.SIGKILL
    left = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert left == [".step-00000006.tmp", "step-00000003"], (
        "the half is there, under a name that nothing loads"
    )
    _, result = toy_fit(tmp_path / "run", toy_config(checkpoint_every=3))
    assert result.resumed_from == 3
    assert not list((tmp_path / "run" / "checkpoints").glob(".step-*")), "swept away"
    toy_fit(tmp_path / "whole", toy_config(checkpoint_every=3))
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")


@pytest.mark.parametrize("background", [False, True], ids=["waiting", "background"])
def test_only_the_newest_are_kept(tmp_path, background):
    toy_fit(
        tmp_path, toy_config(checkpoint_every=2, keep_checkpoints=3, async_checkpoint=background)
    )
    assert names(tmp_path) == ["step-00000006", "step-00000008", "step-00000010"]


@pytest.mark.parametrize("background", ["false", "true"])
def test_a_full_disk_is_one_line_and_the_old_checkpoint_stays(tmp_path, corpus, background):
    run = tmp_path / "run"
    arguments = [
        "pretrain",
        "--preset",
        "smoke",
        "--data",
        str(corpus[0]),
        "--run",
        str(run),
        "train.steps=6",
        "train.checkpoint_every=2",
        "train.batch_size=2",
        "model.vocab_size=300",
        "model.hidden_size=32",
        "model.num_hidden_layers=1",
        "data.sequence_length=32",
        f"train.async_checkpoint={background}",
    ]
    process = in_process(cli_on_a_full_disk, arguments, 1, stderr=tmp_path / "stderr")
    process.join(600)
    lines = (tmp_path / "stderr").read_text().strip().splitlines()
    assert process.exitcode == 2 and len(lines) == 1, lines
    assert (
        "the disk is full" in lines[0]
        and "step-00000004" in lines[0]
        and "what was saved before is whole" in lines[0]
    )
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-00000002"]


def test_a_checkpoint_of_another_model_is_refused_in_one_line(tmp_path):
    toy_fit(tmp_path, toy_config())
    with pytest.raises(UserError, match="does not fit this model") as caught:
        toy_fit(tmp_path, toy_config(steps=20), model=Toy(width=16))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_a_deeper_or_a_flatter_model_is_refused(tmp_path, corpus):
    pretrain(tiny(train__steps=2), corpus[0], tmp_path)
    for layers, where in ((1, "is only in the checkpoint"), (3, "is not in it")):
        with pytest.raises(UserError, match=f"does not fit this model .*layers.* {where}"):
            pretrain(tiny(train__steps=3, model__num_hidden_layers=layers), corpus[0], tmp_path)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"rope_theta": 5000.0}, "rope_theta 10000.0, now 5000.0"),
        ({"rms_norm_eps": 1e-3}, "rms_norm_eps 1e-06, now 0.001"),
        (
            {"num_attention_heads": 4, "num_key_value_heads": 4},
            "head_dim 16, now 8, num_attention_heads 2, now 4, num_key_value_heads 2, now 4",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_model_of_the_same_shapes_that_computes_otherwise_is_refused(
    tmp_path, corpus, change, said
):
    pretrain(tiny(train__steps=2), corpus[0], tmp_path)
    before = (tmp_path / "log.jsonl").read_bytes()
    other = {f"model__{key}": value for key, value in change.items()}
    with pytest.raises(UserError) as caught:
        pretrain(tiny(train__steps=3, **other), corpus[0], tmp_path)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert (tmp_path / "log.jsonl").read_bytes() == before, "refused before anything is touched"


def test_what_the_weights_do_not_compute_with_may_change(tmp_path, corpus):
    pretrain(tiny(train__steps=2), corpus[0], tmp_path)
    other = {"model__initializer_range": 0.1, "model__max_position_embeddings": 128}
    assert pretrain(tiny(train__steps=3, **other), corpus[0], tmp_path).resumed_from == 2


def test_a_save_in_flight_is_waited_for_before_the_next_and_at_the_end(tmp_path, monkeypatch):
    import threading
    import time

    from torch.distributed.checkpoint import FileSystemWriter

    write, threads = FileSystemWriter.write_data, []

    def slow(self, plan, planner):
        threads.append(threading.current_thread() is threading.main_thread())
        time.sleep(0.1)
        return write(self, plan, planner)

    saved = Checkpoints.save
    before = []

    def save(self, *what):
        before.append([c.name for c in checkpoint.complete(self.folder)])
        saved(self, *what)

    monkeypatch.setattr(FileSystemWriter, "write_data", slow)
    monkeypatch.setattr(Checkpoints, "save", save)
    toy_fit(
        tmp_path, toy_config(steps=4, checkpoint_every=1, keep_checkpoints=9, async_checkpoint=True)
    )
    assert threads == [False] * 4, "written outside the training thread"
    assert before[1] == [], "step 2 was trained while step 1 was still being written"
    assert len(names(tmp_path)) == 4
    toy_fit(tmp_path / "waiting", toy_config(steps=4, checkpoint_every=1, keep_checkpoints=9))
    for name in names(tmp_path):
        late, direct = (
            read_all(folder / "checkpoints" / name) for folder in (tmp_path, tmp_path / "waiting")
        )
        assert equal(late, direct), (
            "what was written is the state at the save, not what training made of it since"
        )


def test_a_crash_between_the_last_checkpoint_and_the_model_folder_is_mended(
    corpus, tmp_path, monkeypatch
):
    pretrain(tiny(train__steps=2), corpus[0], tmp_path)
    monkeypatch.setattr(RunFolder, "save_hf", lambda *_: (_ for _ in ()).throw(Crash()))
    with pytest.raises(Crash):
        pretrain(tiny(train__steps=4), corpus[0], tmp_path)
    monkeypatch.undo()
    old = (tmp_path / "hf" / "model.safetensors").read_bytes()
    pretrain(tiny(train__steps=4), corpus[0], tmp_path)
    new = (tmp_path / "hf" / "model.safetensors").read_bytes()
    assert new != old, "the folder of the shorter run must not pass for the longer one's"
    written = (tmp_path / "hf" / "model.safetensors").stat().st_mtime_ns
    pretrain(tiny(train__steps=4), corpus[0], tmp_path)
    assert (tmp_path / "hf" / "model.safetensors").stat().st_mtime_ns == written


def test_a_full_disk_while_the_model_folder_is_written_is_one_line(corpus, tmp_path, monkeypatch):
    from steel.model.modeling import SteelForCausalLM

    def full(self, folder, **_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SteelForCausalLM, "save_pretrained", full)
    with pytest.raises(UserError, match="the disk is full; what was saved before is whole"):
        pretrain(tiny(train__steps=2), corpus[0], tmp_path)
    monkeypatch.undo()
    pretrain(tiny(train__steps=2), corpus[0], tmp_path)
    assert (tmp_path / "hf" / "model.safetensors").is_file()


def test_one_every_n_and_the_one_before_the_decay_are_kept_for_good(tmp_path):
    cfg = toy_config(steps=20, checkpoint_every=3, keep_checkpoints=1, keep_every=6)
    cfg.keep_at_decay = True  # wsd decays from step 16 on: saved although 16 is no multiple of 3
    toy_fit(tmp_path, cfg)
    assert [int(name[5:]) for name in names(tmp_path)] == [6, 12, 16, 18, 20]
    for name in names(tmp_path):
        saved = json.loads((tmp_path / "checkpoints" / name / "state.json").read_text())
        assert saved["for_good"] == (saved["step"] in (6, 12, 16, 18))


def test_without_checkpoints_in_between_none_is_saved_at_the_decay(tmp_path):
    cfg = toy_config(checkpoint_every=0)
    cfg.keep_at_decay = True
    toy_fit(tmp_path, cfg)
    assert names(tmp_path) == ["step-00000010"]


@pytest.mark.parametrize("harm", ["flip", "remove", "add"])
def test_a_damaged_checkpoint_is_named_before_it_is_read(tmp_path, harm):
    toy_fit(tmp_path, toy_config())
    newest = checkpoint.complete(tmp_path / "checkpoints")[-1]
    victim = newest / "__0_0.distcp"
    if harm == "flip":
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
    elif harm == "remove":
        victim.unlink()
    else:
        (newest / "__1_0.distcp").write_bytes(b"of another run")
    with pytest.raises(UserError, match=f"{newest.name} is damaged .__[01]_0.distcp is not as"):
        toy_fit(tmp_path, toy_config(steps=12))
    shutil.rmtree(newest)  # as the message says
    assert toy_fit(tmp_path, toy_config())[1].resumed_from == 5


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, monkeypatch):
    """The disk may be full when the checkpoint's folder is made, before anything is written."""
    make = Path.mkdir

    def full(self, *args, **given):
        if self.name.startswith(".step-"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return make(self, *args, **given)

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(UserError, match="step-00000005: the disk is full"):
        toy_fit(tmp_path, toy_config())


def test_a_second_process_is_told_who_is_in_the_run_folder(tmp_path):
    with RunFolder(tmp_path).locked(World()):
        with pytest.raises(UserError, match=f"is in use by process {os.getpid()} on"):
            toy_fit(tmp_path, toy_config())
        assert not (tmp_path / "log.jsonl").exists()
    toy_fit(tmp_path, toy_config())
