"""How fast, how well used, and where it is shown: tokens/s, MFU, phases, curves, the profiler."""

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from ..config import Config, TrainConfig, UserError, needs
from ..plan import flops_per_token, gpu
from .device import device_name
from .parallel import World

Add = Callable[[int, dict], None]
"""add(step, values): the numbers among the values, nested ones by a path, belong to that step."""


def token_flops(cfg: Config) -> dict[str, float]:
    """FLOPs of one trained token in three conventions [FLOPs/token], see `plan.flops_per_token`;
    empty for a shape that the planner cannot read."""
    names, length = ("executed_causal", "executed_full", "seed"), cfg.data.sequence_length
    try:
        return {name: flops_per_token(cfg.model, length, name).total for name in names}
    except UserError:
        return {}


def executed(flops: dict[str, float], attention_share: float) -> dict[str, float]:
    """`token_flops` with executed_causal as executed: attention_share of the causal half's scores.

    The share is what document masks leave of the query-key pairs of whole rows [1]. The causal half
    costs as much as the difference of the two executed conventions.
    """
    if "executed_causal" not in flops:
        return flops
    half = flops["executed_full"] - flops["executed_causal"]
    return flops | {"executed_causal": flops["executed_causal"] - (1 - attention_share) * half}


class Speed:
    """Tokens per second over all ranks, seconds per phase and, where the GPU's peak is known, MFU."""

    def __init__(self, world: World, flops: dict[str, float] | None = None):
        name = device_name() if world.cuda and flops else None
        self._peak = gpu(name).peak * world.size if name else 0.0
        self._flops = flops or {}
        self._seconds: dict[str, float] = {}
        self.start(0)

    def start(self, tokens: int) -> None:
        """The clock starts at `tokens` seen."""
        self._first = self._last = (time.monotonic(), tokens)

    def measure(self, tokens: int, attention_share: float = 1.0) -> dict:
        """{"tokens_per_s"[, "mfu": {convention: share}]} since the last call; see `executed`."""
        now, (then, before) = time.monotonic(), self._last
        rate, self._last = (tokens - before) / max(now - then, 1e-9), (now, tokens)
        result: dict = {"tokens_per_s": round(rate, 1)}
        if self._peak:
            work = executed(self._flops, attention_share)
            result["mfu"] = {name: round(f * rate / self._peak, 4) for name, f in work.items()}
        return result

    def note(self, tokens: int, step: int, steps: int) -> dict:
        """For the progress bar: what is left, in tokens and, for a long run, in days."""
        seconds, seen = time.monotonic() - self._first[0], tokens - self._first[1]
        left = (steps - step) * (tokens / max(step, 1))
        days = left / max(seen / max(seconds, 1e-9), 1e-9) / 86_400
        return {"left": f"{left:,.0f} tokens" + (f", {days:.1f} days" if days >= 1 else "")}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside to `name`; on a GPU the host's: its queue is emptied once a step."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - began

    def phases(self, digits: int = 2) -> dict[str, float]:
        """Seconds of this process by phase."""
        return {name: round(value, digits) for name, value in sorted(self._seconds.items())}


@contextlib.contextmanager
def curves(run: Path, cfg: TrainConfig, title: str, world: World, step: int) -> Iterator[Add]:
    """Gives what draws in TensorBoard (`train.tensorboard`) and Weights & Biases (`train.wandb`).

    step: the run goes on from it. UserError when a package that was asked for is missing.
    """
    shown: list[Add] = []
    with contextlib.ExitStack() as closing:
        if world.is_main and cfg.tensorboard:
            with needs("train.tensorboard", "tensorboard"):
                from torch.utils.tensorboard import SummaryWriter
            # What a crashed attempt drew past the checkpoint is hidden, as in the log.
            board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)
            closing.callback(board.close)
            shown.append(lambda at, numbers: [board.add_scalar(*n, at) for n in numbers.items()])
        if world.is_main and cfg.wandb:
            with needs("train.wandb", "wandb"):
                import wandb
            same = hashlib.sha256(f"{run.absolute()} {title}".encode()).hexdigest()[:16]
            names = {"project": cfg.wandb, "name": f"{run.name}-{title}", "dir": str(run)}
            # A resumed run goes on.
            page = wandb.init(**names, id=same, resume="allow")
            closing.callback(page.finish)
            shown.append(lambda at, numbers: page.log(numbers, step=at))

        def add(at: int, values: dict) -> None:
            for show in shown:
                show(at, dict(_numbers(values)))

        yield add


def _numbers(values: dict, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and math.isfinite(value):
            yield prefix + name, float(value)


def profiler(run: Path, cfg: TrainConfig, world: World) -> contextlib.AbstractContextManager:
    """Gives what traces `train.profile_steps` steps after three others, for compilation and the
    allocator, into RUN/trace.json, and is told of each `step`; None where nothing is traced."""
    if not (cfg.profile_steps and world.is_main):
        return contextlib.nullcontext()
    return torch.profiler.profile(
        schedule=torch.profiler.schedule(wait=2, warmup=1, active=cfg.profile_steps, repeat=1),
        on_trace_ready=lambda trace: trace.export_chrome_trace(str(run / "trace.json")),
    )
