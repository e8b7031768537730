"""Cloze: does the model know a fact when a sentence of its own kind asks for it, before any chat?

Each row is {"prompt", "answer", "candidates", "lang", "attribute"}. Two measures: *accuracy*, open
vocabulary, the greedy continuation starts with the answer; and *rank*, closed vocabulary, how many
candidates are likelier than the answer. The first asks for the word, the second for the knowledge.

A prompt is a text that stops in the middle, and a subword vocabulary may have a token that
straddles the cut. So the last tokens of the prompt are taken back and spelled again by the model
(`scoring.Speller`), and candidates are compared from the last place where all their tokenizations
agree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from os.path import commonprefix
from pathlib import Path

from ..config import UserError
from ..documents import read_rows
from ..model.folder import stop_ids
from ..tokenizer.bpe import encode_text
from .results import binomial_se
from .scoring import Speller, greedy, score_continuations

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
    return rows


def cloze(
    model, tok, path: Path | str | Iterable[dict], batch_size: int = 128, limit: int | None = None
) -> dict:
    """Ask every cloze row. Returns plain data for JSON:

    {"accuracy", "n", "se", "rank_accuracy": share of rows whose answer outranks all candidates,
    "mean_rank": 1 is best, "by_attribute" and "by_language": {name: {"accuracy", "n", "se"}}}; the
    ranks are None where no row has candidates.
    """
    rows = load_cloze(path) if isinstance(path, (str, Path)) else list(path)
    rows = rows[: limit or None]
    if not rows:
        raise UserError("no cloze rows to ask")
    texts = _continue(model, tok, rows, batch_size)
    right = [_starts(text, row["answer"].strip()) for text, row in zip(texts, rows)]
    ranks = _ranks(model, tok, rows, batch_size)
    return {
        **_share(right),
        "rank_accuracy": sum(r == 1 for r in ranks) / len(ranks) if ranks else None,
        "mean_rank": sum(ranks) / len(ranks) if ranks else None,
        "by_attribute": _by(rows, right, "attribute"),
        "by_language": _by(rows, right, "lang"),
    }


def _share(right: Sequence[bool]) -> dict:
    p = sum(right) / len(right)
    return {"accuracy": p, "n": len(right), "se": binomial_se(p, len(right))}


def _by(rows: Sequence[dict], right: Sequence[bool], key: str) -> dict:
    parts = defaultdict(list)
    for row, ok in zip(rows, right):
        parts[str(row.get(key, "?"))].append(ok)
    return {name: _share(part) for name, part in sorted(parts.items())}


def _join(prompt: str, answer: str) -> str:
    """Prompt and answer: a space where two words would touch, none next to a Hanzi."""
    prompt, answer = prompt.rstrip(), answer.strip()
    spaced = prompt[-1].isascii() and answer[0].isascii() and answer[0].isalnum()
    return prompt + (" " if spaced else "") + answer


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
    room += _EXTRA_TOKENS + _TAKEN_BACK
    options = {"spell": (Speller(pieces), rests), "batch_size": batch_size, "title": "cloze"}
    replies = greedy(model, prompts, room, stop_ids(tok), **options)
    texts = []
    for row, prompt, reply in zip(rows, prompts, replies):
        text = tok.decode(prompt + reply, skip_special_tokens=True)
        texts.append(text.removeprefix(row["prompt"].rstrip()))
    return texts


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
        others = [c for c in row.get("candidates") or [] if c != row["answer"]]
        if not others:
            continue
        texts = [encode_text(tok, _join(row["prompt"], text)) for text in [row["answer"], *others]]
        shared = len(commonprefix([*texts, encode_text(tok, row["prompt"].rstrip())]))
        shared = max(1, min([shared, *(len(ids) - 1 for ids in texts)]))
        pairs += [(ids[:shared], ids[shared:]) for ids in texts]
        sizes.append(len(texts))
    scores = iter(score_continuations(model, pairs, batch_size=batch_size, title="cloze: ranks"))
    ranks = []
    for size in sizes:
        answer, *others = [next(scores) for _ in range(size)]
        ranks.append(1 + sum(not other < answer for other in others))
    return ranks
