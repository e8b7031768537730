"""The ladder of chapter 12 in the closed world: its settings, its text, and the same ladder under five seeds.

    python -m figures.experiments.town --out runs/town       six widths, five seeds: town-ladder.json
    … --what passes                                          one rung on text that repeats: town-passes.json
    … --what rates                                           AdamW and Muon, three widths, five rates: town-rates.json

The chapter itself trains the first seed. A killed run goes on with the same call.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from steel.config import Config, UserError, load
from steel.data.pack import pack
from steel.data.tasks import held_out
from steel.documents import read_documents, write_documents
from steel.life import Life
from steel.tokenizer.texts import document_text

from . import command, ladder
from .ledger import Ledger

RATIO, WIDTHS, TARGET = 1.5, (24, 32, 40, 48, 56), 72
EVERY = (32, 128)
"""Of the training documents one in so many is kept, so that they repeat."""
RATES = tuple(
    ladder.Rung(width, 102_400, rate=rate, optimizer=name)
    for name in ("adamw", "muon")
    for width in (24, 40, 64)
    for rate in (0.5, 1, 2, 4, 8)
)
"""100 steps of both optimizers, at factors on the rates of `slow_pair`."""
LATE = 4
"""Logged points at the end of a run whose mean is its `late_loss`: one step's training loss is four rows of text."""
KINDS = ("ladder", "passes", "rates")


def settings(cfg: Config) -> Config:
    """`cfg` with a model, a town and a step small enough for a page."""
    model = replace(cfg.model, vocab_size=512, num_hidden_layers=2, head_dim=8)
    world = replace(cfg.world, people=96, biographies_per_person=64)
    rates = {"learning_rate": 0.012, "muon_learning_rate": 0.08}
    train = replace(cfg.train, batch_size=4, micro_batch_size=64, checkpoint_every=0, **rates)
    return replace(
        cfg,
        model=model,
        world=world,
        train=train,
        tokenizer=replace(cfg.tokenizer, vocab_size=512),
        data=replace(cfg.data, sequence_length=128),
    )


def shards(cfg: Config, run: Path) -> Path:
    """Folder of token shards: the closed world's at preset cpu, else those that lie in `run`."""
    if cfg.preset == "cpu":
        life = Life(cfg, run)
        life.open()
        for name in ("world", "documents", "tokenizer", "shards"):
            life.stage(name, getattr(life, f"make_{name}"))
    elif not (run / "shards" / "manifest.json").is_file():
        raise UserError(
            f"no token shards in {run / 'shards'}; write them with 'steel pack --hold-out 0.02'"
        )
    return run / "shards"


def thinned(cfg: Config, run: Path, every: int) -> Path:
    """Shards of every n-th training document of the town in `run` and of all held-out ones."""
    out, share = run / f"every-{every}", cfg.data.validation_fraction
    for path in sorted((run / "docs").glob("*.jsonl.zst")):
        kept = [
            document
            for number, document in enumerate(read_documents(path))
            if number % every == 0 or held_out(document_text(document).encode(), share)
        ]
        write_documents(out / "docs" / path.name, kept)
    pack(out / "docs", out / "shards", run / "tokenizer", hold_out=share, progress=False)
    return out / "shards"


def slow_pair(cfg: Config) -> Config:
    """`cfg` with the rates and the step of town-rates.json."""
    train = replace(cfg.train, learning_rate=0.006, muon_learning_rate=0.04, batch_size=8)
    return replace(cfg, train=train)


def main(out: Path, what: str = "ladder", seeds: int = 5) -> None:
    """Train chapter 12's rungs and their target under several seeds, or what it shows beside them.

    out: folder for the runs and town-WHAT.json. what: ladder, passes or rates.
    """
    if what not in KINDS:
        raise UserError(f"--what is one of {', '.join(KINDS)}, not '{what}'")
    cfg = settings(load("cpu"))
    data = {1: shards(cfg, out)}
    if what == "passes":
        data |= {every: thinned(cfg, out, every) for every in EVERY}
    if what == "rates":
        cfg = slow_pair(cfg)
        jobs = [(one, 1) for one in RATES]
    elif what == "passes":
        jobs = [(ladder.rung(cfg, WIDTHS[2], RATIO), every) for every in (1, *EVERY)]
    else:
        jobs = [(ladder.rung(cfg, width, RATIO), 1) for width in (*WIDTHS, TARGET)]
    same = {"config_hash": cfg.hash(), "config": cfg.to_dict()}
    ledger = Ledger(out / f"town-{what}.json", f"town {what}", same)
    for seed in range(1, seeds + 1):
        for one, every in jobs:
            own = replace(one, seed=seed)
            key = {"name": own.name, "every": every}
            if ledger.find(**key) is None:
                row = ladder.train_rung(cfg, data[every], out / f"{what}-{every}-{own.name}", own)
                row["late_loss"] = sum(row["curve"]["loss"][-LATE:]) / LATE
                ledger.add(key | {k: v for k, v in row.items() if k not in ("curve", "by_source")})
                print(own.name, every, round(row["loss"], 4), flush=True)


if __name__ == "__main__":
    command(main)
