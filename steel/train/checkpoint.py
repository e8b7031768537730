"""Checkpoints: whole or absent.

A checkpoint is a folder `step-00000123` with the model and optimizers in torch's distributed format (DCP, which loads
at any number of ranks) and a `state.json`. It is written under another name and renamed when everything is on disk, so
a folder with the right name is complete; leftovers of a crash are swept away at the next start.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from ..config import UserError
from ..runlog import atomic_write
from .parallel import World


def save(folder: Path, step: int, model: nn.Module, optimizers: list, state: dict, keep: int, world: World) -> Path:
    """Write checkpoint `step` and remove all but the `keep` newest. Returns its folder."""
    target, temporary = folder / f"step-{step:08d}", folder / f".step-{step:08d}.tmp"
    if target.exists():
        return target
    if world.is_main:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    world.barrier()
    dcp.save(_tensors(model, optimizers), checkpoint_id=str(temporary), no_dist=world.size == 1)
    if world.is_main:
        atomic_write(temporary / "state.json", json.dumps({"step": step, **state}, indent=1, sort_keys=True))
        temporary.rename(target)
        for old in complete(folder)[: -max(1, keep)]:
            shutil.rmtree(old, ignore_errors=True)
    world.barrier()
    return target


def load(checkpoint: Path, model: nn.Module, optimizers: list, world: World) -> dict:
    """Restore model and optimizers in place; returns `state.json`."""
    tensors = _tensors(model, optimizers)
    try:
        dcp.load(tensors, checkpoint_id=str(checkpoint), no_dist=world.size == 1)
    except Exception as error:  # DCP raises many types for shapes and keys that do not fit
        raise UserError(f"checkpoint {checkpoint} does not fit this model or optimizer "
                        f"({str(error).strip().splitlines()[0][:120]}); use another run folder") from None
    set_model_state_dict(model, tensors["model"])
    set_optimizer_state_dict(model, optimizers, optim_state_dict=tensors["optimizers"])
    return json.loads((checkpoint / "state.json").read_text())


def complete(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(p for p in Path(folder).glob("step-*") if (p / "state.json").is_file())


def sweep(folder: Path) -> None:
    """Remove what a crash left half-written."""
    for leftover in Path(folder).glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def _tensors(model: nn.Module, optimizers: list) -> dict:
    return {"model": get_model_state_dict(model), "optimizers": get_optimizer_state_dict(model, optimizers)}
