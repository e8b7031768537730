"""One answer to one dialogue, as text that arrives while it is written."""

from __future__ import annotations

from collections.abc import Iterator

from ..config import UserError
from ..model import decoding
from ..model.decoding import Sampling
from ..model.folder import stop_ids
from ..tokenizer.bpe import encode_text
from ..tokenizer.chat import encode_chat

CHAT = Sampling(temperature=0.7, top_p=0.9)


def stream(
    model, tokenizer, messages: list[dict], sampling: Sampling | None = None
) -> Iterator[str]:
    """Yield the assistant's answer to `messages` in pieces, which joined are the whole answer.

    Equal seed and dialogue give an equal answer. Whole characters only: the bytes of a Hanzi that
    is not finished yet are held back.
    """
    sampling = sampling or CHAT
    stops = stop_ids(tokenizer, chat=True)
    prompt = fit_prompt(model, tokenizer, messages, sampling.max_new_tokens)
    decoder = TextStream(tokenizer)
    for _, token in decoding.stream(model, [prompt], stops, sampling):
        if token not in stops and (piece := decoder.push(token)):
            yield piece
    if piece := decoder.finish():
        yield piece


def complete(model, tokenizer, messages: list[dict], sampling: Sampling | None = None) -> str:
    """The assistant's whole answer to `messages`."""
    return "".join(stream(model, tokenizer, messages, sampling))


def continue_text(model, tokenizer, text: str, sampling: Sampling | None = None) -> str:
    """What a base model writes after `text`, up to the end of the document."""
    ids, stops = encode_text(tokenizer, text), stop_ids(tokenizer)
    new = decoding.generate(model, [ids], stops, sampling or CHAT)[0].ids
    return tokenizer.decode([token for token in new if token not in stops])


def fit_prompt(model, tokenizer, messages: list[dict], room: int) -> list[int]:
    """Token ids of the dialogue; the oldest rounds go when they do not fit the context.

    `room` is what the answer may take [tokens]. A system turn stays. Raises UserError when the last
    message alone is too long.
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
                f"the message is {len(ids)} tokens long; this model reads {limit}, answer included"
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
        if text.endswith("\n"):
            # nothing before a line break changes any more: start afresh, so long answers stay fast
            self.ids, self.shown = [], 0
        return piece

    def finish(self) -> str:
        """What was held back, as it is."""
        return self._text()[self.shown :] if self.ids else ""

    def _text(self) -> str:
        return self.tokenizer.decode(self.ids, skip_special_tokens=False)
