"""Checkpoints: whole or absent.

A checkpoint is a folder `step-00000123` with the model and optimizers in torch's distributed format
(DCP, which loads at any number of ranks), a `state.json`, and a `manifest.json` with the hash of
every other file. It is written under another name and renamed when everything is on disk, so a
folder with the right name is complete, and it loses that name before its files are removed;
leftovers of a crash are swept away at the next start.

The manifest finds damage, not malice: DCP's `.metadata` is a pickle, so resume only from RUN
folders whose origin you trust. The model in `hf/` holds none.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from ..config import TrainConfig, UserError, first_line
from ..runlog import atomic_write, read_json
from .parallel import World, causes, patience
from .schedule import decay_start

MANIFEST = "manifest.json"
KEYS = ("model", "optimizers")  # of a checkpoint's tensors
FREE = frozenset(
    "max_position_embeddings initializer_range balance_loss use_cache pad_token_id bos_token_id "
    "eos_token_id architectures dtype transformers_version".split()
)
"""Fields of a model's configuration that say nothing of what its weights compute: a resumed run may
come with others."""
LISTED_WITHIN_S = 60.0
"""How long a network file system may take to show one machine what another has written [s]."""
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file size limit is reached",
    errno.EROFS: "the file system is read-only",
}


class Checkpoints:
    """The checkpoints of one run; every method is called by all ranks together.

    With `train.async_checkpoint` a thread writes, one checkpoint at a time, and the caller waits
    only for the copy of the tensors; the ranks then talk over a process group of their own.
    """

    def __init__(self, folder: Path, cfg: TrainConfig, world: World):
        self.folder, self.cfg, self.world = folder, cfg, world
        background = cfg.async_checkpoint and world.size > 1
        self._group = dist.new_group(backend="gloo", timeout=patience()) if background else None
        self._writer, self._written = ThreadPoolExecutor(1, "checkpoint"), Future()
        self._written.set_result(None)
        # A single process is what `no_dist` asks for; torch warns of it at every save.
        said = "torch.distributed is (disabled, )?unavailable"
        warnings.filterwarnings("ignore", message=said, category=UserWarning)

    def due(self, step: int) -> bool:
        """Whether a checkpoint belongs after `step` steps."""
        every = self.cfg.checkpoint_every
        return bool(every) and (step % every == 0 or self._for_good(step))

    def _for_good(self, step: int) -> bool:
        """Whether this one is kept whatever comes: one every N, and the last before the decay."""
        cfg = self.cfg
        before_decay = cfg.keep_at_decay and step == decay_start(cfg.steps, cfg)
        return before_decay or bool(cfg.keep_every) and step % cfg.keep_every == 0

    def save(self, step: int, model: nn.Module, optimizers: list, state: dict) -> None:
        """Write the checkpoint of `step`, and remove old ones. UserError when the disk is full."""
        self.wait()
        target, temporary = self.folder / f"step-{step:08d}", self.folder / f".step-{step:08d}.tmp"
        facts = {"for_good": self._for_good(step), "model": _configuration(model)}
        state = {"step": step, **facts, **state}
        where = {"checkpoint_id": str(temporary), "no_dist": self.world.size == 1}
        with self.world.together(), _writing(temporary, target):
            if self.world.is_main:
                temporary.mkdir(parents=True)
        tensors = dict(zip(KEYS, get_state_dict(model, optimizers), strict=True))
        if not self.cfg.async_checkpoint:
            with _writing(temporary, target):
                dcp.save(tensors, **where)
            with self.world.together(), _writing(temporary, target):
                self._publish(temporary, target, state)
            return
        future = dcp.async_save(tensors, **where, process_group=self._group)

        def finish() -> None:
            with _writing(temporary, target):
                # On rank 0 only when every rank has written its part.
                getattr(future, "upload_completion", future).result()
                self._publish(temporary, target, state)

        self._written = self._writer.submit(finish)

    def wait(self) -> None:
        """Until nothing is being written. Raises what went wrong, on any rank."""
        if self.cfg.async_checkpoint:
            with self.world.together():
                self._written.result()

    def close(self) -> None:
        """The same for this rank alone, for the end of a run that may have failed."""
        self._writer.shutdown()
        self._written.result()

    def _publish(self, temporary: Path, target: Path, state: dict) -> None:
        """The last step, on rank 0: the state, the hashes, the rename, and then the oldest go."""
        if not self.world.is_main:
            return
        atomic_write(temporary / "state.json", json.dumps(state, indent=1, sort_keys=True))
        atomic_write(temporary / MANIFEST, json.dumps(_hashes(temporary), indent=1))
        shutil.rmtree(target, ignore_errors=True)  # if it is there, it was not complete
        temporary.rename(target)
        with contextlib.suppress(OSError):  # a rename outlives a power cut once it is on disk
            handle = os.open(self.folder, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        passing = [c for c in complete(self.folder) if not read_state(c).get("for_good")]
        for old in passing[: -max(1, self.cfg.keep_checkpoints)]:
            gone = old.with_name(f".{old.name}.old")  # a crash leaves no half of it by its name
            old.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


def newest(folder: Path, world: World) -> tuple[Path, dict] | None:
    """The newest finished checkpoint and its state, as rank 0 sees them; None when there is none.

    One rank decides: on a network file system another may still see an older listing. UserError
    when a rank does not get to see the checkpoint at all.
    """
    found = complete(folder) if world.is_main else []
    name, state = world.gather((found[-1].name, read_state(found[-1])) if found else ("", {}))[0]
    if not name:
        return None
    chosen, began = Path(folder) / name, time.monotonic()
    with world.together():
        while not ((chosen / "state.json").is_file() and read_state(chosen) == state):
            if time.monotonic() - began > LISTED_WITHIN_S:
                problem = f"checkpoint {chosen} is not the one that rank 0 sees"
                raise UserError(f"{problem}; let all ranks share one folder")
            os.listdir(folder)  # asks the server again
            time.sleep(0.5)
    return chosen, state


def load(checkpoint: Path, model: nn.Module, optimizers: list, world: World) -> None:
    """Restore model and optimizers in place, once every file has the hash of the manifest.

    Learning rates, decays and moment factors stay as the optimizers have them: the configuration
    decides, not the past. UserError for a damaged checkpoint and for one of another model.
    """
    with world.together():
        _verify(checkpoint, world)
    tensors = dict(zip(KEYS, get_state_dict(model, optimizers), strict=True))
    _check_names(checkpoint, tensors["model"])
    _check_configuration(checkpoint, model)
    settings = [[{**g} for g in optimizer.param_groups] for optimizer in optimizers]
    try:
        dcp.load(tensors, checkpoint_id=str(checkpoint), no_dist=world.size == 1)
    except (Exception, CheckpointException) as error:  # what does not fit raises many types
        what = f"checkpoint {checkpoint} does not fit this model or optimizer"
        raise UserError(f"{what} ({first_line(error)[:120]}); use another run folder") from None
    weights, moments = tensors.values()
    set_state_dict(model, optimizers, model_state_dict=weights, optim_state_dict=moments)
    for optimizer, groups in zip(optimizers, settings, strict=True):
        for group, kept in zip(optimizer.param_groups, groups, strict=True):
            group.update(kept)


def complete(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(p for p in Path(folder).glob("step-*") if (p / "state.json").is_file())


def read_state(checkpoint: Path) -> dict:
    """What `state.json` of a checkpoint says: step, counters, and under "data" the loader's state."""
    path, manifest = checkpoint / "state.json", checkpoint / MANIFEST
    wanted = read_json(manifest) if manifest.exists() else {}
    if wanted.get(path.name, "") not in ("", _hash(path)):
        raise _damaged(checkpoint, path.name)
    return read_json(path)


def sweep(folder: Path) -> None:
    """Remove what a crash left half-written or half-removed."""
    for leftover in Path(folder).glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _hashes(folder: Path, part: int = 0, of: int = 1) -> dict[str, str]:
    """{file name: blake2b-128} of every `of`-th file of a checkpoint, from `part` on."""
    files = sorted(p for p in folder.iterdir() if p.name != MANIFEST)[part::of]
    with ThreadPoolExecutor(8) as pool:
        return dict(zip([p.name for p in files], pool.map(_hash, files), strict=True))


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _damaged(checkpoint: Path, name: str) -> UserError:
    what = f"checkpoint {checkpoint} is damaged ({name} is not as it was written)"
    return UserError(f"{what}; remove it, and the run goes on from the checkpoint before")


def _verify(checkpoint: Path, world: World) -> None:
    """UserError when a file is missing, foreign or changed; each rank looks at its share."""
    manifest = checkpoint / MANIFEST
    wanted = read_json(manifest) if manifest.exists() else {}
    there = {p.name for p in checkpoint.iterdir()} - {MANIFEST}
    odd = sorted(there ^ wanted.keys())
    found = _hashes(checkpoint, world.rank, world.size)
    odd += [name for name, digest in found.items() if wanted.get(name, digest) != digest]
    if odd:
        raise _damaged(checkpoint, odd[0])


def _check_names(checkpoint: Path, weights: dict) -> None:
    """UserError unless the checkpoint holds these weights and no others: DCP would read a part."""
    metadata = dcp.FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    stored = {k.removeprefix("model.") for k in metadata if k.startswith("model.")}
    if odd := sorted(stored ^ weights.keys()):
        where = "is only in the checkpoint" if odd[0] in stored else "is not in it"
        problem = f"checkpoint {checkpoint} does not fit this model ({odd[0]} {where})"
        raise UserError(f"{problem}; use another run folder")


def _configuration(model: nn.Module) -> dict:
    """What the model computes with its weights, field by field, as JSON; {} where nothing says so."""
    config = getattr(getattr(model, "lm", model), "config", None)
    if not hasattr(config, "to_json_string"):
        return {}
    fields = json.loads(config.to_json_string(use_diff=False))
    return {k: v for k, v in fields.items() if k not in FREE and not k.startswith("_")}


def _check_configuration(checkpoint: Path, model: nn.Module) -> None:
    """UserError when the weights would mean something else here, which no shape needs to show."""
    then, now = read_state(checkpoint).get("model", {}), _configuration(model)
    changed = [k for k in sorted(then.keys() & now.keys()) if then[k] != now[k]]
    if changed:
        what = ", ".join(f"{key} {then[key]}, now {now[key]}" for key in changed)
        problem = f"the run was started with another model ({what})"
        raise UserError(f"{problem}; set it back, or start a new run folder")


@contextlib.contextmanager
def full_disk(target: Path) -> Iterator[None]:
    """UserError for an error of the block that comes from a full disk, whatever is wrapped around it."""
    try:
        yield
    except BaseException as error:
        reasons = (_FULL.get(getattr(e, "errno", None)) for e in causes(error))
        reason = next(filter(None, reasons), "")
        with contextlib.suppress(OSError):  # some writers of torch and safetensors drop the number
            if not reason and shutil.disk_usage(target.parent).free < 1 << 20:
                reason = "the disk is full"
        if not reason:
            raise
        what = f"cannot write {target}: {reason}; what was saved before is whole"
        raise UserError(f"{what}, so make room and run the same command again") from None


@contextlib.contextmanager
def _writing(temporary: Path, target: Path) -> Iterator[None]:
    """Clears the half-written folder after an error."""
    try:
        with full_disk(target):
            yield
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
