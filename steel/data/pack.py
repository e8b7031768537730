"""Documents to token shards: parallel, resumable, and with an account of every record.

A task is one file of documents; worker processes read and tokenise it, cut it into shards of about
`shard_tokens` tokens, and write its record last and atomically. So a pack that was killed goes on
with the next file, and the result is byte-identical at any number of workers.

Records in = documents in shards + rejects, per reason: the sums close.

`append` adds documents while a run is using the corpus. They become the next generation of shards;
nothing that is on disk changes, so a running job notices nothing. When the run resumes,
`Loader.from_state` shuffles them together with exactly the samples that it has not seen in the
current epoch, from the slot at which it resumes.
"""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from glob import escape
from pathlib import Path
from typing import NamedTuple

from .. import machine
from ..config import UserError, sound
from ..runlog import read_json, write_json
from .loader import Loader
from .mixture import POOL
from .shard_file import EDGE, hash_file, token_dtype
from .shards import (
    FORMAT,
    MANIFEST,
    TOKENIZER,
    ShardSet,
    copy_tokenizer,
    generation_hash,
    read_manifest,
    tokenizer_hash,
)
from .tasks import Task, run_task

SHARD_TOKENS = 1 << 24
SMALL_BYTES = 8 << 20  # below this, starting worker processes takes longer than the work
REPORTS = re.compile(r"report/|duplicates\.jsonl$")  # what `steel data prepare` says of its work
KEPT = ("file", "source", "generation", "input_hash", "records", "rejected", "text_hash")
SETTINGS = ("tokenizer_hash", "vocab_size", "separator_id", "shard_tokens", "hold_out", "litpkds")
"""What decides the bytes of a pack, besides the documents."""


class Input(NamedTuple):
    """One file to pack. `name` is its path below the documents folder."""

    path: Path
    name: str
    source: str
    index: int  # among the files of its source


def pack(
    docs: Path | str,
    out: Path | str,
    tokenizer_folder: Path | str,
    *,
    workers: int = 1,
    shard_tokens: int = SHARD_TOKENS,
    hold_out: float = 0.0,
    litpkds: bool = False,
    progress: bool = True,
) -> dict:
    """Write token shards of all documents below `docs` into `out`; returns the manifest (OUT/manifest.json).

    docs: see `find_inputs`. workers: processes, each for a file at a time. shard_tokens: a shard
    ends after so many tokens. hold_out: share of documents that go to the split "validation", by a
    hash of their content. litpkds: `docs` holds chunks of the original's format (*.bin) instead.
    progress: show a bar.

    The same call after a crash goes on; on a finished folder it changes nothing. UserError when
    `out` holds another pack or is being packed into, an input is damaged, or two inputs have the
    same content.
    """
    if not 0 <= hold_out < 1 or min(workers, shard_tokens) < 1:
        raise UserError("pack needs 0 ≤ hold_out < 1, workers ≥ 1 and shard_tokens ≥ 1")
    if litpkds and hold_out:
        raise UserError("LITPKDS chunks have no documents to hold out; leave hold_out at 0")
    from ..tokenizer import bpe

    root, inputs = Path(out), find_inputs(docs, litpkds)
    tokenizer = bpe.load(tokenizer_folder)
    digest, separator = tokenizer_hash(tokenizer_folder), bpe.end_of_text_id(tokenizer)
    values = (digest, len(tokenizer), separator, shard_tokens, hold_out, litpkds)
    settings = dict(zip(SETTINGS, values, strict=True))
    with locked(root):
        if not (root / MANIFEST).is_file():
            copy_tokenizer(tokenizer_folder, root / TOKENIZER)
        return write_generation(inputs, root, tokenizer, settings, None, workers, progress)


def append(
    out: Path | str,
    docs: Path | str,
    tokenizer_folder: Path | str | None = None,
    *,
    consumed: Mapping | Path | str | None = None,
    workers: int = 1,
    progress: bool = True,
) -> dict:
    """Pack `docs` into the shard folder `out` as its next generation. Interrupted, the same call goes on.

    tokenizer_folder: has to be the one in the shards, which is taken without it.
    consumed: the data state of a run (`Loader.state`), or its folder: checked against `out`, and the
    answer then says what the run will mix. Returns {"generation", "documents", "tokens", "bytes"}
    and, with `consumed`, {"from_step", "new_samples", "without_share"}: the sources that are new to a run
    with shares by name. It refuses to go on until they have one, or "*" stands for them.

    UserError when the tokenizer is another one, when a file repeats an earlier one (both are named),
    when a shard has changed on disk, or when the run does not read these shards.
    """
    from ..tokenizer import bpe

    root = Path(out)
    shards = ShardSet.open(root)
    shards.check_all()
    before = shards.manifest
    state = find_state(consumed) if isinstance(consumed, (str, Path)) else consumed
    if state is not None:
        Loader.from_state(shards, state)
    tokenizer_folder = tokenizer_folder or shards.tokenizer
    shards.check_vocabulary(shards.vocab_size, tokenizer_folder)
    settings = {key: before[key] for key in SETTINGS}
    inputs, tokenizer = find_inputs(docs, settings["litpkds"]), bpe.load(tokenizer_folder)
    with locked(root):
        if read_manifest(root) != before:
            raise UserError(f"another process has just appended to {root}; run the command again")
        manifest = write_generation(inputs, root, tokenizer, settings, before, workers, progress)
    generation = len(before["generations"])
    now = manifest["generations"][generation]
    added = {key: now[key] for key in ("documents", "tokens", "bytes")}
    answer = {"generation": generation, **added}
    if state is not None:
        grown = ShardSet(root, manifest, "train")
        named = POOL not in state["phases"][-1]["quotas"]
        answer["from_step"] = state["step"]
        answer["new_samples"] = grown.samples(state["sequence_length"], since=generation)
        answer["without_share"] = sorted({*grown.sources} - {*shards.sources}) if named else []
    return answer


def find_state(run: Path | str) -> dict:
    """The newest data state in the checkpoints of a RUN folder and of its stages."""
    files = list(Path(run).glob("**/step-*/state.json"))
    if not files:
        raise UserError(f"no checkpoint in {run}; give the stage's folder, such as RUN/pretrain")
    states = [state for file in files if (state := read_json(file).get("data"))]
    if not states:
        raise UserError(f"{run} holds no data state; was this run trained on token shards?")
    with sound(f"a checkpoint of {run}", "remove it"):
        return max(states, key=lambda state: state["step"])


def find_inputs(docs: Path | str, litpkds: bool = False) -> list[Input]:
    """<source>.jsonl[.zst] files, or <source>/*.jsonl[.zst], of a folder; or the one file given.

    Lines are documents, see `steel.documents`. A LITPKDS chunk <source>_0_0000000000.bin, or
    <source>/*.bin, belongs to <source>.
    """
    root = Path(docs)
    if not root.exists():
        raise UserError(f"no documents at {docs}; give what 'steel data prepare' wrote")
    in_folder = root.is_dir()
    paths = [p for p in root.rglob("*") if p.is_file()] if in_folder else [root]
    named = {p.relative_to(root if in_folder else root.parent).as_posix(): p for p in paths}
    found: list[Input] = []
    count: Counter[str] = Counter()
    for name, path in sorted(named.items()):
        own = re.fullmatch(r"(.+)\.bin" if litpkds else r"(.+)\.jsonl(\.zst)?", path.name)
        hidden = any(part.startswith(".") for part in name.split("/"))
        if not own or hidden or (in_folder and REPORTS.match(name)):
            continue
        source = own[1]
        if "/" in name:
            source = name.split("/")[0]
        elif litpkds:
            source = re.sub(r"([_-]?\d+)+$", "", source) or source
        found.append(Input(path, name, source, count[source]))
        count[source] += 1
    if not found:
        kind = "*.bin" if litpkds else "*.jsonl.zst"
        raise UserError(f"no {kind} in {docs}; 'steel data prepare' writes documents")
    return found


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keep other processes from packing into `root`; UserError when one does. Freed when we end."""
    import fcntl

    root.mkdir(parents=True, exist_ok=True)
    folder = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UserError(f"another process is packing into {root}; wait for its end") from None
    finally:
        os.close(folder)


def write_generation(
    inputs: list[Input],
    root: Path,
    tokenizer,
    settings: dict,
    before: dict | None,
    workers: int,
    progress: bool,
) -> dict:
    """Pack `inputs` as the next generation after manifest `before` (None: the first), publish the new manifest."""
    generation = len(before["generations"]) if before else 0
    tasks = [_plan(item, settings, generation) for item in inputs]
    records = _finished(root, tasks, generation)
    left = [task for task in tasks if task.record["stem"] not in records]
    if before is None and (root / MANIFEST).is_file():
        if left:
            what = f"{root} is finished, without {left[0].record['file']}"
            raise UserError(f"{what}; add it with 'steel data append', or use an empty folder")
        return read_manifest(root)
    _sweep(root, left)
    sizes = {task.path: task.path.stat().st_size for task in left}
    left.sort(key=lambda task: -sizes[task.path])  # the longest first: none is waited for
    workers = min(workers, len(left)) if sum(sizes.values()) >= SMALL_BYTES else 1
    done = sum(record["records"] for record in records.values())
    with machine.progress(None, "packing", "documents", done, show=progress) as bar:
        advance = bar.advance if workers == 1 else None
        work = partial(run_task, root, tokenizer.backend_tokenizer.to_str(), advance)
        for record in machine.in_processes(work, left, workers):
            records[record["stem"]] = record
            if advance is None:
                bar.advance(record["records"])
    manifest = _manifest(settings, [records[task.record["stem"]] for task in tasks], before)
    try:
        _refuse_copies(manifest)
    except UserError:
        _withdraw(root, generation)
        raise
    write_json(root / "rejects.json", _rejects(root, manifest))
    write_json(root / MANIFEST, manifest)
    return manifest


def _plan(item: Input, settings: dict, generation: int) -> Task:
    """The task of one input. Its record must match for its finished shards to be kept."""
    record = {
        "stem": f"{item.source}/{generation:03d}-{item.index:04d}",
        "format": FORMAT,
        "file": item.name,
        "source": item.source,
        "generation": generation,
        "input_hash": hash_file(item.path, EDGE),
        **settings,
    }
    return Task(item.path, record)


def _finished(root: Path, tasks: list[Task], generation: int) -> dict[str, dict]:
    """Records of tasks that are done. UserError when the folder holds shards of another pack."""
    wanted = {task.record["stem"]: task.record for task in tasks}
    done = {}
    for path in sorted(root.glob(f"*/{generation:03d}-*.json")):
        record = read_json(path, keys=(*KEPT, "shards", "examples"))
        stem = path.relative_to(root).as_posix().removesuffix(".json")
        expected = wanted.get(stem, {"file": ""})  # a record of an older version may lack a key
        other = [key for key in expected if record.get(key, expected[key]) != expected[key]]
        if other:
            remedy = "add to them with 'steel data append', or use an empty folder"
            if generation:
                remedy = f"or remove the unfinished {root}/*/{generation:03d}-*"
            why = f"{path.name}: {other[0]} differs, from {record.get('file')}"
            what = f"{root} holds shards of other documents or settings ({why})"
            raise UserError(f"{what}; give the same ones, {remedy}")
        done[stem] = record
    return done


def _sweep(root: Path, left: list[Task]) -> None:
    """Remove what a killed pack left behind: temporary files, and shards of files without a record."""
    stems = [escape(task.record["stem"]) for task in left]
    for pattern in (".*.*.*", "*/.*.*.*", *(f"{stem}-*" for stem in stems)):
        for leftover in root.glob(pattern):
            leftover.unlink(missing_ok=True)


def _withdraw(root: Path, generation: int) -> None:
    """Remove the shards of a generation that was refused, so that the folder is as it was."""
    for path in root.glob(f"*/{generation:03d}-*"):
        path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()


def _manifest(settings: dict, records: list[dict], before: dict | None) -> dict:
    """The manifest after this generation. Sums: records = documents + rejected."""
    counted = dict.fromkeys(("documents", "tokens", "bytes"), 0)
    old = before or {"inputs": [], "shards": [], "generations": [], **counted}
    inputs, shards = old["inputs"][:], old["shards"][:]
    for record in records:
        documents = sum(shard["documents"] for shard in record["shards"])
        inputs.append({**{key: record[key] for key in KEPT}, "documents": documents})
        for shard in record["shards"]:
            shards.append(shard | {key: record[key] for key in ("source", "file", "generation")})
            for key in counted:
                counted[key] += shard[key]
    rejected = sum((Counter(row["rejected"]) for row in inputs), Counter())
    result = {
        "format": FORMAT,
        "dtype": token_dtype(settings["vocab_size"]).name,
        **settings,
        "tokenizer": TOKENIZER,
        "records": sum(row["records"] for row in inputs),
        "rejected": dict(sorted(rejected.items())),
        **{key: old[key] + counted[key] for key in counted},
        "generations": old["generations"][:],
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
                g = other["generation"]
                first = other["file"] + (f" (appended as generation {g})" if g else "")
                raise UserError(f"{row['file']} repeats the content of {first}; remove one of them")


def _rejects(root: Path, manifest: dict) -> dict:
    """Every rejected record by reason and input, with the first line numbers of each file and reason."""
    examples = []
    for path in sorted(root.glob("*/[0-9]*.json")):
        record = read_json(path, keys=(*KEPT, "shards", "examples"))
        place = {key: record[key] for key in ("file", "generation")}
        examples += [{**place, "line": line, "reason": why} for line, why in record["examples"]]
    kept = ("file", "generation", "records", "documents", "rejected")
    return {
        "total": sum(manifest["rejected"].values()),
        "reasons": manifest["rejected"],
        "inputs": [{key: row[key] for key in kept} for row in manifest["inputs"]],
        "examples": examples,
    }
