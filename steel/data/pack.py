"""Documents to token shards: parallel, resumable, and with an account of every record.

A task is one slice of one `<source>.jsonl.zst`, of about `shard_tokens` tokens. One reader cuts the files into slices
and hands them to worker processes; a task writes its shards, then its own record, last and atomically. So a pack that
was killed goes on where it was, and the result is byte-identical at any number of workers.

Records in = documents in shards + rejects, per reason: the sums close.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from .. import runlog
from ..config import UserError
from ..runlog import atomic_write
from .inputs import Input, Survey, find_inputs, hash_lines, read_slices, survey
from .shards import (
    FORMAT,
    MANIFEST,
    TOKENIZER,
    copy_tokenizer,
    generation_hash,
    read_manifest,
    token_dtype,
    tokenizer_hash,
)
from .tasks import Task, in_processes, run_task

SHARD_TOKENS = 1 << 24
BYTES_PER_TOKEN = 4  # a slice ends after shard_tokens * 4 bytes of JSON lines
SMALL_BYTES = 8 << 20  # below this, starting worker processes takes longer than the work


@dataclass(frozen=True)
class Settings:
    """What decides the bytes of a pack, besides the documents."""

    tokenizer_hash: str
    vocab_size: int
    separator_id: int
    shard_tokens: int
    hold_out: float


def pack(
    docs: Path | str | list,
    out: Path | str,
    tokenizer_folder: Path | str,
    *,
    workers: int = 1,
    shard_tokens: int = SHARD_TOKENS,
    hold_out: float = 0.0,
    progress: bool | None = None,
) -> dict:
    """Write token shards of all documents below `docs` into `out`; returns the manifest (OUT/manifest.json).

    docs: folder of <source>.jsonl.zst or <source>/*.jsonl.zst, one such file, or a list of them. Lines are documents
    {"id", "text", "source", "lang", "meta"}; a dialogue has text "" and meta["messages"].
    workers: processes. shard_tokens: a shard ends after about so many tokens. hold_out: share of documents that go
    to the split "validation", by a hash of their content. progress: show a bar; None = on a terminal.

    The same call after a crash goes on; on a finished folder it changes nothing. UserError when `out` holds another
    pack, an input is damaged, or two inputs have the same content.
    """
    if not 0 <= hold_out < 1 or workers < 1 or shard_tokens < 1:
        raise UserError(
            f"pack needs 0 ≤ hold_out < 1, workers ≥ 1, shard_tokens ≥ 1; got {hold_out}, {workers}, "
            f"{shard_tokens}"
        )
    from ..tokenizer import bpe

    inputs = find_inputs(docs)
    tokenizer = bpe.load(tokenizer_folder)
    settings = Settings(
        tokenizer_hash(tokenizer_folder),
        len(tokenizer),
        bpe.end_of_text_id(tokenizer),
        shard_tokens,
        hold_out,
    )
    if not (Path(out) / MANIFEST).is_file():
        copy_tokenizer(tokenizer_folder, Path(out) / TOKENIZER)
    return write_generation(inputs, Path(out), tokenizer, settings, None, workers, progress)


def write_generation(
    inputs: list[Input],
    root: Path,
    tokenizer,
    settings: Settings,
    before: dict | None,
    workers: int,
    progress: bool | None,
) -> dict:
    """Pack `inputs` as the next generation after manifest `before` (None: the first) and publish the new manifest."""
    generation = len(before["generations"]) if before else 0
    size = settings.shard_tokens * BYTES_PER_TOKEN
    core = tokenizer.backend_tokenizer.to_str()
    weight = sum(i.path.stat().st_size for i in inputs)
    looks = [(survey, (i.path, size)) for i in inputs]
    surveys = in_processes(workers if weight > 20 * SMALL_BYTES else 1, looks, core)
    rows = [_input_row(i, s, generation) for i, s in zip(inputs, surveys, strict=True)]
    _refuse_same_lines(rows, before["inputs"] if before else [])
    tasks = [_plan(i, s, settings, generation) for i, s in zip(inputs, surveys, strict=True)]
    _sweep(root)
    finished = _finished(root, {t.stem: t for ts in tasks for t in ts}, generation)
    left = sum(map(len, tasks)) - len(finished)
    if before is None and (root / MANIFEST).is_file():
        if left:
            raise UserError(
                f"{root} already holds the shards of other documents; add to them with 'steel data "
                "append', or use an empty folder"
            )
        return read_manifest(root)
    if sum(s.bytes for s in surveys) < SMALL_BYTES or left < 2:
        workers = 1
    done = sum(t.record["records"] for ts in tasks for t in ts if t.stem in finished)
    with _bar(progress, sum(s.records for s in surveys), done) as bar:
        _run(root, core, inputs, tasks, size, finished, workers, bar)
    records = [finished[t.stem] for ts in tasks for t in ts]
    manifest = _manifest(settings, rows, records, before)
    try:
        _refuse_same_texts(manifest["inputs"])
    except UserError:
        _withdraw(root, generation)
        raise
    atomic_write(
        root / "rejects.json", json.dumps(_rejects(root, manifest), ensure_ascii=False, indent=1)
    )
    atomic_write(root / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=1))
    return manifest


def _bar(progress: bool | None, total: int, done: int):
    if progress is False or (progress is None and not sys.stderr.isatty()):
        return nullcontext(None)
    return runlog.progress(total, "packing", "documents", done)


def _input_row(item: Input, found: Survey, generation: int) -> dict:
    return {
        "file": item.name,
        "source": item.source,
        "generation": generation,
        "records": found.records,
        "bytes": found.bytes,
        "hash": found.hash,
        "slices": [s.hash for s in found.slices],
    }


def _refuse_same_lines(new: list[dict], old: list[dict]) -> None:
    """UserError naming both files when an input, or a whole slice of it, has the content of another input."""
    seen: dict[str, str] = {}
    for row in [*old, *new]:
        for digest in dict.fromkeys((row["hash"], *row["slices"])) if row["records"] else ():
            other = seen.setdefault(digest, _label(row))
            if other != _label(row):
                raise UserError(
                    f"{row['file']} repeats the content of {other}; remove one of the two"
                )


def _label(row: dict) -> str:
    return (
        row["file"]
        if row["generation"] == 0
        else f"{row['file']} (appended as generation {row['generation']})"
    )


def _refuse_same_texts(inputs: list[dict]) -> None:
    """The same for documents that differ only in order, ids or metadata."""
    seen: dict[str, str] = {}
    for row in inputs:
        other = seen.setdefault(row["text_hash"], _label(row)) if row["documents"] else _label(row)
        if other != _label(row):
            raise UserError(f"{row['file']} repeats the texts of {other}; remove one of the two")


def _plan(item: Input, found: Survey, settings: Settings, generation: int) -> list[Task]:
    """The tasks of one input. A task's record must match for its finished shards to be kept."""
    tasks = []
    for number, part in enumerate(found.slices):
        record = {
            "format": FORMAT,
            "file": item.name,
            "source": item.source,
            "generation": generation,
            "slice": number,
            "first": part.first,
            "records": part.count,
            "input_hash": part.hash,
            **asdict(settings),
        }
        stem = f"{item.source}/{generation:03d}-{item.index:04d}-{number:05d}"
        tasks.append(Task(stem, record))
    return tasks


def _sweep(root: Path) -> None:
    """Remove temporary files that a killed pack left behind."""
    for leftover in (*root.glob(".*.*.*"), *root.glob("*/.*.*.*")):
        leftover.unlink(missing_ok=True)


def _withdraw(root: Path, generation: int) -> None:
    """Remove the shards of a generation that was refused, so that the folder is as it was."""
    for path in root.glob(f"*/{generation:03d}-*"):
        path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()


def _finished(root: Path, tasks: dict[str, Task], generation: int) -> dict[str, dict]:
    """Records of tasks that are done. UserError when the folder holds shards of another pack."""
    done = {}
    for path in sorted(root.glob(f"*/{generation:03d}-*.json")):
        stem = path.relative_to(root).as_posix().removesuffix(".json")
        record = json.loads(path.read_text(encoding="utf-8"))
        task = tasks.get(stem)
        changed = (
            "file"
            if task is None
            else next((k for k, v in task.record.items() if record.get(k) != v), None)
        )
        if changed:
            remedy = (
                f"remove the unfinished {root}/*/{generation:03d}-*"
                if generation
                else "use an empty folder"
            )
            raise UserError(
                f"{root} holds shards that do not fit this pack ({path.name}: {changed} differs, from "
                f"{record.get('file')}); give the same documents and settings, or {remedy}"
            )
        width = token_dtype(record["vocab_size"]).itemsize
        if all(
            (root / s["path"]).is_file()
            and (root / s["path"]).stat().st_size == s["tokens"] * width
            for s in record["shards"]
        ):
            done[stem] = record
    return done


def _run(
    root: Path,
    tokenizer_json: str,
    inputs: list[Input],
    tasks: list[list[Task]],
    size: int,
    finished: dict[str, dict],
    workers: int,
    bar,
) -> None:
    """Run the tasks that are not in `finished`, and add their records to it."""

    def work():
        for item, todo in zip(inputs, tasks, strict=True):
            if all(t.stem in finished for t in todo):
                continue
            for task, lines in zip(todo, read_slices(item.path, size), strict=True):
                if task.stem in finished:
                    continue
                if hash_lines(lines) != task.record["input_hash"]:
                    raise UserError(
                        f"{item.path} changed while it was read; pack again when nothing writes to it"
                    )
                yield run_task, (task, lines, str(root))

    def done(record: dict) -> None:
        finished[record["stem"]] = record
        if bar is not None:
            bar.advance(record["records"], source=record["source"])

    in_processes(workers, work(), tokenizer_json, done)


def _manifest(
    settings: Settings, inputs: list[dict], records: list[dict], before: dict | None
) -> dict:
    """The manifest after this generation. Sums: records = documents + rejected.

    An input's text_hash is the sum of its documents' hashes mod 2^128: the same for any order and any slicing.
    """
    shards = [
        {**shard, **{k: record[k] for k in ("source", "file", "slice", "generation")}}
        for record in records
        for shard in record["shards"]
    ]
    rejected: Counter[str] = Counter()
    for row in inputs:
        mine = [r for r in records if r["file"] == row["file"]]
        reasons: Counter[str] = Counter()
        for record in mine:
            reasons.update(record["rejected"])
        row["rejected"] = dict(sorted(reasons.items()))
        row["text_hash"] = f"{sum(int(r['text_hash'], 16) for r in mine) % 2**128:032x}"
        row["documents"] = sum(s["documents"] for r in mine for s in r["shards"])
        assert row["documents"] + reasons.total() == row["records"], (
            "every record is in a shard or rejected"
        )
        rejected.update(reasons)
    shards = [*(before["shards"] if before else []), *shards]
    inputs = [*(before["inputs"] if before else []), *inputs]
    rejected.update(before["rejected"] if before else {})
    result = {
        "format": FORMAT,
        "dtype": token_dtype(settings.vocab_size).name,
        **asdict(settings),
        **({} if before and "tokenizer" not in before else {"tokenizer": TOKENIZER}),
        "records": sum(r["records"] for r in inputs),
        "rejected": dict(sorted(rejected.items())),
        **{k: sum(s[k] for s in shards) for k in ("documents", "tokens", "bytes")},
        "generations": list(before["generations"]) if before else [],
        "inputs": inputs,
        "shards": shards,
    }
    number = len(result["generations"])
    mine = [s for s in shards if s["generation"] == number]
    result["generations"].append(
        {
            "hash": generation_hash(result, number),
            **{k: sum(s[k] for s in mine) for k in ("documents", "tokens", "bytes")},
        }
    )
    return result


def _rejects(root: Path, manifest: dict) -> dict:
    """Every rejected record by reason and input, with the first EXAMPLES line numbers of each task and reason."""
    examples = []
    for path in sorted(root.glob("*/[0-9]*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        examples += [
            {
                "file": record["file"],
                "generation": record["generation"],
                "line": line,
                "reason": reason,
            }
            for line, reason in record["examples"]
        ]
    return {
        "total": sum(manifest["rejected"].values()),
        "reasons": manifest["rejected"],
        "inputs": [
            {k: row[k] for k in ("file", "generation", "records", "documents", "rejected")}
            for row in manifest["inputs"]
        ],
        "examples": examples,
    }
