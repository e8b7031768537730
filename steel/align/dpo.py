"""Direct preference optimisation: prefer the chosen answer over the rejected one, measured against a reference.

loss = -log sigmoid(beta * margin), margin = [log pi(chosen) - log ref(chosen)] - [log pi(rejected) - log ref(rejected)]
(Rafailov et al. 2023, eq. 7). The reference is the model before this stage; its log-probabilities never change, so they
are computed once and kept in the run folder: no second model in memory while training.

Shapes: P pairs, R = 2P rows (all chosen, then all rejected), T tokens, K scored positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from ..config import Config, UserError
from ..machine import progress
from ..model.folder import stop_ids
from ..runlog import atomic_write
from ..train.build import evaluating, prepare
from ..train.loop import Stage
from ..train.parallel import World, join_world
from ..train.run_folder import RunFolder
from .logprobs import AnswerRows, encode_answer, pad_rows, score_answers
from .rows import check_preference, count_by, read_rows
from .stage import Shuffled, device_of, digest_of, open_student, split, train, with_steps

Row = tuple[list[int], int]  # token ids of prompt + answer, and where the answer starts


@dataclass
class Pairs:
    """Tokenised preference pairs: chosen[i] and rejected[i] answer the same prompt."""

    chosen: list[Row]
    rejected: list[Row]
    pad_id: int = 0

    def __len__(self) -> int:
        return len(self.chosen)

    def rows(self, indices: list[int]) -> AnswerRows:
        """All chosen rows of these pairs, then all rejected ones."""
        return pad_rows(
            [self.chosen[i] for i in indices] + [self.rejected[i] for i in indices], self.pad_id
        )


@dataclass
class PairBatch:
    """One micro-batch: rows of P pairs and the reference's log-probabilities of their answers (R,)."""

    rows: AnswerRows
    reference: torch.Tensor


def run(
    cfg: Config, model_folder: Path | str, data, run_dir: Path | str, *, resume: str = "auto"
) -> Path:
    """Train on preference rows {"messages": [prompt turns], "chosen", "rejected", "kind", "lang"}.

    The stage is `cfg.dpo`; returns the Hugging Face folder of the result.
    """
    stage, run_folder, world = cfg.dpo, RunFolder(run_dir), join_world()
    check_settings(stage)
    rows = read_rows(data, check_preference, "preference pairs")
    model, tokenizer = open_student(model_folder, "DPO")
    pairs, long = encode_pairs(tokenizer, rows.rows, stage.sequence_length)
    stage = with_steps(stage, len(pairs))
    counts = {
        **rows.report(),
        "long": long,
        "pairs": len(pairs),
        "kinds": count_by(rows.rows, "kind"),
        "langs": count_by(rows.rows, "lang"),
        "sha256": rows.digest,
    }
    key = digest_of(model_folder, rows.digest, stage.sequence_length)
    model.to(world.device)
    cache, micro = run_folder.path / "reference.safetensors", stage.micro_batch_size
    with evaluating(model, stage, world):
        reference = reference_logprobs(model, pairs, cache, key, world, micro)
    prepare(model, stage, world, stage.sequence_length, False)
    batch_fn = batches(pairs, reference, stage, cfg.seed, world)
    whole = Stage("DPO", stage, model, batch_fn, Loss(stage), tokenizer=tokenizer)
    return train(cfg, whole, run_folder, world, counts, resume)


def check_settings(stage) -> None:
    """Refuse settings that have no meaning."""
    if stage.beta <= 0:
        raise UserError(f"dpo.beta is {stage.beta}; it must be above 0 (0.1 is usual)")
    if not 0 <= stage.label_smoothing < 0.5:
        raise UserError(f"dpo.label_smoothing is {stage.label_smoothing}; it must lie in [0, 0.5)")


def encode_pairs(tokenizer, rows: list[dict], limit: int) -> tuple[Pairs, dict[str, int]]:
    """Tokenise preference rows; a pair with a side above `limit` tokens is skipped and counted."""
    pairs, skipped = Pairs([], [], stop_ids(tokenizer)[-1]), 0
    with progress(len(rows), "encoding pairs", "pairs") as bar:
        for row in rows:
            bar.advance(1)
            chosen, rejected = (
                encode_answer(tokenizer, row["messages"], row[k]) for k in ("chosen", "rejected")
            )
            if max(len(chosen[0]), len(rejected[0])) > limit:
                skipped += 1
                continue
            pairs.chosen.append(chosen)
            pairs.rejected.append(rejected)
    if not pairs.chosen:
        raise UserError(f"every preference pair is longer than sequence_length={limit}; raise it")
    return pairs, {"skipped": skipped} if skipped else {}


@torch.no_grad()
def reference_logprobs(
    model, pairs: Pairs, cache: Path, key: str, world: World, batch: int
) -> torch.Tensor:
    """Summed answer log-probabilities (P, 2) float32 of the model as it is now: columns chosen, rejected.

    Computed once; `cache` (safetensors) is used again when its key (data, weights, length) is the same.
    """
    from safetensors import safe_open
    from safetensors.torch import save

    if cache.is_file():
        with safe_open(cache, "pt") as file:
            if (file.metadata() or {}).get("key") == key:
                return file.get_tensor("logprobs")
    was_training, device = model.training, world.device
    model.to(device).eval()
    result = torch.zeros(len(pairs), 2)
    # Pairs of like length together, so that little is padding; each rank takes a part.
    order = sorted(
        range(len(pairs)), key=lambda i: max(len(pairs.chosen[i][0]), len(pairs.rejected[i][0]))
    )
    pieces = split(order, batch)
    with progress(len(pieces), "reference log-probs", "batches") as bar:
        for piece in pieces[world.rank :: world.size]:
            total = score_answers(model, pairs.rows(piece).to(device)).logprob.sum(-1).float().cpu()
            result[piece] = total.view(2, -1).T
            bar.advance(1)
    model.train(was_training)
    if world.size > 1:
        result = result.to(device)
        torch.distributed.all_reduce(result)
        result = result.cpu()
    if world.is_main:
        atomic_write(cache, save({"logprobs": result}, metadata={"key": key}))
    world.barrier()
    return result


def batches(pairs: Pairs, reference: torch.Tensor, stage, seed: int, world: World):
    """batch_fn of the loop: this rank's pairs at a step, a pure function of (data, seed, step)."""
    stream = Shuffled(len(pairs), seed, salt=0xD90)

    def batch_fn(step: int) -> list[PairBatch]:
        mine = stream.take(step, stage.batch_size, world.rank, world.size)
        return [
            PairBatch(pairs.rows(i), reference[i].T.flatten())
            for i in split(mine, stage.micro_batch_size)
        ]

    return batch_fn


def preference_loss(
    margin_P: torch.Tensor, beta: float, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Loss per pair from the margin of log-ratios [nats]; with smoothing, the conservative form of Mitchell (2023)."""
    return -(1 - label_smoothing) * F.logsigmoid(beta * margin_P) - label_smoothing * F.logsigmoid(
        -beta * margin_P
    )


class Loss:
    """loss_fn of the loop: sum over pairs, number of pairs, metrics as (sum, weight)."""

    def __init__(self, stage):
        self.stage = stage

    def __call__(self, model, micro: PairBatch):
        stage, device = self.stage, device_of(model)
        scores = score_answers(model, micro.rows.to(device))
        policy_R, reference_R = scores.logprob.sum(-1), micro.reference.to(device)
        if stage.length_normalised:
            length_R = scores.answer.sum(-1)
            policy_R, reference_R = policy_R / length_R, reference_R / length_R
        chosen_P, rejected_P = (policy_R - reference_R).chunk(2)
        margin_P = chosen_P - rejected_P
        loss_P = preference_loss(margin_P, stage.beta, stage.label_smoothing)
        with torch.no_grad():
            metrics = {
                "margin": stage.beta * margin_P,
                "accuracy": (margin_P > 0).float(),
                "reward_chosen": stage.beta * chosen_P,
                "reward_rejected": stage.beta * rejected_P,
            }
            metrics = {name: (value.sum().item(), len(value)) for name, value in metrics.items()}
            metrics["tokens"] = (micro.rows.input_ids.numel(), 1)
        return loss_P.sum(), len(loss_P), metrics
