"""The one decoder: exams, samples while training, rollouts, chat and server continue prompts here.

Rows are not padded on the left. All start at position 0 and decode in lockstep; while a row is
still inside its own prompt, the prompt's token is fed instead of a chosen one. So every row sees
the positions (and a soft mixture's segments) that it sees in training, no attention mask is needed,
and a row's tokens do not depend on its neighbours. What all prompts begin with (the worked examples
of an exam, the prompt of a group of rollouts) is computed once.

Shapes: R rows, N new tokens, V vocabulary.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from os.path import commonprefix

import numpy as np
import torch
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..config import UserError
from .build import require_causal

# What transformers calls it, as an argument and in outputs; 5.24 renamed it.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
SHARED = 32
"""A shared beginning shorter than this is not worth a forward pass of its own [tokens]."""


COLD = 1e-6
"""Below this temperature the likeliest token is taken: divided by it, logits would overflow."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Raises UserError for a setting without a meaning."""

    temperature: float = 0.0
    """Logits are divided by it [1]; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that hold this much of the probability, in (0, 1] [1]."""
    max_new_tokens: int = 256
    """Longest continuation [tokens]."""
    seed: int = 1

    def __post_init__(self):
        if self.temperature < 0:
            raise UserError(f"temperature is {self.temperature}; it must be 0 (greedy) or above")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; it must lie in (0, 1]")
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")


@dataclass
class Completion:
    """Token ids after the prompt, with the stop token if one came; `finished` says whether it did."""

    ids: list[int]
    finished: bool


def uniforms(rows: int, new_tokens: int, *seed: int) -> torch.Tensor:
    """Random numbers u_RN in [0, 1), fp32: a pure function of the seed integers and the shape."""
    # NumPy's SeedSequence mixes several integers well; torch takes one.
    generator = np.random.default_rng([int(s) & 0xFFFFFFFF for s in seed])
    return torch.from_numpy(generator.random((rows, new_tokens), dtype=np.float32))


def filter_top_p(probabilities_RV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the fewest likeliest tokens whose mass reaches top_p (nucleus, Holtzman et al. 2020)."""
    if top_p >= 1.0:
        return probabilities_RV
    ordered, index = probabilities_RV.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    gone = (before >= top_p) & (before > 0)  # the likeliest stays, if top_p rounds to nothing
    return torch.zeros_like(ordered).scatter(-1, index, ordered.masked_fill(gone, 0.0))


def choose(
    logits_RV: torch.Tensor, u_R: torch.Tensor | None, temperature: float, top_p: float
) -> torch.Tensor:
    """Next tokens (R,): by inverse transform of u_R; the likeliest for u_R None or temperature 0."""
    if u_R is None or temperature < COLD:
        return logits_RV.argmax(-1)
    probabilities = filter_top_p((logits_RV.float() / temperature).softmax(-1), top_p)
    cumulative = probabilities.cumsum(-1)
    # u < 1, but u * total may round up to the total: then no entry lies above it.
    token = torch.searchsorted(cumulative, u_R[:, None] * cumulative[:, -1:], right=True)[:, 0]
    return torch.where(token < logits_RV.shape[-1], token, probabilities.argmax(-1))


@torch.no_grad()
def shared_prefix(model, rows: Sequence[Sequence[int]]) -> tuple[int, object]:
    """(tokens with which all rows begin, a cache of them for that many rows); (0, None): too few.

    At least one token is left to each row. A model that mixes a whole row shares nothing.
    """
    size = len(commonprefix([list(row) for row in rows])) if len(rows) > 1 else 0
    size = min([size, *(len(row) - 1 for row in rows)])
    if size < SHARED or not getattr(model, "is_causal", True):
        return 0, None
    ids_1T = torch.tensor([list(rows[0][:size])], device=next(model.parameters()).device)
    cache = getattr(model(input_ids=ids_1T, use_cache=True, logits_to_keep=1), CACHE)
    if not hasattr(cache, "batch_repeat_interleave"):
        return 0, None
    cache.batch_repeat_interleave(len(rows))
    return size, cache


@torch.no_grad()
def stream(
    model,
    prompts: Sequence[Sequence[int]],
    stop_ids: Collection[int],
    sampling: Sampling,
    *,
    u_RN: torch.Tensor | None = None,
    allowed: Callable[[int, list[int]], list[int] | None] | None = None,
    ended: Callable[[list[int]], bool] | None = None,
    all_done: Callable[[bool], bool] | None = None,
) -> Iterator[tuple[int, int]]:
    """Yield (row, token) as tokens are chosen, each row's stop token included.

    Args:
        model: a transformers causal LM with a cache; its train or eval mode is restored.
        prompts: R prompts' token ids, none empty; of one length if the model mixes a whole row.
        u_RN: the uniform numbers to draw with; None takes `uniforms(R, N, sampling.seed)`.
        allowed: from a row and its new ids so far, the ids that may follow; None: all.
        ended: says from a row's new ids that they are enough, though no stop token came.
        all_done: with a sharded model, says from this rank's flag whether all ranks are done.
    """
    assert prompts and all(len(prompt) > 0 for prompt in prompts)
    lengths = [len(prompt) for prompt in prompts]
    if len(set(lengths)) > 1:
        require_causal(model, "decoding prompts of different lengths together")
    device = next(model.parameters()).device
    length_R = torch.tensor(lengths, device=device)
    if u_RN is None and sampling.temperature > 0:
        u_RN = uniforms(len(prompts), sampling.max_new_tokens, sampling.seed)
    rows, stops, live = [list(prompt) for prompt in prompts], set(stop_ids), [True] * len(prompts)
    was_training = model.training
    model.eval()
    try:
        at = min(lengths)  # the position of the next token
        # Ranks that share a model feed it alike, whatever their own prompts begin with.
        fed, cache = (0, None) if all_done else shared_prefix(model, prompts)
        feed_RT = torch.tensor([prompt[fed:at] for prompt in prompts], device=device)
        while True:
            out = model(input_ids=feed_RT, use_cache=True, logits_to_keep=1, **{CACHE: cache})
            cache, logits_RV = getattr(out, CACHE), out.logits[:, -1]
            if allowed is not None:
                for r, (row, length) in enumerate(zip(rows, lengths, strict=True)):
                    if (ids := allowed(r, row[length:])) is not None:
                        kept = logits_RV[r, ids]
                        logits_RV[r].fill_(float("-inf"))[ids] = kept
            u_R = None
            if u_RN is not None:  # each row's number for its new token
                turn_R = (at - length_R).clamp(0, u_RN.shape[1] - 1)
                u_R = u_RN.to(device).gather(1, turn_R[:, None])[:, 0]
            chosen = choose(logits_RV, u_R, sampling.temperature, sampling.top_p)
            for r, token in enumerate(chosen.tolist()):
                if live[r] and at >= lengths[r]:
                    rows[r].append(token)
                    room = sampling.max_new_tokens - (len(rows[r]) - lengths[r])
                    live[r] = token not in stops and room > 0
                    if live[r] and ended is not None:
                        live[r] = not ended(rows[r][lengths[r] :])
                    yield r, token
            at += 1
            done = not any(live)
            if all_done(done) if all_done else done:
                return
            # A row that is done feeds its last token again, only to keep the others company.
            last = [[row[min(at, len(row)) - 1]] for row in rows]
            feed_RT = torch.tensor(last, device=device)
    finally:
        model.train(was_training)


def generate(model, prompts, stop_ids, sampling: Sampling, **options) -> list[Completion]:
    """Continue R prompts together; arguments and options are those of `stream`."""
    done = [Completion([], False) for _ in prompts]
    for row, token in stream(model, prompts, stop_ids, sampling, **options):
        done[row].ids.append(token)
        done[row].finished = token in stop_ids
    return done
