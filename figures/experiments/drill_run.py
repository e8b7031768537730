"""The tiny run that the drills break: its corpus, its configuration, and attempts at it in processes of their own.

Every attempt writes down which rows each step was trained on, one line a step and rank, before it trains on them:
`[attempt, step, generations of shards, [digest of a row, …]]`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from steel.config import Config, UserError, from_dict
from steel.runlog import read_log

from .processes import finish, free_port, start

NOISE = ("time_s", "tokens_per_s", "peak_memory_bytes")
"""What the clock and the machine decide; everything else in the log must be equal."""
LETTERS = "春夏秋冬风花雪月山水江河东西南北 abcdefghij 0123,.。"
VOCABULARY, LENGTH, BATCH = 300, 32, 4
ROWS_PER_DOCUMENT = 1.5  # samples that one made-up document gives at least
PATIENCE_S = (
    60,
    6,
)  # how long a rank waits for the others [s]; the second where one of them is going to hang
SHARD_TOKENS = 600  # small shards, so that a pack has many files to be killed between


@dataclass(frozen=True)
class Kill:
    """SIGKILL `delay` seconds after the batch of `step` was read; with `hang` SIGSTOP: the rank lives and is silent."""

    step: int
    delay: float = 0.0
    hang: bool = False


def prepare(root: Path, seed: int, steps: int, background: bool, appends: int = 0) -> Config:
    """Shards of made-up text below `root`, `appends` folders of more of it, and the run's configuration.

    The shards hold enough for `steps` steps without reading anything twice.
    """
    from steel.data import pack
    from steel.tokenizer import bpe

    rng = random.Random(seed)
    texts = write_texts(
        root / "docs" / "made.jsonl.zst", rng, round(steps * BATCH / ROWS_PER_DOCUMENT)
    )
    bpe.save(bpe.train(texts, VOCABULARY), root / "tokenizer")
    pack(
        root / "docs",
        root / "shards",
        root / "tokenizer",
        shard_tokens=SHARD_TOKENS,
        progress=False,
    )
    for number in range(1, appends + 1):
        write_texts(root / f"more{number}" / "made.jsonl.zst", rng, 60)
    return from_dict(
        {
            "seed": seed,
            "preset": "drills",
            "data": {"sequence_length": LENGTH},
            "model": {
                "vocab_size": VOCABULARY,
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 2,
                "max_position_embeddings": LENGTH,
            },
            "train": {
                "steps": steps,
                "batch_size": BATCH,
                "micro_batch_size": 2,
                "learning_rate": 3e-3,
                "warmup_steps": 5,
                "optimizer": "muon",
                "checkpoint_every": 3,
                "eval_every": 0,
                "log_every": 1,
                "async_checkpoint": background,
            },
        }
    )


def write_texts(path: Path, rng: random.Random, count: int) -> list[str]:
    """`count` made-up documents as a file of documents; returns their texts."""
    from steel.documents import Document, write_documents

    texts = ["".join(rng.choices(LETTERS, k=rng.randint(80, 200))) for _ in range(count)]
    write_documents(
        path,
        [
            Document(f"{path.parent.name}-{i}", text, "made", "zh", {})
            for i, text in enumerate(texts)
        ],
    )
    return texts


# -- processes ---------------------------------------------------------------------------------------


def train(
    root: Path,
    cfg: Config,
    name: str,
    attempt: int = 0,
    kills: list[Kill | None] | None = None,
    twin: bool = False,
) -> list[int]:
    """One attempt at run `name`, one process a rank; their exit codes. kills: one for each rank, None: not killed.

    twin: never resume, and read the samples in the order that run `killed` ended up with.
    """
    return [p.exitcode for p in finish(begin(root, cfg, name, attempt, kills, twin))]


def begin(
    root: Path,
    cfg: Config,
    name: str,
    attempt: int = 0,
    kills: list[Kill | None] | None = None,
    twin: bool = False,
) -> list:
    """The same, without waiting: the started processes."""
    kills, port = kills or [None], free_port()
    patience = PATIENCE_S[any(kill is not None and kill.hang for kill in kills)]
    return [
        start(
            _train,
            str(root),
            cfg.to_dict(),
            name,
            attempt,
            (rank, len(kills), port, patience),
            kill,
            twin,
            errors=root / f"{name}.err{rank}",
        )
        for rank, kill in enumerate(kills)
    ]


def _train(
    root: str,
    values: dict,
    name: str,
    attempt: int,
    place: tuple[int, int, int, int],
    kill: Kill | None,
    twin: bool,
) -> None:
    """What the process of one rank does. It sends itself the signal: so the moment holds on a busy machine, too.

    place: (rank, ranks, port, patience [s]).
    """
    from steel.train import pretrain as room

    rank, world, port, patience = place
    if world > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world),
            LOCAL_WORLD_SIZE=str(world),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            STEEL_RANK_TIMEOUT_S=str(patience),
        )
    seen = os.open(f"{root}/{name}.seen{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    generations = _watch_loader(room, Path(root) / "killed" if twin else None)

    def on_batch(step: int, batch) -> None:
        rows = [
            hashlib.blake2b(row.numpy().tobytes(), digest_size=8).hexdigest()
            for row in batch.input_ids
        ]
        os.write(seen, (json.dumps([attempt, step, generations[-1], rows]) + "\n").encode())
        if kill is not None and step == kill.step:
            number = signal.SIGSTOP if kill.hang else signal.SIGKILL
            threading.Timer(kill.delay, os.kill, (os.getpid(), number)).start()

    with as_command():
        room.pretrain(from_dict(values), f"{root}/shards", f"{root}/{name}", on_batch=on_batch)


@contextmanager
def as_command():
    """End the process as the command line would: one line and exit code 2 for a UserError."""
    try:
        yield
    except UserError as error:
        print(f"steel: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None


def _watch_loader(room, ended: Path | None) -> list[int]:
    """Lets the loader's number of generations be known; with `ended`, opens the loader that this run ended with."""
    from steel.data.loader import Loader
    from steel.data.pack import find_state

    opened, generations = room.open_loader, []

    def open_loader(cfg, shards, run, world):
        if ended is None:
            loader = opened(cfg, shards, run, world)
        else:
            loader = Loader.from_state(shards, find_state(ended))
            state = (
                loader.state
            )  # the loop compares it over the ranks; before an append there is none
            loader.state = lambda step: state(step) if step else {}
        generations.append(len(loader.shards.generations))
        return loader

    room.open_loader = open_loader
    return generations


def append_dying(root: str, number: int, delay: float | None) -> None:
    """Append folder `number` to the shards. With a delay [s] the process is killed then, or right after its work."""
    from steel.data import append

    if delay is not None:
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
    append(f"{root}/shards", f"{root}/more{number}", f"{root}/tokenizer", progress=False)
    if delay is not None:
        os.kill(os.getpid(), signal.SIGKILL)


def append_seconds(root: Path) -> float:
    """How long an append takes in such a process [s], measured on a copy."""
    import shutil

    copy = root / "timing"
    for name in ("shards", "tokenizer", "more1"):
        shutil.copytree(root / name, copy / name)
    times = copy / "seconds"
    finish([start(_timed, str(copy), str(times))])
    seconds = float(times.read_text())
    shutil.rmtree(copy)
    return seconds


def _timed(root: str, out: str) -> None:
    began = time.monotonic()
    append_dying(root, 1, None)
    Path(out).write_text(str(time.monotonic() - began))


# -- what a run left ---------------------------------------------------------------------------------------------------


def steps_done(run: Path) -> int:
    """Last step in the log, 0 before the first."""
    return max((r["step"] for r in curve(run)), default=0) if (run / "log.jsonl").exists() else 0


def curve(run: Path) -> list[dict]:
    """Logged steps without what the clock decides."""
    return [
        {k: v for k, v in r.items() if k not in NOISE} for r in read_log(run / "log.jsonl", "step")
    ]


def events(run: Path, what: str) -> list[dict]:
    """Events of one kind."""
    return [r for r in read_log(run / "log.jsonl", "event") if r["what"] == what]


def on_disk(run: Path) -> dict:
    """Checkpoints after a kill: whole and torn ones by content, and those still being written or removed."""
    from steel.train import checkpoint

    folder = run / "checkpoints"
    named = checkpoint.complete(folder)
    return {
        "whole": [c.name for c in named if is_whole(c)],
        "torn": [c.name for c in named if not is_whole(c)],
        "half_written": sorted(p.name for p in folder.glob(".step-*.tmp")),
    }


def is_whole(folder: Path) -> bool:
    """Every byte that the checkpoint's own table names is there."""
    from torch.distributed.checkpoint import FileSystemReader

    try:
        json.loads((folder / "state.json").read_text())
        table = FileSystemReader(folder).read_metadata().storage_data.values()
        return all(
            (folder / part.relative_path).stat().st_size >= part.offset + part.length
            for part in table
        )
    except Exception:  # a torn table fails in many ways; each of them says: not whole
        return False


def samples(seen: list[Path], logged: list[int], due: int) -> dict:
    """What the steps in the final log were trained on, over the ranks' files `seen`.

    The last attempt at a step counts: the ones before were undone. consistent: attempts at a step over the same data
    read the same rows.
    """
    attempts: dict[int, dict[int, tuple[int, list]]] = {}
    for path in seen:
        for line in path.read_text().splitlines():
            attempt, step, generations, digests = json.loads(line)
            known = attempts.setdefault(step, {}).setdefault(attempt, (generations, []))
            known[1].extend(digests)
    full = {
        s: [
            (g, tuple(sorted(rows))) for _, (g, rows) in sorted(tried.items()) if len(rows) == BATCH
        ]
        for s, tried in attempts.items()
    }
    consistent = all(
        len({rows for g, rows in tries if g == data}) == 1
        for tries in full.values()
        for data in {g for g, _ in tries}
    )
    count = Counter(row for step in logged for row in (full.get(step - 1) or [(0, ())])[-1][1])
    once = sum(n == 1 for n in count.values())
    return {"due": due, "once": once, "twice_or_more": len(count) - once, "consistent": consistent}
