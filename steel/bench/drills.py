"""Failure drills: a tiny pretraining run is killed with SIGKILL at random moments, and must not notice.

Three claims are checked on files, against a run that was never killed: the loss curve and the final weights are equal
bit for bit, every sample that was due was trained on exactly once, and no half-written checkpoint was ever taken for a
whole one. At most one epoch of made-up text, one process at a time, seconds each.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from ..config import Config, UserError, from_dict
from ..runlog import atomic_write, progress, read_log

NOISE = ("time_s", "tokens_per_s", "peak_memory_bytes")
"""What the clock and the machine decide; everything else in the log must be equal."""
LETTERS = "春夏秋冬风花雪月山水江河东西南北 abcdefghij 0123,.。"


def run_drills(out: Path | str | None = None, *, kills: int = 10, seed: int = 1, background: bool = True,
               steps: int = 60) -> dict:
    """Kill a run `kills` times at moments drawn from `seed`, resume it each time, and compare it with an unbroken one.

    out: folder for the runs and `drills.json`; None: a temporary one. background: checkpoints written in a thread.
    steps: optimizer steps of the run at most (one epoch at most). Returns the report; report["passed"] is the verdict.
    """
    if kills < 1 or steps < 8:
        raise UserError("drills need kills ≥ 1 and steps ≥ 8")
    with _folder(out) as root:
        cfg, samples = _prepare(root, seed, background, steps)
        began = time.monotonic()
        if (code := _attempt(root, cfg, "unbroken")) != 0:
            raise UserError(f"the unbroken run failed with exit code {code}; see {root / 'unbroken'}")
        rounds = _kill_and_resume(root, cfg, kills, random.Random(seed))
        report = {"kind": "drills", "seed": seed, "background": background, "steps": cfg.train.steps,
                  "kills": rounds, **_verdict(root, cfg, rounds, samples),
                  "seconds": round(time.monotonic() - began, 1)}
        if out is not None:
            atomic_write(root / "drills.json", json.dumps(report, indent=1))
        return report


def render(report: dict) -> str:
    """The report in a few lines."""
    samples = report["samples"]
    inside = sum(bool(r["half_written"]) for r in report["kills"])
    return "\n".join([
        f"killed            {len(report['kills'])} times, {inside} of them inside a save, at steps "
        + " ".join(str(r["killed_at_step"]) for r in report["kills"]),
        f"loss curve        {'equal bit for bit' if report['curve_bit_equal'] else 'DIFFERS'}",
        f"final weights     {'equal bit for bit' if report['weights_bit_equal'] else 'DIFFER'}",
        f"samples           {samples['once']:,} of {samples['due']:,} due seen exactly once",
        f"checkpoints       {report['half_checkpoints_loaded']} half-written ones loaded",
        f"verdict           {'passed' if report['passed'] else 'FAILED'} in {report['seconds']} s"])


# -- preparing ---------------------------------------------------------------------------------------------------------


@contextmanager
def _folder(out: Path | str | None):
    if out is None:
        with tempfile.TemporaryDirectory(prefix="steel-drills-") as name:
            yield Path(name)
        return
    if Path(out).exists() and any(Path(out).iterdir()):
        raise UserError(f"{out} is not empty; choose another folder")
    Path(out).mkdir(parents=True, exist_ok=True)
    yield Path(out)


def _prepare(root: Path, seed: int, background: bool, steps: int) -> tuple[Config, int]:
    """Shards of made-up text below `root`; (configuration of at most one epoch, samples that it is due to see)."""
    from ..corpus.documents import Document, write_documents
    from ..data import Loader, ShardSet, pack
    from ..tokenizer import bpe

    rng = random.Random(seed)
    texts = ["".join(rng.choices(LETTERS, k=rng.randint(20, 160))) for _ in range(160)]
    write_documents(root / "docs" / "made.jsonl.zst",
                    [Document(f"made-{i}", text, "made", "zh", {}) for i, text in enumerate(texts)])
    bpe.save(bpe.train(texts, 300), root / "tokenizer")
    pack(root / "docs", root / "shards", root / "tokenizer", progress=False)
    batch, length = 4, 32
    steps = min(steps, Loader(ShardSet.open(root / "shards"), length, batch, seed).samples // batch)
    cfg = from_dict({
        "seed": seed, "preset": "drills", "data": {"sequence_length": length},
        "model": {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                  "max_position_embeddings": length},
        "train": {"steps": steps, "batch_size": batch, "micro_batch_size": 2, "learning_rate": 3e-3, "warmup_steps": 5,
                  "optimizer": "muon", "checkpoint_every": 3, "eval_every": 0, "log_every": 1,
                  "async_checkpoint": background},
    })
    return cfg, steps * batch


def _child(root: str, values: dict, name: str, kill_at: tuple[int, float] | None) -> None:
    """One attempt at the run, in a process of its own. kill_at: (step, seconds after its batch was read) of SIGKILL.

    The process sends itself the signal, from another thread: so the moment holds on a busy machine, too.
    """
    import torch

    from ..train.pretrain import pretrain

    os.environ["STEEL_QUIET"] = "1"
    torch.set_num_threads(1)
    seen = os.open(f"{root}/{name}.seen", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def on_batch(step: int, batch) -> None:
        rows = [hashlib.blake2b(row.numpy().tobytes(), digest_size=8).hexdigest() for row in batch.input_ids]
        os.write(seen, (json.dumps([step, rows]) + "\n").encode())
        if kill_at is not None and step == kill_at[0]:
            threading.Timer(kill_at[1], os.kill, (os.getpid(), signal.SIGKILL)).start()

    pretrain(from_dict(values), f"{root}/shards", f"{root}/{name}", on_batch=on_batch)


def _attempt(root: Path, cfg: Config, name: str, kill_at: tuple[int, float] | None = None) -> int:
    """One attempt; its exit code. The fork server has torch loaded, so a start takes milliseconds, not seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "steel.train.pretrain"])
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")  # not to be run again there
    try:
        process = context.Process(target=_child, args=(str(root), cfg.to_dict(), name, kill_at))
        process.start()
    finally:
        sys.modules["__main__"] = main
    process.join()
    return process.exitcode


# -- killing -----------------------------------------------------------------------------------------------------------


def _kill_and_resume(root: Path, cfg: Config, kills: int, rng: random.Random) -> list[dict]:
    """Kill, look, resume. One record per kill: step reached, and which checkpoints lay on disk."""
    run, rounds = root / "killed", []
    last = cfg.train.steps - 4
    with progress(kills, "drills", "kills") as bar:
        for i in range(kills):
            # Moments move through the run, so that there is something left to kill; the delay reaches into the saves.
            step = max(_steps_done(run), round(last * (i + rng.random()) / kills))
            code = _attempt(root, cfg, "killed", (step, rng.random() * 0.03))
            rounds.append({"killed_at_step": _steps_done(run), "exit_code": code, **_on_disk(run)})
            bar.advance(1)
    if (code := _attempt(root, cfg, "killed")) != 0:
        raise UserError(f"the killed run did not come to its end: exit code {code}; see {run}")
    return rounds


def _steps_done(run: Path) -> int:
    """Last step in the log, 0 before the first."""
    if not (run / "log.jsonl").exists():
        return 0
    return max((r["step"] for r in read_log(run / "log.jsonl", "step")), default=0)


def _on_disk(run: Path) -> dict:
    """Checkpoints after a kill: whole and torn ones by content, and those still being written or removed."""
    from ..train import checkpoint

    folder = run / "checkpoints"
    named = checkpoint.complete(folder)
    return {"whole": [c.name for c in named if _is_whole(c)], "torn": [c.name for c in named if not _is_whole(c)],
            "half_written": sorted(p.name for p in folder.glob(".step-*.tmp"))}


def _is_whole(folder: Path) -> bool:
    """Every byte that the checkpoint's own table names is there."""
    from torch.distributed.checkpoint import FileSystemReader

    try:
        json.loads((folder / "state.json").read_text())
        table = FileSystemReader(folder).read_metadata().storage_data.values()
        return all((folder / part.relative_path).stat().st_size >= part.offset + part.length for part in table)
    except Exception:  # a torn table fails in many ways; each of them says: not whole
        return False


# -- judging -----------------------------------------------------------------------------------------------------------


def _verdict(root: Path, cfg: Config, rounds: list[dict], due: int) -> dict:
    curves = [_curve(root / name) for name in ("unbroken", "killed")]
    weights = [(root / name / "hf" / "model.safetensors").read_bytes() for name in ("unbroken", "killed")]
    samples = _samples(root / "killed.seen", [r["step"] for r in curves[1]], due)
    torn = {name for r in rounds for name in r["torn"]}
    resumed = [r["checkpoint"] for r in read_log(root / "killed" / "log.jsonl", "event") if r["what"] == "resume"]
    loaded = [name for name in resumed if name in torn]
    found = {"curve_bit_equal": curves[0] == curves[1] and len(curves[0]) == cfg.train.steps,
             "weights_bit_equal": weights[0] == weights[1], "samples": samples,
             "resumed_from": resumed, "half_checkpoints_loaded": len(loaded)}
    found["passed"] = (found["curve_bit_equal"] and found["weights_bit_equal"] and not torn and samples["once"] == due
                       and samples["consistent"] and all(r["exit_code"] == -signal.SIGKILL for r in rounds))
    return found


def _curve(run: Path) -> list[dict]:
    return [{k: v for k, v in r.items() if k not in NOISE} for r in read_log(run / "log.jsonl", "step")]


def _samples(seen: Path, logged: list[int], due: int) -> dict:
    """What the steps in the final log were trained on. consistent: lost attempts at a step read the same rows."""
    rows: dict[int, set] = {}
    for line in seen.read_text().splitlines():
        step, digests = json.loads(line)
        rows.setdefault(step, set()).add(tuple(digests))
    consistent = all(len(attempts) == 1 for attempts in rows.values())
    count = Counter(row for step in logged for row in next(iter(rows.get(step - 1, {()}))))
    once = sum(n == 1 for n in count.values())
    return {"due": due, "once": once, "twice_or_more": len(count) - once, "consistent": consistent}
