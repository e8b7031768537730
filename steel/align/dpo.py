"""Direct preference optimisation: prefer the chosen answer, measured against a reference model.

loss = -log sigmoid(beta * margin),
margin = [log pi(chosen) - log ref(chosen)] - [log pi(rejected) - log ref(rejected)]

(Rafailov et al. 2023, eq. 7). The reference is the model before this stage; its log-probabilities
never change, so they are computed once and kept in the run folder: no second model in memory.

Shapes: P pairs, R = 2P rows (all chosen, then all rejected), T tokens, K scored positions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from ..config import Config, DPOConfig, UserError
from ..data.order import Stream
from ..machine import progress
from ..runlog import atomic_write
from ..train.build import evaluating
from .logprobs import AnswerRows, Row, encode_answer, pad_rows, score_answers
from .stage import Job, device_of, split


@dataclass
class Pairs:
    """Tokenised preference pairs: chosen[i] and rejected[i] answer the prompt of rows[i]."""

    rows: list[dict]
    chosen: list[Row]
    rejected: list[Row]
    pad_id: int = 0

    def __len__(self) -> int:
        return len(self.chosen)

    def length(self, i: int) -> int:
        """Tokens of the longer side."""
        return max(len(self.chosen[i][0]), len(self.rejected[i][0]))

    def batch(self, indices: list[int]) -> AnswerRows:
        """All chosen rows of these pairs, then all rejected ones."""
        both = [side[i] for side in (self.chosen, self.rejected) for i in indices]
        return pad_rows(both, self.pad_id)


@dataclass
class PairBatch:
    """One micro-batch: rows of P pairs, and what the reference thinks of their answers."""

    rows: AnswerRows
    reference: torch.Tensor  # (R,) summed log-probabilities [nats]


def run(
    cfg: Config, model_folder: Path | str, data, run_dir: Path | str, *, resume: str = "auto"
) -> Path:
    """Train on preference rows {"messages": [prompt turns], "chosen", "rejected", "kind", "lang"}.

    Settings are `cfg.dpo`. Returns the Hugging Face folder of the result.
    """
    job = Job.open(cfg, "dpo", model_folder, data, run_dir)
    settings, length = job.settings, job.settings.sequence_length
    pairs, long = encode_pairs(job, length)
    job.set_steps(len(pairs))
    key = digest_of(model_folder, job.rows.digest, length)
    reference_P2 = reference_logprobs(job, pairs, key)
    stream = Stream("dpo", cfg.seed, len(pairs))

    def batch_fn(step: int) -> list[PairBatch]:
        pieces = split(job.take(stream, step), settings.micro_batch_size)
        return [PairBatch(pairs.batch(i), reference_P2[i].T.flatten()) for i in pieces]

    counts = {"long": long, "pairs": len(pairs)}
    return job.train(batch_fn, Loss(settings), counts, length, resume=resume)


def encode_pairs(job: Job, limit: int) -> tuple[Pairs, dict[str, int]]:
    """Tokenise preference rows; a pair with a side above `limit` tokens is skipped and counted."""
    pairs, skipped = Pairs([], [], [], job.pad_id), 0
    with progress(len(job.rows.rows), "encoding pairs", "pairs") as bar:
        for row in job.rows.rows:
            bar.advance(1)
            sides = (row["chosen"], row["rejected"])
            chosen, rejected = (encode_answer(job.tokenizer, row["messages"], s) for s in sides)
            if max(len(chosen[0]), len(rejected[0])) > limit:
                skipped += 1
                continue
            pairs.rows.append(row)
            pairs.chosen.append(chosen)
            pairs.rejected.append(rejected)
    if not pairs.rows:
        raise UserError(f"every preference pair is longer than sequence_length={limit}; raise it")
    return pairs, {"skipped": skipped} if skipped else {}


def digest_of(folder: Path | str, *more: object) -> str:
    """sha256 over weights and tokenizer of a model folder and the repr of anything else."""
    digest = hashlib.sha256(repr(more).encode())
    for path in sorted(Path(folder).iterdir()):
        if path.suffix in (".safetensors", ".json", ".bin"):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def reference_logprobs(job: Job, pairs: Pairs, key: str) -> torch.Tensor:
    """Summed answer log-probabilities (P, 2) float32 of the model as it is now: chosen, rejected.

    Computed once; kept in the run folder and used again while `key` (data, weights, length) holds.
    """
    from safetensors import safe_open
    from safetensors.torch import save

    cache, world = job.run.path / "reference.safetensors", job.world
    if cache.is_file():
        with safe_open(cache, "pt") as file:
            if (file.metadata() or {}).get("key") == key:
                return file.get_tensor("logprobs")
    result_P2 = torch.zeros(len(pairs), 2, device=world.device)
    # Pairs of like length together, so that little is padding; each rank takes a part.
    pieces = split(sorted(range(len(pairs)), key=pairs.length), job.settings.micro_batch_size)
    with (
        evaluating(job.model, job.settings, world),
        progress(len(pieces), "reference log-probs", "batches") as bar,
    ):
        for piece in pieces[world.rank :: world.size]:
            scores = score_answers(job.model, pairs.batch(piece).to(world.device))
            result_P2[piece] = scores.logprob.sum(-1).float().view(2, -1).T
            bar.advance(1)
    if world.size > 1:
        torch.distributed.all_reduce(result_P2)
    result_P2 = result_P2.cpu()
    with world.together():
        if world.is_main:
            atomic_write(cache, save({"logprobs": result_P2}, metadata={"key": key}))
    return result_P2


def preference_loss(
    margin_P: torch.Tensor, beta: float, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Loss per pair from the margin of log-ratios [nats]; smoothed as Mitchell (2023) does."""
    right, wrong = F.logsigmoid(beta * margin_P), F.logsigmoid(-beta * margin_P)
    return -(1 - label_smoothing) * right - label_smoothing * wrong


@dataclass
class Loss:
    """loss_fn of the loop: sum over pairs [nats], number of pairs, metrics as (sum, weight)."""

    settings: DPOConfig

    def __call__(self, model, micro: PairBatch):
        settings, device = self.settings, device_of(model)
        scores = score_answers(model, micro.rows.to(device))
        gain_R = scores.logprob.sum(-1) - micro.reference.to(device)
        if settings.length_normalised:
            gain_R = gain_R / scores.answer.sum(-1)
        chosen_P, rejected_P = gain_R.chunk(2)
        margin_P = chosen_P - rejected_P
        loss_P = preference_loss(margin_P, settings.beta, settings.label_smoothing)
        measured = {
            "margin": settings.beta * margin_P,
            "accuracy": margin_P > 0,
            "reward_chosen": settings.beta * chosen_P,
            "reward_rejected": settings.beta * rejected_P,
        }
        pairs = len(loss_P)
        metrics = {name: (value.detach().sum(), pairs) for name, value in measured.items()}
        metrics["tokens"] = (micro.rows.input_ids.numel(), 1)
        return loss_P.sum(), pairs, metrics
