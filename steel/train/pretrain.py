"""Pretraining: token shards in, base model out, on one process or many."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch import nn

from ..config import Config, UserError
from ..data.batch import IGNORED, Batch
from ..data.loader import Loader
from ..data.shards import ShardSet
from ..model.decoding import Sampling, generate
from ..model.folder import stop_ids
from . import checkpoint
from .build import make_model
from .loop import FitResult, Stage, fit
from .metrics import token_flops
from .parallel import World, check_batch, join_world
from .preflight import memory_report
from .run_folder import RunFolder
from .schedule import decay_start


def pretrain(
    cfg: Config,
    data: Path | str,
    run_dir: Path | str,
    tokenizer: Path | str | None = None,
    *,
    resume: str = "auto",
    prompts: list[str] | None = None,
    on_batch: Callable[[int, Batch], None] | None = None,
    measure: Callable[[nn.Module, int], dict] | None = None,
) -> FitResult:
    """Train cfg.model on the shards in `data`; leaves log, checkpoints and `hf/` in `run_dir`.

    tokenizer: its folder, copied beside the model. prompts: texts that the model continues at every validation.
    on_batch(step, batch): sees this rank's rows before they are trained on. measure(model, step): more numbers for the
    log's validation lines.
    Raises UserError for shards that are missing or changed and for settings that cannot work.
    """
    world, run = join_world(), RunFolder(run_dir)
    _check(cfg, world)
    shards = ShardSet.open(data)
    if world.is_main:
        shards.check_all()
    loader = open_loader(cfg, shards, run, world)
    model = make_model(cfg, world)
    words = load_tokenizer(tokenizer)
    _check_vocabulary(model, shards, words)
    events = [{"what": "data", "change": change} for change in loader.events]
    if world.is_main and (report := memory_report(cfg, world)):
        events.append({"what": "memory", **report})
    micro = max(1, cfg.train.micro_batch_size)

    ahead = Ahead(loader) if world.device.type == "cuda" else None

    def batch_fn(step: int) -> list[Batch]:
        batch = ahead.batch(step) if ahead else read(loader, step)
        if on_batch is not None:
            on_batch(step, batch)
        return batch.to(world.device, non_blocking=True).split(micro)

    anneal = {}
    if cfg.data.anneal_weights:
        anneal["anneal_from_step"] = decay_start(cfg.train.steps, cfg.train)
    stage = Stage(
        "pretraining",
        cfg.train,
        model,
        batch_fn,
        next_token_loss(cfg.train.z_loss),
        seed=cfg.seed,
        tokenizer=words,
        evaluate=validator(cfg, data, world, measure=measure),
        sample=sampler(words, prompts) if words is not None and prompts else None,
        data_state=loader.state,
        flops=token_flops(cfg),
        config=cfg.to_dict(),
        header={"config_hash": cfg.hash(), "corpus_tokens": shards_tokens(shards), **anneal},
        events=events,
    )
    return fit(stage, run, world, resume)


def read(loader: Loader, step: int) -> Batch:
    """`loader.batch(step)`, after a look at the shards that it reads; UserError names one that was cut short."""
    loader.check_files(step)
    return loader.batch(step)


class Ahead:
    """Reads the next step's batch in a thread while the GPU works, in pinned memory; the batches are the loader's."""

    def __init__(self, loader: Loader, pin_memory: bool = True):
        self._loader, self._pin = loader, pin_memory
        self._pool, self._next = ThreadPoolExecutor(1, "batch"), None

    def batch(self, step: int) -> Batch:
        """`loader.batch(step)`, and a start on step + 1."""
        expected, future = self._next or (None, None)
        batch = (
            future.result() if expected == step else self._pool.submit(self._read, step).result()
        )
        self._next = (step + 1, self._pool.submit(self._read, step + 1))
        return batch

    def _read(self, step: int) -> Batch:
        batch = read(self._loader, step)
        return batch.pin_memory() if self._pin else batch


def open_loader(cfg: Config, shards: ShardSet, run: RunFolder, world: World) -> Loader:
    """The sample order: a new one, or the one that the newest checkpoint was in the middle of."""
    data, wanted = (
        cfg.data,
        {"mixture": mixture(cfg, shards.sources), "batch_size": cfg.train.batch_size},
    )
    place = {"rank": world.rank, "world": world.size}
    found = checkpoint.newest(run.checkpoints, world)
    if found and (state := found[1].get("data")):
        return Loader.from_state(
            shards,
            state,
            sequence_length=data.sequence_length,
            seed=cfg.seed,
            mask_documents=data.mask_documents,
            **wanted,
            **place,
        )
    return Loader(
        shards,
        data.sequence_length,
        seed=cfg.seed,
        mask_documents=data.mask_documents,
        **wanted,
        **place,
    )


def mixture(cfg: Config, sources: list[str]) -> list[dict] | dict[str, float] | None:
    """The loader's mixture: `data.weights`, and `data.anneal_weights` from the step at which wsd starts to decay.

    In the annealing stage a source that is not named gets nothing. UserError without the wsd schedule.
    """
    weights, anneal = cfg.data.weights or None, cfg.data.anneal_weights
    if not anneal:
        return weights
    start = decay_start(cfg.train.steps, cfg.train)
    if start is None:
        raise UserError(
            f"data.anneal_weights needs a stage in which the learning rate decays: train.schedule=wsd, not "
            f"{cfg.train.schedule}"
        )
    chosen = {"step": start, "weights": dict.fromkeys(sources, 0.0) | anneal}
    return [{"step": 0, "weights": weights}, chosen] if start else chosen["weights"]


def next_token_loss(z_loss: float = 0.0):
    """loss_fn of the loop: cross-entropy of the next token, summed over targets [nats]."""

    def loss_fn(model: nn.Module, batch: Batch):
        out = model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            labels=batch.targets,
            shift_labels=batch.targets,
            num_items_in_batch=1,
            use_cache=False,
            **({"z_loss": z_loss} if z_loss else {}),
        )
        count = (batch.targets != IGNORED).sum()  # stays on the device, which nobody waits for here
        return out.loss, count, {"tokens": (float(batch.input_ids.numel()), 1.0)}

    return loss_fn


def validator(cfg: Config, data: Path | str, world: World, most: int = 16, measure=None):
    """evaluate(model, step) -> mean loss on held-out documents [nats/token], by source, and perplexity.

    Every held-out sample counts once; of more than `most` batches the same ones every time.
    `measure(model, step)` adds its numbers; without a validation split it alone is asked. None
    when there is neither.
    """
    shards = ShardSet.open(data, "validation", check=False)
    if not shards.pieces:
        return measure
    rows = cfg.train.micro_batch_size
    loader = Loader(
        shards,
        cfg.data.sequence_length,
        rows,
        0,
        rank=0,
        world=1,
        mask_documents=cfg.data.mask_documents,
    )
    loss_fn = next_token_loss()

    def evaluate(model: nn.Module, step: int) -> dict:
        total, weight, by_source = 0.0, 0.0, {}
        for batch in loader.one_pass(most):
            for source in batch.source.unique().tolist():
                chosen = (batch.source == source).nonzero()[:, 0].tolist()
                loss, n, _ = loss_fn(model, batch.select(chosen).to(world.device))
                loss, n = float(loss), float(n)
                had = by_source.get(source, (0.0, 0.0))
                by_source[source] = (had[0] + loss, had[1] + n)
                total, weight = total + loss, weight + n
        mean = total / max(weight, 1.0)
        return {
            "loss": mean,
            "perplexity": math.exp(min(mean, 50.0)),
            "by_source": {
                loader.sources[s]: a / max(b, 1.0) for s, (a, b) in sorted(by_source.items())
            },
            **(measure(model, step) if measure is not None else {}),
        }

    return evaluate


def sampler(tokenizer, prompts: list[str], max_new_tokens: int = 40):
    """sample(model, step) -> greedy continuations of `prompts`, as {"prompt", "completion"}."""
    from ..tokenizer.bpe import encode_text

    stops, sampling = stop_ids(tokenizer), Sampling(max_new_tokens=max_new_tokens)

    def sample(model: nn.Module, step: int) -> list[dict]:
        rows = []
        for prompt in prompts:
            new = generate(model, [encode_text(tokenizer, prompt)], stops, sampling)[0].ids
            text = tokenizer.decode(new, skip_special_tokens=True)
            rows.append({"prompt": prompt, "completion": text})
        return rows

    return sample


def load_tokenizer(folder: Path | str | None):
    """The tokenizer in `folder`, or None."""
    if folder is None:
        return None
    from ..tokenizer import bpe

    return bpe.load(folder)


def shards_tokens(shards: ShardSet) -> int:
    """Tokens in all pieces of one split."""
    return sum(piece.tokens for piece in shards.pieces)


def _check(cfg: Config, world: World) -> None:
    if cfg.train.steps <= 0:
        raise UserError("train.steps must be above 0")
    if cfg.train.z_loss and cfg.model.source == "hf":
        raise UserError(
            "train.z_loss is computed by Steel's own head; set train.z_loss=0 with model.source=hf"
        )
    check_batch(cfg.train, world)


def _check_vocabulary(model: nn.Module, shards: ShardSet, tokenizer) -> None:
    rows = model.config.vocab_size
    if tokenizer is not None and len(tokenizer) > rows:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} entries, model.vocab_size only {rows}; raise it"
        )
