"""Batched sampling with a cache: many prompts of different lengths at once.

Rows are not padded on the left. All start at position 0 and decode in lockstep; while a row is still inside its own
prompt, the prompt's token is fed instead of a sampled one. So every row sees exactly the positions (and the segments of
a soft mixture) that it sees in training, whatever the architecture, and no attention mask is needed.

Shapes: R rows, N new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch


@dataclass
class Completion:
    """Token ids after the prompt, including the stop token if one came; `finished` says whether it did."""

    ids: list[int]
    finished: bool


def uniforms(rows: int, new_tokens: int, *seed: int) -> torch.Tensor:
    """Random numbers u_RN in [0, 1) for `sample`: a pure function of the seed integers and the shape."""
    import numpy as np  # its SeedSequence mixes several integers well; torch takes one

    generator = np.random.default_rng([int(s) & 0xFFFFFFFF for s in seed])
    return torch.from_numpy(generator.random((rows, new_tokens), dtype=np.float32))


def filter_top_p(probabilities_RV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the fewest most likely tokens whose mass reaches top_p (nucleus, Holtzman et al. 2020); not renormalised."""
    if top_p >= 1.0:
        return probabilities_RV
    ordered, index = probabilities_RV.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(ordered).scatter(-1, index, ordered.masked_fill(before >= top_p, 0.0))


def choose(
    logits_RV: torch.Tensor, u_R: torch.Tensor | None, temperature: float, top_p: float
) -> torch.Tensor:
    """Next tokens (R,): by inverse transform of u_R, or the most likely ones if u_R is None or temperature is 0."""
    if u_R is None or temperature == 0:
        return logits_RV.argmax(-1)
    probabilities = filter_top_p((logits_RV.float() / temperature).softmax(-1), top_p)
    cumulative = probabilities.cumsum(-1)
    # u < 1, but u * total may round up to the total: then no entry lies above it, and the likeliest is taken.
    token = torch.searchsorted(cumulative, u_R[:, None] * cumulative[:, -1:], right=True)[:, 0]
    return torch.where(token < logits_RV.shape[-1], token, probabilities.argmax(-1))


@torch.no_grad()
def sample(
    model,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Collection[int],
    max_new_tokens: int,
    u_RN: torch.Tensor | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    all_done=None,
) -> list[Completion]:
    """Continue R prompts by at most max_new_tokens tokens each.

    Args:
        model: a transformers causal LM with a cache; its train/eval mode is restored.
        prompts: token ids, none empty.
        u_RN: uniform numbers, one per row and new token (`uniforms`); None decodes greedily.
        all_done: with a sharded model, a function that says from this rank's flag whether all ranks are done.
    """
    assert prompts and all(len(p) > 0 for p in prompts)
    device = next(model.parameters()).device
    length_R = torch.tensor([len(p) for p in prompts], device=device)
    shortest, longest = int(length_R.min()), int(length_R.max())
    ids_RT = torch.zeros((len(prompts), longest + max_new_tokens), dtype=torch.int64, device=device)
    for r, prompt in enumerate(prompts):
        ids_RT[r, : len(prompt)] = torch.tensor(prompt, device=device)
    stops = torch.tensor(sorted(stop_ids), device=device)
    u_RN = None if u_RN is None else u_RN.to(device)
    end_R = length_R + max_new_tokens  # first position that is not part of the completion
    finished_R = torch.zeros_like(length_R, dtype=torch.bool)
    was_training = model.training
    model.eval()
    try:
        cache, feed, at, width = None, ids_RT[:, :shortest], shortest, ids_RT.shape[1]
        while True:
            out = model(input_ids=feed, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = out.past_key_values
            new_R = (at - length_R).clamp(0, max_new_tokens - 1)
            u_R = None if u_RN is None else u_RN.gather(1, new_R[:, None])[:, 0]
            token_R = choose(out.logits[:, -1], u_R, temperature, top_p)
            live_R = (at >= length_R) & (at < end_R)
            if at < width:  # past it only to keep other ranks company
                ids_RT[:, at] = torch.where(live_R, token_R, ids_RT[:, at])
            stopped_R = live_R & torch.isin(token_R, stops)
            finished_R |= stopped_R
            end_R = torch.where(stopped_R, at + 1, end_R)
            at += 1
            done = bool((at >= end_R).all())
            if all_done(done) if all_done else done:
                break
            feed = ids_RT[:, min(at, width) - 1].unsqueeze(1)
    finally:
        model.train(was_training)
    rows, ends, flags = ids_RT.tolist(), end_R.tolist(), finished_R.tolist()
    return [
        Completion(row[len(p) : e], f)
        for row, p, e, f in zip(rows, prompts, ends, flags, strict=True)
    ]
