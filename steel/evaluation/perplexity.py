"""Bits per byte and perplexity, domain by domain.

Perplexity counts per token, so two tokenizers give two incomparable numbers. Bits per byte do not
care:

    bpb = -Σ log p / (ln 2 · UTF-8 bytes)

That is the number to compare. Perplexity is given beside it, and `ppl_normalised` =
exp(-Σ log p / N_ref), where N_ref is the number of tokens that one fixed reference tokenizer needs
(HammerLLM's tables use Skywork's).

Every token of a document is scored once. A document stands behind the separator, as in training.
Documents longer than the context are read in windows that advance by `stride`, so that every later
token still sees context - stride tokens or more. Dialogues are scored on what the assistant says,
given everything before it and, as in fine-tuning, no separator; control tokens have no bytes and
are not counted.

A domain whose loss is not finite is reported as such and named in `nan_domains`; it then spoils the
mean on purpose.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, geometric_mean

from ..config import UserError
from ..documents import read_rows
from ..tokenizer.bpe import IM_END, before_document_id, encode_text
from ..tokenizer.chat import encode_chat
from .scoring import context_length, score_continuations

_LOGITS_AT_ONCE = 2**27
"""Logits to aim at in one forward pass [entries]: 512 MiB in fp32; one row may have more."""


def load_domains(source: Path | str | Sequence[Path]) -> dict[str, list]:
    """Read `folder/<domain>.jsonl`, or the files given: {"text": …} or {"messages": […]} a line.

    A domain has its file's name, with as many folders before it as tell it from the others. Raises
    UserError for a line without text, and for a file that is missing or given twice.
    """
    folder = isinstance(source, (str, Path))
    files = sorted(Path(source).glob("*.jsonl")) if folder else [Path(file) for file in source]
    if not files:
        raise UserError(
            f"no held-out text in {source}: expected <domain>.jsonl with text or messages per line"
        )
    domains: dict[str, list] = {}
    for name, file in zip(_names(files), files):
        if not file.is_file():
            raise UserError(f"no file at {file}")
        documents = domains[name] = []
        for number, row in read_rows(file):
            document = row.get("messages") or row.get("text")
            if not isinstance(document, (str, list)):
                raise UserError(f"{file}:{number}: expected an object with text or messages")
            documents.append(document)
    return domains


def _names(files: Sequence[Path]) -> list[str]:
    stems = [file.resolve().with_name(file.name.partition(".jsonl")[0]).parts for file in files]
    for folders in range(1, max(map(len, stems)) + 1):
        names = ["/".join(parts[-folders:]) for parts in stems]
        if len(set(names)) == len(names):
            return names
    twice = next(file for file, parts in zip(files, stems) if stems.count(parts) > 1)
    raise UserError(f"{twice} is given twice")


def bits_per_byte(
    model,
    tok,
    domains: Mapping[str, Sequence] | Sequence,
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_size: int = 64,
    reference=None,
) -> dict:
    """Score held-out documents per domain. Returns plain data, None for what is not finite:

    {"domains": {name: {"bpb", "nats_per_byte", "ppl", "ppl_normalised", "tokens", "bytes",
    "bpc": bits per character, "documents", "tokens_per_byte", "nan_documents", "by_document":
    {"nats", "bytes"}: lists}}, "nan_domains": [names],
    "geometric_mean": {"bpb", "ppl", "ppl_normalised"}, "window": {"context", "stride"}}.

    A document is a string or a list of chat turns. `context` [tokens] defaults to what the model
    promises, `stride` to half of it. `reference` is a tokenizer; without it `ppl_normalised` is
    None. The mean of bpb over domains is arithmetic, which is the geometric mean of per-byte
    perplexities; the means of the perplexities are geometric. With a NaN domain they are None.
    """
    if not isinstance(domains, Mapping):
        domains = {"all": list(domains)}
    context = context or context_length(model) or 1024
    stride = stride or max(1, context // 2)
    if not 0 < stride < context:
        raise UserError(
            f"stride is {stride}; it must lie between 1 and the context of {context} tokens"
        )
    results: dict[str, dict] = {}
    for name, documents in domains.items():
        pieces = [_pieces(tok, document, context, stride) for document in documents]
        pairs = [pair for document in pieces for pair in document]
        title = f"bits per byte, {name}"
        longest = max((len(before) + len(after) for before, after in pairs), default=1)
        rows = min(batch_size, _LOGITS_AT_ONCE // (longest * model.config.vocab_size))
        scores = iter(score_continuations(model, pairs, batch_size=max(1, rows), title=title))
        nats = [-math.fsum(next(scores) for _ in document) for document in pieces]
        tokens = sum(len(continuation) for _, continuation in pairs)
        results[name] = _domain(nats, tokens, list(map(_scored_text, documents)), reference)

    def mean(key: str, of) -> float | None:
        values = [r[key] for r in results.values()]
        return of(values) if values and None not in values else None

    means = {key: mean(key, geometric_mean) for key in ("ppl", "ppl_normalised")}
    return {
        "domains": results,
        "nan_domains": [name for name, r in results.items() if r["bpb"] is None],
        "geometric_mean": {"bpb": mean("bpb", fmean), **means},
        "window": {"context": context, "stride": stride},
    }


def _scored_text(document: str | list[dict]) -> str:
    """The text whose bytes count: all of it, or of a dialogue what the assistant says."""
    if isinstance(document, str):
        return document
    return "".join(turn["content"] for turn in document if turn["role"] == "assistant")


def _domain(nats: list[float], tokens: int, texts: list[str], reference) -> dict:
    """The numbers of one domain from the nats and texts of its documents."""
    total = math.fsum(nats) if tokens else math.nan
    sizes = [len(text.encode("utf-8", "surrogatepass")) for text in texts]
    size = sum(sizes)
    other = sum(len(encode_text(reference, text)) for text in texts) if reference else 0

    def per(count: int, unit: float = 1.0) -> float | None:
        return total / unit / count if count and math.isfinite(total) else None

    def exp(value: float | None) -> float | None:
        return math.exp(value) if value is not None and value < 700 else None

    return {
        "bpb": per(size, math.log(2)),
        "nats_per_byte": per(size),
        "bpc": per(sum(map(len, texts)), math.log(2)),
        "ppl": exp(per(tokens)),
        "ppl_normalised": exp(per(other)),
        "tokens": tokens,
        "bytes": size,
        "documents": len(texts),
        "tokens_per_byte": tokens / size if size else None,
        "nan_documents": sum(not math.isfinite(n) for n in nats),
        "by_document": {
            "nats": [round(n, 4) if math.isfinite(n) else None for n in nats],
            "bytes": sizes,
        },
    }


def compare(before: dict, after: dict) -> dict[str, dict]:
    """Bits per byte of the second of two `bits_per_byte` results minus the first's, by domain.

    The tokenizers may differ; the documents must not. {domain: {"difference", "se" [bits per byte],
    "z", "documents"}}; se² = Σ_d (Δ_d - difference · bytes_d)² / (Σ bytes)², documents being
    independent. Domains of one side alone are left out. Raises UserError for other documents, and
    for documents whose loss is not finite: without them it would be a difference of something else.
    """
    found = {}
    for name in before["domains"].keys() & after["domains"].keys():
        one, two = (side["domains"][name]["by_document"] for side in (before, after))
        if one["bytes"] != two["bytes"]:
            raise UserError(f"the two results are on other documents of {name}")
        if None in one["nats"] + two["nats"]:
            raise UserError(f"{name} has documents without a finite loss; there is no difference")
        nats = zip(one["nats"], two["nats"], one["bytes"])
        rows = [((b - a) / math.log(2), size) for a, b, size in nats]
        if total := sum(size for _, size in rows):
            mean = math.fsum(bits for bits, _ in rows) / total
            se = math.sqrt(math.fsum((bits - mean * size) ** 2 for bits, size in rows)) / total
            z = mean / se if se else 0.0
            found[name] = {"difference": mean, "se": se, "z": z, "documents": len(rows)}
    if not found:
        raise UserError("the two results have no domain in common")
    return dict(sorted(found.items()))


def _pieces(tok, document, context: int, stride: int) -> list[tuple[list[int], list[int]]]:
    """Cut a document into (tokens before, scored tokens), each scored token in one piece."""
    pieces, at = [], 0
    if isinstance(document, str):
        ids = [before_document_id(tok), *encode_text(tok, document)]
        scored = [False] + [True] * (len(ids) - 1)
    else:
        ids, mask = encode_chat(tok, document)
        end = tok.convert_tokens_to_ids(IM_END)
        scored = [bool(m) and i != end for m, i in zip(mask, ids)]
    while at < len(ids):
        if not scored[at]:
            at += 1
            continue
        # the first window may score a whole context; later ones advance by the stride and look back
        limit = context if at < context - stride else at + stride
        stop = at
        while stop < min(limit, len(ids)) and scored[stop]:
            stop += 1
        pieces.append((ids[max(0, stop - context) : at], ids[at:stop]))
        at = stop
    return pieces
