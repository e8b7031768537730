"""Adding data to a corpus while a run is using it.

New documents become the next generation of shards; nothing that is on disk changes, so a running job notices nothing.
When the run resumes, `Loader.from_state` finds the new generation and shuffles it together with exactly the samples
that the run has not seen in the current epoch, from the slot at which it resumes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from ..config import UserError
from .inputs import find_inputs
from .loader import Loader
from .pack import Settings, write_generation
from .shards import ShardSet, check_shards, read_manifest


def append(
    out: Path | str,
    docs: Path | str | list,
    tokenizer_folder: Path | str | None = None,
    *,
    consumed: Mapping | Path | str | None = None,
    workers: int = 1,
    progress: bool | None = None,
) -> dict:
    """Pack `docs` into the shard folder `out` as its next generation. Interrupted, the same call goes on.

    tokenizer_folder: only needed for shards that were packed without their tokenizer.
    consumed: the data state of a run (`Loader.state`), or its folder: checked against `out`, and the answer then says
    what the run will mix. Returns {"generation", "documents", "tokens", "bytes", "rejected", "files"} and, with
    `consumed`, {"from_step", "new_samples"}.

    UserError when the tokenizer is another one, when a file repeats an earlier one (both are named), when a shard
    has changed on disk, or when the run does not read these shards.
    """
    from ..tokenizer import bpe

    root = Path(out)
    before = read_manifest(root)
    check_shards(root, before)
    state = find_state(consumed) if isinstance(consumed, (str, Path)) else consumed
    if state is not None:
        Loader.from_state(ShardSet(root, before, "train"), state)
    shards = ShardSet(root, before, "train")
    tokenizer_folder = tokenizer_folder or shards.tokenizer
    if tokenizer_folder is None:
        raise UserError(f"{root} was packed without its tokenizer; give it with --tokenizer")
    shards.check_vocabulary(before["vocab_size"], tokenizer_folder)
    inputs = find_inputs(docs)
    settings = Settings(**{name: before[name] for name in Settings.__dataclass_fields__})
    manifest = write_generation(
        inputs, root, bpe.load(tokenizer_folder), settings, before, workers, progress
    )
    number = len(before["generations"])
    inputs = [row for row in manifest["inputs"] if row["generation"] == number]
    rejected = {r: n - before["rejected"].get(r, 0) for r, n in manifest["rejected"].items()}
    result = {
        "generation": number,
        **{k: manifest[k] - before[k] for k in ("documents", "tokens", "bytes")},
        "rejected": {r: n for r, n in rejected.items() if n},
        "files": [row["file"] for row in inputs],
    }
    if state is not None:
        shards = ShardSet(root, manifest, "train")
        length = state["sequence_length"]
        result |= {
            "from_step": state["step"],
            "new_samples": sum(p.samples(length) for p in shards.pieces if p.generation == number),
        }
    return result


def find_state(run: Path | str) -> dict:
    """The data state in the newest complete checkpoint of a RUN folder, or in a JSON file."""
    path = Path(run)
    files = (
        [path]
        if path.is_file()
        else sorted(path.glob("**/step-*/state.json"), key=lambda p: p.parent.name)
    )
    if not files:
        raise UserError(
            f"no checkpoint with a data state in {path}; give the stage's folder, for example RUN/pretrain"
        )
    with contextlib.suppress(ValueError):
        todo = [json.loads(files[-1].read_text(encoding="utf-8"))]
        while todo:
            value = todo.pop()
            if isinstance(value, dict):
                if {"appended_at", "generations", "phases"} <= set(value):
                    return value
                todo += value.values()
    raise UserError(f"{files[-1]} holds no data state; was this run trained on token shards?")
