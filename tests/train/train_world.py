"""What the training tests share: a toy model for the loop, a tiny corpus and language model for pretraining."""

import contextlib
import os
import random
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from steel import config
from steel.config import TrainConfig
from steel.runlog import read_log
from steel.train import loop
from steel.train.loop import Stage, fit
from steel.train.run_folder import RunFolder

NOISE = ("time_s", "tokens_per_s", "peak_memory_bytes")


class Toy(nn.Module):
    """Fits a random linear map; `layers` so that Muon finds matrices."""

    def __init__(self, width: int = 24, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.inner = nn.Module()
        self.inner.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(2))

    def forward(self, x):
        for layer in self.inner.layers:
            x = x + torch.tanh(layer(x))
        return x


def toy_config(**given) -> TrainConfig:
    values = {
        "steps": 10,
        "batch_size": 8,
        "micro_batch_size": 8,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "checkpoint_every": 5,
        "eval_every": 0,
        "log_every": 1,
        "keep_at_decay": False,
    }
    return TrainConfig(**(values | given))


def toy_batches(step: int, rows: int = 8, micro: int = 8, width: int = 24) -> list[torch.Tensor]:
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(step))
    return list(x.split(micro))


def toy_loss(model, x):
    return (model(x) - x.flip(-1)).square().sum(), float(x.numel()), {"rows": (float(len(x)), 1.0)}


def toy_fit(folder: Path, cfg: TrainConfig, batches=toy_batches, model=None, **options):
    """(model, State) of a run in `folder`."""
    model, resume = model if model is not None else Toy(), options.pop("resume", "auto")
    stage = Stage("training", cfg, model, batches, toy_loss, save_hf=False, **options)
    return model, fit(stage, RunFolder(folder), resume=resume)


def curve(folder: Path) -> list[dict]:
    """Logged steps without what the clock and the machine decide."""
    return [
        {k: v for k, v in r.items() if k not in NOISE}
        for r in read_log(Path(folder) / "log.jsonl", "step")
    ]


def read_all(checkpoint: Path) -> dict:
    """Everything that a checkpoint holds, as a nested dict."""
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict_from_keys

    return _load_state_dict_from_keys(checkpoint_id=str(checkpoint))


def equal(a, b) -> bool:
    """Bit for bit, through nested dicts and lists."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a.equal(b) if isinstance(a, torch.Tensor) else a == b


class Crash(RuntimeError):
    """Stands for a kill where a real one would take the test down, too."""


@contextlib.contextmanager
def crash_before(step: int):
    """The loop dies before it does step `step` (0-based)."""
    whole = loop.train_step

    def train_step(stage, state, world):
        if state.step == step:
            raise Crash
        return whole(stage, state, world)

    loop.train_step = train_step
    try:
        yield
    finally:
        loop.train_step = whole


# -- real processes ----------------------------------------------------------------------------------------------------


def in_process(target, *arguments, stderr: Path | None = None):
    """Start target(*arguments) in a fresh process that has torch loaded already; `stderr` to a file."""
    import multiprocessing

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "steel.cli", "steel.train.pretrain"])
    process = context.Process(target=_call, args=(target, arguments, stderr))
    process.start()
    return process


def _call(target, arguments, stderr) -> None:
    if stderr is not None:
        os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 2)
        sys.stderr = os.fdopen(2, "w", buffering=1)
    torch.set_num_threads(1)
    target(*arguments)


def toy_run_signalled(folder: Path, name: str, at: int) -> None:
    """A toy run that is sent signal `name` by itself while it does step `at`."""

    def batches(step):
        if step == at:
            os.kill(os.getpid(), getattr(signal, name))
        return toy_batches(step)

    toy_fit(folder, toy_config(steps=20, checkpoint_every=0), batches)


def toy_run_killed_in_save(folder: Path, background: bool) -> None:
    """A toy run whose second save dies of kill -9 with half of its bytes written."""
    from torch.distributed.checkpoint import FileSystemWriter

    write, calls = FileSystemWriter.write_data, []

    def write_data(self, plan, planner):
        calls.append(1)
        done = write(self, plan, planner)
        if len(calls) == 2:
            for part in Path(self.path).glob("*.distcp"):
                os.truncate(part, part.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    FileSystemWriter.write_data = write_data
    toy_fit(folder, toy_config(checkpoint_every=3, async_checkpoint=background))


def cli_on_a_full_disk(arguments: list[str], after: int) -> None:
    """The command line, with a disk that is full at save number `after` + 1."""
    import errno

    from torch.distributed.checkpoint import FileSystemWriter

    from steel import cli

    write, calls = FileSystemWriter.write_data, []

    def write_data(self, plan, planner):
        calls.append(1)
        if len(calls) > after:
            (Path(self.path) / "__0_0.distcp").write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        return write(self, plan, planner)

    FileSystemWriter.write_data = write_data
    cli.main(arguments)


# -- a corpus and a language model -------------------------------------------------------------------------------------

LETTERS = "春夏秋冬风花雪月山水江河 abcdefgh 0123,.。"


def make_shards(root: Path, counts: dict[str, int], hold_out: float = 0.0) -> tuple[Path, Path]:
    """(shards, tokenizer folder) of made-up documents, `counts` of them by source."""
    from steel.data import pack
    from steel.documents import Document, write_documents
    from steel.tokenizer import bpe

    rng = random.Random(7)
    texts = {
        name: ["".join(rng.choices(LETTERS, k=rng.randint(20, 120))) for _ in range(n)]
        for name, n in counts.items()
    }
    for name, rows in texts.items():
        write_documents(
            root / "docs" / f"{name}.jsonl.zst",
            [Document(f"{name}-{i}", text, name, "zh", {}) for i, text in enumerate(rows)],
        )
    bpe.save(bpe.train([t for rows in texts.values() for t in rows], 300), root / "tokenizer")
    pack(root / "docs", root / "shards", root / "tokenizer", hold_out=hold_out)
    return root / "shards", root / "tokenizer"


def tiny(**given) -> config.Config:
    """A language model of some ten thousand parameters; given as section__key=value."""
    values = {
        "seed": 3,
        "model": {
            "vocab_size": 300,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
        },
        "data": {"sequence_length": 32},
        "train": {
            "steps": 6,
            "batch_size": 4,
            "micro_batch_size": 2,
            "learning_rate": 1e-2,
            "warmup_steps": 2,
            "checkpoint_every": 2,
            "eval_every": 0,
            "log_every": 1,
            "keep_at_decay": False,
        },
    }
    for name, value in given.items():
        section, _, key = name.partition("__")
        values.setdefault(section, {})[key] = value
    return config.from_dict(values)
