"""Chapter 14's question before fine-tuning: do dialogues belong all along, at the end or at the beginning?

    python -m figures.experiments.when --out runs/when                 when.json; about a minute a row

A town of preset cpu is read by the same model for the same steps, three tenths of the rows dialogues and tasks, seven
tenths text. Arms differ only in when: in every step, in the last three tenths (while the rate decays), in the first
three tenths, or in no step, the text having all. The bases are asked as they stand.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from pathlib import Path

from steel.config import Config, Phase, load
from steel.evaluation.cloze import cloze, load_cloze
from steel.evaluation.conversation import converse, messages
from steel.evaluation.exam import run_exam
from steel.evaluation.perplexity import bits_per_byte, load_domains
from steel.model.folder import open_model
from steel.runlog import read_json
from steel.train import pretrain

from . import command
from .ledger import Ledger
from .town import shards

DIALOGUES = ("belle_2m", "belle_3_5m", "firefly", "moss", "wanjuan_exam", "baidu_qa", "zhihu_kol")
SHARE = 0.3
"""Of the rows that are read [1]; also of the steps in which an arm that reads them together does so."""
ARMS = ("all along", "at the end", "at the beginning", "never")


def settings(seed: int) -> Config:
    """Preset cpu, with no look at the model before the end."""
    cfg = load("cpu")
    train = dataclasses.replace(cfg.train, eval_every=0, checkpoint_every=0)
    return dataclasses.replace(cfg, seed=seed, train=train)


def mixed(cfg: Config, arm: str, sizes: dict[str, int]) -> Config:
    """`cfg` with what each step reads; the dialogues' sources by their size [tokens] among themselves."""
    told = {name: n for name, n in sizes.items() if name in DIALOGUES}

    def weights(share: float) -> dict[str, float]:
        return {"*": 1 - share} | {name: share * n / sum(told.values()) for name, n in told.items()}

    steps = cfg.train.steps
    first, last = (Phase(round(steps * p), weights(w)) for p, w in ((1 - SHARE, 0.0), (SHARE, 1.0)))
    data = {
        "all along": {"weights": weights(SHARE)},
        "at the end": {"curriculum": [first], "weights": weights(1.0)},
        "at the beginning": {"curriculum": [last], "weights": weights(0.0)},
        "never": {"weights": weights(0.0)},
    }[arm]
    return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, **data))


def asked(folder: Path, run: Path, seed: int) -> dict:
    """What a model knows and says: shares right [1], and bits per byte of held-out text."""
    model, tok = open_model(folder, device="cpu")
    exam = run_exam(model, tok, run / "world" / "exam", scoring=("text", "generate"), suite="world")
    people = exam["groups"]["people"]
    known = cloze(model, tok, load_cloze(run / "world" / "exam" / "cloze.jsonl"))["accuracy"]
    text = bits_per_byte(model, tok, load_domains(run / "world" / "heldout"))
    return {
        "text": round(people["text"], 4),
        "generate": round(people["generate"], 4),
        "cloze": round(known, 4),
        "bits_per_byte": round(text["geometric_mean"]["bpb"], 4),
        "conversation": round(converse(model, tok, messages(run / "world", seed))["accuracy"], 4),
    }


def main(out: Path, seeds: int = 3) -> None:
    """Every arm under several seeds of town and model: OUT/when.json; a killed run goes on."""
    same = {"preset": "cpu", "share": SHARE, "arms": list(ARMS)}
    ledger = Ledger(out / "when.json", "when dialogues are read", same)
    for seed in range(1, seeds + 1):
        cfg = settings(seed)
        run, sizes = out / f"town-{seed}", Counter()
        data = shards(cfg, run)
        for shard in read_json(data / "manifest.json")["shards"]:
            sizes[shard["source"]] += shard["tokens"] * (shard["split"] == "train")
        for arm in ARMS:
            if ledger.find(seed=seed, arm=arm):
                continue
            here = out / f"{arm}-{seed}".replace(" ", "-")
            own = mixed(cfg, arm, sizes)
            pretrain.pretrain(own, data, here, run / "tokenizer")
            print(ledger.add({"seed": seed, "arm": arm, **asked(here / "hf", run, seed)}))
            shutil.rmtree(here)


if __name__ == "__main__":
    command(main)
