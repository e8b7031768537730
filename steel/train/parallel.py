"""One process or many: who am I, and how the model is spread (FSDP2).

`torchrun` sets RANK, WORLD_SIZE and LOCAL_RANK; without it there is one process and nothing to spread.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from ..config import TrainConfig, UserError, first_line

LOST_RANK = 75
"""Exit code of a rank that lost another one: try again (EX_TEMPFAIL), unlike 2, the user's mistake."""
PATIENCE_S = 600
"""How long a rank waits for the others in one collective [s]; the environment variable STEEL_RANK_TIMEOUT_S wins."""
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",
    "Socket closed",
    "Application timeout",
    "gloo/transport",
    "Connection refused",
)


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

    def sum(self, *values: float) -> list[float]:
        """Each value added over all ranks, in float64."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def any(self, flag: bool) -> bool:
        """True on every rank when it is true on one."""
        return self.sum(float(flag))[0] > 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()


def join_world() -> World:
    """Join the process group that torchrun describes, or be alone. Safe to call twice."""
    size, rank, local = (
        int(os.environ.get(k, d)) for k, d in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0))
    )
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local)
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if size > 1 and not dist.is_initialized():
        patience = timedelta(seconds=float(os.environ.get("STEEL_RANK_TIMEOUT_S", PATIENCE_S)))
        dist.init_process_group("cuda:nccl,cpu:gloo" if cuda else "gloo", timeout=patience)
    return World(rank, size, device)


@contextlib.contextmanager
def end_when_a_rank_is_lost(world: World, where: Callable[[], str]) -> Iterator[None]:
    """End this process with one line and code LOST_RANK when a collective fails because another rank is gone.

    A rank that died closes its connections, which shows at once; one that hangs shows after PATIENCE_S. With NCCL the
    watchdog may abort the process first; the launcher then ends the job all the same. where() -> what to tell.
    """
    try:
        yield
    except (SystemExit, KeyboardInterrupt, UserError):
        raise
    except BaseException as error:  # DCP's CheckpointException is no Exception
        if world.size == 1 or not (reason := _lost_connection(error)):
            raise
        print(
            f"steel: rank {world.rank} of {world.size} lost another rank {where()} ({reason}); look for the first "
            "error above, then start all ranks again: the run goes on from its newest checkpoint",
            file=sys.stderr,
            flush=True,
        )
        raise SystemExit(LOST_RANK) from None


def _lost_connection(error: BaseException) -> str:
    """What a collective said when a peer was gone, shortened; empty for any other error."""
    pending, seen = [error], set()
    while pending:
        e = pending.pop()
        if e is None or id(e) in seen:
            continue
        seen.add(id(e))
        text = first_line(e)
        mark = next((mark for mark in _LOST if mark in text), "")
        if isinstance(e, (dist.DistNetworkError, dist.DistBackendError)) or (
            mark and isinstance(e, RuntimeError)
        ):
            return mark or text[:80]
        failures = getattr(e, "failures", {})
        pending += [e.__cause__, e.__context__, *(pair[0] for pair in failures.values())]
    return ""


def check_batch(cfg: TrainConfig, world: World) -> None:
    """Every rank must run the same number of micro-batches; UserError when the batch does not divide."""
    if cfg.batch_size % world.size:
        raise UserError(
            f"train.batch_size {cfg.batch_size} is not a multiple of {world.size} ranks; "
            f"use {cfg.batch_size - cfg.batch_size % world.size or world.size}"
        )


def spread(model: nn.Module, layers: list[nn.Module], cfg: TrainConfig, world: World) -> nn.Module:
    """Shard the model in place over all ranks, one unit per decoder block and one for the rest.

    full: parameters, gradients and optimizer state sharded. grad_op: parameters stay whole between forward and
    backward. hybrid: sharded within a node, replicated across nodes. ddp: replicated.
    """
    if cfg.sharding not in ("full", "grad_op", "hybrid", "ddp"):
        raise UserError(f"sharding '{cfg.sharding}' is not one of full, grad_op, hybrid, ddp")
    if world.size == 1:
        return model
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    local = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    shape = {"hybrid": (world.size // local, local), "ddp": (world.size, 1)}.get(
        cfg.sharding, (world.size,)
    )
    mesh = init_device_mesh(
        world.device.type, shape, mesh_dim_names=("replicate", "shard")[-len(shape) :]
    )
    # Inputs stay as they are: casting would round the rotary tables, which must be fp32. The hidden state is bf16
    # already, since the embedding is.
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    options = {"mesh": mesh, "reshard_after_forward": cfg.sharding in ("full", "hybrid")}
    if cfg.precision == "bf16":
        options["mp_policy"] = policy
    for layer in layers:
        fully_shard(layer, **options)
    fully_shard(model, **options)
    return model


@torch.no_grad()
def materialise(model: nn.Module, seed: int, device: torch.device) -> nn.Module:
    """Allocate and fill a model that was built on the meta device, sharded or not.

    Every rank draws every tensor whole, on the CPU, from `seed`, one module at a time, and keeps its part: the weights
    do not depend on the number of ranks, no rank holds more than one whole module, and nothing is communicated.
    """
    model.to_empty(device=device)
    done: set[int] = set()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            own = {name: p for name, p in module._parameters.items() if p is not None}
            for name, p in own.items():
                module._parameters[name] = nn.Parameter(torch.empty(p.shape, dtype=p.dtype))
            model._init_weights(module)
            for name, p in own.items():
                drawn, module._parameters[name] = module._parameters[name], p
                if id(p) not in done:  # a tied weight keeps what its first owner drew
                    _fill(p, drawn.detach())
                    done.add(id(p))
    model.tie_weights()
    return model


def _fill(p: nn.Parameter, whole: torch.Tensor) -> None:
    if not hasattr(p, "device_mesh"):
        p.copy_(whole)
        return
    from torch.distributed.tensor import distribute_tensor

    part = distribute_tensor(whole.to(p.device), p.device_mesh, p.placements, src_data_rank=None)
    p.to_local().copy_(part.to_local())
