"""One packing task: read a file of documents, tokenise it, write its shards and then its record; and
the processes in which tasks run. Nothing here imports torch or transformers, so a worker process
starts in a moment.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from types import ModuleType

import numpy as np

from ..config import UserError
from ..documents import read_chunks, split_lines
from ..runlog import atomic_write
from . import litpkds
from .shard_file import EDGE, hash_file, token_dtype, write_shard

EXAMPLES = 100  # rejected records that a task lists line by line, per reason; all are counted
BATCH = 256  # documents encoded at once


@dataclass(frozen=True)
class Task:
    """One file of documents, the stem of what it becomes below OUT, and what is known before it runs."""

    path: Path
    stem: str
    record: dict


class _Encoder:
    """A tokenizer without `transformers`, which takes seconds to import: one per process, from its JSON.

    Has the two methods that `chat.encode_chat` needs. Special tokens inside text are text, as in
    `bpe.encode_text`.
    """

    def __init__(self, tokenizer_json: str):
        from tokenizers import Tokenizer

        self.core = Tokenizer.from_str(tokenizer_json)
        self.core.encode_special_tokens = True

    def encode(self, text: str, **_) -> list[int]:
        return self.core.encode(text, add_special_tokens=False).ids

    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int | None]:
        return [self.core.token_to_id(token) for token in tokens]

    def encode_all(self, contents: list[str | list]) -> list[list[int]]:
        """Token ids of texts and dialogues, without separators."""
        from ..tokenizer import chat

        texts = [c for c in contents if isinstance(c, str)]
        encoded = iter(self.core.encode_batch_fast(texts, add_special_tokens=False))
        return [
            next(encoded).ids if isinstance(c, str) else chat.encode_chat(self, c)[0]
            for c in contents
        ]


_encoder: _Encoder | None = None


def _set_encoder(tokenizer_json: str) -> None:
    """Prepare this process for tasks."""
    global _encoder
    _encoder = _Encoder(tokenizer_json)


def _parse(line: bytes) -> tuple[str | None, str | list]:
    """(reason to reject or None, text or messages) of one line."""
    if not line.strip():
        return "blank_line", ""
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return "undecodable", ""
    except (ValueError, RecursionError):
        return "bad_json", ""
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        return "bad_record", ""
    text, meta = record["text"], record.get("meta")
    messages = meta.get("messages") if isinstance(meta, dict) and not text else None
    if messages is not None:
        from ..tokenizer import chat

        try:
            chat.check(messages)
            "".join(m["content"] for m in messages).encode()
        except UnicodeEncodeError:
            return "undecodable", ""
        except (ValueError, TypeError):
            return "bad_dialogue", ""
        return None, messages
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, written as \ud83d
        return "undecodable", ""
    return (None, text) if text.strip() else ("empty", "")


def held_out(content: bytes, fraction: float) -> bool:
    """Whether a document belongs to the validation split: decided by its content, so copies stay on one side."""
    digest = hashlib.blake2b(content, digest_size=8, person=b"steel-holdout").digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


class _Shards:
    """Collects the documents of one split of one file, and writes a shard whenever one is full."""

    def __init__(self, task: Task, root: Path, split: str):
        self.task, self.root, self.split = task, root, split
        self.dtype = token_dtype(task.record["vocab_size"])
        self.facts: list[dict] = []
        self._clear()

    def _clear(self) -> None:
        self.documents: list[np.ndarray] = []
        self.tokens = self.bytes = 0

    def add(self, ids: Iterable[int], utf8_bytes: int) -> None:
        """One document's token ids, separator included."""
        self.documents.append(np.asarray(ids, dtype=self.dtype))
        self.tokens += len(self.documents[-1])
        self.bytes += utf8_bytes
        if self.tokens >= self.task.record["shard_tokens"]:
            self.flush()

    def flush(self) -> None:
        if not self.documents:
            return
        tokens = np.concatenate(self.documents)
        ends = np.cumsum([len(document) for document in self.documents])
        if not np.array_equal(np.flatnonzero(tokens == self.task.record["separator_id"]) + 1, ends):
            raise UserError(
                f"{self.task.path}: the tokenizer makes the document separator out of text; "
                "it cannot be packed with this tokenizer"
            )
        suffix = ".val" if self.split == "validation" else ""
        stem = f"{self.task.stem}-{len(self.facts):05d}{suffix}"
        written = write_shard(self.root, stem, tokens, ends)
        self.facts.append({"split": self.split, "bytes": self.bytes, **written})
        self._clear()


def run_task(task: Task, root: str, advance: Callable[[int], None] | None = None) -> dict:
    """Tokenise one file, write its shards, then its record. Returns the record.

    advance(n): called when n more records are done.
    """
    splits = {name: _Shards(task, Path(root), name) for name in ("train", "validation")}
    pack_file = _pack_chunk if task.record["litpkds"] else _pack_documents
    found = pack_file(task, splits, advance or (lambda records: None))
    for split in splits.values():
        split.flush()
    if hash_file(task.path, EDGE) != task.record["input_hash"]:
        raise UserError(
            f"{task.path} changed while it was read; pack again when nothing writes to it"
        )
    shards = splits["train"].facts + splits["validation"].facts
    rejected = sum(found["rejected"].values())
    assert sum(s["documents"] for s in shards) + rejected == found["records"]
    record = {"stem": task.stem, **task.record, **found, "shards": shards}
    text = json.dumps(record, ensure_ascii=False, indent=1)
    atomic_write(Path(root) / f"{task.stem}.json", text)
    return record


def _pack_documents(task: Task, splits: dict[str, _Shards], advance: Callable[[int], None]) -> dict:
    """Documents, one a line, into shards. text_hash is the same for any order of the documents."""
    from ..tokenizer import chat

    separator, fraction = task.record["separator_id"], task.record["hold_out"]
    rejected: Counter[str] = Counter()
    examples: list[list] = []
    records = text_hash = 0
    for lines in _batches(split_lines(read_chunks(task.path)), BATCH):
        contents: list[str | list] = []
        for number, line in enumerate(lines, records + 1):
            reason, content = _parse(line)
            if reason is None:
                contents.append(content)
                continue
            rejected[reason] += 1
            if rejected[reason] <= EXAMPLES:
                examples.append([number, reason])
        for content, ids in zip(contents, _encoder.encode_all(contents), strict=True):
            utf8 = (content if isinstance(content, str) else chat.render(content)).encode()
            text_hash += int.from_bytes(hashlib.blake2b(utf8, digest_size=16).digest(), "little")
            split = "validation" if fraction and held_out(utf8, fraction) else "train"
            splits[split].add([*ids, separator], len(utf8))
        records += len(lines)
        advance(len(lines))
    return {
        "records": records,
        "rejected": dict(sorted(rejected.items())),
        "text_hash": f"{text_hash % 2**128:032x}",
        "examples": examples,
    }


def _batches(items: Iterable, size: int) -> Iterator[list]:
    batch: list = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _pack_chunk(task: Task, splits: dict[str, _Shards], advance: Callable[[int], None]) -> dict:
    """A chunk of the original's format. Its padding is taken off; it is one document, or as many as
    it has separators, for the original ended documents as it ended turns."""
    separator, vocabulary = task.record["separator_id"], task.record["vocab_size"]
    tokens = litpkds.without_padding(litpkds.read_chunk(task.path), separator)
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary:
        raise UserError(
            f"{task.path} has token {tokens.max()}, the tokenizer {vocabulary:,} entries; "
            "give the tokenizer that made it"
        )
    documents = np.split(tokens, np.flatnonzero(tokens == separator) + 1) if len(tokens) else []
    text_hash = 0
    for document in documents:
        ids = document if document[-1] == separator else np.append(document, separator)
        digest = hashlib.blake2b(ids.astype("<u4").tobytes(), digest_size=16).digest()
        text_hash += int.from_bytes(digest, "little")
        splits["train"].add(ids, _text_bytes(ids))
        advance(1)
    return {
        "records": len(documents),
        "rejected": {},
        "text_hash": f"{text_hash % 2**128:032x}",
        "examples": [],
    }


def _text_bytes(ids: np.ndarray) -> int:
    """UTF-8 bytes of the text of token ids; a character cut by a border of 2^16 tokens counts 3."""
    parts = np.split(ids, range(1 << 16, len(ids), 1 << 16))
    return sum(len(_encoder.core.decode(part.tolist()).encode()) for part in parts)


# -- processes -------------------------------------------------------------------------------------


def _start_worker(tokenizer_json: str) -> None:
    """Prepare a worker process. The processes are the parallelism: the tokenizer in each keeps to one thread."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _set_encoder(tokenizer_json)


def _die_with_parent() -> None:
    """A pool does not notice that its owner was killed: without this its processes would wait for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _without_main() -> Iterator[None]:
    """While processes start: hide the main script, which they would run again although they need nothing of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def run_tasks(
    tasks: list[Task], root: Path, tokenizer_json: str, workers: int, advance: Callable[[int], None]
) -> dict[str, dict]:
    """{stem: record} of all tasks, run in `workers` processes; one worker means this process."""
    if workers == 1:
        _set_encoder(tokenizer_json)
        return {task.stem: run_task(task, str(root), advance) for task in tasks}
    records = {}
    # spawn: a forked child of a process with threads (torch, tokenizers) may hang
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (tokenizer_json,))
    try:
        with _without_main():
            futures = [pool.submit(run_task, task, str(root)) for task in tasks]
        for future in as_completed(futures):
            record = future.result()
            records[record["stem"]] = record
            advance(record["records"])
    except BrokenProcessPool:
        raise UserError(
            "a packing process died, probably for lack of memory; run the same command again to go on, "
            "with fewer workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
    return records
