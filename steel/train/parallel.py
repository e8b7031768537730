"""One process or many: who am I, what do the others say, and are they still there?

`torchrun` sets RANK, WORLD_SIZE and LOCAL_RANK; without it there is one process.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ..config import TrainConfig, UserError, first_line

LOST_RANK = 75
"""Exit code of a rank that lost another one: try again (EX_TEMPFAIL), unlike 2, the user's mistake."""
PATIENCE_S = 600
"""How long a rank waits for the others in one collective [s]; the environment variable
STEEL_RANK_TIMEOUT_S wins."""


@dataclass(frozen=True)
class World:
    """This process among all: rank in [0, size), and the device it computes on."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_main(self) -> bool:
        """True on the one rank that logs and prints."""
        return self.rank == 0

    @property
    def cuda(self) -> bool:
        """Whether it computes on a GPU."""
        return self.device.type == "cuda"

    @property
    def local_size(self) -> int:
        """Processes on this machine."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.size))

    def sum(self, *values: float | torch.Tensor) -> list[float]:
        """Each value added over all ranks, in float64; the host waits for the device once."""
        numbers = [torch.as_tensor(v, dtype=torch.float64, device=self.device) for v in values]
        total = torch.stack(numbers)
        if self.size > 1:
            dist.all_reduce(total)
        return total.tolist()

    def any(self, flag: bool) -> bool:
        """True on every rank when it is true on one."""
        return flag if self.size == 1 else self.sum(float(flag))[0] > 0

    def gather(self, value: Any) -> list[Any]:
        """What every rank gives, by rank, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """All ranks leave the block at once: what fails on one fails on all, and none waits for it.

        The block must hold no collective. Raises this rank's own error, else UserError with
        another's words.
        """
        try:
            yield
        except Exception as error:
            self.gather(str(error) or repr(error))
            raise
        for rank, said in enumerate(self.gather("")):
            if said:
                raise UserError(f"rank {rank}: {said}")


def patience() -> timedelta:
    """How long a rank waits for the others in one collective, of any process group."""
    return timedelta(seconds=float(os.environ.get("STEEL_RANK_TIMEOUT_S", PATIENCE_S)))


def join_world() -> World:
    """Join the process group that torchrun describes, or be alone. Safe to call twice."""
    defaults = {"WORLD_SIZE": 1, "RANK": 0, "LOCAL_RANK": 0}
    size, rank, local = (int(os.environ.get(name, value)) for name, value in defaults.items())
    device, cuda = torch.device("cpu"), torch.cuda.is_available()
    if cuda:
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("cuda:nccl,cpu:gloo" if cuda else "gloo", timeout=patience())
    if rank > 0:
        os.environ["STEEL_QUIET"] = "1"  # one rank shows the progress
    return World(rank, size, device)


def causes(error: BaseException) -> Iterator[BaseException]:
    """`error`, what it came from, and what other ranks reported inside a CheckpointException."""
    pending, seen = [error], set()
    while pending:
        e = pending.pop()
        if e is not None and id(e) not in seen:
            seen.add(id(e))
            yield e
            failures = getattr(e, "failures", {})  # DCP: {rank: (error, traceback)}
            pending += [e.__cause__, e.__context__, *(pair[0] for pair in failures.values())]


def lost_rank(error: BaseException) -> str:
    """What a collective said when another rank was gone, shortened; empty for any other error.

    NCCL and the store raise types of their own; gloo a RuntimeError that begins with the place in
    its transport.
    """
    for e in causes(error):
        if isinstance(e, dist.DistError) or isinstance(e, RuntimeError) and "gloo/" in str(e):
            return first_line(e)[-80:]
    return ""


def check_batch(cfg: TrainConfig, world: World) -> None:
    """Every rank must run the same number of micro-batches; UserError when the batch does not divide."""
    if cfg.batch_size % world.size:
        use = cfg.batch_size - cfg.batch_size % world.size or world.size
        what = f"batch_size {cfg.batch_size} is not a multiple of {world.size} ranks"
        raise UserError(f"{what}; use {use}")
