"""Group-relative policy optimisation: sample several answers to a prompt, push up the better ones.

For a prompt with G completions and rewards r_1..r_G the advantage is

    A_i = (r_i - mean r) / (std r + eps),

and the loss of token t of completion i, with rho the ratio of the token's probability under the
current and the sampling weights,

    -min(rho A_i, clip(rho, 1 - low, 1 + high) A_i) + beta KL

(Shao et al. 2024, eq. 3; mean over all tokens of the step as in Yu et al. 2025). KL is the
low-variance estimate exp(d) - d - 1 with d = log ref - log pi (Schulman 2020).

A group whose rewards are all equal teaches nothing: it is counted, and left out. The numbers that
drive sampling depend on (seed, step) alone, so a step is a pure function of weights and step.

Shapes: P prompts, G completions of each, R = P·G rows, T tokens, K scored positions, N new tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..config import Config, GRPOConfig, UserError
from ..data.order import Stream
from ..model.decoding import Completion, Sampling, generate, uniforms
from ..model.folder import open_model, stop_ids
from ..tokenizer.chat import encode_chat
from ..train.build import evaluating
from .logprobs import AnswerRows, pad_rows, score_answers
from .stage import Job, device_of, split
from .verify import rivals_of, verify

Prompt = tuple[list[int], dict]
"""Token ids up to the answer's start, and the row."""


@dataclass
class Rollout:
    """One micro-batch: whole groups of some prompts, without those that teach nothing."""

    rows: AnswerRows
    advantage: torch.Tensor  # (R,)
    old: torch.Tensor | None = None
    """(R, K) log-probabilities under the sampling weights [nats]; None: under the current ones."""
    reference: torch.Tensor | None = None
    """(R, K) under the model before this stage [nats]; None where no KL is asked for."""
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    """(sum, weight) over all groups, those left out included."""


def run(
    cfg: Config, model_folder: Path | str, data, run_dir: Path | str, *, resume: str = "auto"
) -> Path:
    """Train on RL rows {"messages": [prompt turns], "answer", "options", "kind", "lang"}.

    Settings are `cfg.grpo`; its batch_size counts prompts. Returns the Hugging Face folder.
    """
    check_settings(cfg.grpo)
    job = Job.open(cfg, "grpo", model_folder, data, run_dir)
    settings = job.settings
    prompts, skipped = encode_prompts(job.tokenizer, job.rows.rows, settings.max_prompt_tokens)
    reference = None
    if settings.kl_beta > 0:
        reference = open_model(model_folder, device=job.world.device)[0].requires_grad_(False)
    counts = {"long": {"skipped": skipped} if skipped else {}, "prompts": len(prompts)}
    length = settings.max_prompt_tokens + settings.max_new_tokens
    roller, unit = Roller(job, prompts, reference), settings.updates_per_rollout
    return job.train(roller, Loss(settings), counts, length, unit=unit, resume=resume)


def check_settings(settings: GRPOConfig) -> None:
    """Refuse settings that have no meaning."""
    if settings.group_size < 2:
        raise UserError(
            f"grpo.group_size is {settings.group_size}; a group needs 2 completions to compare"
        )
    every, updates = settings.checkpoint_every, settings.updates_per_rollout
    if every % updates:
        raise UserError(
            f"grpo.checkpoint_every={every} lies between the {updates} updates of a rollout; "
            f"use {every - every % updates or updates}"
        )


def encode_prompts(tokenizer, rows: list[dict], limit: int) -> tuple[list[Prompt], int]:
    """The prompts of at most `limit` tokens, and how many were longer."""
    encoded = [
        (encode_chat(tokenizer, row["messages"], add_generation_prompt=True)[0], row)
        for row in rows
    ]
    kept = [prompt for prompt in encoded if len(prompt[0]) <= limit]
    if not kept:
        raise UserError(f"every prompt is longer than grpo.max_prompt_tokens={limit}; raise it")
    return kept, len(encoded) - len(kept)


def advantages(
    reward_PG: torch.Tensor, scale_by_std: bool = True, eps: float = 1e-4
) -> torch.Tensor:
    """Reward minus the group's mean, over its (population) standard deviation if asked (P, G)."""
    centred_PG = reward_PG - reward_PG.mean(-1, keepdim=True)
    if not scale_by_std:
        return centred_PG
    return centred_PG / (reward_PG.std(-1, keepdim=True, correction=0) + eps)


class Roller:
    """batch_fn of the loop: samples with the current weights, and keeps what teaches something."""

    def __init__(self, job: Job, prompts: list[Prompt], reference: Any = None):
        self.job, self.prompts, self.reference = job, prompts, reference
        self.settings, self.world, self.model = job.settings, job.world, job.model
        self.stream = Stream("grpo", job.cfg.seed, len(prompts))
        self.rivals = rivals_of(row for _, row in prompts)
        self._held: tuple[int, list[Rollout]] = (-1, [])

    def __call__(self, step: int) -> list[Rollout]:
        """Micro-batches of a step; `updates_per_rollout` steps in a row share one set of rollouts.

        Checkpoints lie between sets (`Stage.unit`), so none has to be kept on disk.
        """
        number = step // self.settings.updates_per_rollout
        if self._held[0] != number:
            self._held = (number, self.collect(number))
        return self._held[1]

    def collect(self, number: int) -> list[Rollout]:
        """Sample, reward and score set `number`: a micro-batch per micro_batch_size prompts."""
        settings, world, group = self.settings, self.world, self.settings.group_size
        prompts = [
            self.prompts[i] for i in self.job.take(self.stream, number) for _ in range(group)
        ]
        # One table of random numbers for all ranks: a prompt's draws do not depend on their number.
        shape = (settings.batch_size, group, settings.max_new_tokens)
        u_PGN = uniforms(shape[0] * group, shape[2], self.job.cfg.seed, number).view(shape)
        sampling = Sampling(settings.temperature, settings.top_p, settings.max_new_tokens)
        with evaluating(self.model, settings, world):
            completions = generate(
                self.model,
                [ids for ids, _ in prompts],
                stop_ids(self.job.tokenizer),
                sampling,
                u_RN=u_PGN[world.rank :: world.size].flatten(0, 1),
                all_done=self._all_done(),
            )
            items = list(zip(prompts, completions, strict=True))
            return [self._micro(piece) for piece in split(items, settings.micro_batch_size * group)]

    def _all_done(self):
        return (lambda done: not self.world.any(not done)) if self.world.size > 1 else None

    def _micro(self, items: list[tuple[Prompt, Completion]]) -> Rollout:
        settings, pad_id = self.settings, self.job.pad_id
        judged = [self.reward(row, completion) for (_, row), completion in items]
        reward_PG = torch.tensor([r for r, _ in judged]).view(-1, settings.group_size)
        useful_P = reward_PG.amax(-1) > reward_PG.amin(-1)
        advantage_R = advantages(reward_PG, settings.scale_by_std).flatten()
        lengths = [len(completion.ids) for _, completion in items]
        metrics = {
            "reward": (reward_PG.sum().item(), len(items)),
            "accuracy": (float(sum(correct for _, correct in judged)), len(items)),
            "length": (float(sum(lengths)), len(items)),
            "finished": (float(sum(c.finished for _, c in items)), len(items)),
            "zero_variance": (float((~useful_P).sum()), len(useful_P)),
            "tokens": (float(sum(len(ids) for (ids, _), _ in items) + sum(lengths)), 1),
        }
        keep = useful_P.repeat_interleave(settings.group_size).nonzero()[:, 0].tolist()
        if keep:
            rows = [(ids + c.ids, len(ids)) for (ids, _), c in (items[i] for i in keep)]
        else:  # a row without an answer stays, so that every rank runs the same passes
            (ids, _), _ = items[0]
            keep, rows = [0], [(ids, len(ids))]
        micro = Rollout(pad_rows(rows, pad_id), advantage_R[keep], metrics=metrics)
        on_device = micro.rows.to(self.world.device)
        if settings.updates_per_rollout > 1:
            micro.old = score_answers(self.model, on_device, settings.temperature).logprob
        if self.reference is not None:
            scores = score_answers(self.reference, on_device, settings.temperature)
            micro.reference = scores.logprob
        return micro

    def reward(self, row: dict, completion: Completion) -> tuple[float, bool]:
        """(reward, correct): 1 for a right answer, and format_reward for ending with a readable one."""
        ids = completion.ids[:-1] if completion.finished else completion.ids
        text = self.job.tokenizer.decode(ids, skip_special_tokens=False)
        verdict = verify(row, text, self.rivals.get(row.get("kind", ""), ()))
        formed = completion.finished and verdict.readable
        return float(verdict.correct) + self.settings.format_reward * formed, verdict.correct


def policy_loss(
    logprob: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, low: float, high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clipped surrogate loss per token, and whether the clip is what counts.

    All shapes (R, K) or broadcastable; the ratio is clipped to [1 - low, 1 + high].
    """
    ratio = (logprob - old).exp()
    plain, clipped = ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage
    return -torch.minimum(plain, clipped), clipped < plain


def low_variance_kl(logprob: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Estimate of KL(policy || reference) per token [nats], never negative (Schulman 2020, k3)."""
    difference = reference - logprob
    return difference.exp() - difference - 1


@dataclass
class Loss:
    """loss_fn of the loop: sum over completion tokens [nats], their number, metrics."""

    settings: GRPOConfig

    def __call__(self, model, micro: Rollout):
        settings, device = self.settings, device_of(model)
        scores = score_answers(model, micro.rows.to(device), settings.temperature, True)
        on, count = scores.answer, micro.rows.answers
        old = scores.logprob.detach() if micro.old is None else micro.old
        advantage_R1 = micro.advantage.to(device)[:, None]
        clip = (settings.clip_low, settings.clip_high)
        loss, clipped = policy_loss(scores.logprob, old, advantage_R1, *clip)
        metrics = {
            **micro.metrics,
            "entropy": (scores.entropy.sum(), count),
            "clipped": ((clipped & on).sum(), count),
        }
        if micro.reference is not None:
            kl = low_variance_kl(scores.logprob, micro.reference)
            loss = loss + settings.kl_beta * kl
            metrics["kl"] = ((kl.detach() * on).sum(), count)
        return (loss * on).sum(), count, metrics
