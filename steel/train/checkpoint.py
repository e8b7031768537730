"""Checkpoints: whole or absent.

A checkpoint is a folder `step-00000123` with the model and optimizers in torch's distributed format (DCP, which loads
at any number of ranks) and a `state.json`. It is written under another name and renamed when everything is on disk, so
a folder with the right name is complete, and it loses that name before its files are removed; leftovers of a crash are
swept away at the next start.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import threading
import warnings
from pathlib import Path

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from ..config import UserError, first_line
from ..runlog import atomic_write
from .parallel import World

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file size limit is reached",
    errno.EROFS: "the file system is read-only",
}


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizers: list,
    state: dict,
    keep: int,
    world: World,
) -> Path:
    """Write checkpoint `step` and remove all but the `keep` newest. Returns its folder.

    Raises UserError when the disk is full; the older checkpoints are then untouched.
    """
    target, temporary = _begin(folder, step, world)
    if temporary is None:
        return target
    try:
        dcp.save(_tensors(model, optimizers), checkpoint_id=str(temporary), no_dist=world.size == 1)
        if world.is_main:
            _publish(temporary, target, {"step": step, **state}, keep)
    except (Exception, CheckpointException) as error:  # the latter is no Exception
        _explain(error, temporary, step)
        raise
    world.barrier()
    return target


class Background:
    """Writes checkpoints in a thread, one at a time: the caller waits only for the copy of the tensors.

    The ranks of a run talk over a process group of their own meanwhile, so that nothing mixes with training.
    """

    def __init__(self, world: World):
        self.world = world
        self._group = dist.new_group(backend="gloo") if world.size > 1 else None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._pending: tuple[Path, int] | None = None

    def save(
        self, folder: Path, step: int, model: nn.Module, optimizers: list, state: dict, keep: int
    ) -> Path:
        """Copy the state, start to write it, return the folder that will be there. Waits for the save before."""
        self.wait()
        target, temporary = _begin(folder, step, self.world)
        if temporary is None:
            return target
        future = dcp.async_save(
            _tensors(model, optimizers),
            checkpoint_id=str(temporary),
            process_group=self._group,
            no_dist=self.world.size == 1,
        )
        done = getattr(future, "upload_completion", future)

        def finish() -> None:
            try:
                done.result()  # on rank 0 only when every rank has written its part
                if self.world.is_main:
                    _publish(temporary, target, {"step": step, **state}, keep)
            except BaseException as error:  # handed to the caller at the next wait
                self._error = error

        self._pending = (temporary, step)
        self._thread = threading.Thread(target=finish, name=f"checkpoint-{step}")
        self._thread.start()
        return target

    def wait(self) -> None:
        """Until nothing is being written. Raises what went wrong, UserError when the disk is full."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            _explain(error, *self._pending)
            raise error


def load(checkpoint: Path, model: nn.Module, optimizers: list, world: World) -> dict:
    """Restore model and optimizers in place; returns `state.json`.

    Learning rates, decays and moment factors stay as the optimizers have them: the configuration decides, not the past.
    """
    _quiet()
    tensors = _tensors(model, optimizers)
    settings = [
        [{k: v for k, v in g.items() if k != "params"} for g in o.param_groups] for o in optimizers
    ]
    _check_names(checkpoint, tensors["model"])
    try:
        dcp.load(tensors, checkpoint_id=str(checkpoint), no_dist=world.size == 1)
    except (
        Exception,
        CheckpointException,
    ) as error:  # shapes and keys that do not fit raise many types
        raise UserError(
            f"checkpoint {checkpoint} does not fit this model or optimizer "
            f"({first_line(error)[:120]}); use another run folder"
        ) from None
    set_model_state_dict(model, tensors["model"])
    set_optimizer_state_dict(model, optimizers, optim_state_dict=tensors["optimizers"])
    for optimizer, groups in zip(optimizers, settings, strict=True):
        for group, kept in zip(optimizer.param_groups, groups, strict=True):
            group.update(kept)
    return json.loads((checkpoint / "state.json").read_text())


def _check_names(checkpoint: Path, weights: dict) -> None:
    """UserError unless the checkpoint holds these weights and no others: DCP reads a part of a model without a word."""
    stored = {
        k
        for k in dcp.FileSystemReader(checkpoint).read_metadata().state_dict_metadata
        if k.startswith("model.")
    }
    if odd := sorted(stored ^ {f"model.{name}" for name in weights}):
        where = "is only in the checkpoint" if odd[0] in stored else "is not in it"
        raise UserError(
            f"checkpoint {checkpoint} does not fit this model ({odd[0].removeprefix('model.')} {where}); "
            "use another run folder"
        )


def complete(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(p for p in Path(folder).glob("step-*") if (p / "state.json").is_file())


def sweep(folder: Path) -> None:
    """Remove what a crash left half-written or half-removed."""
    for leftover in Path(folder).glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _quiet() -> None:
    """A single process is what `no_dist` asks for; torch warns of it at every save."""
    warnings.filterwarnings("ignore", message="torch.distributed is (disabled, )?unavailable")


def _begin(folder: Path, step: int, world: World) -> tuple[Path, Path | None]:
    """(final folder, folder to write into, made by rank 0); the second is None when the checkpoint is there already."""
    _quiet()
    target, temporary = folder / f"step-{step:08d}", folder / f".step-{step:08d}.tmp"
    if world.any(world.is_main and target.exists()):
        return target, None
    if world.is_main:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    world.barrier()
    return target, temporary


def _publish(temporary: Path, target: Path, state: dict, keep: int) -> None:
    """The last step on rank 0: the state, the rename, and then the oldest go."""
    atomic_write(temporary / "state.json", json.dumps(state, indent=1, sort_keys=True))
    temporary.rename(target)
    with contextlib.suppress(
        OSError
    ):  # a rename outlives a power cut only once its folder is on disk
        handle = os.open(target.parent, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    for old in complete(target.parent)[: -max(1, keep)]:
        gone = old.with_name(
            f".{old.name}.old"
        )  # a crash while files go must not leave half of one under its name
        old.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _explain(error: BaseException, temporary: Path, step: int) -> None:
    """Clear the half-written folder; UserError when `error` comes from a full disk."""
    reason = disk_problem(error, temporary.parent)
    shutil.rmtree(temporary, ignore_errors=True)
    if reason:
        raise UserError(
            f"cannot save step {step} in {temporary.parent}: {reason}; older checkpoints are whole, "
            "so make room and run the same command again"
        ) from None


def disk_problem(error: BaseException, folder: Path) -> str:
    """Why nothing can be written in `folder`, as far as `error` and its causes tell; empty when they do not."""
    seen, pending, reason = set(), [error], ""
    while pending:
        e = pending.pop()
        if e is None or id(e) in seen:
            continue
        seen.add(id(e))
        reason = reason or _FULL.get(getattr(e, "errno", None), "")
        failures = getattr(
            e, "failures", {}
        )  # DCP's CheckpointException: {rank: (error, traceback)}
        pending += [e.__cause__, e.__context__, *(pair[0] for pair in failures.values())]
    with contextlib.suppress(OSError):  # torch's and safetensors' writers may swallow the number
        reason = reason or ("the disk is full" if shutil.disk_usage(folder).free < 1 << 20 else "")
    return reason


def _tensors(model: nn.Module, optimizers: list) -> dict:
    return {
        "model": get_model_state_dict(model),
        "optimizers": get_optimizer_state_dict(model, optimizers),
    }
