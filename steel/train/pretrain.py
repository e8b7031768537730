"""Pretraining: token shards in, base model out, on one process or many."""

import math
import sys
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn

from ..config import Config, UserError
from ..data.batch import IGNORED, Batch, attention_pairs
from ..data.loader import Loader
from ..data.shards import ShardSet
from ..model import SteelForCausalLM
from ..model.build import build
from ..model.decoding import Sampling, generate
from ..model.folder import stop_ids
from ..tokenizer import bpe
from . import checkpoint
from .build import make_model
from .loop import Stage, State, fit
from .metrics import token_flops
from .parallel import World, check_batch, join_world
from .preflight import memory_report
from .run_folder import RunFolder
from .schedule import decay_start, mixture

MOST_HELD_OUT = 512
"""Held-out samples of one validation at most [sequences]."""
IDLE_ROWS = 0.1
"""Share of the embedding's rows without an entry of the tokenizer that is worth a warning [1]."""


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
) -> State:
    """Train cfg.model on the shards in `data`; leaves log, checkpoints and `hf/` in `run_dir`.

    tokenizer: its folder, copied beside the model; None takes the one in the shards. prompts: texts
    that the model continues at every validation. on_batch(step, batch): sees this rank's rows before
    they are trained on. measure(model, step): more numbers for the log's validation lines.
    Raises UserError for shards that are missing, changed or of another tokenizer, and for settings
    that cannot work.
    """
    world, run = join_world(), RunFolder(run_dir)
    check_batch(cfg.train, world)
    if cfg.train.z_loss and cfg.model.source == "hf":
        problem = "train.z_loss is computed by Steel's own head"
        raise UserError(f"{problem}; set train.z_loss=0 with model.source=hf")
    with world.together():
        shards = ShardSet.open(data)
        shards.check_all(world.rank, world.size)
        events = _vocabulary(cfg, shards, tokenizer, world)
    words = bpe.load(tokenizer or shards.tokenizer)
    loader = open_loader(cfg, shards, run, world)
    events += [{"what": "data", "change": change} for change in loader.events]
    if world.is_main and (report := memory_report(cfg, world)):
        events.append({"what": "memory", **report})
    header = {"config_hash": cfg.hash(), "corpus_tokens": shards.tokens}
    header["corpus"] = shards.generations  # hashes of what was packed, and of every append
    if cfg.data.anneal_weights:
        header["anneal_from_step"] = decay_start(cfg.train.steps, cfg.train)
    keep = target_filter(cfg.data.targets, loader.sources, words)

    def read(step: int) -> Batch:
        batch = keep(loader.batch(step))
        return batch.pin_memory() if world.cuda else batch

    fetch = ahead(read) if world.cuda else read

    def batch_fn(step: int) -> list[Batch]:
        batch = fetch(step)
        if on_batch is not None:
            on_batch(step, batch)
        return batch.to(world.device, non_blocking=True).split(cfg.train.micro_batch_size)

    stage = Stage(
        title="pretraining",
        cfg=cfg.train,
        model=make_model(cfg, world),
        batch_fn=batch_fn,
        loss_fn=next_token_loss(cfg.train.z_loss),
        seed=cfg.seed,
        tokenizer=words,
        evaluate=validator(cfg, data, world, measure=measure, keep=keep),
        sample=sampler(words, prompts) if prompts else None,
        data_state=loader.state,
        flops=token_flops(cfg),
        config=cfg.to_dict(),
        header=header,
        events=events,
    )
    return fit(stage, run, world, resume)


def target_filter(targets: dict[str, str], sources: list[str], words) -> Callable[[Batch], Batch]:
    """A batch -> the batch in which rows of the sources named predict the tokens of their text alone.

    targets: as `data.targets`. words: the tokenizer. UserError for a source that is not there.
    """
    if unknown := sorted(set(targets) - set(sources)):
        known = ", ".join(sources)
        raise UserError(f"data.targets names source {unknown[0]!r}; the shards have {known}")
    wanted = {
        sources.index(name): torch.tensor(bpe.encode_text(words, text))
        for name, text in targets.items()
    }

    def keep(batch: Batch) -> Batch:
        for source, ids in wanted.items():
            rows = (batch.source == source)[:, None]
            batch.targets[rows & ~torch.isin(batch.targets, ids)] = IGNORED
        return batch

    return keep


def ahead(read: Callable[[int], Batch]) -> Callable[[int], Batch]:
    """`read`, which starts on the next step's batch in a thread while the GPU works on this one's."""
    pool, started = ThreadPoolExecutor(1, "batch"), {}

    def batch(step: int) -> Batch:
        future = started.pop(step, None) or pool.submit(read, step)
        started.clear()
        found = future.result()
        started[step + 1] = pool.submit(read, step + 1)
        return found

    return batch


def open_loader(cfg: Config, shards: ShardSet, run: RunFolder, world: World) -> Loader:
    """The sample order: a new one, or the one that the newest checkpoint was in the middle of."""
    settings = {
        "sequence_length": cfg.data.sequence_length,
        "batch_size": cfg.train.batch_size,
        "mixture": mixture(cfg, shards.sources),
        "seed": cfg.seed,
        "mask_documents": cfg.data.mask_documents,
        "rank": world.rank,
        "world": world.size,
    }
    found = checkpoint.newest(run.checkpoints, world)
    if found and (state := found[1].get("data")):
        return Loader.from_state(shards, state, **settings)
    return Loader(shards, **settings)


def next_token_loss(z_loss: float = 0.0):
    """loss_fn of the loop: cross-entropy of the next token, summed over targets [nats]."""

    def loss_fn(model: nn.Module, batch: Batch):
        options = {"z_loss": z_loss} if z_loss else {}
        positions = batch.position_ids
        if isinstance(model, SteelForCausalLM):  # told on the host, it need not ask the device
            if batch.ends is None:
                positions = None
            else:  # an array: FSDP2 moves every tensor among a model's arguments to the GPU
                options["document_ends"] = batch.ends.numpy()
        out = model(
            input_ids=batch.input_ids,
            position_ids=positions,
            labels=batch.targets,
            shift_labels=batch.targets,
            num_items_in_batch=1,
            use_cache=False,
            **options,
        )
        count = (batch.targets != IGNORED).sum()  # stays on the device, which nobody waits for here
        metrics = {"tokens": (float(batch.input_ids.numel()), 1.0)}
        if batch.ends is not None:  # of the pairs of whole rows, the share that masks leave
            rows, length = batch.input_ids.shape
            whole = rows * length * (length + 1) / 2
            metrics["attention_share"] = (float(attention_pairs(batch.ends)), whole)
        return out.loss, count, metrics

    return loss_fn


def validator(cfg: Config, data: Path | str, world: World, measure=None, keep=lambda batch: batch):
    """evaluate(model, step) -> mean loss on held-out documents [nats/token], by source, and perplexity.

    Every held-out sample counts once; of more than `MOST_HELD_OUT` the same ones every time.
    `measure(model, step)` adds its numbers; without a validation split it alone is asked. None
    when there is neither. keep: see `target_filter`.
    """
    shards = ShardSet.open(data, "validation", check=False)
    if not shards.pieces:
        return measure
    rows, length = cfg.train.micro_batch_size, cfg.data.sequence_length
    loader = Loader(shards, length, rows, mask_documents=cfg.data.mask_documents)
    loss_fn = next_token_loss()

    def evaluate(model: nn.Module, step: int) -> dict:
        sums: dict = defaultdict(lambda: (0.0, 0.0))  # source -> loss and targets, on the device
        for batch in map(keep, loader.one_pass(MOST_HELD_OUT)):
            for source in batch.source.unique().tolist():
                chosen = (batch.source == source).nonzero()[:, 0].tolist()
                loss, count, _ = loss_fn(model, batch.select(chosen).to(world.device))
                sums[source] = (sums[source][0] + loss.double(), sums[source][1] + count)
        by_source = {loader.sources[s]: tuple(map(float, sums[s])) for s in sorted(sums)}
        mean = sum(a for a, _ in by_source.values()) / sum(b for _, b in by_source.values())
        return {
            "loss": mean,
            "perplexity": math.exp(min(mean, 50.0)),
            "by_source": {name: a / max(b, 1.0) for name, (a, b) in by_source.items()},
            **(measure(model, step) if measure is not None else {}),
        }

    return evaluate


def sampler(tokenizer, prompts: list[str]):
    """sample(model, step) -> greedy continuations of `prompts`, as {"prompt", "completion"}."""
    stops, sampling = stop_ids(tokenizer), Sampling(max_new_tokens=40)

    def sample(model: nn.Module, step: int) -> list[dict]:
        rows = []
        for prompt in prompts:
            ids = generate(model, [bpe.encode_text(tokenizer, prompt)], stops, sampling)[0].ids
            completion = tokenizer.decode(ids, skip_special_tokens=True)
            rows.append({"prompt": prompt, "completion": completion})
        return rows

    return sample


def _vocabulary(
    cfg: Config, shards: ShardSet, tokenizer: Path | str | None, world: World
) -> list[dict]:
    """Refuse shards that the model cannot read; an event, and a warning, when most rows are idle."""
    model = build(cfg.model, device="meta").config
    rows, entries, width = model.vocab_size, shards.vocab_size, model.hidden_size
    shards.check_vocabulary(rows, tokenizer)
    idle = rows - entries
    if idle <= IDLE_ROWS * rows:
        return []
    parameters, flops = idle * width * (1 if model.tie_word_embeddings else 2), 6 * idle * width
    if world.is_main:
        there = f"model.vocab_size is {rows:,}, the shards' tokenizer has {entries:,} entries"
        lost = f"{parameters:,} parameters and {flops:,} FLOPs per token are wasted"
        print(f"vocabulary: {there}: {lost}", file=sys.stderr)
    waste = {"wasted_parameters": parameters, "wasted_flops_per_token": flops}
    return [{"what": "vocabulary", "rows": rows, "entries": entries, **waste}]
