"""One answer to one dialogue, as text that arrives while it is written.

Shapes: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..align.sampling import choose
from ..align.stage import device_of, stop_ids
from ..config import UserError
from ..tokenizer.bpe import encode_text
from ..tokenizer.chat import encode_chat


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn: temperature 0 takes the likeliest token; top_p in (0, 1]; length in tokens."""

    temperature: float = 0.7
    top_p: float = 0.9
    max_new_tokens: int = 256
    seed: int = 1

    def __post_init__(self):
        if self.temperature < 0:
            raise UserError(f"temperature is {self.temperature}; it must be 0 (greedy) or above")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; it must lie in (0, 1]")
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")


def stream(
    model, tokenizer, messages: list[dict], sampling: Sampling | None = None
) -> Iterator[str]:
    """Yield the assistant's answer to `messages` piece by piece; the pieces joined are the whole answer.

    Equal seed and dialogue give an equal answer. Whole characters only: the bytes of a Hanzi that is not finished yet
    are held back.
    """
    sampling = sampling or Sampling()
    prompt = fit_prompt(model, tokenizer, messages, sampling.max_new_tokens)
    decoder = TextStream(tokenizer)
    for token in tokens(model, prompt, stop_ids(tokenizer), sampling):
        if piece := decoder.push(token):
            yield piece
    if piece := decoder.finish():
        yield piece


def complete(model, tokenizer, messages: list[dict], sampling: Sampling | None = None) -> str:
    """The assistant's whole answer to `messages`."""
    return "".join(stream(model, tokenizer, messages, sampling))


def continue_text(model, tokenizer, text: str, sampling: Sampling | None = None) -> str:
    """What a base model writes after `text`, up to the end of the document."""
    ids = encode_text(tokenizer, text)
    return tokenizer.decode(list(tokens(model, ids, stop_ids(tokenizer), sampling or Sampling())))


@torch.no_grad()
def tokens(model, prompt: list[int], stops: list[int], sampling: Sampling) -> Iterator[int]:
    """Token ids of a continuation, without the stop token; decoded with a cache, one forward per token."""
    device, cache = device_of(model), None
    generator = torch.Generator().manual_seed(sampling.seed)
    feed = torch.tensor([prompt], device=device)
    for _ in range(sampling.max_new_tokens):
        out = model(input_ids=feed, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        u_R = torch.rand(1, generator=generator).to(device)
        token = int(choose(out.logits[:, -1], u_R, sampling.temperature, sampling.top_p))
        if token in stops:
            return
        yield token
        feed = torch.tensor([[token]], device=device)


def fit_prompt(model, tokenizer, messages: list[dict], room: int) -> list[int]:
    """Token ids of the dialogue; the oldest rounds go when it does not fit the context beside `room` new tokens.

    A system turn stays. Raises UserError when the last message alone is too long.
    """
    limit = getattr(model.config, "max_position_embeddings", None) or 1 << 30
    head = [m for m in messages[:1] if m["role"] == "system"]
    rounds = messages[len(head) :]
    while True:
        ids = encode_chat(tokenizer, head + rounds, add_generation_prompt=True)[0]
        if len(ids) + min(room, limit // 2) <= limit:
            return ids
        if len(rounds) <= 2:
            raise UserError(
                f"the message is {len(ids)} tokens long; this model reads {limit} in all, with the answer"
            )
        rounds = rounds[2:]


class TextStream:
    """Turns tokens into text as they come, never showing half a character."""

    def __init__(self, tokenizer):
        self.tokenizer, self.ids, self.shown = tokenizer, [], 0

    def push(self, token: int) -> str:
        """The text that this token completes; empty while a character is unfinished."""
        self.ids.append(token)
        text = self._text()
        if text.endswith("\ufffd"):
            return ""
        piece, self.shown = text[self.shown :], len(text)
        if text.endswith(
            "\n"
        ):  # nothing before a line break changes any more: start afresh, so long answers stay fast
            self.ids, self.shown = [], 0
        return piece

    def finish(self) -> str:
        """What was held back, as it is."""
        return self._text()[self.shown :] if self.ids else ""

    def _text(self) -> str:
        return self.tokenizer.decode(self.ids, skip_special_tokens=False)
