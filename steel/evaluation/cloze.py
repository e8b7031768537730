"""Cloze: does the model know a fact when a sentence of its own kind asks for it, before any chat?

Each row is {"prompt", "answer", "candidates", "lang", "attribute"}. Two measures: *accuracy*, open
vocabulary, the greedy continuation starts with the answer; and *rank*, closed vocabulary, how many
candidates are likelier than the answer. The first asks for the word, the second for the knowledge.

A prompt is a text that stops in the middle, and a subword vocabulary may have a token that
straddles the cut: where the training text has one token for "住在云", a prompt that ends in the
token "住在" is something the model has never seen before "云". So the last tokens of the prompt are
taken back and spelled again by the model, in tokens of its choice, which may run on; and
candidates are compared from the last place where all their tokenizations agree.
"""

import functools
from collections import defaultdict
from collections.abc import Sequence
from os.path import commonprefix
from pathlib import Path

from ..config import UserError
from ..documents import read_rows
from ..model.folder import stop_ids
from ..tokenizer.bpe import encode_text
from .results import share
from .scoring import greedy, score_continuations

_EXTRA_TOKENS = 3
"""Generated beyond the answer's own length, since the model may spell it in smaller tokens."""
_TAKEN_BACK = 8
"""Tokens of the prompt that are spelled again; a token that straddles the cut begins among them."""


def load_cloze(path: Path | str) -> list[dict]:
    """Read cloze rows from a JSONL file; raises UserError that names the first unusable line."""
    if not Path(path).is_file():
        raise UserError(f"no cloze file at {path}; 'steel world OUT' writes OUT/exam/cloze.jsonl")
    rows = []
    for number, row in read_rows(path):
        if not all(str(row.get(key, "")).strip() for key in ("prompt", "answer")):
            raise UserError(f"{path}:{number}: expected an object with a prompt and an answer")
        rows.append(row)
    if not rows:
        raise UserError(f"no cloze row in {path}")
    return rows


def cloze(model, tok, rows: Sequence[dict], batch_size: int = 128) -> dict:
    """Ask every cloze row. Returns plain data for JSON:

    {"accuracy", "n", "se", "rank_accuracy": share of rows whose answer outranks all candidates,
    "mean_rank": 1 is best, "by_attribute" and "by_language": {name: {"accuracy", "n", "se"}}}; the
    ranks are None where no row has candidates.
    """
    texts = _continue(model, tok, rows, batch_size)
    right = [_starts(text, row["answer"].strip()) for text, row in zip(texts, rows)]
    ranks = _ranks(model, tok, rows, batch_size)

    def by(key: str) -> dict:
        parts = defaultdict(list)
        for row, ok in zip(rows, right):
            parts[str(row.get(key, "?"))].append(ok)
        return {name: share(part) for name, part in sorted(parts.items())}

    return {
        **share(right),
        "rank_accuracy": sum(r == 1 for r in ranks) / len(ranks) if ranks else None,
        "mean_rank": sum(ranks) / len(ranks) if ranks else None,
        "by_attribute": by("attribute"),
        "by_language": by("lang"),
    }


def _continue(model, tok, rows: Sequence[dict], batch_size: int) -> list[str]:
    """The greedy continuation of each prompt as text, without the prompt."""
    pieces = tok.convert_ids_to_tokens(list(range(len(tok))))
    prompts, rests, room = [], [], 1
    for row in rows:
        ids = encode_text(tok, row["prompt"].rstrip())
        room = max(room, len(encode_text(tok, row["answer"])))
        kept = max(1, len(ids) - _TAKEN_BACK)
        prompts.append(ids[:kept])
        rests.append("".join(pieces[i] for i in ids[kept:]))

    @functools.cache
    def fitting(rest: str) -> list[int]:
        """Tokens that begin with the rest of a prompt, or with which it begins."""
        return [i for i, p in enumerate(pieces) if p and (p.startswith(rest) or rest.startswith(p))]

    def allowed(i: int, new: Sequence[int]) -> list[int] | None:
        rest = rests[i]
        for token in new:
            rest = rest[len(pieces[token]) :]
        return fitting(rest) if rest else None

    room += _EXTRA_TOKENS + _TAKEN_BACK
    options = {"allowed": allowed, "batch_size": batch_size, "title": "cloze"}
    replies = greedy(model, prompts, room, stop_ids(tok), **options)
    whole = [tok.decode(a + b, skip_special_tokens=True) for a, b in zip(prompts, replies)]
    return [text.removeprefix(row["prompt"].rstrip()) for text, row in zip(whole, rows)]


def _starts(text: str, answer: str) -> bool:
    """Whether the text begins with the answer, and not with a longer word or number."""
    text = text.lstrip()
    joint = text[len(answer) - 1 : len(answer) + 1]
    cut_short = len(joint) == 2 and joint.isascii() and joint.isalnum()
    return text.startswith(answer) and not cut_short


def _ranks(model, tok, rows: Sequence[dict], batch_size: int) -> list[int]:
    """Rank of the answer among its candidates by log p(· | prompt); ties count against it."""
    pairs, sizes = [], []
    for row in rows:
        prompt, others = row["prompt"].rstrip(), [*(row.get("candidates") or ())]
        others = [c.strip() for c in others if c != row["answer"]]
        if not others:
            continue
        texts = [encode_text(tok, _join(prompt, text)) for text in [row["answer"].strip(), *others]]
        shared = len(commonprefix([*texts, encode_text(tok, prompt)]))
        shared = max(1, min([shared, *(len(ids) - 1 for ids in texts)]))
        pairs += [(ids[:shared], ids[shared:]) for ids in texts]
        sizes.append(len(texts))
    scores = iter(score_continuations(model, pairs, batch_size=batch_size, title="cloze: ranks"))
    ranks = []
    for size in sizes:
        answer, *others = [next(scores) for _ in range(size)]
        ranks.append(1 + sum(not other < answer for other in others))
    return ranks


def _join(prompt: str, answer: str) -> str:
    """Prompt and answer: a space where two words would touch, none next to a Hanzi."""
    spaced = prompt[-1].isascii() and answer[0].isascii() and answer[0].isalnum()
    return prompt + (" " if spaced else "") + answer
