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

from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import torch

from ..config import GRPOConfig, UserError
from ..data.order import Stream
from ..model.decoding import Completion, Sampling, generate, uniforms
from ..model.folder import open_model, stop_ids
from ..tokenizer.chat import encode_chat
from ..train.build import evaluating
from ..train.loop import Stage
from .logprobs import AnswerRows, pad_rows, score_answers
from .stage import Job
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


def stage(job: Job) -> Stage:
    """Train on RL rows {"messages": [prompt turns], "answer", "options", "kind", "lang"}.

    Settings are `cfg.grpo`; its batch_size counts prompts. `updates_per_rollout` steps in a row
    share one set of rollouts; checkpoints lie between sets, so none has to be kept on disk.
    """
    settings = job.settings
    every, updates = settings.checkpoint_every, settings.updates_per_rollout
    if every % updates:
        raise UserError(
            f"grpo.checkpoint_every={every} lies between the {updates} updates of a rollout; "
            f"use {every - every % updates or updates}"
        )
    prompts, reference = encode_prompts(job), None
    if settings.kl_beta > 0:
        reference = open_model(job.source, device=job.world.device)[0].requires_grad_(False)
    collect = lru_cache(maxsize=1)(Roller(job, prompts, reference).collect)
    length = settings.max_prompt_tokens + settings.max_new_tokens
    counts = {"prompts": len(prompts)}
    work = (lambda step: collect(step // updates), partial(loss, settings))
    return job.stage(*work, length, counts, unit=updates)


def encode_prompts(job: Job) -> list[Prompt]:
    """Tokenised prompts; one above `max_prompt_tokens` is skipped and counted."""
    limit = job.settings.max_prompt_tokens

    def encode(row: dict) -> tuple[Prompt | None, str]:
        ids, _ = encode_chat(job.tokenizer, row["messages"], add_generation_prompt=True)
        return ((ids, row), "") if len(ids) <= limit else (None, "skipped")

    return job.encode(encode, f"max_prompt_tokens={limit}")


def advantages(
    reward_PG: torch.Tensor, scale_by_std: bool = True, eps: float = 1e-4
) -> torch.Tensor:
    """Reward minus the group's mean, over its (population) standard deviation if asked (P, G)."""
    centred_PG = reward_PG - reward_PG.mean(-1, keepdim=True)
    if not scale_by_std:
        return centred_PG
    return centred_PG / (reward_PG.std(-1, keepdim=True, correction=0) + eps)


class Roller:
    """Samples with the current weights, and keeps what teaches something."""

    def __init__(self, job: Job, prompts: list[Prompt], reference: Any = None):
        self.job, self.prompts, self.reference = job, prompts, reference
        self.settings, self.world, self.model = job.settings, job.world, job.model
        self.stream = Stream("grpo", job.cfg.seed, len(prompts))
        self.rivals = rivals_of(row for _, row in prompts)

    def collect(self, number: int) -> list[Rollout]:
        """Sample, reward and score set `number`: a micro-batch per micro_batch_size prompts."""
        settings, world, group = self.settings, self.world, self.settings.group_size
        pieces = [
            [self.prompts[i] for i in some for _ in range(group)]
            for some in self.job.take(self.stream, number)
        ]
        # One table of random numbers for all ranks: a prompt's draws do not depend on their number.
        shape = (settings.batch_size, group, settings.max_new_tokens)
        u_PGN = uniforms(shape[0] * group, shape[2], self.job.cfg.seed, number).view(shape)
        sampling = Sampling(settings.temperature, settings.top_p, settings.max_new_tokens)
        with evaluating(self.model, settings, world):
            completions = generate(
                self.model,
                [ids for piece in pieces for ids, _ in piece],
                stop_ids(self.job.tokenizer),
                sampling,
                u_RN=u_PGN[world.rank :: world.size].flatten(0, 1),
                all_done=lambda done: not world.any(not done),
            )
            answered = iter(completions)
            return [self.judge([(*p, next(answered)) for p in piece]) for piece in pieces]

    def judge(self, items: list[tuple[list[int], dict, Completion]]) -> Rollout:
        """The micro-batch of whole groups of (prompt's ids, row, completion)."""
        settings = self.settings
        judged = [self.reward(row, completion) for _, row, completion in items]
        reward_PG = torch.tensor([r for r, _ in judged]).view(-1, settings.group_size)
        useful_P = reward_PG.amax(-1) > reward_PG.amin(-1)
        advantage_R = advantages(reward_PG, settings.scale_by_std).flatten()
        rows = [(ids + completion.ids, len(ids)) for ids, _, completion in items]
        metrics = {
            "reward": (reward_PG.sum().item(), len(items)),
            "accuracy": (float(sum(correct for _, correct in judged)), len(items)),
            "length": (float(sum(len(ids) - start for ids, start in rows)), len(items)),
            "finished": (float(sum(c.finished for _, _, c in items)), len(items)),
            "zero_variance": (float((~useful_P).sum()), len(useful_P)),
            "tokens": (float(sum(len(ids) for ids, _ in rows)), 1),
        }
        keep = useful_P.repeat_interleave(settings.group_size).nonzero()[:, 0].tolist()
        if not keep:  # a row without an answer stays, so that every rank runs the same passes
            keep, prompt = [0], items[0][0]
            rows[0] = (prompt, len(prompt))
        kept = pad_rows([rows[i] for i in keep], self.job.pad_id).to(self.world.device)
        micro = Rollout(kept, advantage_R[keep].to(self.world.device), metrics=metrics)
        if settings.updates_per_rollout > 1:
            micro.old = score_answers(self.model, kept, settings.temperature).logprob
        if self.reference is not None:
            micro.reference = score_answers(self.reference, kept, settings.temperature).logprob
        return micro

    def reward(self, row: dict, completion: Completion) -> tuple[float, bool]:
        """(reward, correct): 1 for a right answer, format_reward for ending with a readable one."""
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


def loss(settings: GRPOConfig, model, micro: Rollout):
    """loss_fn of the loop: sum over completion tokens [nats], their number, metrics."""
    scores = score_answers(model, micro.rows, settings.temperature, True)
    on, count = scores.answer, micro.rows.answers
    old = scores.logprob.detach() if micro.old is None else micro.old
    clip = (settings.clip_low, settings.clip_high)
    loss_RK, clipped = policy_loss(scores.logprob, old, micro.advantage[:, None], *clip)
    metrics = {
        **micro.metrics,
        "entropy": (scores.entropy.sum(), count),
        "clipped": ((clipped & on).sum(), count),
    }
    if micro.reference is not None:
        kl = low_variance_kl(scores.logprob, micro.reference)
        loss_RK = loss_RK + settings.kl_beta * kl
        metrics["kl"] = ((kl.detach() * on).sum(), count)
    return (loss_RK * on).sum(), count, metrics
