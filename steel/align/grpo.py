"""Group-relative policy optimisation: sample several answers to a prompt, push up the better ones.

For a prompt with G completions and rewards r_1..r_G the advantage is

    A_i = (r_i - mean r) / (std r + eps),

and the loss of token t of completion i, with rho the ratio of the token's probability under the
current and the sampling weights,

    -min(rho A_i, clip(rho, 1 - low, 1 + high) A_i) + beta k3

(Shao et al. 2024, eq. 3). The step's loss is their mean over tokens (Yu et al. 2025, DAPO), over
completions of the mean of each (Shao), or their sum over a constant (Liu et al. 2025, Dr. GRPO).
With d = log ref - log pi, k3 = exp(d) - d - 1 estimates the KL to the reference without bias
(Schulman 2020), but its gradient does not estimate the KL's; that of rho k3 does (DeepSeek-V3.2),
and so does k1 = -d in the reward.

A group whose rewards are all equal teaches nothing: it is counted, and left out. The numbers that
drive sampling depend on (seed, step) alone, so a step is a pure function of weights and step.

Shapes: P prompts, G completions of each, R = P·G rows, T tokens, K scored positions, N new tokens.
"""

from collections.abc import Callable
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
from .logprobs import AnswerRows, Row, pad_rows, score_answers
from .stage import Job
from .verify import rivals_of, verify

Prompt = tuple[list[int], dict]
"""Token ids up to the answer's start, and the row."""
Answered = tuple[list[int], dict, Completion]
Reward = Callable[[dict, Completion], tuple[float, bool]]
"""From a row and a completion of its prompt: (reward, correct)."""


@dataclass
class Rollout:
    """One micro-batch: whole groups of some prompts, without those that teach nothing."""

    rows: AnswerRows
    advantage: torch.Tensor  # (R,)
    old: torch.Tensor | None = None
    """(R, K) log-probabilities under the sampling weights [nats]; None: under the current ones."""
    reference: torch.Tensor | None = None
    """(R, K) under the model before this stage [nats]; None where no KL is in the loss."""
    sampled: int = 0
    """Completions that were drawn, those left out included."""
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    """(sum, weight) over all groups, those left out included."""


def stage(job: Job, prompts: list[Prompt] | None = None, reward: Reward | None = None) -> Stage:
    """Train on RL rows {"messages": [prompt turns], "answer", "options", "kind", "lang"}.

    Settings are `cfg.grpo`; its batch_size counts prompts. `updates_per_rollout` steps in a row
    share one set of rollouts; checkpoints lie between sets, so none has to be kept on disk.
    prompts: None encodes the job's rows. reward: None judges an answer by `verify`.
    """
    settings = job.settings
    every, updates = settings.checkpoint_every, settings.updates_per_rollout
    if every % updates:
        raise UserError(
            f"grpo.checkpoint_every={every} lies between the {updates} updates of a rollout; "
            f"use {every - every % updates or updates}"
        )
    prompts, reference = prompts or encode_prompts(job), None
    if settings.kl_beta > 0:  # computed as the policy is, or rounding would count as distance
        dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        where = {"dtype": dtype, "device": job.world.device}
        reference = open_model(job.source, **where)[0].requires_grad_(False)
    collect = lru_cache(maxsize=1)(Roller(job, prompts, reference, reward).collect)
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


def advantages(reward_PG: torch.Tensor, std: Any = "group", eps: float = 1e-4) -> torch.Tensor:
    """Reward minus the group's mean, over a standard deviation (n - 1, as TRL and verl) (P, G).

    std: "group" for each group's own, "none" for no division, or the number to divide by.
    """
    centred_PG = reward_PG - reward_PG.mean(-1, keepdim=True)
    if std == "none":
        return centred_PG
    return centred_PG / ((reward_PG.std(-1, keepdim=True) if std == "group" else std) + eps)


class Roller:
    """Samples with the current weights, and keeps what teaches something."""

    def __init__(
        self, job: Job, prompts: list[Prompt], reference: Any = None, reward: Reward | None = None
    ):
        self.job, self.prompts, self.reference = job, prompts, reference
        self.settings, self.world, self.model = job.settings, job.world, job.model
        self.stream = Stream("grpo", job.cfg.seed, len(prompts))
        self.rivals = {} if reward else rivals_of(row for _, row in prompts)
        self.reward = reward or self.verdict

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
        with evaluating(self.model, settings, world):
            asked = [ids for piece in pieces for ids, _ in piece]
            answered = iter(self.sample(asked, u_PGN[world.rank :: world.size].flatten(0, 1)))
            drawn = [[(*p, next(answered)) for p in piece] for piece in pieces]
            judged = [self.judge(items) for items in drawn]
            std = settings.scale_rewards
            if std == "batch":
                every = torch.cat([reward_PG for reward_PG, _ in judged]).double()
                sums = world.sum(every.numel(), every.sum(), every.square().sum())
                std = max(0.0, (sums[2] - sums[1] ** 2 / sums[0]) / (sums[0] - 1)) ** 0.5
            return [self.keep(*some, std) for some in zip(drawn, judged, strict=True)]

    def sample(self, asked: list[list[int]], u_RN: torch.Tensor) -> list[Completion]:
        """A completion of each prompt's ids, drawn by the uniform numbers u_RN."""
        settings, world = self.settings, self.world
        sampling = Sampling(settings.temperature, settings.top_p, settings.max_new_tokens)
        stops, together = stop_ids(self.job.tokenizer), lambda done: not world.any(not done)
        return generate(self.model, asked, stops, sampling, u_RN=u_RN, all_done=together)

    def judge(self, items: list[Answered]) -> tuple[torch.Tensor, dict]:
        """Rewards (P, G) of whole groups, and metrics as (sum, weight)."""
        settings, count = self.settings, len(items)
        judged = [self.reward(row, completion) for _, row, completion in items]
        reward_PG = torch.tensor([r for r, _ in judged]).view(-1, settings.group_size)
        right_PG = torch.tensor([correct for _, correct in judged]).view_as(reward_PG)
        flat_P, tokens = reward_PG.amax(-1) == reward_PG.amin(-1), [len(c.ids) for *_, c in items]
        metrics = {
            "reward": (reward_PG.sum().item(), count),
            "accuracy": (float(right_PG.sum()), count),
            "pass_at_k": (float(right_PG.any(-1).sum()), len(flat_P)),
            "length": (float(sum(tokens)), count),
            "finished": (float(sum(c.finished for *_, c in items)), count),
            "zero_variance": (float(flat_P.sum()), len(flat_P)),
            "tokens": (float(sum(tokens) + sum(len(ids) for ids, *_ in items)), 1),
        }
        if self.reference is not None and settings.kl_in == "reward":
            rows = pad_rows([_row(item) for item in items], self.job.pad_id).to(self.world.device)
            now, before = (
                score_answers(lm, rows, settings.temperature).logprob
                for lm in (self.model, self.reference)
            )
            k1_R = (now - before).sum(-1).cpu()
            metrics["kl"] = (k1_R.sum().item(), sum(tokens))
            reward_PG = reward_PG - settings.kl_beta * k1_R.view_as(reward_PG)
        return reward_PG, metrics

    def keep(self, items: list[Answered], judged: tuple[torch.Tensor, dict], std: Any) -> Rollout:
        """The micro-batch of those groups whose rewards differ."""
        settings, (reward_PG, metrics) = self.settings, judged
        useful_P = reward_PG.amax(-1) > reward_PG.amin(-1)
        advantage_R = advantages(reward_PG, std).flatten()
        rows = [_row(item) for item in items]
        kept = useful_P.repeat_interleave(settings.group_size).nonzero()[:, 0].tolist()
        if not kept:  # a row without an answer stays, so that every rank runs the same passes
            kept, prompt = [0], items[0][0]
            rows[0] = (prompt, len(prompt))
        padded = pad_rows([rows[i] for i in kept], self.job.pad_id).to(self.world.device)
        micro = Rollout(padded, advantage_R[kept].to(self.world.device), metrics=metrics)
        micro.sampled = len(items)
        if settings.updates_per_rollout > 1:
            micro.old = score_answers(self.model, padded, settings.temperature).logprob
        if self.reference is not None and settings.kl_in != "reward":
            micro.reference = score_answers(self.reference, padded, settings.temperature).logprob
        return micro

    def verdict(self, row: dict, completion: Completion) -> tuple[float, bool]:
        """(reward, correct): the verdict's score, and format_reward for ending with a readable answer."""
        text = self.text(completion)
        verdict = verify(row, text, self.rivals.get(row.get("kind", ""), ()))
        formed = completion.finished and verdict.readable
        return verdict.score + self.settings.format_reward * formed, verdict.correct

    def text(self, completion: Completion) -> str:
        """What was answered, without the token that ends it."""
        ids = completion.ids[:-1] if completion.finished else completion.ids
        return self.job.tokenizer.decode(ids, skip_special_tokens=False)


def _row(item: Answered) -> Row:
    ids, _, completion = item
    return ids + completion.ids, len(ids)


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
    """loss_fn of the loop: a sum [nats] and what `normalise` divides it by, metrics."""
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
        rho = (scores.logprob - old).exp() if settings.kl_in == "weighted_loss" else 1.0
        loss_RK = loss_RK + settings.kl_beta * rho * kl
        metrics["kl"] = ((kl.detach() * on).sum(), count)
    loss_R = (loss_RK * on).sum(-1)
    if settings.normalise == "sequences":
        loss_R, count = loss_R / on.sum(-1).clamp_min(1), len(loss_R) if count else 0
    elif settings.normalise == "constant":
        count = micro.sampled * settings.max_new_tokens
    return loss_R.sum(), count, metrics
