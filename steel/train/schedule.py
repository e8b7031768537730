"""Learning rate and mixture as pure functions of the step: nothing to save, nothing to restore.

The rate is applied by the optimizers of `train.optim`, at each step of `train.loop`.
"""

import math

from ..config import Config, TrainConfig, UserError


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
    """The loader's mixture: `data.weights`, and `data.anneal_weights` from where wsd starts to decay.

    In the annealing stage a source that is not named gets nothing. UserError without wsd.
    """
    weights, anneal = cfg.data.weights or None, cfg.data.anneal_weights
    if not anneal:
        return weights
    start = decay_start(cfg.train.steps, cfg.train)
    if start is None:
        need = "data.anneal_weights needs a stage in which the learning rate decays"
        raise UserError(f"{need}: train.schedule=wsd, not {cfg.train.schedule}")
    chosen = {"step": start, "weights": dict.fromkeys(sources, 0.0) | anneal}
    return [{"step": 0, "weights": weights}, chosen] if start else chosen["weights"]


def _decay_steps(steps: int, cfg: TrainConfig) -> int:
    return max(1, round(cfg.decay_fraction * steps))
