"""Drills beside kill -9: another world size, a dead rank, a full disk, a damaged shard, a bad batch.

Each takes the folder and configuration of `drill_run.prepare`, with the unbroken run `unbroken` in it, and returns a
record whose "passed" is the verdict and whose "line" is what the user would have read.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from steel.config import Config, from_dict
from steel.train.parallel import LOST_RANK

from .drill_run import (
    BATCH,
    Kill,
    as_command,
    begin,
    curve,
    events,
    on_disk,
    samples,
    steps_done,
    train,
)
from .processes import finish, start

TOLERANCE = 2e-5
"""Largest relative difference of losses between world sizes: sums in another order, nothing else."""
SECONDS_TO_END = 60


def another_world(root: Path, cfg: Config) -> dict:
    """The run goes 1 rank, 2 ranks, 2 ranks, 1 rank: killed whole, with one rank dead, killed whole, to its end."""
    name, quarter, plan = "worlds", cfg.train.steps // 4, []
    train(root, cfg, name, 0, [Kill(quarter)])
    plan.append({"ranks": 1, "killed": "all", "at_step": steps_done(root / name)})
    survivor = _survivor(root, cfg, name, 1, Kill(2 * quarter))
    plan.append({"ranks": 2, "killed": "rank 1", "at_step": steps_done(root / name)})
    train(root, cfg, name, 2, [Kill(3 * quarter)] * 2)
    plan.append({"ranks": 2, "killed": "all", "at_step": steps_done(root / name)})
    codes = train(root, cfg, name, 3)
    run, due = root / name, cfg.train.steps * BATCH
    difference = _difference(root, run)
    seen = samples(sorted(root.glob(f"{name}.seen*")), [r["step"] for r in curve(run)], due)
    return {
        "plan": plan,
        **survivor,
        "resumed_at": [e["step"] for e in events(run, "resume")],
        "samples": seen,
        "largest_relative_loss_difference": difference,
        "passed": (
            survivor["ended_well"]
            and codes == [0]
            and seen["once"] == due
            and seen["consistent"]
            and difference < TOLERANCE
        ),
    }


def silent_rank(root: Path, cfg: Config) -> dict:
    """One of two ranks hangs without dying: the other waits as long as it was told to, and ends with one line."""
    survivor = _survivor(root, cfg, "silent", 0, Kill(cfg.train.steps // 2, hang=True))
    codes = train(root, cfg, "silent", 1)
    difference = _difference(root, root / "silent")
    return {
        **survivor,
        "resumed_at": [e["step"] for e in events(root / "silent", "resume")],
        "largest_relative_loss_difference": difference,
        "passed": survivor["ended_well"] and codes == [0] and difference < TOLERANCE,
    }


def _difference(root: Path, run: Path) -> float:
    """Largest relative difference between the losses of `run` and of the unbroken one; 1 when a step is missing."""
    ours, theirs = curve(run), curve(root / "unbroken")
    if len(ours) != len(theirs):
        return 1.0
    return max(abs(a["loss"] - b["loss"]) / b["loss"] for a, b in zip(ours, theirs, strict=True))


def _survivor(root: Path, cfg: Config, name: str, attempt: int, kill: Kill) -> dict:
    """Two ranks, of which rank 1 dies or hangs: how rank 0 ends."""
    pair = begin(root, cfg, name, attempt, [None, kill])
    while pair[0].is_alive() and pair[1].is_alive() and not _stopped(pair[1].pid):
        time.sleep(0.01)
    gone = time.monotonic()
    pair[0].join(SECONDS_TO_END)
    seconds, code = time.monotonic() - gone, pair[0].exitcode
    for process in pair:
        process.kill()
    finish(pair)
    line = last_line(root / f"{name}.err0")
    return {
        "survivor_exit_code": code,
        "survivor_seconds": round(seconds, 2),
        "line": line,
        "ended_well": code == LOST_RANK
        and seconds < SECONDS_TO_END
        and "lost another rank" in line,
    }


def _stopped(pid: int) -> bool:
    """Whether SIGSTOP holds the process (Linux; elsewhere False)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


# -- a full disk -------------------------------------------------------------------------------------------------------


def full_disk(root: Path, cfg: Config) -> dict:
    """The disk fills up in the middle of the second checkpoint; then there is room and the same command goes on."""
    newest = max((root / "unbroken" / "checkpoints").glob("step-*"))
    need = sum(p.stat().st_size for p in newest.iterdir())
    out = root / "disk.json"
    (root / "disk").mkdir()
    finish(
        [
            start(
                _full_disk,
                str(root),
                cfg.to_dict(),
                round(1.6 * need),
                str(out),
                errors=root / "disk.err",
            )
        ]
    )
    found = (
        json.loads(out.read_text())
        if out.exists()
        else {"exit_codes": [], "left": {}, "equal": False, "how": "?"}
    )
    line = last_line(root / "disk.err")
    passed = (
        found["exit_codes"] == [2, 0]
        and found["equal"]
        and "step-00000006" in line
        and "full" in line
        and found["left"] == {"whole": ["step-00000003"], "torn": [], "half_written": []}
    )
    return {**found, "line": _short(line, root), "passed": passed}


def _full_disk(root: str, values: dict, size: int, out: str) -> None:
    """On a small tmpfs where the system lets us mount one, else with ENOSPC put into the checkpoint's writer."""
    run = Path(root) / "disk"
    how = "tmpfs" if _mount(run, size) else "injected ENOSPC"
    with contextlib.nullcontext() if how == "tmpfs" else _enospc(after=1):
        codes = [_exit_code(root, values)]
    left = on_disk(run)
    if how == "tmpfs":
        _mount(run, 64 << 20, again=True)
    codes.append(_exit_code(root, values))
    equal = codes[1] == 0 and curve(run) == curve(Path(root) / "unbroken")
    Path(out).write_text(
        json.dumps({"how": how, "bytes": size, "exit_codes": codes, "left": left, "equal": equal})
    )


def _exit_code(root: str, values: dict) -> int:
    from steel.train.pretrain import pretrain

    try:
        with as_command():
            pretrain(from_dict(values), f"{root}/shards", f"{root}/disk")
    except SystemExit as end:
        return end.code
    return 0


def _mount(folder: Path, size: int, again: bool = False) -> bool:
    """A tmpfs of `size` bytes on `folder` that only this process sees, as root or in a user namespace of its own."""
    if not sys.platform.startswith("linux"):
        return False
    new_user, new_mounts, remount, private = 0x10000000, 0x00020000, 32, 1 << 18 | 1 << 14
    libc, me, group = ctypes.CDLL(None, use_errno=True), os.geteuid(), os.getegid()
    if not again:
        if libc.unshare(new_mounts | (new_user if me else 0)):
            return False
        if me:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {me} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        libc.mount(b"none", b"/", None, private, None)
    flags, options = (remount if again else 0), f"size={size}".encode()
    return libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, options) == 0


@contextlib.contextmanager
def _enospc(after: int):
    from torch.distributed.checkpoint import FileSystemWriter

    write, calls = FileSystemWriter.write_data, []

    def write_data(self, plan, planner):
        calls.append(1)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        return write(self, plan, planner)

    FileSystemWriter.write_data = write_data
    try:
        yield
    finally:
        FileSystemWriter.write_data = write


# -- damaged shards, bad batches ---------------------------------------------------------------------------------------


def damaged_shard(root: Path, cfg: Config) -> dict:
    """A shard is cut short while the run reads it, is still short at the next start, and then restored."""
    place = root / "hurt"
    shutil.copytree(root / "shards", place / "shards")
    victim = max((place / "shards").glob("*/*.bin"), key=lambda path: path.stat().st_size)
    whole, lines, codes = victim.read_bytes(), [], []
    for number, cut in enumerate((cfg.train.steps // 2, None, None)):
        if number == 2:
            victim.write_bytes(whole)
        errors = place / f"err{number}"
        process = start(_train_hurt, str(place), cfg.to_dict(), str(victim), cut, errors=errors)
        codes.append(finish([process])[0].exitcode)
        lines.append(last_line(errors))
    named = [victim.name in line and "Traceback" not in line for line in lines[:2]]
    equal = codes[2] == 0 and curve(place / "run") == curve(root / "unbroken")
    return {
        "during_run": {"exit_code": codes[0], "line": _short(lines[0], root)},
        "at_start": {"exit_code": codes[1], "line": _short(lines[1], root)},
        "restored_run_equal": equal,
        "line": _short(lines[0], root),
        "passed": codes == [2, 2, 0] and all(named) and equal,
    }


def _train_hurt(place: str, values: dict, victim: str, cut_at: int | None) -> None:
    """Training; before step `cut_at` the shard `victim` loses its second half and every page of it in memory."""
    from steel.train.pretrain import pretrain

    def on_batch(step: int, batch) -> None:
        if step == cut_at:
            os.truncate(victim, os.stat(victim).st_size // 2)

    with as_command():
        pretrain(from_dict(values), f"{place}/shards", f"{place}/run", on_batch=on_batch)


def bad_batch(root: Path, cfg: Config) -> dict:
    """One batch gives a NaN: skipped and logged, and the run ends well. Then all do: the run stops with one line."""
    at = cfg.train.steps // 2
    patient = replace(cfg, train=replace(cfg.train, max_bad_steps=3))
    codes = [
        finish(
            [
                start(
                    _train_poisoned,
                    str(root),
                    c.to_dict(),
                    name,
                    first,
                    last,
                    errors=root / f"{name}.err",
                )
            ]
        )[0].exitcode
        for c, name, first, last in ((cfg, "nan-once", at, at), (patient, "nan-always", at, 10**9))
    ]
    skipped = [e["step"] for e in events(root / "nan-once", "skipped step")]
    losses = [r["loss"] for r in curve(root / "nan-once")]
    before = curve(root / "nan-once")[:at] == curve(root / "unbroken")[:at]
    line = last_line(root / "nan-always.err")
    return {
        "exit_codes": codes,
        "skipped_steps": skipped,
        "equal_until_then": before,
        "line": line,
        "passed": (
            codes == [0, 2]
            and skipped == [at + 1]
            and before
            and losses[at] is None
            and None not in losses[at + 1 :]
            and "3 steps in a row had a non-finite loss" in line
        ),
    }


def _train_poisoned(root: str, values: dict, name: str, first: int, last: int) -> None:
    from steel.train import pretrain as room

    steps, make = [], room.next_token_loss

    def next_token_loss(z_loss: float = 0.0):
        loss_fn = make(z_loss)

        def poisoned(model, batch):
            loss, count, measured = loss_fn(model, batch)
            return loss * float("nan") if first <= steps[-1] <= last else loss, count, measured

        return poisoned

    room.next_token_loss = next_token_loss
    with as_command():
        room.pretrain(
            from_dict(values),
            f"{root}/shards",
            f"{root}/{name}",
            on_batch=lambda step, _: steps.append(step),
        )


def terminated(root: Path, cfg: Config) -> dict:
    """SIGTERM, as a scheduler sends it: saved, exit code 0, and the next start goes on from that very step."""
    at = cfg.train.steps // 2
    code = finish(
        [start(_train_terminated, str(root), cfg.to_dict(), at, errors=root / "term.err")]
    )[0].exitcode
    line = last_line(root / "term.err")
    again = train(root, cfg, "term")
    resumed = [e["step"] for e in events(root / "term", "resume")]
    equal = curve(root / "term") == curve(root / "unbroken")
    return {
        "exit_code": code,
        "resumed_at": resumed,
        "equal": equal,
        "line": _short(line, root),
        "passed": code == 0
        and again == [0]
        and resumed == [at + 1]
        and equal
        and "stopped by SIGTERM" in line,
    }


def _train_terminated(root: str, values: dict, at: int) -> None:
    from steel.train.pretrain import pretrain

    def on_batch(step: int, batch) -> None:
        if step == at:
            os.kill(os.getpid(), signal.SIGTERM)

    pretrain(from_dict(values), f"{root}/shards", f"{root}/term", on_batch=on_batch)


def last_line(path: Path) -> str:
    """The last line of a file, without what warnings printed before; empty when there is none."""
    lines = (
        [
            line
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
            if line.strip()
        ]
        if path.exists()
        else []
    )
    return lines[-1] if lines else ""


def _short(line: str, root: Path) -> str:
    return line.replace(f"{root}/", "")
