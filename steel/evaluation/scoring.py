"""The two questions that every evaluation asks a model: how likely is this continuation, and what
would you say next?

Both are batched without ever changing an answer. Continuations are scored on right-padded rows: in
a causal model nothing to the right can matter, and the others get the attention mask. Greedy
decoding batches prompts of equal length, so that a batch costs one forward per new token and a
model that mixes a whole row can be asked too.

Shapes: B rows of a batch, T padded length, K kept positions, N scored tokens, V vocabulary.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from ..machine import progress
from ..model.decoding import Sampling, generate


def context_length(model: torch.nn.Module) -> int | None:
    """Longest sequence the model promises to handle [tokens], None if it promises nothing."""
    return getattr(model.config, "max_position_embeddings", None)


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
    inputs, scores = sorted(wanted, key=len), [0.0] * len(pairs)
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
    """Scores of a batch of (row, prefix, continuation); `rows` hold both and ascend in length."""
    device, longest = next(model.parameters()).device, len(rows[-1])
    # Keep only the logits from the first scored position on: a small model's largest matrix.
    first = min(len(prefix) - 1 for _, prefix, _ in batch)
    mask_BT = None
    if len(rows[0]) < longest:
        mask_BT = pad_sequence([torch.ones(len(ids), dtype=torch.int64) for ids in rows], True)
        mask_BT = mask_BT.to(device)
    ids_BT = pad_sequence([torch.tensor(ids) for ids in rows], batch_first=True).to(device)
    keep = longest - first
    output = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False, logits_to_keep=keep)
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
    batch_size: int = 128,
    title: str = "answering",
) -> list[list[int]]:
    """Most likely next tokens of each prompt until a stop token (not returned) or the limit.

    `allowed` says, from a prompt's place and its new tokens so far, which may follow; None: all.
    """

    def length(i: int) -> int:
        return len(prompts[i])

    sampling = Sampling(max_new_tokens=max_new_tokens)
    answers: list[list[int]] = [[] for _ in prompts]
    with progress(len(prompts), title, "answers") as bar:
        for _, alike in itertools.groupby(sorted(range(len(prompts)), key=length), key=length):
            while some := list(itertools.islice(alike, batch_size)):
                rule = allowed and (lambda row, new, some=some: allowed(some[row], new))
                rows = [prompts[i] for i in some]
                replies = generate(model, rows, stop_ids, sampling, allowed=rule)
                for i, reply in zip(some, replies, strict=True):
                    answers[i] = reply.ids[:-1] if reply.finished else reply.ids
                bar.advance(len(some))
    return answers
