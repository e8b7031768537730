"""A RUN folder: `log.jsonl`, `checkpoints/`, and `hf/`, the latest model with its tokenizer."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from ..config import UserError
from ..model.folder import save_model
from ..runlog import RunLog
from .checkpoint import full_disk
from .lora import merged
from .parallel import World


class RunFolder:
    """One training stage on disk. Creating it makes the folder; nothing else is touched."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot create the run folder {self.path}: {error.strerror}") from None
        self.checkpoints = self.path / "checkpoints"
        self.hf = self.path / "hf"
        self.log = RunLog(self.path / "log.jsonl")

    @contextlib.contextmanager
    def locked(self, world: World) -> Iterator[None]:
        """Keep other runs out of the folder; UserError says who is in it. The lock dies with us."""
        import fcntl

        with contextlib.ExitStack() as held:
            with world.together():
                if world.is_main:
                    lock = held.enter_context(open(self.path / ".lock", "a+"))
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        lock.seek(0)
                        who = lock.read().strip() or "another process"
                        remedy = "wait for its end, or use another folder"
                        raise UserError(f"{self.path} is in use by {who}; {remedy}") from None
                    lock.truncate(0)
                    lock.write(f"process {os.getpid()} on {socket.gethostname()}")
                    lock.flush()
            yield

    def save_hf(self, model: nn.Module, tokenizer, world: World) -> None:
        """Write `hf/` whole or not at all. Gathers a sharded model on rank 0."""
        weights = None
        if world.size > 1:
            options = StateDictOptions(full_state_dict=True, cpu_offload=True)
            weights = get_model_state_dict(model, options=options)
            # Gathering made copies of tied weights, which the file holds once.
            once = {name for name, _ in model.named_parameters()}
            twice = {name for name, _ in model.named_parameters(remove_duplicate=False)} - once
            weights = {name: tensor for name, tensor in weights.items() if name not in twice}
        if hasattr(model, "lora_factor"):
            weights = merged(weights or model.state_dict(), model.lora_factor)
        with world.together(), full_disk(self.hf):
            if world.is_main:
                save_model(self.hf, model, weights, tokenizer)
