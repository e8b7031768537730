"""Direct preference optimisation: prefer the chosen answer, measured against a reference model.

loss = -log sigmoid(beta * margin),
margin = [log pi(chosen) - log ref(chosen)] - [log pi(rejected) - log ref(rejected)]

(Rafailov et al. 2023, eq. 7), and, with `nll_weight`, the chosen answer's loss per token (Pang et
al. 2024, eq. 1). The reference is the model before this stage; its log-probabilities never change,
so they are computed once and kept in the run folder: no second model in memory. Pairs of the model's
own right and wrong answers come from `align.samples`.

Shapes: P pairs, R = 2P rows (all chosen, then all rejected), T tokens, K scored positions.
"""

import contextlib
import hashlib
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ..config import DPOConfig
from ..data.order import Stream
from ..machine import progress
from ..runlog import atomic_write
from ..train.build import evaluating
from ..train.loop import Stage
from .logprobs import AnswerRows, Row, encode_answer, pad_rows, score_answers
from .stage import Job, split


class Pair(NamedTuple):
    """A tokenised preference pair, and the row that it comes from."""

    chosen: Row
    rejected: Row
    row: dict


def stage(job: Job, pairs: list[Pair] | None = None) -> Stage:
    """Train on rows {"messages": [prompt turns], "chosen", "rejected", "kind", "lang"}: `cfg.dpo`.

    pairs: in place of the rows, when they are tokens already.
    """
    device, settings = job.world.device, job.settings
    pairs = encode_pairs(job) if pairs is None else pairs
    job.set_steps(len(pairs))
    reference_P2 = reference_logprobs(job, pairs)
    stream = Stream("dpo", job.cfg.seed, len(pairs))

    def batch_fn(step: int) -> list[tuple[AnswerRows, torch.Tensor]]:
        return [
            (pair_rows(pairs, some, job.pad_id).to(device), reference_P2[some].T.flatten())
            for some in job.take(stream, step)
        ]

    counts = {"pairs": len(pairs), "right_before": right_before(reference_P2)}
    return job.stage(batch_fn, partial(loss, settings), settings.sequence_length, counts)


def encode_pairs(job: Job) -> list[Pair]:
    """Tokenised pairs; one with a side above `sequence_length` is skipped and counted."""
    limit = job.settings.sequence_length

    def encode(row: dict) -> tuple[Pair | None, str]:
        answers = (row["chosen"], row["rejected"])
        sides = [encode_answer(job.tokenizer, row["messages"], answer) for answer in answers]
        fits = all(len(ids) <= limit for ids, _ in sides)
        return (Pair(*sides, row), "") if fits else (None, "skipped")

    return job.encode(encode, f"sequence_length={limit}")


def pair_rows(pairs: Sequence[Pair], some: Sequence[int], pad_id: int = 0) -> AnswerRows:
    """All chosen rows of some pairs, then all rejected ones."""
    chosen = [pairs[i].chosen for i in some]
    return pad_rows(chosen + [pairs[i].rejected for i in some], pad_id)


def reference_logprobs(job: Job, pairs: Sequence[Pair]) -> torch.Tensor:
    """Summed answer log-probabilities (P, 2) float32 of the model as it is now: chosen, rejected.

    Computed once; kept in the run folder, and used again with the same rows and model folder.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save

    cache, world, key = job.run.path / "reference.safetensors", job.world, _key(job)
    # There may be none yet, or a damaged one.
    with contextlib.suppress(OSError, SafetensorError), safe_open(cache, "pt") as file:
        if (file.metadata() or {}).get("key") == key:
            return file.get_tensor("logprobs").to(world.device)
    result_P2 = torch.zeros(len(pairs), 2, device=world.device)
    # Pairs of like length together, so that little is padding; each rank takes a part.
    by_length = sorted(range(len(pairs)), key=lambda i: max(len(side[0]) for side in pairs[i][:2]))
    pieces = split(by_length, job.settings.micro_batch_size)
    with (
        evaluating(job.model, job.settings, world),
        progress(len(pieces), "reference log-probs", "batches") as bar,
    ):
        for piece in pieces[world.rank :: world.size]:
            rows = pair_rows(pairs, piece, job.pad_id).to(world.device)
            result_P2[piece] = score_answers(job.model, rows).logprob.sum(-1).float().view(2, -1).T
            bar.advance(1)
    if world.size > 1:
        torch.distributed.all_reduce(result_P2)
    with world.together():
        if world.is_main:
            atomic_write(cache, save({"logprobs": result_P2.cpu()}, metadata={"key": key}))
    return result_P2


def right_before(reference_P2: torch.Tensor) -> float:
    """Share of pairs whose chosen answer is the likelier one under the reference, summed over its tokens.

    The log's first `accuracy` cannot tell it: there every margin is 0, up to rounding.
    """
    chosen_P, rejected_P = reference_P2.unbind(-1)
    return round((chosen_P > rejected_P).float().mean().item(), 4)


def _key(job: Job) -> str:
    """sha256 of what reference log-probabilities depend on: rows, length, precision, model, tokenizer."""
    given = (job.facts["sha256"], job.settings.sequence_length, job.settings.precision)
    digest = hashlib.sha256(repr(given).encode())
    for path in sorted(job.source.iterdir()):
        if path.suffix in (".safetensors", ".json", ".bin"):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def preference_loss(
    margin_P: torch.Tensor, beta: float, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Loss per pair from the margin of log-ratios [nats]; smoothed as Mitchell (2023) does."""
    right, wrong = F.logsigmoid(beta * margin_P), F.logsigmoid(-beta * margin_P)
    return -(1 - label_smoothing) * right - label_smoothing * wrong


def loss(settings: DPOConfig, model, micro: tuple[AnswerRows, torch.Tensor]):
    """loss_fn of the loop: sum over pairs [nats], number of pairs, metrics as (sum, weight).

    micro: rows of P pairs, and the reference's log-probabilities (R,) of their answers [nats].
    """
    rows, reference_R = micro
    scores = score_answers(model, rows)
    logprob_R, length_R = scores.logprob.sum(-1), scores.answer.sum(-1)
    gain_R = logprob_R - reference_R
    if settings.length_normalised:
        gain_R = gain_R / length_R
    chosen_P, rejected_P = gain_R.chunk(2)
    margin_P = chosen_P - rejected_P
    nll_P = -(logprob_R / length_R).chunk(2)[0]
    loss_P = preference_loss(margin_P, settings.beta, settings.label_smoothing)
    loss_P = loss_P + settings.nll_weight * nll_P
    logprobs = logprob_R.chunk(2)
    measured = {
        "logprob_chosen": logprobs[0],
        "logprob_rejected": logprobs[1],
        "nll": nll_P,
        "margin": settings.beta * margin_P,
        "accuracy": margin_P > 0,
        "reward_chosen": settings.beta * chosen_P,
        "reward_rejected": settings.beta * rejected_P,
    }
    pairs = len(loss_P)
    metrics = {name: (value.detach().sum(), pairs) for name, value in measured.items()}
    return loss_P.sum(), pairs, {**metrics, "tokens": (rows.input_ids.numel(), 1)}
