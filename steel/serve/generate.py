"""One answer to one dialogue, as text that arrives while it is written."""

from collections.abc import Iterable, Iterator

from ..config import UserError
from ..model import decoding
from ..model.decoding import Sampling
from ..model.folder import stop_ids
from ..tokenizer.bpe import encode_text
from ..tokenizer.chat import encode_chat

CHAT = Sampling(temperature=0.7, top_p=0.9)


def stream(model, tokenizer, messages: list[dict], sampling: Sampling = CHAT) -> Iterator[str]:
    """Yield the assistant's answer to `messages` in pieces, which joined are the whole answer.

    Equal seed and dialogue give an equal answer. Whole characters only: the bytes of a Hanzi that
    is not finished yet are held back.
    """
    stops = stop_ids(tokenizer, chat=True)
    prompt = fit_prompt(model, tokenizer, messages, sampling.max_new_tokens)
    new = (token for _, token in decoding.stream(model, [prompt], stops, sampling))
    yield from filter(None, spell(tokenizer, (token for token in new if token not in stops)))


def complete(model, tokenizer, messages: list[dict], sampling: Sampling = CHAT) -> str:
    """The assistant's whole answer to `messages`."""
    return "".join(stream(model, tokenizer, messages, sampling))


def continue_text(model, tokenizer, text: str, sampling: Sampling = CHAT) -> str:
    """What a base model writes after `text`, up to the end of the document."""
    ids, stops = encode_text(tokenizer, text), stop_ids(tokenizer)
    new = decoding.generate(model, [ids], stops, sampling)[0].ids
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


def spell(tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """Tokens as text while they come, never half a character; the pieces joined are the whole."""
    ids, shown = [], 0
    for token in tokens:
        ids.append(token)
        text = tokenizer.decode(ids, skip_special_tokens=False)
        if text.endswith("\ufffd"):  # a character is unfinished
            continue
        yield text[shown:]
        shown = len(text)
        if text.endswith("\n"):
            # nothing before a line break changes any more: start afresh, so long answers stay fast
            ids, shown = [], 0
    yield tokenizer.decode(ids, skip_special_tokens=False)[shown:]
