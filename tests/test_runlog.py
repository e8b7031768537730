"""The run log survives torn lines, odd numbers and resumes."""

import contextlib
import json

import pytest

from steel.runlog import RunLog, atomic_write, new_folder, read_log


def test_header_says_what_ran_with_which_code_on_what(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    log.header({"seed": 3}, "abc", extra=1)
    (header,) = read_log(log.path)
    assert header["kind"] == "header" and header["seed"] == 3 and header["extra"] == 1
    assert header["hardware"]["cores"] >= 1 and "python" in header["packages"]


def test_every_line_is_strict_json(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    log.write("step", loss=float("nan"), text="钢\n", nested={"x": [float("inf")]})
    line = log.path.read_text(encoding="utf-8")
    assert (
        json.loads(line, parse_constant=lambda c: 1 / 0)["loss"] is None and line.count("\n") == 1
    )


def test_a_torn_last_line_is_dropped_and_the_log_goes_on(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    log.write("step", step=1)
    with open(log.path, "a") as file:
        file.write('{"kind": "step", "st')
    RunLog(log.path).write("step", step=2)
    assert [r["step"] for r in read_log(log.path)] == [1, 2]


def test_steps_and_events_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    log.header({})
    for step in range(1, 6):
        log.write("step", step=step)
        log.write("event", what="skipped step", step=step)
    log.truncate_after(3)
    assert [r["step"] for r in read_log(log.path, "step")] == [1, 2, 3]
    assert [r["step"] for r in read_log(log.path, "event")] == [1, 2, 3]
    log.truncate_after(-1)
    assert [r["kind"] for r in read_log(log.path)] == ["header"]


def test_damaged_lines_are_left_out_with_a_warning_and_never_erased(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    log.write("step", step=1)
    with open(log.path, "ab") as file:
        file.write(b'{"kind": "step", "st\n[1, 2]\n"text"\n\xff\xfe\n')
    log.write("step", step=2)
    log.write("step", step=9)
    log.truncate_after(2)
    with pytest.warns(UserWarning, match="4 damaged line.*first line 2"):
        assert [r["step"] for r in read_log(log.path)] == [1, 2]
    assert b"[1, 2]" in log.path.read_bytes()


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "file.json"
    atomic_write(path, "old")
    with contextlib.suppress(TypeError, AttributeError):
        atomic_write(path, object())
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_a_new_folder_takes_the_old_ones_place_or_leaves_it(tmp_path):
    folder = tmp_path / "made"
    for name in ("first", "second"):
        with new_folder(folder) as fresh:
            (fresh / name).touch()
    with pytest.raises(ValueError), new_folder(folder) as fresh:
        (fresh / "third").touch()
        raise ValueError
    assert [p.name for p in tmp_path.rglob("*")] == ["made", "second"]
    folder.rename(tmp_path / ".made.old")  # killed between the two renames
    with pytest.raises(ValueError), new_folder(folder):
        raise ValueError
    assert [p.name for p in tmp_path.rglob("*")] == ["made", "second"]
