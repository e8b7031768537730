"""Bits per byte and perplexity, domain by domain.

Perplexity counts per token, so two tokenizers give two incomparable numbers. Bits per byte do not care:

    bpb = -Σ log p / (ln 2 · UTF-8 bytes)

That is the number to compare. Perplexity is given beside it, and `ppl_normalised` = exp(-Σ log p / N_ref), where N_ref
is the number of tokens that one fixed reference tokenizer needs (HammerLLM's tables use Skywork's).

Every token of a document is scored once. The first one has only the document separator before it. Documents longer than
the context are read in windows that advance by `stride`, so that every later token still sees context - stride tokens
or more. Dialogues are scored on what the assistant says, given everything before it; control tokens have no bytes and
are not counted.

A domain whose loss is not finite is reported as such and named in `nan_domains`; it then spoils the mean on purpose.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from ..config import UserError
from ..machine import progress as progress_bar
from ..tokenizer.bpe import encode_text, end_of_text_id
from ..tokenizer.chat import encode_chat
from .scoring import context_length, score_continuations

_LOGITS_AT_ONCE = 2**27
"""Largest number of logits kept in one forward pass; bounds the memory, 512 MiB in fp32 [entries]."""


def load_domains(source: Path | str | Sequence[Path]) -> dict[str, list]:
    """Read `folder/<domain>.jsonl`, or the files given, one {"text": …} or {"messages": […]} a line."""
    files = (
        sorted(Path(source).glob("*.jsonl")) if isinstance(source, (str, Path)) else list(source)
    )
    if not files:
        raise UserError(
            f"no held-out text in {source}: expected <domain>.jsonl with a text or messages per line"
        )
    domains: dict[str, list] = {}
    for file in files:
        if not file.is_file():
            raise UserError(f"no file at {file}")
        domains[file.stem] = documents = []
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            try:
                row = json.loads(line)
                documents.append(row["messages"] if "messages" in row else row["text"])
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f"{file}, line {number}: expected an object with text or messages"
                ) from None
    return domains


@dataclass
class _Piece:
    """A scored stretch of a document."""

    prefix: list[int]
    continuation: list[int]


def bits_per_byte(
    model,
    tok,
    domains: Mapping[str, Sequence] | Sequence,
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_size: int = 64,
    reference=None,
    progress: bool = True,
) -> dict:
    """Score held-out documents per domain. Returns plain data for JSON (a number that is not finite becomes None):

    {"domains": {name: {"bpb", "nats_per_byte", "ppl", "ppl_normalised", "tokens", "bytes", "documents",
    "tokens_per_byte", "nan_documents"}}, "nan_domains": [names], "geometric_mean": {"bpb", "ppl", "ppl_normalised"}}.

    A document is a string or a list of chat turns. `context` [tokens] defaults to what the model promises, `stride`
    to half of it. `reference` is a tokenizer, or a mapping from domain to its token count; without it `ppl_normalised`
    is None. The mean of bpb over domains is arithmetic, which is the geometric mean of per-byte perplexities; the
    means of the perplexities are geometric. With a NaN domain the means are None.
    """
    if not isinstance(domains, Mapping):
        domains = {"all": list(domains)}
    context = context or context_length(model) or 1024
    stride = stride or max(1, context // 2)
    if not 0 < stride < context:
        raise UserError(
            f"stride is {stride}; it must lie between 1 and the context of {context} tokens"
        )
    vocabulary = getattr(getattr(model, "config", None), "vocab_size", None) or len(tok)
    batch_size = max(1, min(batch_size, _LOGITS_AT_ONCE // (context * vocabulary)))
    total = sum(len(documents) for documents in domains.values())
    results = {}
    with progress_bar(total, "bits per byte", "documents") if progress else nullcontext() as bar:
        for name, documents in domains.items():
            results[name] = _domain(
                model, tok, name, documents, context, stride, batch_size, reference
            )
            if bar is not None:
                bar.advance(len(documents))
    nan_domains = [name for name, r in results.items() if r["bpb"] is None]
    return {
        "domains": results,
        "nan_domains": nan_domains,
        "geometric_mean": _means(list(results.values())),
    }


def _domain(
    model,
    tok,
    name: str,
    documents: Sequence,
    context: int,
    stride: int,
    batch_size: int,
    reference,
) -> dict:
    pieces: list[_Piece] = []
    owner: list[int] = []
    num_bytes = reference_tokens = 0
    for number, document in enumerate(documents):
        text = (
            document
            if isinstance(document, str)
            else "".join(turn["content"] for turn in document if turn["role"] == "assistant")
        )
        num_bytes += len(text.encode("utf-8", "surrogatepass"))
        if reference is not None and not isinstance(reference, Mapping):
            reference_tokens += len(encode_text(reference, text))
        for piece in _pieces(tok, document, context, stride):
            pieces.append(piece)
            owner.append(number)
    if isinstance(reference, Mapping):
        reference_tokens = reference[name]
    pairs = [(p.prefix, p.continuation) for p in pieces]
    scores = score_continuations(model, pairs, batch_size=batch_size)
    nats = -math.fsum(score.log_prob for score in scores) if scores else math.nan
    bad = {owner[i] for i, score in enumerate(scores) if not math.isfinite(score.log_prob)}
    tokens = sum(len(p.continuation) for p in pieces)
    return {
        "bpb": _finite(nats / num_bytes / math.log(2)) if num_bytes else None,
        "nats_per_byte": _finite(nats / num_bytes) if num_bytes else None,
        "ppl": _exp(nats / tokens) if tokens else None,
        "ppl_normalised": _exp(nats / reference_tokens) if reference_tokens else None,
        "tokens": tokens,
        "bytes": num_bytes,
        "documents": len(documents),
        "tokens_per_byte": tokens / num_bytes if num_bytes else None,
        "nan_documents": len(bad),
    }


def _pieces(tok, document, context: int, stride: int) -> list[_Piece]:
    """Cut a document into (context, scored tokens), each scored token in exactly one piece."""
    if isinstance(document, str):
        ids = encode_text(tok, document)
        scored = [True] * len(ids)
        pieces = [_Piece([end_of_text_id(tok)], ids[:1])] if ids else []
        start = 1
    else:
        ids, mask = encode_chat(tok, document)
        end = tok.convert_tokens_to_ids("<|im_end|>")
        scored = [bool(m) and i != end for m, i in zip(mask, ids, strict=True)]
        pieces, start = [], 0
    at = start
    while at < len(ids):
        if not scored[at]:
            at += 1
            continue
        # the first window may score a whole context; later ones advance by the stride and look back
        limit = context if at < context - stride else at + stride
        stop = at
        while stop < min(limit, len(ids)) and scored[stop]:
            stop += 1
        pieces.append(_Piece(ids[max(0, stop - context) : at], ids[at:stop]))
        at = stop
    return pieces


def _means(results: Sequence[dict]) -> dict:
    def mean(key: str, log: bool) -> float | None:
        values = [r[key] for r in results]
        if not values or any(v is None for v in values):
            return None
        total = math.fsum(math.log(v) if log else v for v in values) / len(values)
        return math.exp(total) if log else total

    return {
        "bpb": mean("bpb", False),
        "ppl": mean("ppl", True),
        "ppl_normalised": mean("ppl_normalised", True),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _exp(value: float) -> float | None:
    return math.exp(value) if math.isfinite(value) and value < 700 else None
