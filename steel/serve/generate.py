"""One answer to one dialogue, as text that arrives while it is written."""

from collections.abc import Iterable, Iterator

from ..config import UserError
from ..model import decoding
from ..model.decoding import Sampling
from ..model.folder import stop_ids
from ..tokenizer.bpe import encode_text
from ..tokenizer.chat import encode_chat

CHAT = Sampling(temperature=0.7, top_p=0.9)


class Answer:
    """What follows a prompt, as text that arrives while it is written: iterate for the pieces.

    Whole characters only: the bytes of a Hanzi that is not finished yet are held back, and so is
    what may be the beginning of one of `ends`, strings that end the answer and are not part of it.
    There is a piece for each token, empty while something is held back. Afterwards `tokens` is how
    many were chosen, the one that stopped it included, and `finish` is "stop" or "length".
    """

    def __init__(self, model, tokenizer, prompt: list[int], stops, sampling, ends=()):
        self.model, self.tokenizer, self.prompt = model, tokenizer, prompt
        self.stops, self.sampling, self.ends = stops, sampling, ends
        self.tokens, self.finish = 0, "length"

    def __iter__(self) -> Iterator[str]:
        held = ""
        for piece in spell(self.tokenizer, self._chosen()):
            held += piece
            if found := [at for end in self.ends if (at := held.find(end)) >= 0]:
                self.finish = "stop"
                yield held[: min(found)]
                return
            begun = (n for end in self.ends for n in range(1, len(end)) if held.endswith(end[:n]))
            ready = len(held) - max(begun, default=0)
            yield held[:ready]
            held = held[ready:]
        yield held

    def _chosen(self) -> Iterator[int]:
        for _, token in decoding.stream(self.model, [self.prompt], self.stops, self.sampling):
            self.tokens += 1
            if token in self.stops:
                self.finish = "stop"
            else:
                yield token


def stream(model, tokenizer, messages: list[dict], sampling: Sampling = CHAT) -> Iterator[str]:
    """Yield the assistant's answer to `messages` in pieces, which joined are the whole answer.

    Equal seed and dialogue give an equal answer.
    """
    stops = stop_ids(tokenizer, chat=True)
    prompt = fit_prompt(model, tokenizer, messages, sampling.max_new_tokens)
    yield from filter(None, Answer(model, tokenizer, prompt, stops, sampling))


def complete(model, tokenizer, messages: list[dict], sampling: Sampling = CHAT) -> str:
    """The assistant's whole answer to `messages`."""
    return "".join(stream(model, tokenizer, messages, sampling))


def continue_text(model, tokenizer, text: str, sampling: Sampling = CHAT) -> str:
    """What a base model writes after `text`, up to the end of the document."""
    ids, stops = encode_text(tokenizer, text), stop_ids(tokenizer)
    return "".join(Answer(model, tokenizer, ids, stops, sampling))


def context(model) -> int:
    """Tokens that a prompt and its answer may have together."""
    return getattr(model.config, "max_position_embeddings", None) or 1 << 15


def fit_prompt(model, tokenizer, messages: list[dict], room: int) -> list[int]:
    """Token ids of the dialogue; the oldest rounds go when they do not fit the context.

    `room` is what the answer may take [tokens]. A system turn stays. Turns are encoded apart, so their
    tokens add up: from the last round back, each is encoded once, until one no longer fits. Raises
    UserError when the last message alone is too long.
    """
    limit = context(model)
    most = limit - min(room, limit // 2)
    head = [m for m in messages[:1] if m["role"] == "system"]
    rounds = messages[len(head) :]
    at = max(0, (len(rounds) - 1) // 2 * 2)  # the last message, or an answer to go on from and it
    ids = encode_chat(tokenizer, head + rounds[at:], add_generation_prompt=True)[0]
    if len(ids) > most:
        raise UserError(
            f"the message is {len(ids)} tokens long; this model reads {limit}, answer included"
        )
    opening = len(encode_chat(tokenizer, head)[0]) if head else 0
    while at:
        at -= 2
        older = encode_chat(tokenizer, rounds[at : at + 2])[0]
        if len(ids) + len(older) > most:
            break
        ids[opening:opening] = older
    return ids


def spell(tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """A piece of text for each token, never half a character; the pieces joined are the whole."""
    ids, shown = [], 0
    for token in tokens:
        ids.append(token)
        text = tokenizer.decode(ids, skip_special_tokens=False)
        ready = len(text) - text.endswith("\ufffd")  # at most one character is unfinished
        yield text[shown:ready]
        shown = ready
        if text.endswith("\n"):
            # nothing before a line break changes any more: start afresh, so long answers stay fast
            ids, shown = [], 0
    yield tokenizer.decode(ids, skip_special_tokens=False)[shown:]
