"""The loop under every stage: pretraining, SFT, reward model, DPO and GRPO.

A `Stage` says what is trained and on what, `State` is all that changes while it is, and `fit` walks
from the one to the model folder. Since `batch_fn(step)` depends on nothing but the step (and, for
GRPO, on the weights), a checkpoint of weights, moments and a few counters is the whole state of a
run: one that was killed and resumes walks the same path as one that was not.
"""

import contextlib
import hashlib
import json
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
from ..machine import progress
from ..runlog import RunLog, finite, read_log
from . import checkpoint
from .build import computing, evaluating, require_graphs
from .checkpoint import Checkpoints
from .device import peaks
from .metrics import Add, Speed, curves, profiler
from .optim import build_optimizers, scale_gradients, set_learning_rate, takes_scale
from .parallel import LOST_RANK, World, check_batch, lost_rank
from .run_folder import RunFolder
from .schedule import learning_rate_factor

Metrics = dict[str, "float | Tensor | tuple[float | Tensor, float | Tensor]"]
LossFn = Callable[[nn.Module, Any], tuple[Tensor, "float | Tensor", Metrics]]


@dataclass
class Stage:
    """What one stage of training is."""

    title: str
    """Its name, in the log and at the progress bar."""
    cfg: TrainConfig
    """Steps, optimizer, schedule, precision, checkpoints."""
    model: nn.Module
    """Ready to train: see `build.make_model` and `build.prepare`."""
    batch_fn: Callable[[int], list]
    """step -> this rank's micro-batches."""
    loss_fn: LossFn
    """(model, micro-batch) -> (summed loss, count to divide by, metrics). A metric is a number or a
    pair (sum, weight); "tokens" (sum, 1) counts what was read. Tensors stay on the device."""
    seed: int = 1
    """Where every random number of a step comes from."""
    tokenizer: Any = None
    """Written beside the model."""
    evaluate: Callable[[nn.Module, int], dict] | None = None
    """(model, step) -> numbers for the log, every `cfg.eval_every` steps and at both ends."""
    sample: Callable[[nn.Module, int], list[dict]] | None = None
    """(model, step) -> rows of {"prompt", "completion"}, likewise."""
    data_state: Callable[[int], dict] | None = None
    """step -> where the data stands before it; JSON for the checkpoint, equal on all ranks."""
    flops: dict[str, float] | None = None
    """FLOPs of one trained token by convention [FLOPs/token], for the MFU on a known GPU."""
    config: dict = field(default_factory=dict)
    """The whole configuration, for the log's header."""
    header: dict = field(default_factory=dict)
    """More facts for the header."""
    events: list[dict] = field(default_factory=list)
    """{"what", …} to log after the header."""
    save_hf: bool = True
    """Whether the model folder `hf/` is written at the end."""
    unit: int = 1
    """Steps that belong together: a checkpoint, and a stop, comes only after whole units."""


COUNTERS = ("tokens", "bad_steps", "grad_norm_mean", "loss")


@dataclass
class State:
    """All that changes while a stage trains, beside the weights."""

    optimizers: list[torch.optim.Optimizer]
    speed: Speed
    log: RunLog | None = None
    """None on every rank but the main one."""
    step: int = 0
    """Steps done; step n of the log is the n-th."""
    tokens: int = 0
    """Tokens read over all ranks."""
    bad_steps: int = 0
    """Steps in a row that were skipped."""
    grad_norm_mean: float = 0.0
    """Running mean of the gradient norm, which a spike is measured against."""
    loss: float = math.nan
    """Mean loss of the last step [nats]."""
    resumed_from: int = 0
    """The step at which this process began."""

    def note(self, kind: str, **fields) -> None:
        """Write a record to the log."""
        if self.log is not None:
            self.log.write(kind, **fields)

    def counters(self) -> dict:
        """What of this goes into a checkpoint's `state.json`."""
        return finite({name: getattr(self, name) for name in COUNTERS})

    def restore(self, saved: dict) -> None:
        """Back from `state.json`."""
        for name in ("step", *COUNTERS):
            setattr(self, name, saved[name])
        self.loss = math.nan if self.loss is None else self.loss


def fit(stage: Stage, run: RunFolder, world: World | None = None, resume: str = "auto") -> State:
    """Train `stage` for cfg.steps optimizer steps; leaves log, checkpoints and `hf/` in `run`.

    resume: "auto" goes on from the newest checkpoint, "never" refuses a folder that holds one.
    SIGTERM, SIGUSR1 and Ctrl-C save a checkpoint and exit with code 0; a lost rank ends the others
    with code 75. Raises UserError for what the user can mend.
    """
    cfg, model = stage.cfg, stage.model
    world = world or World(device=next(model.parameters()).device)
    if cfg.steps <= 0:
        raise UserError(f"{stage.title}: no steps to train; set its 'steps' or give it data")
    check_batch(cfg, world)
    log = run.log if world.is_main else None
    state = State(build_optimizers(model, cfg), Speed(world, stage.flops), log)
    with _one_line_endings(state, world), run.locked(world):
        began = time.monotonic()
        _resume(stage, state, run, world, resume)
        _write_header(stage, state, world)
        _train(stage, state, run, world)
        seconds = round(time.monotonic() - began, 2)
        unfinished = world.is_main and not _ended_before(stage, state, run)
        if state.step > state.resumed_from or world.any(unfinished):
            if stage.save_hf:
                run.save_hf(model, stage.tokenizer, world)
            done = {"step": state.step, "tokens": state.tokens, "loss": state.loss}
            facts = {"seconds": seconds, "phases": state.speed.phases(), **peaks(world)}
            state.note("event", what="end", **done, **facts)
    model.eval()
    return state


def _train(stage: Stage, state: State, run: RunFolder, world: World) -> None:
    """All steps from `state.step` on, with what is logged, validated and saved between them."""
    cfg, first = stage.cfg, state.resumed_from
    stage.model.train()
    with (
        contextlib.closing(Checkpoints(run.checkpoints, cfg, world)) as checkpoints,
        curves(run.path, cfg, stage.title, world, first) as add,
        profiler(run.path, cfg, world) as profile,
        progress(cfg.steps, stage.title, "steps", done=first) as bar,
        stop_signals() as signals,
    ):
        if first == 0:
            validate(stage, state, world, add)
        state.speed.start(state.tokens)
        while state.step < cfg.steps:
            measured = train_step(stage, state, world)
            if profile:
                profile.step()
            if cfg.compile and state.step == first + 1:
                require_graphs()
            step, last = state.step, state.step == cfg.steps
            if last or step <= 3 or step % cfg.log_every == 0:
                speed = state.speed.measure(state.tokens, measured.get("attention_share", 1.0))
                row = {"tokens": state.tokens, **measured, **speed, **peaks(world)}
                state.note("step", step=step, **row)
                add(step, row)
            bar.advance(1, loss=state.loss, **state.speed.note(state.tokens, step, cfg.steps))
            if last or (cfg.eval_every and step % cfg.eval_every == 0):
                validate(stage, state, world, add)
            whole = step % stage.unit == 0
            stopping = world.any(bool(signals)) and whole
            if last or stopping or (whole and checkpoints.due(step)):
                with state.speed.phase("checkpoint"):
                    data = {"data": stage.data_state(step)} if stage.data_state else {}
                    counters = {**state.counters(), **data}
                    checkpoints.save(step, stage.model, state.optimizers, counters)
                    if last or stopping:
                        checkpoints.wait()
            if stopping and not last:
                _stop(state, run, signals)


def train_step(stage: Stage, state: State, world: World) -> dict:
    """Forward, backward and update of the next step; returns what to log of it."""
    cfg, model = stage.cfg, stage.model
    torch.manual_seed(stage.seed * 1_000_003 + state.step)  # random numbers depend on it alone
    rate = set_learning_rate(state.optimizers, learning_rate_factor(state.step, cfg.steps, cfg))
    with state.speed.phase("data"):
        micros = stage.batch_fn(state.step)
    loss_sum, count, sums = torch.zeros((), dtype=torch.float64, device=world.device), 0, {}
    with state.speed.phase("forward_backward"):
        with computing(model, cfg, world):
            for i, micro in enumerate(micros):
                if hasattr(model, "set_requires_gradient_sync"):
                    model.set_requires_gradient_sync(i == len(micros) - 1)
                loss, n, metrics = stage.loss_fn(model, micro)
                loss.backward()
                loss_sum, count = loss_sum + loss.detach(), count + n
                for name, value in metrics.items():
                    total, weight = value if isinstance(value, tuple) else (value, 1.0)
                    before = sums.get(name, (0.0, 0.0))
                    sums[name] = (before[0] + total, before[1] + weight)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if not gradients:
            raise UserError(
                "no parameter received a gradient: the batch holds no token with a loss"
            )
        fused = world.size == 1 and takes_scale(state.optimizers)
        norm = torch.nn.utils.get_total_norm(gradients) if fused else 0.0
        # Here the host waits for the device; where the update is fused, for the only time.
        parts = [part for pair in sums.values() for part in pair]
        loss, count, norm, *parts = world.sum(loss_sum, count, norm, *parts)
    with state.speed.phase("update"):
        count = max(count, 1.0)
        pairs = dict(zip(sums, zip(parts[::2], parts[1::2], strict=True), strict=True))
        state.tokens += int(pairs.pop("tokens", (count, 1))[0])
        state.loss = loss / count
        # FSDP averages gradients over ranks; the sum over all tokens needs the factor world size.
        scale, limit = world.size / count, cfg.grad_clip or math.inf
        if fused:
            norm *= scale
            scale_gradients(state.optimizers, scale * min(1.0, limit / (norm + 1e-6)))
        else:
            torch._foreach_mul_(gradients, scale)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
            norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        state.step += 1
        _update(cfg, state, norm)
    means = {name: total / max(weight, 1e-12) for name, (total, weight) in sorted(pairs.items())}
    return {"loss": state.loss, "lr": rate, "grad_norm": norm, **means}


def _update(cfg: TrainConfig, state: State, norm: float) -> None:
    """One optimizer step, or none where loss or gradient cannot be trusted."""
    mean = state.grad_norm_mean
    watched = cfg.spike_factor and mean and state.step > cfg.warmup_steps + 1
    spike = bool(watched) and norm > cfg.spike_factor * mean
    if math.isfinite(norm) and math.isfinite(state.loss) and not spike:
        state.bad_steps = 0
        state.grad_norm_mean = 0.98 * mean + 0.02 * norm if mean else norm
        for optimizer in state.optimizers:
            optimizer.step()
    else:
        state.bad_steps += 1
        why = "gradient spike" if spike else "non-finite loss or gradient"
        seen = {"step": state.step, "loss": state.loss, "grad_norm": norm}
        state.note("event", what="skipped step", why=why, **seen)
        if state.bad_steps >= cfg.max_bad_steps:
            many = f"{state.bad_steps} steps in a row had a {why} (last at step {state.step})"
            remedy = "lower the stage's learning_rate, or look at the data of these steps"
            raise UserError(f"{many}; {remedy}")
    for optimizer in state.optimizers:
        optimizer.zero_grad(set_to_none=True)


def validate(stage: Stage, state: State, world: World, add: Add) -> None:
    """Run `evaluate` and `sample` after the steps done so far, and log what they say."""
    with evaluating(stage.model, stage.cfg, world), state.speed.phase("validate"):
        if stage.evaluate is not None:
            found = stage.evaluate(stage.model, state.step)
            state.note("eval", step=state.step, tokens=state.tokens, **found)
            add(state.step, {"eval": found})
        if stage.sample is not None:
            for row in stage.sample(stage.model, state.step):
                state.note("sample", step=state.step, **row)


def _resume(stage: Stage, state: State, run: RunFolder, world: World, mode: str) -> None:
    """Load the newest checkpoint when there is one."""
    with world.together():
        if world.is_main:
            checkpoint.sweep(run.checkpoints)
    found = checkpoint.newest(run.checkpoints, world)
    if found and mode == "never":
        what = f"{run.path} already holds checkpoints"
        raise UserError(f"{what}; use another folder or --resume auto")
    if found:
        folder, saved = found
        checkpoint.load(folder, stage.model, state.optimizers, world)
        state.restore(saved)
        state.resumed_from = state.step
    data = stage.data_state(state.step) if stage.data_state else None
    facts = json.dumps([state.step, data, stage.config], sort_keys=True)
    if len(set(world.gather(hashlib.sha256(facts.encode()).hexdigest()))) > 1:
        what = f"the ranks disagree about {run.path} (step, data or configuration)"
        raise UserError(f"{what}; start all with the same command, on the same folders")
    if state.log is not None:
        state.log.truncate_after(state.step if found else -1)
    if found:
        state.note("event", what="resume", step=state.step, checkpoint=folder.name)


def _write_header(stage: Stage, state: State, world: World) -> None:
    parameters = sum(p.numel() for p in stage.model.parameters() if p.requires_grad)
    facts = {"parameters": parameters, "steps": stage.cfg.steps, "title": stage.title}
    if state.log is not None:
        state.log.header(stage.config, ranks=world.size, **facts, **stage.header)
    for event in stage.events:
        state.note("event", **event)


def _stop(state: State, run: RunFolder, signals: list[str]) -> None:
    name, phases = signals[-1] if signals else "", state.speed.phases()
    state.note("event", what="stopped", step=state.step, signal=name, phases=phases)
    if state.log is not None:
        by = f"\nstopped by {name or 'another rank'} at step {state.step}"
        saved = f"checkpoint saved in {run.checkpoints}; the same command goes on from here"
        print(f"{by}; {saved}", file=sys.stderr)
    raise SystemExit(0)


def _ended_before(stage: Stage, state: State, run: RunFolder) -> bool:
    """Whether the model of this very step was written: a crash may have come between the two."""
    ends = [r for r in read_log(run.log.path, "event") if r.get("what") == "end"]
    written = run.hf.exists() or not stage.save_hf
    return bool(ends) and ends[-1].get("step") == state.step and written


@contextlib.contextmanager
def stop_signals() -> Iterator[list[str]]:
    """Names of the SIGTERM, SIGUSR1 and Ctrl-C that have come, for the loop to look at between steps."""
    came, old = [], {}
    if threading.current_thread() is threading.main_thread():
        in_jupyter = "ipykernel" in sys.modules  # there Ctrl-C stops the cell
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)[: 2 if in_jupyter else 3]:
            old[number] = signal.signal(number, lambda n, _: came.append(signal.Signals(n).name))
    try:
        yield came
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _one_line_endings(state: State, world: World) -> Iterator[None]:
    """Say in one line what ended the run, where the user can do something about it.

    A rank that died closes its connections, which shows at once; one that hangs shows after
    `parallel.PATIENCE_S`. With NCCL the watchdog may abort the process first; the launcher then ends
    the job all the same.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        what = f"out of GPU memory at step {state.step} ({first_line(error)[:120]})"
        remedy = "lower its micro_batch_size, or set its activation_checkpointing=true"
        raise UserError(f"{what}; {remedy}") from None
    except (SystemExit, KeyboardInterrupt, UserError):
        raise
    except torch._dynamo.exc.FailOnRecompileLimitHit:
        what = f"step {state.step + 1}: the blocks meet too many shapes to compile them all"
        remedy = "give every batch the same shape, or set compile=false"
        raise UserError(f"{what}; {remedy}") from None
    except BaseException as error:  # DCP's CheckpointException is no Exception
        if world.size == 1 or not (reason := lost_rank(error)):
            raise
        who = f"rank {world.rank} of {world.size}"
        what = f"{who} lost another rank at step {state.step} ({reason})"
        remedy = "look for the first error above, then start all ranks again"
        goes_on = "the run goes on from its newest checkpoint"
        print(f"steel: {what}; {remedy}: {goes_on}", file=sys.stderr, flush=True)
        raise SystemExit(LOST_RANK) from None
