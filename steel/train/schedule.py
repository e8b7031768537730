"""Learning rate and mixture as pure functions of the step: nothing to save, nothing to restore.

The rate is applied by the optimizers of `train.optim`, at each step of `train.loop`.
"""

import math

from ..config import REST, Config, TrainConfig, UserError


def learning_rate_factor(step: int, steps: int, cfg: TrainConfig) -> float:
    """Learning rate of `step` (0-based) over the peak, in [min_learning_rate_ratio, 1] after warm-up.

    cosine: half a cosine to the minimum (Steel-LLM's recipe). wsd: warm-up, stable, then linear decay
    over the last `decay_fraction` of the run (Hu et al. 2024, MiniCPM). linear: straight down.
    """
    warmup = min(cfg.warmup_steps, steps)
    if step < warmup:
        return (step + 1) / warmup
    low = cfg.min_learning_rate_ratio
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    if cfg.schedule == "cosine":
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done))
    if cfg.schedule == "linear":
        return 1 - (1 - low) * done
    decay, left = _decay_steps(steps, cfg), steps - step
    if cfg.schedule == "wsd" and left <= decay:
        return low + (1 - low) * left / decay
    return 1.0


def decay_start(steps: int, cfg: TrainConfig) -> int | None:
    """Step at which wsd begins to decay and annealing data begin; None for other schedules."""
    return max(0, steps - _decay_steps(steps, cfg)) if cfg.schedule == "wsd" else None


def mixture(cfg: Config, sources: list[str]) -> list[dict] | dict[str, float] | None:
    """The loader's mixture: `data.curriculum` first, then `data.weights`, and `data.anneal_weights`
    from where wsd starts to decay.

    In a curriculum's stretch and in the annealing stage a source that is not named gets nothing.
    UserError for stretches out of order, and for annealing without wsd.
    """

    def only(weights: dict[str, float]) -> dict[str, float]:
        return weights if REST in weights else dict.fromkeys(sources, 0.0) | weights

    phases, start = [], 0
    for phase in cfg.data.curriculum:
        if phase.until <= start:
            raise UserError(
                f"data.curriculum: until={phase.until} comes after {start}; let it grow"
            )
        phases.append({"step": start, "weights": only(phase.weights)})
        start = phase.until
    phases.append({"step": start, "weights": cfg.data.weights or None})
    if cfg.data.anneal_weights:
        decay = decay_start(cfg.train.steps, cfg.train)
        if decay is None:
            need = "data.anneal_weights needs a stage in which the learning rate decays"
            raise UserError(f"{need}: train.schedule=wsd, not {cfg.train.schedule}")
        phases = [phase for phase in phases if phase["step"] < decay]
        phases.append({"step": decay, "weights": only(cfg.data.anneal_weights)})
    return phases if len(phases) > 1 else phases[0]["weights"]


def _decay_steps(steps: int, cfg: TrainConfig) -> int:
    return max(1, round(cfg.decay_fraction * steps))
