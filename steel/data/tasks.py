"""One packing task: parse and tokenise a slice of documents, write its shards and then its record; and the processes
in which tasks run. Nothing here imports torch or transformers, so a worker process starts in a moment.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from types import ModuleType

from ..config import UserError
from ..runlog import atomic_write
from .shards import ShardWriter, token_dtype

EXAMPLES = 100  # rejected records that a task lists line by line, per reason; all are counted
BATCH = 256  # documents encoded at once


@dataclass(frozen=True)
class Task:
    """One slice of one input: the stem of its files below OUT, and what is known before it runs."""

    stem: str
    record: dict


class _Encoder:
    """A tokenizer without `transformers`, which takes seconds to import: one per process, from its JSON.

    Has the two methods that `chat.encode_chat` needs. Special tokens inside text are text, as in `bpe.encode_text`.
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


def set_encoder(tokenizer_json: str) -> None:
    """Prepare this process for tasks."""
    global _encoder
    _encoder = _Encoder(tokenizer_json)


def _start_worker(tokenizer_json: str) -> None:
    """Prepare a worker process. The processes are the parallelism: the tokenizer in each keeps to one thread."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_die_with_parent, daemon=True).start()
    set_encoder(tokenizer_json)


def _die_with_parent() -> None:
    """A pool does not notice that its owner was killed: without this its processes would wait for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


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


def run_task(task: Task, lines: list[bytes], root: str) -> dict:
    """Tokenise one slice, write its shards, then its record. Returns the record."""
    from ..tokenizer import chat

    dtype, separator, hold_out = (
        token_dtype(task.record["vocab_size"]),
        task.record["separator_id"],
        task.record["hold_out"],
    )
    writers = {"train": ShardWriter(dtype), "validation": ShardWriter(dtype)}
    rejected: Counter[str] = Counter()
    examples: list[list] = []
    text_hash = 0
    for at in range(0, len(lines), BATCH):
        contents: list[str | list] = []
        for number, line in enumerate(lines[at : at + BATCH], task.record["first"] + at):
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
            split = "validation" if hold_out and held_out(utf8, hold_out) else "train"
            writers[split].add([*ids, separator], len(utf8))
    shards = [
        {
            "split": split,
            **writer.write(Path(root), task.stem + (".val" if split == "validation" else "")),
        }
        for split, writer in writers.items()
        if len(writer)
    ]
    assert sum(s["documents"] for s in shards) + rejected.total() == len(lines)
    record = {
        "stem": task.stem,
        **task.record,
        "shards": shards,
        "rejected": dict(sorted(rejected.items())),
        "text_hash": f"{text_hash % 2**128:032x}",
        "examples": examples,
    }
    atomic_write(Path(root) / f"{task.stem}.json", json.dumps(record, ensure_ascii=False, indent=1))
    return record


@contextmanager
def _without_main() -> Iterator[None]:
    """While processes start: hide the main script, which they would run again although they need nothing of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def in_processes(
    workers: int, calls: Iterable, tokenizer_json: str, done: Callable | None = None
) -> list:
    """Results of (function, arguments) in order, from `workers` processes, at most 2 calls a process in flight.

    `done` is called in this process with every result as it arrives. One worker means this process.
    """
    results: list = []
    if workers == 1:
        set_encoder(tokenizer_json)
        for function, arguments in calls:
            results.append(function(*arguments))
            if done:
                done(results[-1])
        return results
    pending: dict[Future, int] = {}

    def collect(limit: int) -> None:
        while len(pending) > limit:
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                results[pending.pop(future)] = future.result()
                if done:
                    done(future.result())

    try:
        # spawn: a forked child of a process with threads (torch, tokenizers) may hang
        with ProcessPoolExecutor(
            workers, get_context("spawn"), _start_worker, (tokenizer_json,)
        ) as pool:
            for function, arguments in calls:
                collect(2 * workers - 1)
                with _without_main():
                    pending[pool.submit(function, *arguments)] = len(results)
                results.append(None)
            collect(0)
    except BrokenProcessPool:
        raise UserError(
            "a packing process died, probably for lack of memory; run the same command again to go on, "
            "with fewer workers"
        ) from None
    return results
