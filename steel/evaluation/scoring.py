"""The two questions that every evaluation asks a causal language model: how likely is this continuation, and what
would you say next?

Shapes: B rows of a batch, T padded length, K kept positions, N scored positions, V vocabulary.

Both functions are batched without ever changing an answer. Continuations are scored on right-padded rows: in a causal
model nothing to the right can matter, and the others get the attention mask. Greedy decoding batches prompts of equal
length, so that a batch costs one forward per new token.
"""

from __future__ import annotations

import contextlib
import functools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..model.decoding import Sampling, generate


@dataclass(frozen=True)
class Score:
    """One scored continuation."""

    log_prob: float
    """Sum of log p(token | before) over the continuation, closing token included where one was asked for [nats]."""
    greedy: bool
    """Whether every token of the continuation was the most likely one."""


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the model's own mode comes back afterwards, so a training loop may call."""
    was_training = model.training
    model.eval()
    try:
        with (
            torch.no_grad()
        ):  # not inference_mode: a table that the model caches here must stay usable in training
            yield
    finally:
        model.train(was_training)


def device_of(model: torch.nn.Module) -> torch.device:
    """Device of the first parameter; CPU for a model without any."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def context_length(model: torch.nn.Module) -> int | None:
    """Longest sequence the model promises to handle [tokens], None if it promises nothing."""
    return getattr(getattr(model, "config", None), "max_position_embeddings", None)


def score_continuations(
    model: torch.nn.Module,
    pairs: Sequence[tuple[list[int], list[int]]],
    *,
    batch_size: int = 128,
    closers: Sequence[int] = (),
    bar=None,
) -> list[Score]:
    """log p(continuation | prefix) for pairs (prefix ids, continuation ids), neither empty.

    `closers` are token ids, one of which has to follow the continuation; log Σ p(closer) is added. This keeps "13" from
    outscoring "130" for being its beginning. Equal model inputs are computed once: all single-token answers to one
    question (the letters A to D) cost one row. `bar` is a `steel.runlog.Progress`, advanced by pairs.
    """
    closer_ids = torch.tensor(list(closers), dtype=torch.long)
    wanted: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, (prefix, continuation) in enumerate(pairs):
        assert prefix and continuation, "an empty prefix or continuation has no probability"
        wanted[tuple(prefix) + tuple(continuation if closers else continuation[:-1])].append(i)
    inputs = sorted(wanted, key=len)
    scores: list[Score | None] = [None] * len(pairs)
    with evaluating(model):
        for first in range(0, len(inputs), batch_size):
            rows = inputs[first : first + batch_size]
            items = [(row, i) for row, ids in enumerate(rows) for i in wanted[ids]]
            for (_, i), score in zip(
                items, _score_rows(model, rows, items, pairs, closer_ids), strict=True
            ):
                scores[i] = score
            if bar is not None:
                bar.advance(len(items))
    return scores


def _score_rows(model, rows, items, pairs, closer_ids) -> list[Score]:
    # keep only the logits from the first scored position on: the head is the largest matrix of a small model
    starts = {i: len(pairs[i][0]) - 1 for _, i in items}
    longest, first = len(rows[-1]), min(starts.values())
    logits_BKV = forward_logits(model, rows, keep=longest - first)
    row_N, column_N, target_N = [], [], []
    for row, i in items:
        continuation = pairs[i][1]
        row_N += [row] * len(continuation)
        column_N += range(starts[i] - first, starts[i] - first + len(continuation))
        target_N += continuation
    device = logits_BKV.device
    # several items may read one position (A to D): normalise each position once
    flat = torch.tensor(row_N) * logits_BKV.shape[1] + torch.tensor(column_N)
    unique, back = flat.unique(return_inverse=True)
    log_p_UV = logits_BKV.flatten(0, 1)[unique.to(device)].float().log_softmax(-1)
    target = torch.tensor(target_N, device=device)
    log_p_N = log_p_UV[back.to(device), target].double().cpu()
    best_N = (log_p_UV.argmax(-1)[back.to(device)] == target).cpu()
    sums, results, at = log_p_N.tolist(), [], 0
    greedy = best_N.tolist()
    ends = _closing(logits_BKV, rows, items, first, closer_ids)
    for (_, i), end in zip(items, ends, strict=True):
        n = len(pairs[i][1])
        results.append(Score(sum(sums[at : at + n]) + end, all(greedy[at : at + n])))
        at += n
    return results


def _closing(logits_BKV, rows, items, first, closer_ids) -> list[float]:
    if not len(closer_ids):
        return [0.0] * len(items)
    row = torch.tensor([row for row, _ in items], device=logits_BKV.device)
    last = torch.tensor([len(rows[row]) - 1 - first for row, _ in items], device=logits_BKV.device)
    log_p_NV = logits_BKV[row, last].float().log_softmax(-1)
    return log_p_NV[:, closer_ids.to(log_p_NV.device)].logsumexp(-1).double().tolist()


def forward_logits(
    model: torch.nn.Module, rows: Sequence[Sequence[int]], keep: int
) -> torch.Tensor:
    """Logits (B, keep, V) of the last `keep` columns of the right-padded rows; padded positions hold rubbish."""
    longest = max(map(len, rows))
    ids_BT = torch.zeros(len(rows), longest, dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    for row, ids in enumerate(rows):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        mask_BT[row, : len(ids)] = 1
    device = device_of(model)
    mask = None if bool(mask_BT.all()) else mask_BT.to(device)
    output = model(
        input_ids=ids_BT.to(device), attention_mask=mask, use_cache=False, logits_to_keep=keep
    )
    return output.logits[:, -keep:]


def greedy(
    model: torch.nn.Module,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    stop_ids: Sequence[int],
    *,
    spell: tuple[Speller, Sequence[str]] | None = None,
    batch_size: int = 128,
    bar=None,
) -> list[list[int]]:
    """Most likely next tokens of each prompt, one after another, until a stop token (not returned) or the limit.

    `spell` gives, per prompt, characters that the new tokens have to spell out first (see `Speller`).
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        by_length[len(prompt)].append(i)
    sampling, stops = Sampling(max_new_tokens=max_new_tokens), set(stop_ids)
    answers: list[list[int]] = [[] for _ in prompts]
    for _, same in sorted(by_length.items()):
        for at in range(0, len(same), batch_size):
            chosen = same[at : at + batch_size]
            allowed = None
            if spell:
                speller, rests = spell[0], [spell[1][i] for i in chosen]
                allowed = functools.partial(_spelling, speller, rests)
            rows = [prompts[i] for i in chosen]
            replies = generate(model, rows, stops, sampling, allowed=allowed)
            for i, reply in zip(chosen, replies, strict=True):
                answers[i] = reply.ids[:-1] if reply.finished else reply.ids
            if bar is not None:
                bar.advance(len(chosen))
    return answers


def _spelling(speller: Speller, rests: list[str], row: int, ids: list[int]) -> list[int] | None:
    return speller.allowed(functools.reduce(speller.after, ids, rests[row]))


class Speller:
    """Which tokens may come next while given characters still have to be spelled.

    A prompt that stops inside a sentence may stop inside a token: where the training text has one token for "住在云",
    a prompt that ends in the token "住在" is something the model has never seen before "云". So the last tokens of
    the prompt are taken back, and the model spells them again in tokens of its choice, which may run on.
    `pieces` are the vocabulary's token strings.
    """

    def __init__(self, pieces: Sequence[str]):
        self.pieces = pieces
        self._allowed: dict[str, list[int]] = {}

    def allowed(self, rest: str) -> list[int] | None:
        """Ids of the tokens that begin with `rest`, or with which `rest` begins; None (all) for an empty rest."""
        if not rest:
            return None
        if rest not in self._allowed:
            self._allowed[rest] = [
                i
                for i, piece in enumerate(self.pieces)
                if piece and (piece.startswith(rest) or rest.startswith(piece))
            ]
        return self._allowed[rest]

    def after(self, rest: str, token: int) -> str:
        """What is still to be spelled after `token`."""
        return rest[len(self.pieces[token]) :] if rest else rest
