"""Adding data to a corpus while a run is using it.

New documents become the next generation of shards; nothing that is on disk changes, so a running job
notices nothing. When the run resumes, `Loader.from_state` finds the new generation and shuffles it
together with exactly the samples that the run has not seen in the current epoch, from the slot at
which it resumes.
"""

from collections.abc import Mapping
from pathlib import Path

from ..config import UserError
from ..runlog import read_json
from .loader import Loader
from .mixture import POOL
from .pack import SETTINGS, find_inputs, locked, write_generation
from .shards import ShardSet, read_manifest


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
    if state is None:
        return {"generation": generation, **added}
    grown = ShardSet(root, manifest, "train")
    named = POOL not in state["phases"][-1]["quotas"]
    mixed = {
        "from_step": state["step"],
        "new_samples": grown.samples(state["sequence_length"], since=generation),
        "without_share": sorted({*grown.sources} - {*shards.sources}) if named else [],
    }
    return {"generation": generation, **added, **mixed}


def find_state(run: Path | str) -> dict:
    """The newest data state in the checkpoints of a RUN folder and of its stages."""
    files = list(Path(run).glob("**/step-*/state.json"))
    if not files:
        raise UserError(f"no checkpoint in {run}; give the stage's folder, such as RUN/pretrain")
    states = [read_json(file).get("data") for file in files]
    states = [state for state in states if state]
    if not states:
        raise UserError(f"{run} holds no data state; was this run trained on token shards?")
    return max(states, key=lambda state: state["step"])
