"""The two questions that every evaluation asks a model: how likely is this continuation, and what
would you say next?

Both are batched without ever changing an answer. Continuations are scored on right-padded rows: in
a causal model nothing to the right can matter, and the others get the attention mask. Greedy
decoding batches prompts of equal length, so that a batch costs one forward per new token and a
model that mixes a whole row can be asked too.

Shapes: B rows of a batch, T padded length, K kept positions, N scored tokens, V vocabulary.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence

import torch

from ..machine import progress
from ..model.decoding import Sampling, generate


def context_length(model: torch.nn.Module) -> int | None:
    """Longest sequence the model promises to handle [tokens], None if it promises nothing."""
    return getattr(getattr(model, "config", None), "max_position_embeddings", None)


@torch.no_grad()  # not inference_mode: a table that the model caches here must serve training too
def score_continuations(
    model: torch.nn.Module,
    pairs: Sequence[tuple[list[int], list[int]]],
    *,
    batch_size: int = 128,
    closers: Sequence[int] = (),
    title: str = "scoring",
) -> list[float]:
    """log p(continuation | prefix) [nats] for pairs (prefix ids, continuation ids), neither empty.

    `closers` are token ids, one of which has to follow the continuation; log Σ p(closer) is added.
    Equal model inputs are computed once: all single-token answers to one question (the letters A
    to D) cost one row. `batch_size` counts rows; `title` stands before the progress bar.
    """
    wanted: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, (prefix, continuation) in enumerate(pairs):
        assert prefix and continuation, "an empty prefix or continuation has no probability"
        # the last token is scored by the position before it; only a closer needs its own position
        read = continuation if closers else continuation[:-1]
        wanted[(*prefix, *read)].append(i)
    inputs = sorted(wanted, key=len)
    scores = [0.0] * len(pairs)
    was_training = model.training
    model.eval()
    try:
        with progress(len(pairs), title, "answers") as bar:
            for first in range(0, len(inputs), batch_size):
                rows = inputs[first : first + batch_size]
                items = [(row, i) for row, ids in enumerate(rows) for i in wanted[ids]]
                batch = [(row, *pairs[i]) for row, i in items]
                for (_, i), score in zip(items, _score_rows(model, rows, batch, closers)):
                    scores[i] = score
                bar.advance(len(items))
    finally:
        model.train(was_training)
    return scores


def _score_rows(model, rows, batch: list[tuple], closers: Sequence[int]) -> list[float]:
    """Scores of a batch of (row, prefix, continuation), where the row holds both."""
    # Keep only the logits from the first scored position on: a small model's largest matrix.
    longest, first = len(rows[-1]), min(len(prefix) - 1 for _, prefix, _ in batch)
    logits_BKV = _logits(model, rows, keep=longest - first)
    row_N, column_N, target_N, sizes = [], [], [], []
    for row, prefix, continuation in batch:
        start, size = len(prefix) - 1 - first, len(continuation)
        row_N += [row] * size
        column_N += range(start, start + size)
        target_N += continuation
        sizes.append(size)
    log_p_NV = logits_BKV[row_N, column_N].float().log_softmax(-1)
    target_N = torch.tensor(target_N, device=log_p_NV.device)
    log_p_N = log_p_NV.gather(1, target_N[:, None])[:, 0].double().cpu()
    sums = [part.sum().item() for part in log_p_N.split(sizes)]
    if not closers:
        return sums
    last = [len(rows[row]) - 1 - first for row, _, _ in batch]
    log_p_NV = logits_BKV[[row for row, _, _ in batch], last].float().log_softmax(-1)
    ends = log_p_NV[:, list(closers)].logsumexp(-1).double().tolist()
    return [a + b for a, b in zip(sums, ends)]


def _logits(model: torch.nn.Module, rows: Sequence[Sequence[int]], keep: int) -> torch.Tensor:
    """Logits (B, K, V) of the last `keep` columns of right-padded rows; rubbish at the padding."""
    longest = max(map(len, rows))
    device = next(model.parameters()).device
    ids_BT = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in rows], device=device)
    mask_BT = None
    if any(len(ids) < longest for ids in rows):
        real = [[1] * len(ids) + [0] * (longest - len(ids)) for ids in rows]
        mask_BT = torch.tensor(real, device=device)
    output = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False, logits_to_keep=keep)
    return output.logits[:, -keep:]


def greedy(
    model: torch.nn.Module,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    stop_ids: Sequence[int],
    *,
    spell: tuple[Speller, Sequence[str]] | None = None,
    batch_size: int = 128,
    title: str = "answering",
) -> list[list[int]]:
    """Most likely next tokens of each prompt until a stop token (not returned) or the limit.

    `spell` gives, per prompt, characters that the new tokens have to spell out first.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        by_length[len(prompt)].append(i)
    sampling, stops = Sampling(max_new_tokens=max_new_tokens), set(stop_ids)
    answers: list[list[int]] = [[] for _ in prompts]
    with progress(len(prompts), title, "answers") as bar:
        for _, same in sorted(by_length.items()):
            for at in range(0, len(same), batch_size):
                chosen = same[at : at + batch_size]
                allowed = None
                if spell:
                    speller, rests = spell[0], [spell[1][i] for i in chosen]
                    allowed = functools.partial(speller.allowed, rests)
                rows = [prompts[i] for i in chosen]
                replies = generate(model, rows, stops, sampling, allowed=allowed)
                for i, reply in zip(chosen, replies):
                    answers[i] = reply.ids[:-1] if reply.finished else reply.ids
                bar.advance(len(chosen))
    return answers


class Speller:
    """Which tokens may come next while given characters still have to be spelled.

    A prompt that stops inside a sentence may stop inside a token: where the training text has one
    token for "住在云", a prompt that ends in the token "住在" is something the model has never seen
    before "云". So the last tokens of the prompt are taken back, and the model spells them again in
    tokens of its choice, which may run on. `pieces` are the vocabulary's token strings.
    """

    def __init__(self, pieces: Sequence[str]):
        self.pieces = pieces
        self._fitting: dict[str, list[int]] = {}

    def allowed(self, rests: Sequence[str], row: int, new: Sequence[int]) -> list[int] | None:
        """Ids that may follow the `new` ids of a row that has to spell rests[row]; None: all."""
        rest = rests[row]
        for token in new:
            rest = rest[len(self.pieces[token]) :]
        if not rest:
            return None
        if rest not in self._fitting:  # tokens that begin with the rest, or with which it begins
            self._fitting[rest] = [
                i
                for i, piece in enumerate(self.pieces)
                if piece and (piece.startswith(rest) or rest.startswith(piece))
            ]
        return self._fitting[rest]
