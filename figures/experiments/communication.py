"""What each rank holds and sends in one training step, counted while it happens, for each way to spread a model:

    torchrun --nproc-per-node 2 -m figures.experiments.communication --preset cpu --micro-batches 2 --out counted.json

Random tokens, no data, one step after a first one that is not counted. Works on any number of ranks, CPU or GPU.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from steel.config import Config, UserError, load
from steel.plan import count_parameters
from steel.train.bench import counted_bytes

from . import command
from .ledger import Ledger

SHARDINGS = ("full", "grad_op", "hybrid", "ddp")


def count(
    cfg: Config, micro_batches: int, shardings: tuple[str, ...] = SHARDINGS
) -> dict[str, dict]:
    """Bytes that this rank holds and sends, by sharding: {"weights", "gradients", "between_micro_batches",
    "moments", "sent": {kind: bytes}}. Must be called on every rank.

    Bytes sent are those of the ring algorithms: (W-1)/W of the whole for a gather or a scatter, twice that for a
    reduction to all. UserError without several ranks.
    """
    from steel.train.build import make_model
    from steel.train.optim import build_optimizers
    from steel.train.parallel import join_world

    world = join_world()
    if world.size == 1:
        raise UserError(
            "one rank sends nothing; start this with torchrun --nproc-per-node 2 or more"
        )
    found = {}
    for sharding in shardings:
        model = make_model(
            replace(cfg, train=replace(cfg.train, sharding=sharding, compile=False)), world
        )
        optimizers = build_optimizers(model, cfg.train)
        for _ in range(2):
            with counted_bytes() as sent:
                between = _step(model, cfg, micro_batches, world.device)
            held = {
                "weights": _bytes(model.parameters()),
                "gradients": _bytes(p.grad for p in model.parameters()),
                "between_micro_batches": between,
            }
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        moments = (
            t
            for o in optimizers
            for state in o.state.values()
            for t in state.values()
            if isinstance(t, torch.Tensor) and t.ndim
        )
        found[sharding] = {**held, "moments": _bytes(moments), "sent": dict(sent)}
    return found


def _step(model: nn.Module, cfg: Config, micro_batches: int, device: torch.device) -> int:
    """Forward and backward of `micro_batches`, as the loop does them; bytes of gradients held before the last one."""
    from steel.data import Batch
    from steel.train.pretrain import next_token_loss

    shape, held = (cfg.train.micro_batch_size, cfg.data.sequence_length), 0
    loss_fn = next_token_loss()
    for i in range(micro_batches):
        ids_BT = torch.randint(cfg.model.vocab_size, shape, device=device)
        positions_BT = torch.arange(shape[1], device=device).expand(shape)
        model.set_requires_gradient_sync(i == micro_batches - 1)
        loss_fn(model, Batch(ids_BT, ids_BT, positions_BT))[0].backward()
        if i < micro_batches - 1:
            held = _bytes(_waiting_gradients(model))
    return held


def _waiting_gradients(model: nn.Module) -> Iterator[torch.Tensor | None]:
    """Gradients that FSDP keeps for the next micro-batch, unsharded, where its `parameters()` do not show them."""
    for module in model.modules():
        group = getattr(getattr(module, "_fsdp_state", None), "_fsdp_param_group", None) or (
            module._get_fsdp_state()._fsdp_param_group
            if hasattr(module, "_get_fsdp_state")
            else None
        )
        for parameter in group.fsdp_params if group else ():
            yield parameter.unsharded_accumulated_grad
            yield getattr(getattr(parameter, "_unsharded_param", None), "grad", None)


def _bytes(tensors) -> int:
    local = (t.to_local() if hasattr(t, "to_local") else t for t in tensors if t is not None)
    return sum(t.numel() * t.element_size() for t in local)


def main(
    overrides: list[str], preset: str = "cpu", micro_batches: int = 2, out: Path = None
) -> None:
    """Count, in one step, the bytes that each way of sharding sends; every rank counts, rank 0 writes and prints."""
    cfg = load(preset, overrides)
    shardings = count(cfg, micro_batches)
    if dist.get_rank() == 0:
        same = {"preset": preset, "overrides": overrides, "micro_batches": micro_batches}
        ledger = Ledger(out, "communication", same, fresh=True)
        parameters = count_parameters(cfg.model)["total"]
        ledger.write(ranks=dist.get_world_size(), parameters=parameters, shardings=shardings)
        print(json.dumps(ledger.content))
    dist.destroy_process_group()


if __name__ == "__main__":
    command(main)
