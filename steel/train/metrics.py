"""How fast, how well used, and where it is shown: tokens/s, MFU, phases, curves, the profiler."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from ..config import Config, TrainConfig, UserError
from .parallel import World

PROFILE_AFTER = 3  # steps of warm-up: compilation and the allocator settle there


def device_name() -> str | None:
    """The planner's name of this machine's GPU, None on a CPU or for one that its table lacks."""
    from ..plan import GPUS

    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name().upper()
    large = torch.cuda.get_device_properties(0).total_memory > 60 * 2**30
    if "A100" in name:
        return "A100-80G" if large else "A100-40G"
    return next((key for key in GPUS if key != "CPU" and key.upper() in name), None)


def token_flops(cfg: Config) -> dict[str, float]:
    """FLOPs of one trained token in three conventions [FLOPs/token], see `plan.flops_per_token`;
    empty for a shape that the planner cannot read."""
    from ..plan import flops_per_token

    try:
        return {
            name: flops_per_token(cfg.model, cfg.data.sequence_length, name).total
            for name in ("executed_causal", "executed_full", "seed")
        }
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
        from ..plan import gpu

        name = device_name() if world.device.type == "cuda" else None
        self._peak = gpu(name).peak * world.size if name and flops else 0.0
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
        return {"left": f"{_short(left)} tokens" + (f", {days:.1f} days" if days >= 1 else "")}

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


def _short(number: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


class Curves:
    """TensorBoard (`train.tensorboard`) and Weights & Biases (`train.wandb`) on the main rank.

    Raises UserError when a package that was asked for is missing.
    """

    def __init__(self, folder: Path, cfg: TrainConfig, title: str, is_main: bool, step: int = 0):
        self._board = self._wandb = None
        if is_main and cfg.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                needs = "train.tensorboard needs the package tensorboard: pip install tensorboard"
                raise UserError(needs) from None
            # What a crashed attempt drew past the checkpoint is hidden, as in the log.
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        if is_main and cfg.wandb:
            try:
                import wandb
            except ImportError:
                raise UserError("train.wandb needs the package wandb: pip install wandb") from None
            same = hashlib.sha256(f"{folder.absolute()} {title}".encode()).hexdigest()[:16]
            names = {"project": cfg.wandb, "name": f"{folder.name}-{title}", "dir": str(folder)}
            self._wandb = wandb.init(**names, id=same, resume="allow")  # a resumed run goes on

    def add(self, step: int, values: dict) -> None:
        """The numbers among `values`, nested ones by a path, as of `step`."""
        if self._board is None and self._wandb is None:
            return
        numbers = dict(_numbers(values))
        for name, value in numbers.items():
            if self._board is not None:
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def close(self) -> None:
        """Flush and let go."""
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _numbers(values: dict, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and math.isfinite(value):
            yield prefix + name, float(value)


class Profile:
    """Profiles `train.profile_steps` steps of the main rank into RUN/trace.json, a Chrome trace."""

    def __init__(self, folder: Path, cfg: TrainConfig, start: int, world: World):
        wanted = cfg.profile_steps if world.is_main else 0
        self._path, self._first = folder / "trace.json", start + PROFILE_AFTER
        self._end = self._first + wanted
        self._cuda, self._profiler = world.device.type == "cuda", None

    def __enter__(self) -> Profile:
        return self

    def before(self, step: int) -> None:
        """Called before each step: starts and ends the recording."""
        if step == self._first < self._end:
            kinds = torch.profiler.ProfilerActivity
            activities = [kinds.CPU, kinds.CUDA] if self._cuda else [kinds.CPU]
            self._profiler = torch.profiler.profile(activities=activities)
            self._profiler.start()
        elif step == self._end:
            self._finish()

    def __exit__(self, *_) -> None:
        self._finish()

    def _finish(self) -> None:
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler.export_chrome_trace(str(self._path))
            self._profiler = None
