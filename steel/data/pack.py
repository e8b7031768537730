"""Documents to token shards: parallel, resumable, and with an account of every record.

A task is one file of documents; worker processes read and tokenise it, cut it into shards of about
`shard_tokens` tokens, and write its record last and atomically. So a pack that was killed goes on
with the next file, and the result is byte-identical at any number of workers.

Records in = documents in shards + rejects, per reason: the sums close.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from glob import escape
from pathlib import Path

from .. import machine
from ..config import UserError
from ..runlog import atomic_write
from .shard_file import EDGE, hash_file, token_dtype
from .shards import (
    FORMAT,
    MANIFEST,
    TOKENIZER,
    copy_tokenizer,
    generation_hash,
    read_manifest,
    tokenizer_hash,
)
from .tasks import Task, run_tasks

SHARD_TOKENS = 1 << 24
SMALL_BYTES = 8 << 20  # below this, starting worker processes takes longer than the work
SUFFIXES = (".jsonl.zst", ".jsonl")
REPORTS = re.compile(r"report/|duplicates\.jsonl$")  # what `steel data prepare` says of its work


@dataclass(frozen=True)
class Input:
    """One file to pack. `name` is its path below the documents folder."""

    path: Path
    name: str
    source: str
    index: int  # among the files of its source


@dataclass(frozen=True)
class Settings:
    """What decides the bytes of a pack, besides the documents."""

    tokenizer_hash: str
    vocab_size: int
    separator_id: int
    shard_tokens: int
    hold_out: float
    litpkds: bool = False


def pack(
    docs: Path | str | list,
    out: Path | str,
    tokenizer_folder: Path | str,
    *,
    workers: int = 1,
    shard_tokens: int = SHARD_TOKENS,
    hold_out: float = 0.0,
    litpkds: bool = False,
    progress: bool | None = None,
) -> dict:
    """Write token shards of all documents below `docs` into `out`; returns the manifest (OUT/manifest.json).

    docs: folder of <source>.jsonl.zst or <source>/*.jsonl.zst, one such file, or a list of them.
    Lines are documents {"id", "text", "source", "lang", "meta"}; a dialogue has text "" and
    meta["messages"]. workers: processes, each for a file at a time. shard_tokens: a shard ends after
    so many tokens. hold_out: share of documents that go to the split "validation", by a hash of
    their content. litpkds: `docs` holds chunks of the original's format (*.bin) instead. progress:
    show a bar; None = on a terminal.

    The same call after a crash goes on; on a finished folder it changes nothing. UserError when
    `out` holds another pack or is being packed into, an input is damaged, or two inputs have the
    same content.
    """
    if not 0 <= hold_out < 1 or workers < 1 or shard_tokens < 1:
        raise UserError(
            f"pack needs 0 ≤ hold_out < 1, workers ≥ 1, shard_tokens ≥ 1; got {hold_out}, {workers}, "
            f"{shard_tokens}"
        )
    if litpkds and hold_out:
        raise UserError("LITPKDS chunks have no documents to hold out; leave hold_out at 0")
    from ..tokenizer import bpe

    root, inputs = Path(out), find_inputs(docs, litpkds)
    tokenizer = bpe.load(tokenizer_folder)
    digest, separator = tokenizer_hash(tokenizer_folder), bpe.end_of_text_id(tokenizer)
    settings = Settings(digest, len(tokenizer), separator, shard_tokens, hold_out, litpkds)
    with locked(root):
        if (root / MANIFEST).is_file():
            return _finished_pack(root, inputs, settings)
        copy_tokenizer(tokenizer_folder, root / TOKENIZER)
        return write_generation(inputs, root, tokenizer, settings, None, workers, progress)


def find_inputs(docs: Path | str | list, litpkds: bool = False) -> list[Input]:
    """<source>.jsonl[.zst] files, or <source>/*.jsonl[.zst], of a folder; or the given files.

    Given files are named by themselves, with their folders where two have the same name. A LITPKDS
    chunk <source>_0_0000000000.bin, or <source>/*.bin, belongs to <source>.
    """
    if isinstance(docs, (list, tuple)) or Path(docs).is_file():
        files = _given_files(docs if isinstance(docs, (list, tuple)) else [docs])
    elif Path(docs).is_dir():
        root = Path(docs)
        files = [(p, p.relative_to(root).as_posix()) for p in root.rglob("*") if p.is_file()]
        files = [(p, name, "/" in name) for p, name in files if not REPORTS.match(name)]
    else:
        raise UserError(f"no documents at {docs}; give the folder that 'steel data prepare' wrote")
    found: list[Input] = []
    count: Counter[str] = Counter()
    for path, name, in_folder in sorted(files, key=lambda file: file[1]):
        suffix = next((s for s in ((".bin",) if litpkds else SUFFIXES) if name.endswith(s)), None)
        if suffix is None or any(part.startswith(".") for part in name.split("/")):
            continue
        source = name.split("/")[0] if in_folder else path.name.removesuffix(suffix)
        if litpkds and not in_folder:
            source = re.sub(r"([_-]?\d+)+$", "", source) or source
        found.append(Input(path, name, source, count[source]))
        count[source] += 1
    if not found:
        kind = "*.bin" if litpkds else "*.jsonl.zst"
        raise UserError(
            f"no {kind} in {docs}; 'steel data prepare' or 'steel data convert' writes documents"
        )
    return found


def _given_files(docs: list) -> list[tuple[Path, str, bool]]:
    """(path, name, False) of files given one by one."""
    paths = [Path(path) for path in docs]
    for path in paths:
        if not path.is_file():
            raise UserError(f"no documents at {path}")
    whole = [path.resolve() for path in paths]
    if twice := [path for path, n in Counter(whole).items() if n > 1]:
        raise UserError(f"{twice[0]} is given twice")
    same_name = Counter(path.name for path in paths)
    top = Path(os.path.commonpath([path.parent for path in whole])) if whole else Path()
    return [
        (path, path.name if same_name[path.name] == 1 else full.relative_to(top).as_posix(), False)
        for path, full in zip(paths, whole, strict=True)
    ]


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keep other processes from packing into `root`; UserError when one does. Freed when we end."""
    import fcntl

    root.mkdir(parents=True, exist_ok=True)
    folder = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is packing into {root}; wait for its end, or use another folder"
            ) from None
        yield
    finally:
        os.close(folder)


def write_generation(
    inputs: list[Input],
    root: Path,
    tokenizer,
    settings: Settings,
    before: dict | None,
    workers: int,
    show: bool | None,
) -> dict:
    """Pack `inputs` as the next generation after manifest `before` (None: the first), publish the new manifest."""
    generation = len(before["generations"]) if before else 0
    tasks = [_plan(item, settings, generation) for item in inputs]
    records = _finished(root, {task.stem: task for task in tasks}, generation)
    left = [task for task in tasks if task.stem not in records]
    _sweep(root, left)
    left.sort(key=lambda task: -task.path.stat().st_size)  # the longest first: none is waited for
    if sum(task.path.stat().st_size for task in left) < SMALL_BYTES:
        workers = 1
    core = tokenizer.backend_tokenizer.to_str()
    done = sum(record["records"] for record in records.values())
    workers = max(1, min(workers, len(left)))
    with _bar(show, done) as bar:
        records |= run_tasks(left, root, core, workers, bar.advance)
    manifest = _manifest(settings, [records[task.stem] for task in tasks], before)
    try:
        _refuse_copies(manifest)
    except UserError:
        _withdraw(root, generation)
        raise
    rejects = json.dumps(_rejects(root, manifest), ensure_ascii=False, indent=1)
    atomic_write(root / "rejects.json", rejects)
    atomic_write(root / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=1))
    return manifest


def _bar(show: bool | None, done: int):
    if show is False or (show is None and not sys.stderr.isatty()):
        return contextlib.nullcontext(machine.Progress(None, None))
    return machine.progress(None, "packing", "documents", done)


def _plan(item: Input, settings: Settings, generation: int) -> Task:
    """The task of one input. Its record must match for its finished shards to be kept."""
    record = {
        "format": FORMAT,
        "file": item.name,
        "source": item.source,
        "generation": generation,
        "input_hash": hash_file(item.path, EDGE),
        **asdict(settings),
    }
    return Task(item.path, f"{item.source}/{generation:03d}-{item.index:04d}", record)


def _sweep(root: Path, left: list[Task]) -> None:
    """Remove what a killed pack left behind: temporary files, and shards of files without a record."""
    unfinished = [path for task in left for path in root.glob(f"{escape(task.stem)}-*")]
    for leftover in (*root.glob(".*.*.*"), *root.glob("*/.*.*.*"), *unfinished):
        leftover.unlink(missing_ok=True)


def _withdraw(root: Path, generation: int) -> None:
    """Remove the shards of a generation that was refused, so that the folder is as it was."""
    for path in root.glob(f"*/{generation:03d}-*"):
        path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()


def _finished_pack(root: Path, inputs: list[Input], settings: Settings) -> dict:
    """The manifest of a folder that is complete. UserError when it is of other documents."""
    manifest = read_manifest(root)
    rows = {row["file"]: row for row in manifest["inputs"] if row["generation"] == 0}
    same = {item.name for item in inputs} == set(rows) and all(
        manifest.get(key, value) == value for key, value in asdict(settings).items()
    )
    for item in inputs if same else ():
        packed = rows[item.name].get("input_hash")  # shards of an older version do not have it
        same &= packed in (None, hash_file(item.path, EDGE))
    if not same:
        raise UserError(
            f"{root} already holds the shards of other documents or settings; add to them with "
            "'steel data append', or use an empty folder"
        )
    return manifest


def _finished(root: Path, tasks: dict[str, Task], generation: int) -> dict[str, dict]:
    """Records of tasks that are done. UserError when the folder holds shards of another pack."""
    done = {}
    for path in sorted(root.glob(f"*/{generation:03d}-*.json")):
        stem = path.relative_to(root).as_posix().removesuffix(".json")
        record = json.loads(path.read_text(encoding="utf-8"))
        wanted = tasks[stem].record if stem in tasks else {"file": ""}
        changed = next((key for key in wanted if record.get(key) != wanted[key]), None)
        if changed:
            unfinished = f"remove the unfinished {root}/*/{generation:03d}-*"
            raise UserError(
                f"{root} holds shards that do not fit this pack ({path.name}: {changed} differs, from "
                f"{record.get('file')}); give the same documents and settings, or "
                f"{unfinished if generation else 'use an empty folder'}"
            )
        width = token_dtype(record["vocab_size"]).itemsize
        files = {root / shard["path"]: shard["tokens"] * width for shard in record["shards"]}
        if all(file.is_file() and file.stat().st_size == size for file, size in files.items()):
            done[stem] = record
    return done


def _manifest(settings: Settings, records: list[dict], before: dict | None) -> dict:
    """The manifest after this generation. Sums: records = documents + rejected."""
    kept = ("file", "source", "generation", "input_hash", "records", "rejected", "text_hash")
    inputs = [
        {**{key: r[key] for key in kept}, "documents": sum(s["documents"] for s in r["shards"])}
        for r in records
    ]
    shards = [
        {**shard, **{key: record[key] for key in ("source", "file", "generation")}}
        for record in records
        for shard in record["shards"]
    ]
    rejected: Counter[str] = Counter()
    for row in inputs:
        rejected.update(row["rejected"])
    counted = {key: sum(s[key] for s in shards) for key in ("documents", "tokens", "bytes")}
    if before:
        inputs, shards = before["inputs"] + inputs, before["shards"] + shards
        rejected.update(before["rejected"])
    result = {
        "format": FORMAT,
        "dtype": token_dtype(settings.vocab_size).name,
        **asdict(settings),
        **({} if before and "tokenizer" not in before else {"tokenizer": TOKENIZER}),
        "records": sum(row["records"] for row in inputs),
        "rejected": dict(sorted(rejected.items())),
        **{key: counted[key] + (before[key] if before else 0) for key in counted},
        "generations": before["generations"][:] if before else [],
        "inputs": inputs,
        "shards": shards,
    }
    digest = generation_hash(result, len(result["generations"]))
    result["generations"].append({"hash": digest, **counted})
    return result


def _refuse_copies(manifest: dict) -> None:
    """UserError naming both files when an input has the texts of another, or begins like it for whole shards."""
    full: dict[tuple, list[str]] = {}
    for shard in manifest["shards"]:
        if shard["split"] == "train" and shard["tokens"] >= manifest["shard_tokens"]:
            full.setdefault((shard["generation"], shard["file"]), []).append(shard["hash"])
    seen: dict[str, dict] = {}
    for row in manifest["inputs"]:
        parts = full.get((row["generation"], row["file"]), [])
        for digest in (row["text_hash"], *parts) if row["documents"] else ():
            other = seen.setdefault(digest, row)
            if other is not row:
                raise UserError(
                    f"{row['file']} repeats the content of {_label(other)}; remove one of the two"
                )


def _label(row: dict) -> str:
    appended = f" (appended as generation {row['generation']})" if row["generation"] else ""
    return row["file"] + appended


def _rejects(root: Path, manifest: dict) -> dict:
    """Every rejected record by reason and input, with the first line numbers of each file and reason."""
    examples = []
    for path in sorted(root.glob("*/[0-9]*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        place = {key: record[key] for key in ("file", "generation")}
        examples += [{**place, "line": line, "reason": why} for line, why in record["examples"]]
    kept = ("file", "generation", "records", "documents", "rejected")
    return {
        "total": sum(manifest["rejected"].values()),
        "reasons": manifest["rejected"],
        "inputs": [{key: row[key] for key in kept} for row in manifest["inputs"]],
        "examples": examples,
    }
