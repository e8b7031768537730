"""One packing task: read a file of documents, tokenise it, write its shards and then its record.

Nothing here imports torch or transformers, so a worker process starts in a moment.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..config import UserError
from ..documents import read_chunks, split_lines
from ..runlog import write_json
from ..tokenizer import chat, encode
from . import litpkds
from .shard_file import EDGE, blake2b_128, hash_file, token_dtype, write_shard

EXAMPLES = 100  # rejected records that a task lists line by line, per reason; all are counted
BATCH = 256  # documents encoded at once


class Task(NamedTuple):
    """One file to pack, and what its record says before it is read ("stem": of its files in OUT)."""

    path: Path
    record: dict


class Row(NamedTuple):
    """One record of a file: a document, or the reason to reject it."""

    reason: str
    ids: np.ndarray | tuple = ()  # with the separator
    content: bytes = b""  # what makes it the same document as another
    size: int = 0  # UTF-8 bytes of its text


class Encoder:
    """A tokenizer without `transformers`, which takes seconds to import, for `chat.encode_chat`.

    Special tokens inside text are text, as in `bpe.encode_text`.
    """

    unk_token_id = None  # a token that it lacks has the id None

    def __init__(self, tokenizer_json: str):
        from tokenizers import Tokenizer

        self.core = Tokenizer.from_str(tokenizer_json)
        self.encode_texts = encode.encoder(self.core)

    def encode(self, text: str, **_) -> list[int]:
        return self.encode_texts([text])[0].tolist()

    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int | None]:
        return [self.core.token_to_id(token) for token in tokens]


_encoder = lru_cache(maxsize=1)(Encoder)  # one per process


def held_out(content: bytes, fraction: float) -> bool:
    """Whether a document belongs to the validation split: its content says, so copies stay together."""
    digest = hashlib.blake2b(content, digest_size=8, person=b"steel-holdout").digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


# -- reading: batches of rows --------------------------------------------------------------------


def _documents(task: Task, encoder: Encoder) -> Iterator[list[Row]]:
    """The documents of a file of JSON lines."""
    lines = split_lines(read_chunks(task.path))
    while batch := list(islice(lines, BATCH)):
        parsed = [_parse(line) for line in batch]
        texts = [content for why, content, _ in parsed if not why and isinstance(content, str)]
        encoded = iter(encoder.encode_texts(texts))
        rows = []
        for why, content, utf8 in parsed:
            if why:
                rows.append(Row(why))
                continue
            is_text = isinstance(content, str)
            ids = next(encoded) if is_text else chat.encode_chat(encoder, content)[0]
            ids = np.append(ids, np.uint32(task.record["separator_id"]))
            rows.append(Row("", ids, utf8, len(utf8)))
        yield rows


def _parse(line: bytes) -> tuple[str, str | list, bytes]:
    """(reason to reject or "", text or messages, their UTF-8) of one line."""
    why = "bad_json"
    try:
        if not line.strip():
            return "blank_line", "", b""
        record = json.loads(line.decode("utf-8"))
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            return "bad_record", "", b""
        content, meta = record["text"], record.get("meta")
        if not content and isinstance(meta, dict) and meta.get("messages") is not None:
            why, content = "bad_dialogue", meta["messages"]
            return "", content, chat.render(content).encode()
        utf8 = content.encode()
    except UnicodeError:  # also half of a surrogate pair, written as \ud83d
        return "undecodable", "", b""
    except (ValueError, TypeError, RecursionError):
        return why, "", b""
    return "" if content.strip() else "empty", content, utf8


def _chunk(task: Task, encoder: Encoder) -> Iterator[list[Row]]:
    """A chunk of the original's format. Its padding is taken off; it is one document, or as many as
    it has separators, for the original ended documents as it ended turns."""
    separator, vocabulary = task.record["separator_id"], task.record["vocab_size"]
    tokens = litpkds.without_padding(litpkds.read_chunk(task.path), separator)
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary:
        what = f"{task.path} has token {tokens.max()}, the tokenizer {vocabulary:,} entries"
        raise UserError(f"{what}; give the tokenizer that made it")
    for document in np.split(tokens, np.flatnonzero(tokens == separator) + 1):
        if len(document):
            ids = document if document[-1] == separator else np.append(document, separator)
            parts = np.split(ids, range(1 << 16, len(ids), 1 << 16))
            size = sum(len(encoder.core.decode(part.tolist()).encode()) for part in parts)
            yield [Row("", ids, ids.astype("<u4").tobytes(), size)]


# -- writing -------------------------------------------------------------------------------------


class _Shards:
    """Collects the documents of one split of one file, and writes a shard whenever one is full."""

    def __init__(self, task: Task, root: Path, split: str):
        self.task, self.root, self.split = task, root, split
        self.dtype = token_dtype(task.record["vocab_size"])
        self.facts: list[dict] = []
        self.documents: list[np.ndarray] = []
        self.tokens = self.bytes = 0

    def add(self, row: Row) -> None:
        self.documents.append(np.asarray(row.ids, dtype=self.dtype))
        self.tokens += len(self.documents[-1])
        self.bytes += row.size
        if self.tokens >= self.task.record["shard_tokens"]:
            self.flush()

    def flush(self) -> None:
        if not self.documents:
            return
        tokens = np.concatenate(self.documents)
        ends = np.cumsum([len(document) for document in self.documents])
        if not np.array_equal(np.flatnonzero(tokens == self.task.record["separator_id"]) + 1, ends):
            what = "the tokenizer makes the document separator out of text"
            raise UserError(f"{self.task.path}: {what}; take another one")
        suffix = ".val" if self.split == "validation" else ""
        stem = f"{self.task.record['stem']}-{len(self.facts):05d}{suffix}"
        written = write_shard(self.root, stem, tokens, ends)
        self.facts.append({"split": self.split, "bytes": self.bytes, **written})
        self.documents, self.tokens, self.bytes = [], 0, 0


def run_task(
    root: Path, tokenizer_json: str, advance: Callable[[int], None] | None, task: Task
) -> dict:
    """Tokenise one file, write its shards, then its record. Returns the record.

    advance(n): called when n more records are done. text_hash is the same for any order of the
    documents.
    """
    splits = {name: _Shards(task, root, name) for name in ("train", "validation")}
    read, fraction = _chunk if task.record["litpkds"] else _documents, task.record["hold_out"]
    rejected: Counter[str] = Counter()
    examples: list[list] = []
    number = text_hash = 0
    for rows in read(task, _encoder(tokenizer_json)):
        for row in rows:
            number += 1
            if row.reason:
                rejected[row.reason] += 1
                if rejected[row.reason] <= EXAMPLES:
                    examples.append([number, row.reason])
                continue
            text_hash += int.from_bytes(blake2b_128(row.content).digest(), "little")
            held = fraction and held_out(row.content, fraction)
            splits["validation" if held else "train"].add(row)
        if advance is not None:
            advance(len(rows))
    for split in splits.values():
        split.flush()
    if hash_file(task.path, EDGE) != task.record["input_hash"]:
        raise UserError(f"{task.path} changed while it was read; pack again when it is at rest")
    shards = splits["train"].facts + splits["validation"].facts
    assert sum(s["documents"] for s in shards) + rejected.total() == number
    record = {
        **task.record,
        "records": number,
        "rejected": dict(sorted(rejected.items())),
        "text_hash": f"{text_hash % 2**128:032x}",
        "examples": examples,
        "shards": shards,
    }
    write_json(root / f"{record['stem']}.json", record)
    return record
