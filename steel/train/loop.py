"""The loop under every stage: pretraining, SFT, reward model, DPO and GRPO.

A stage brings two functions. `batch_fn(step)` returns the micro-batches of a step and depends on nothing but the step
(and, for GRPO, on the weights). `loss_fn(model, micro)` returns a summed loss, the count to divide by, and metrics. So
the whole state of a run is: weights, optimizer moments, the step number. That is what a checkpoint holds, and why a
killed run that resumes walks the same path as one that was never killed.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TrainConfig, UserError, first_line
from ..machine import peak_memory_bytes, progress
from ..runlog import read_log
from . import checkpoint
from .metrics import Curves, Profile, Speed
from .optim import build_optimizers, set_learning_rate
from .parallel import World, end_when_a_rank_is_lost
from .run_folder import RunFolder
from .schedule import learning_rate_factor

Metrics = dict[str, float | tuple[float, float]]
LossFn = Callable[[nn.Module, Any], tuple[Tensor, float, Metrics]]


@dataclass
class FitResult:
    """What a stage ended with: steps done, last mean loss, tokens seen, seconds of this process."""

    steps: int
    loss: float
    tokens: int
    seconds: float
    resumed_from: int = 0


@dataclass
class State:
    """Beside weights and moments, everything that a run carries from step to step."""

    step: int = 0
    tokens: int = 0
    bad_steps: int = 0
    grad_norm_mean: float = 0.0
    loss: float = math.nan

    def to_dict(self) -> dict:
        """The JSON that goes into the checkpoint."""
        loss = self.loss if math.isfinite(self.loss) else None
        return {
            "tokens": self.tokens,
            "bad_steps": self.bad_steps,
            "grad_norm_mean": self.grad_norm_mean,
            "loss": loss,
        }

    @classmethod
    def from_dict(cls, saved: dict) -> State:
        """Back from the checkpoint's JSON."""
        loss = math.nan if saved.get("loss") is None else saved["loss"]
        return cls(
            saved["step"], saved["tokens"], saved["bad_steps"], saved["grad_norm_mean"], loss
        )


class StopSignal:
    """Turns SIGTERM, SIGUSR1 and Ctrl-C into a flag that the loop reads between steps."""

    def __init__(self):
        self.name = ""
        self._old: dict = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            names = ["SIGTERM", "SIGUSR1"] + ([] if "ipykernel" in sys.modules else ["SIGINT"])
            for name in names:
                if (number := getattr(signal, name, None)) is not None:
                    self._old[number] = signal.signal(
                        number, lambda *_, name=name: setattr(self, "name", name)
                    )
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


@dataclass
class Fit:
    """One stage in progress; `fit` below is the way in."""

    model: nn.Module
    cfg: TrainConfig
    batch_fn: Callable[[int], list]
    loss_fn: LossFn
    run: RunFolder
    steps: int
    world: World = field(default_factory=World)
    evaluate: Callable[[nn.Module, int], dict] | None = None
    sample: Callable[[nn.Module, int], list[dict]] | None = None
    data_state: Callable[[int], dict] | None = None
    seed: int = 1
    title: str = "training"
    flops: dict[str, float] | None = None
    save_hf: bool = True

    def __post_init__(self):
        self.optimizers = build_optimizers(self.model, self.cfg)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.state = State()
        self.speed = Speed(self.world, self.flops)
        self.curves: Curves | None = None
        self.background = checkpoint.Background(self.world) if self.cfg.async_checkpoint else None

    def resume(self, mode: str) -> int:
        """Load the newest checkpoint when there is one; returns the step to go on from."""
        if self.world.is_main:
            checkpoint.sweep(self.run.checkpoints)
        self.world.barrier()
        found = checkpoint.complete(self.run.checkpoints)
        if mode == "never" and found:
            raise UserError(
                f"{self.run.path} already holds checkpoints; use another folder or --resume auto"
            )
        if not found:
            if self.world.is_main:
                self.run.log.truncate_after(-1)
            return 0
        saved = checkpoint.load(found[-1], self.model, self.optimizers, self.world)
        self.state = State.from_dict(saved)
        if self.world.is_main:
            self.run.log.truncate_after(self.state.step)
            self.run.log.write(
                "event", what="resume", step=self.state.step, checkpoint=found[-1].name
            )
        return self.state.step

    def save(self, wait: bool) -> None:
        """Write a checkpoint of the current step; in the background when so configured, and then maybe not wait."""
        extra = {"data": self.data_state(self.state.step)} if self.data_state else {}
        what = (
            self.run.checkpoints,
            self.state.step,
            self.model,
            self.optimizers,
            {**self.state.to_dict(), **extra},
            self.cfg.keep_checkpoints,
        )
        with self.speed.phase("checkpoint"):
            if self.background is None:
                checkpoint.save(*what, self.world)
                return
            self.background.save(*what)
            if wait:
                self.background.wait()

    def one_step(self) -> dict:
        """Forward, backward and update for the current step; returns what to log."""
        step = self.state.step
        torch.manual_seed(self.seed * 1_000_003 + step)  # anything random depends on the step alone
        lr = set_learning_rate(self.optimizers, learning_rate_factor(step, self.steps, self.cfg))
        with self.speed.phase("data"):
            micros = self.batch_fn(step)
        with self.speed.phase("forward_backward"):
            loss_sum, count, metrics = self._accumulate(micros)
        with self.speed.phase("update"):
            names = sorted(metrics)
            summed = self.world.sum(loss_sum, count, *(x for n in names for x in metrics[n]))
            count = max(summed[1], 1.0)
            logged = {
                n: summed[2 + 2 * i] / max(summed[3 + 2 * i], 1e-12) for i, n in enumerate(names)
            }
            tokens = (
                int(summed[2 + 2 * names.index("tokens")]) if "tokens" in metrics else int(count)
            )
            logged.pop("tokens", None)
            # FSDP averages gradients over ranks, so the sum over all tokens needs the factor world size.
            grad_norm = self._scale_and_clip(self.world.size / count)
            self.state.loss = summed[0] / count
            self.state.tokens += tokens
            self._update(grad_norm)
        return {"loss": self.state.loss, "lr": lr, "grad_norm": grad_norm, **logged}

    def _accumulate(self, micros: list) -> tuple[float, float, dict[str, tuple[float, float]]]:
        """Forward and backward of every micro-batch; the host waits for the device once, at the end."""
        loss_sum, count, metrics = 0.0, 0.0, {}
        for i, micro in enumerate(micros):
            if hasattr(self.model, "set_requires_gradient_sync"):
                self.model.set_requires_gradient_sync(i == len(micros) - 1)
            with self._precision():
                loss, n, measured = self.loss_fn(self.model, micro)
            loss.backward()
            loss_sum, count = loss_sum + loss.detach().double(), count + n
            for name, value in measured.items():
                total, weight = value if isinstance(value, tuple) else (value, 1.0)
                old = metrics.get(name, (0.0, 0.0))
                metrics[name] = (old[0] + total, old[1] + weight)
        return (
            float(loss_sum),
            float(count),
            {n: (float(a), float(b)) for n, (a, b) in metrics.items()},
        )

    def _precision(self):
        on = self.cfg.precision == "bf16" and self.world.size == 1
        return (
            torch.autocast(self.world.device.type, torch.bfloat16)
            if on
            else contextlib.nullcontext()
        )

    def _scale_and_clip(self, scale: float) -> float:
        grads = [p.grad for p in self.parameters if p.grad is not None]
        if not grads:
            raise UserError(
                "no parameter received a gradient: the batch holds no token with a loss"
            )
        torch._foreach_mul_(grads, scale)
        limit = self.cfg.grad_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def _update(self, grad_norm: float) -> None:
        state, spike = self.state, False
        if self.cfg.spike_factor and state.grad_norm_mean and state.step > self.cfg.warmup_steps:
            spike = grad_norm > self.cfg.spike_factor * state.grad_norm_mean
        if not math.isfinite(grad_norm) or not math.isfinite(state.loss) or spike:
            state.bad_steps += 1
            why = "gradient spike" if spike else "non-finite loss or gradient"
            if self.world.is_main:
                self.run.log.write(
                    "event",
                    what="skipped step",
                    why=why,
                    step=state.step,
                    loss=state.loss,
                    grad_norm=grad_norm,
                )
            if state.bad_steps >= self.cfg.max_bad_steps:
                raise UserError(
                    f"{state.bad_steps} steps in a row had a {why} (last at step {state.step}); "
                    f"lower train.learning_rate, or look at the data of these steps"
                )
        else:
            state.bad_steps = 0
            state.grad_norm_mean = (
                0.98 * state.grad_norm_mean + 0.02 * grad_norm
                if state.grad_norm_mean
                else grad_norm
            )
            for optimizer in self.optimizers:
                optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def finished_before(self) -> bool:
        """Whether the model of this very step was written already: a crash may have come between the two."""
        ends = [r for r in read_log(self.run.log.path, "event") if r["what"] == "end"]
        return (
            bool(ends)
            and ends[-1]["step"] == self.state.step
            and (self.run.hf.exists() or not self.save_hf)
        )

    def close(self) -> None:
        """Let a save in flight end, and the curves' writers."""
        if self.curves is not None:
            self.curves.close()
        if self.background is not None:
            self.background.wait()

    def validate(self) -> dict:
        """Run `evaluate` and `sample` for the current step and log them."""
        step, was_training = self.state.step, self.model.training
        self.model.eval()
        result: dict = {}
        with torch.no_grad(), self.speed.phase("validate"):
            if self.evaluate is not None:
                result = self.evaluate(self.model, step)
                if self.world.is_main:
                    self.run.log.write("eval", step=step, tokens=self.state.tokens, **result)
                    if self.curves is not None:
                        self.curves.add(step, {f"eval/{k}": v for k, v in result.items()})
            for row in self.sample(self.model, step) if self.sample is not None else []:
                if self.world.is_main:
                    self.run.log.write("sample", step=step, **row)
        self.model.train(was_training)
        return result


def fit(
    model: nn.Module,
    cfg: TrainConfig,
    batch_fn: Callable[[int], list],
    loss_fn: LossFn,
    run: RunFolder,
    *,
    config: dict | None = None,
    steps: int | None = None,
    tokenizer=None,
    evaluate=None,
    sample=None,
    data_state=None,
    resume: str = "auto",
    seed: int = 1,
    world: World | None = None,
    title: str = "training",
    header: dict | None = None,
    save_hf: bool = True,
    flops: dict[str, float] | None = None,
    events: list[dict] | None = None,
) -> FitResult:
    """Train `model` for `steps` (default cfg.steps) optimizer steps and leave log, checkpoints and `hf/` in `run`.

    batch_fn(step) -> micro-batches of this rank; loss_fn(model, micro) -> (summed loss, count, metrics), where a
    metric is a number or a pair (sum, weight) and "tokens" (sum, 1) counts what was read. evaluate(model, step) ->
    dict, sample(model, step) -> rows of {"prompt", "completion"}. resume: "auto" continues from the newest
    checkpoint, "never" refuses to. flops: FLOPs of one trained token by convention, for the MFU on a known GPU.
    events: {"what", …} to log after the header.
    SIGTERM, SIGUSR1 and Ctrl-C save a checkpoint and exit with code 0; a lost rank ends the others with code 75.
    """
    world = world or World(device=next(model.parameters()).device)
    steps = cfg.steps if steps is None else steps
    if steps <= 0:
        raise UserError(f"{title}: no steps to train; set its 'steps' or give it data")
    stage = Fit(
        model,
        cfg,
        batch_fn,
        loss_fn,
        run,
        steps,
        world,
        evaluate,
        sample,
        data_state,
        seed,
        title,
        flops,
        save_hf,
    )
    with end_when_a_rank_is_lost(world, lambda: f"at step {stage.state.step}"):
        start, seconds = _whole_stage(
            stage, tokenizer, resume, config or {}, header or {}, events or ()
        )
    model.eval()
    return FitResult(stage.state.step, stage.state.loss, stage.state.tokens, seconds, start)


def _whole_stage(
    stage: Fit, tokenizer, resume: str, config: dict, header: dict, events
) -> tuple[int, float]:
    """Resume, train, write the model; (step it started from, seconds)."""
    world, run = stage.world, stage.run
    start, began = stage.resume(resume), time.monotonic()
    if world.is_main:
        facts = {
            "parameters": sum(p.numel() for p in stage.parameters),
            "steps": stage.steps,
            "title": stage.title,
        }
        run.log.header(config, ranks=world.size, **facts, **header)
        for event in events:
            run.log.write("event", **event)
    stage.curves = Curves(run.path, stage.cfg, stage.title, world.is_main, start)
    stage.model.train()
    try:
        _run(stage, start)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"out of GPU memory at step {stage.state.step} ({first_line(error)[:120]}); lower "
            "train.micro_batch_size, or set train.activation_checkpointing=true"
        ) from None
    finally:
        stage.close()
    seconds = time.monotonic() - began
    if stage.state.step > start or world.any(world.is_main and not stage.finished_before()):
        if stage.save_hf:
            run.save_hf(stage.model, tokenizer, world)
        if world.is_main:
            run.log.write(
                "event",
                what="end",
                step=stage.state.step,
                tokens=stage.state.tokens,
                loss=stage.state.loss,
                seconds=round(seconds, 2),
                phases=stage.speed.phases(),
                peak_memory_bytes=peak_memory_bytes(),
            )
    return start, seconds


def _run(stage: Fit, start: int) -> None:
    cfg, steps, state = stage.cfg, stage.steps, stage.state
    with (
        StopSignal() as stop,
        _bar(stage, start) as bar,
        Profile(stage.run.path, cfg, start, stage.world) as profile,
    ):
        if start == 0 and (stage.evaluate or stage.sample):
            stage.validate()
        stage.speed.start(state.tokens)
        for _ in range(start, steps):
            profile.before(state.step)
            logged = stage.one_step()
            state.step += 1
            last = state.step == steps
            if stage.world.is_main and (last or state.step % cfg.log_every == 0 or state.step <= 3):
                record = {**logged, **stage.speed.measure(state.tokens), **_memory(stage.world)}
                stage.run.log.write("step", step=state.step, tokens=state.tokens, **record)
                stage.curves.add(state.step, {"tokens": state.tokens, **record})
            bar.advance(1, loss=state.loss, **stage.speed.note(state.tokens, state.step, steps))
            if last or (cfg.eval_every and state.step % cfg.eval_every == 0):
                stage.validate()
            stopping = stage.world.any(bool(stop.name)) if stage.world.size > 1 else bool(stop.name)
            if (
                last
                or stopping
                or (cfg.checkpoint_every and state.step % cfg.checkpoint_every == 0)
            ):
                stage.save(wait=last or stopping)
            if stopping and not last:
                _stop(stage, stop.name)


def _memory(world: World) -> dict:
    """Peaks of this process, and of its GPU's memory where there is one [bytes]."""
    gpu = (
        {"peak_gpu_memory_bytes": torch.cuda.max_memory_allocated()}
        if world.device.type == "cuda"
        else {}
    )
    return {"peak_memory_bytes": peak_memory_bytes(), **gpu}


def _stop(stage: Fit, name: str) -> None:
    if stage.world.is_main:
        stage.run.log.write(
            "event", what="stopped", step=stage.state.step, signal=name, phases=stage.speed.phases()
        )
        print(
            f"\nstopped by {name or 'another rank'} at step {stage.state.step}; checkpoint saved in "
            f"{stage.run.checkpoints}; the same command goes on from here",
            file=sys.stderr,
        )
    raise SystemExit(0)


@contextlib.contextmanager
def _bar(stage: Fit, start: int) -> Iterator:
    if not stage.world.is_main:
        import os

        os.environ["STEEL_QUIET"] = "1"
    with progress(stage.steps, stage.title, "steps", done=start) as bar:
        yield bar
