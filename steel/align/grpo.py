"""Group-relative policy optimisation: sample several answers to a prompt, push up those that beat the group's mean.

For a prompt with G completions and rewards r_1..r_G the advantage is A_i = (r_i - mean r) / (std r + eps), and the loss
of token t of completion i is -min(rho A_i, clip(rho, 1 - low, 1 + high) A_i) + beta KL, rho the ratio of the token's
probability under the current and the sampling weights (Shao et al. 2024, eq. 3; mean over all tokens of the step as in
Yu et al. 2025). KL is the low-variance estimate exp(d) - d - 1 with d = log ref - log pi (Schulman 2020).

A group whose rewards are all equal teaches nothing: it is counted, and left out. The numbers that drive sampling depend
on (seed, step) alone, so a step is a pure function of weights and step, and a resumed run is the unbroken one.

Shapes: R rows (prompts x G), T tokens, K scored positions.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..config import Config, GRPOConfig, UserError
from ..model.decoding import Completion, Sampling, generate, uniforms
from ..model.folder import open_model, stop_ids
from ..runlog import atomic_write
from ..tokenizer.chat import encode_chat
from ..train.build import evaluating, prepare
from ..train.loop import Stage
from ..train.parallel import World, join_world
from ..train.run_folder import RunFolder
from .logprobs import AnswerRows, Scores, pad_rows, score_answers
from .rows import check_verifiable, count_by, read_rows
from .stage import Shuffled, device_of, open_student, split, train
from .verify import rivals_of, verify


@dataclass
class Rollout:
    """One micro-batch: whole groups of some prompts, without those that teach nothing.

    old and reference are (R, K) log-probabilities of the sampling weights and of the model before this stage, or None
    where they are not needed. metrics are (sum, weight) over all groups, dropped ones included.
    """

    rows: AnswerRows
    advantage: torch.Tensor  # (R,)
    old: torch.Tensor | None = None
    reference: torch.Tensor | None = None
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)


def run(
    cfg: Config, model_folder: Path | str, data, run_dir: Path | str, *, resume: str = "auto"
) -> Path:
    """Train on RL rows {"messages": [prompt turns], "answer", "options", "kind", "lang"}.

    The stage is `cfg.grpo`, its batch_size counts prompts. Returns the Hugging Face folder of the result.
    """
    stage, run_folder, world = cfg.grpo, RunFolder(run_dir), join_world()
    check_settings(stage)
    rows = read_rows(data, check_verifiable, "RL prompts")
    model, tokenizer = open_student(model_folder, "GRPO")
    prompts, skipped = encode_prompts(tokenizer, rows.rows, stage.max_prompt_tokens)
    counts = {
        **rows.report(),
        "long": {"skipped": skipped} if skipped else {},
        "prompts": len(prompts),
        "kinds": count_by(rows.rows, "kind"),
        "langs": count_by(rows.rows, "lang"),
        "sha256": rows.digest,
    }
    reference = None
    if stage.kl_beta > 0:
        reference = open_model(model_folder, device=world.device)[0].requires_grad_(False)
    model.to(world.device)
    prepare(model, stage, world, stage.max_prompt_tokens + stage.max_new_tokens, False)
    roller = Roller(
        model, tokenizer, prompts, stage, cfg.seed, world, run_folder.path / "rollouts", reference
    )
    whole = Stage("GRPO", stage, model, roller, Loss(stage), tokenizer=tokenizer)
    return train(cfg, whole, run_folder, world, counts, resume)


def check_settings(stage: GRPOConfig) -> None:
    """Refuse settings that have no meaning."""
    if stage.group_size < 2:
        raise UserError(
            f"grpo.group_size is {stage.group_size}; a group needs at least 2 completions to compare"
        )
    if stage.temperature <= 0:
        raise UserError(
            f"grpo.temperature is {stage.temperature}; sampling needs a temperature above 0"
        )
    if stage.updates_per_rollout < 1:
        raise UserError(
            f"grpo.updates_per_rollout is {stage.updates_per_rollout}; it must be at least 1"
        )


def encode_prompts(
    tokenizer, rows: list[dict], limit: int
) -> tuple[list[tuple[list[int], dict]], int]:
    """(token ids up to the answer's start, row) for each prompt of at most `limit` tokens, and how many were longer."""
    encoded = [
        (encode_chat(tokenizer, row["messages"], add_generation_prompt=True)[0], row)
        for row in rows
    ]
    kept = [item for item in encoded if len(item[0]) <= limit]
    if not kept:
        raise UserError(f"every prompt is longer than grpo.max_prompt_tokens={limit}; raise it")
    return kept, len(encoded) - len(kept)


def advantages(
    reward_PG: torch.Tensor, scale_by_std: bool = True, eps: float = 1e-4
) -> torch.Tensor:
    """Reward minus the group's mean, over the group's (population) standard deviation if asked; same shape."""
    centred = reward_PG - reward_PG.mean(-1, keepdim=True)
    return (
        centred / (reward_PG.std(-1, keepdim=True, correction=0) + eps) if scale_by_std else centred
    )


class Roller:
    """batch_fn of the loop: samples with the current weights, rewards, and keeps what has something to teach."""

    def __init__(
        self,
        model,
        tokenizer,
        prompts,
        stage: GRPOConfig,
        seed: int,
        world: World,
        folder: Path,
        reference=None,
    ):
        self.model, self.tokenizer, self.prompts, self.stage = model, tokenizer, prompts, stage
        self.seed, self.world, self.folder, self.reference = seed, world, folder, reference
        self.stream = Shuffled(len(prompts), seed, salt=0x6890)
        self.rivals = rivals_of(row for _, row in prompts)
        self.stop_ids = stop_ids(tokenizer)
        self.pad_id = self.stop_ids[-1]
        self._held: tuple[int, list[Rollout]] = (-1, [])

    def __call__(self, step: int) -> list[Rollout]:
        """Micro-batches of a step; `updates_per_rollout` steps in a row share one set of rollouts."""
        number, part = divmod(step, self.stage.updates_per_rollout)
        if self.stage.updates_per_rollout == 1:
            return self.collect(number)
        if part == 0:
            self._held = (number, self.collect(number))
            self._keep(number)
        elif (
            self._held[0] != number
        ):  # resumed in the middle: the weights that sampled are gone, the sample is not
            self._held = (number, self._recall(number))
        return self._held[1]

    def collect(self, number: int) -> list[Rollout]:
        """Sample, reward and score rollout `number`: one micro-batch per micro_batch_size prompts."""
        stage = self.stage
        mine = self.stream.take(number, stage.batch_size, self.world.rank, self.world.size)
        prompts = [self.prompts[i] for i in mine for _ in range(stage.group_size)]
        # One table of random numbers for all ranks: what a prompt draws does not depend on the number of ranks.
        u_RN = uniforms(
            stage.batch_size * stage.group_size, stage.max_new_tokens, self.seed, number
        )
        u_RN = u_RN.view(stage.batch_size, -1, stage.max_new_tokens)[
            self.world.rank :: self.world.size
        ].flatten(0, 1)
        with evaluating(self.model, stage, self.world):
            completions = generate(
                self.model,
                [ids for ids, _ in prompts],
                self.stop_ids,
                Sampling(stage.temperature, stage.top_p, stage.max_new_tokens),
                u_RN=u_RN,
                all_done=self._all_done(),
            )
        items = list(zip(prompts, completions, strict=True))
        return [
            self._micro(piece) for piece in split(items, stage.micro_batch_size * stage.group_size)
        ]

    def _all_done(self):
        return (lambda done: not self.world.any(not done)) if self.world.size > 1 else None

    def _micro(self, items: list[tuple[tuple[list[int], dict], Completion]]) -> Rollout:
        stage = self.stage
        judged = [self.reward(row, completion) for (_, row), completion in items]
        reward_PG = torch.tensor([r for r, _ in judged]).view(-1, stage.group_size)
        useful_P = reward_PG.amax(-1) > reward_PG.amin(-1)
        advantage_R = advantages(reward_PG, stage.scale_by_std).flatten()
        keep = useful_P.repeat_interleave(stage.group_size).nonzero()[:, 0].tolist()
        lengths = [len(c.ids) for _, c in items]
        metrics = {
            "reward": (reward_PG.sum().item(), len(items)),
            "accuracy": (float(sum(c for _, c in judged)), len(items)),
            "length": (float(sum(lengths)), len(items)),
            "finished": (float(sum(c.finished for _, c in items)), len(items)),
            "zero_variance": (float((~useful_P).sum()), len(useful_P)),
            "tokens": (float(sum(len(p) for (p, _), _ in items) + sum(lengths)), 1),
        }
        # With nothing to learn one row stays, with advantage 0, so that every rank runs the same passes.
        chosen = keep or [0]
        rows = pad_rows(
            [(items[i][0][0] + items[i][1].ids, len(items[i][0][0])) for i in chosen], self.pad_id
        )
        if not keep:
            rows.answer.zero_()
        micro = Rollout(rows, advantage_R[chosen] if keep else torch.zeros(1), metrics=metrics)
        self._score(micro)
        return micro

    def reward(self, row: dict, completion: Completion) -> tuple[float, bool]:
        """(reward, correct): 1 for a right answer, and format_reward for ending by itself with a readable one."""
        ids = completion.ids[:-1] if completion.finished else completion.ids
        text = self.tokenizer.decode(ids, skip_special_tokens=False)
        verdict = verify(row, text, self.rivals.get(row.get("kind", ""), ()))
        formed = completion.finished and verdict.readable
        return float(verdict.correct) + self.stage.format_reward * formed, verdict.correct

    @torch.no_grad()
    def _score(self, micro: Rollout) -> None:
        rows = micro.rows.to(self.world.device)
        with evaluating(self.model, self.stage, self.world):
            if self.stage.updates_per_rollout > 1:
                micro.old = score_answers(self.model, rows, self.stage.temperature).logprob
            if self.reference is not None:
                micro.reference = score_answers(
                    self.reference, rows, self.stage.temperature
                ).logprob

    def _file(self, number: int) -> Path:
        return (
            self.folder
            / f"rollout-{number:06d}-rank{self.world.rank}of{self.world.size}.safetensors"
        )

    def _keep(self, number: int) -> None:
        """Write the rollout for a resume between its updates; drop files that no kept checkpoint can need."""
        from safetensors.torch import save

        tensors, metrics = {}, []
        for i, micro in enumerate(self._held[1]):
            parts = {
                "input_ids": micro.rows.input_ids,
                "answer": micro.rows.answer,
                "advantage": micro.advantage,
                "old": micro.old,
                "reference": micro.reference,
            }
            tensors |= {f"{i}.{k}": v.cpu().contiguous() for k, v in parts.items() if v is not None}
            metrics.append(micro.metrics)
        atomic_write(self._file(number), save(tensors, metadata={"metrics": json.dumps(metrics)}))
        stage = self.stage
        span = (
            math.ceil(
                stage.checkpoint_every * (stage.keep_checkpoints + 1) / stage.updates_per_rollout
            )
            + 1
        )
        stale = self._file(number - span)
        if stage.checkpoint_every and stale.exists():
            stale.unlink()

    def _recall(self, number: int) -> list[Rollout]:
        from safetensors import safe_open

        path = self._file(number)
        if not path.is_file():
            raise UserError(
                f"cannot resume inside a rollout: {path} is missing; remove the newest checkpoint, "
                "or resume with as many ranks as before"
            )
        device = self.world.device
        with safe_open(path, "pt") as file:
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
            metrics = json.loads(file.metadata()["metrics"])
        micros = []
        for i, measured in enumerate(metrics):
            part = {k.partition(".")[2]: v for k, v in tensors.items() if k.startswith(f"{i}.")}
            old, reference = (
                part[k].to(device) if k in part else None for k in ("old", "reference")
            )
            micros.append(
                Rollout(
                    AnswerRows(part["input_ids"], part["answer"]),
                    part["advantage"],
                    old,
                    reference,
                    {k: tuple(v) for k, v in measured.items()},
                )
            )
        return micros


def policy_loss(
    logprob: torch.Tensor,
    old: torch.Tensor,
    advantage: torch.Tensor,
    clip_low: float,
    clip_high: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clipped surrogate loss per token and whether the clip is what counts; all shapes (R, K) or broadcastable."""
    ratio = (logprob - old).exp()
    plain, clipped = ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage
    return -torch.minimum(plain, clipped), clipped < plain


def low_variance_kl(logprob: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Estimate of KL(policy || reference) per token [nats], never negative (Schulman 2020, k3)."""
    difference = reference - logprob
    return difference.exp() - difference - 1


class Loss:
    """loss_fn of the loop: sum over completion tokens, their number, metrics as (sum, weight)."""

    def __init__(self, stage: GRPOConfig):
        self.stage = stage

    def __call__(self, model, micro: Rollout):
        stage, device = self.stage, device_of(model)
        scores: Scores = score_answers(
            model, micro.rows.to(device), stage.temperature, with_entropy=True
        )
        on, count = scores.answer, int(scores.answer.sum())
        old = scores.logprob.detach() if micro.old is None else micro.old
        loss, clipped = policy_loss(
            scores.logprob,
            old,
            micro.advantage.to(device)[:, None],
            stage.clip_low,
            stage.clip_high,
        )
        metrics = {
            **micro.metrics,
            "entropy": (scores.entropy.sum().item(), count),
            "clipped": ((clipped & on).sum().item(), count),
        }
        if micro.reference is not None:
            kl = low_variance_kl(scores.logprob, micro.reference)
            loss = loss + stage.kl_beta * kl
            metrics["kl"] = ((kl.detach() * on).sum().item(), count)
        return (loss * on).sum(), count, metrics
