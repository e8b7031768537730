"""The two questions that every evaluation asks a model: how likely is this continuation, and what
would you say next?

Both are batched without ever changing an answer. Continuations are scored on right-padded rows: in
a causal model nothing to the right can matter, and the others get the attention mask. Rows are
sorted by length, and what the rows of a batch begin with (worked examples) is computed once. Greedy
decoding batches prompts of about one length, of exactly one for a model that mixes a whole row.

Shapes: B rows of a batch, T padded length, K kept positions, N scored tokens, V vocabulary.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from ..machine import progress
from ..model.decoding import CACHE, SHARED, Sampling, generate, shared_prefix

SPREAD = 32
"""Longest and shortest prompt of a batch that is decoded in lockstep differ by as much [tokens]."""
_MANY = 8
"""Rows with one beginning, from which on it pays to batch them apart from the others."""


def context_length(model: torch.nn.Module) -> int | None:
    """Longest sequence the model promises to handle [tokens], None if it promises nothing."""
    return getattr(model.config, "max_position_embeddings", None)


def in_order(rows: Sequence[Sequence[int]]) -> list[int]:
    """Places of rows by length; those that share a long beginning with many stand together."""
    heads = Counter(tuple(row[:SHARED]) for row in rows if len(row) > SHARED)

    def key(i: int):
        head = tuple(rows[i][:SHARED])
        return (head if heads[head] >= _MANY else (), len(rows[i]))

    return sorted(range(len(rows)), key=key)


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
        wanted[(*prefix, *(continuation if closers else continuation[:-1]))].append(i)
    inputs, scores = list(wanted), [0.0] * len(pairs)
    inputs = [inputs[i] for i in in_order(inputs)]
    was_training = model.training
    model.eval()
    try:
        with progress(len(inputs), title, "rows") as bar:
            for at in range(0, len(inputs), batch_size):
                rows = inputs[at : at + batch_size]
                items = [(row, i) for row, ids in enumerate(rows) for i in wanted[ids]]
                found = _score_rows(model, rows, [(row, *pairs[i]) for row, i in items], closers)
                for (_, i), score in zip(items, found, strict=True):
                    scores[i] = score
                bar.advance(len(rows))
    finally:
        model.train(was_training)
    return scores


def _score_rows(
    model, rows: Sequence[tuple], batch: list[tuple[int, list, list]], closers: Sequence[int]
) -> list[float]:
    """Scores of a batch of (row, prefix, continuation); `rows` hold both."""
    device, longest = next(model.parameters()).device, max(map(len, rows))
    # Keep only the logits from the first scored position on: a small model's largest matrix.
    first = min(len(prefix) - 1 for _, prefix, _ in batch)
    size, cache = shared_prefix(model, [row[: first + 1] for row in rows])
    mask_BT = None
    if min(map(len, rows)) < longest:
        mask_BT = pad_sequence([torch.ones(len(ids), dtype=torch.int64) for ids in rows], True)
        mask_BT = mask_BT.to(device)
    ids_BT = pad_sequence([torch.tensor(ids[size:]) for ids in rows], batch_first=True).to(device)
    keep, past = longest - first, {CACHE: cache} if size else {}
    output = model(
        input_ids=ids_BT, attention_mask=mask_BT, use_cache=bool(size), logits_to_keep=keep, **past
    )
    logits_BKV = output.logits[:, -keep:]
    places = [
        (row, len(prefix) - 1 - first + n, token)
        for row, prefix, continuation in batch
        for n, token in enumerate(continuation)
    ]
    row_N, column_N, target_N = torch.tensor(places, device=device).T
    log_p_NV = logits_BKV[row_N, column_N].float().log_softmax(-1)
    log_p_N = log_p_NV.gather(1, target_N[:, None])[:, 0].double().cpu()
    sums = [part.sum() for part in log_p_N.split([len(continuation) for *_, continuation in batch])]
    scores = torch.stack(sums)
    if closers:
        row_N = [row for row, _, _ in batch]
        last = [len(rows[row]) - 1 - first for row in row_N]
        log_p_NV = logits_BKV[row_N, last].float().log_softmax(-1)
        scores += log_p_NV[:, list(closers)].logsumexp(-1).double().cpu()
    return scores.tolist()


def greedy(
    model: torch.nn.Module,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    stop_ids: Collection[int],
    *,
    allowed: Callable[[int, list[int]], list[int] | None] | None = None,
    ended: Callable[[list[int]], bool] | None = None,
    batch_size: int = 128,
    title: str = "answering",
) -> list[list[int]]:
    """Most likely next tokens of each prompt until a stop token (not returned) or the limit.

    `allowed` says, from a prompt's place and its new tokens so far, which may follow; None: all.
    `ended` says from the new tokens alone that they are enough.
    """
    spread = SPREAD if getattr(model, "is_causal", True) else 0
    sampling = Sampling(max_new_tokens=max_new_tokens)
    answers: list[list[int]] = [[] for _ in prompts]
    order, at = in_order(prompts), 0
    with progress(len(prompts), title, "answers") as bar:
        while at < len(order):
            short = len(prompts[order[at]])

            def alike(i: int, short=short) -> bool:
                return 0 <= len(prompts[i]) - short <= spread

            some = list(itertools.takewhile(alike, order[at : at + batch_size]))
            at += len(some)
            rule = allowed and (lambda row, new, some=some: allowed(some[row], new))
            rows = [prompts[i] for i in some]
            replies = generate(model, rows, stop_ids, sampling, allowed=rule, ended=ended)
            for i, reply in zip(some, replies, strict=True):
                answers[i] = reply.ids[:-1] if reply.finished else reply.ids
            bar.advance(len(some))
    return answers
