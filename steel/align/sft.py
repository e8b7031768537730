"""Supervised fine-tuning: teach a base model to answer.

loss = -sum over answer tokens t of log p(x_t | x_<t), over their number (Ouyang et al. 2022, §3.5):
only what the assistant says is predicted, in every turn. Dialogues are packed into rows without
tearing one; attention ends where a dialogue does, but in the share `joined` of the rows, whose dialogues
follow one another as one conversation does. Sequence i of the stream is a pure function of
(data, seed, i), so a resumed run sees what an unbroken one would have seen.

Rows of pretraining text may stand beside them (`replay_rows`), against forgetting: all their tokens
are predicted, each with `replay_weight` in that mean.
"""

import dataclasses
from collections import Counter

import numpy as np

from ..config import UserError
from ..data.batch import Batch
from ..data.loader import Loader
from ..data.order import permute_array, round_keys
from ..data.shards import ShardSet
from ..model import SteelForCausalLM
from ..tokenizer.chat import encode_chat
from ..train.loop import Stage
from ..train.parallel import check_batch
from ..train.pretrain import next_token_loss, open_loader
from .packing import Dialogues, PackedEpochs
from .stage import Job


def stage(job: Job) -> Stage:
    """Fine-tune on dialogue rows {"messages": […], "kind", "lang"}; settings are `cfg.sft`."""
    z_loss, length = job.settings.z_loss, job.settings.sequence_length
    if z_loss and not isinstance(job.model, SteelForCausalLM):
        raise UserError("sft.z_loss is computed by Steel's own head; set sft.z_loss=0")
    job.rows, left_out = in_shares(job.rows, job.settings.languages, job.cfg.seed)
    job.long.update({"left out for the shares of languages": left_out} if left_out else {})
    dialogues, replay = encode_dialogues(job), open_replay(job)
    stream = PackedEpochs(dialogues, length, job.cfg.seed, job.pad_id, job.settings.joined)
    job.set_steps(stream.per_epoch)

    def batch_fn(step: int) -> list[Batch]:
        batches = [stream.batch(draws) for draws in job.draws(step)]
        if replay is not None:
            batches += replay.batch(step).split(job.settings.micro_batch_size)
        return [batch.to(job.world.device) for batch in batches]

    counts = {
        "dialogues": len(dialogues),
        "tokens": len(dialogues.tokens),
        "answer_tokens": int(dialogues.answer.sum()),
        "sequences_per_epoch": stream.per_epoch,
        "filled": round(len(dialogues.tokens) / (stream.per_epoch * length), 4),
    }
    more = {"data_state": replay.state} if replay is not None else {}
    loss_fn = weighted(next_token_loss(z_loss), job.settings.replay_weight)
    return job.stage(batch_fn, loss_fn, length, counts, packed=True, **more)


def weighted(loss_fn, weight: float):
    """`loss_fn`, with `weight` for rows of text; a log says both losses per token [nats]."""

    def both(model, batch: Batch):
        loss, count, metrics = loss_fn(model, batch)
        replayed = batch.source is not None  # what comes from shards knows its source
        metrics["replay_loss" if replayed else "answer_loss"] = loss.detach(), count
        return (loss * weight, count * weight, metrics) if replayed else (loss, count, metrics)

    return both


def open_replay(job: Job) -> Loader | None:
    """The rows of pretraining text, as long as the packed ones; none without a folder."""
    settings = job.settings
    if job.replay is None:
        return None
    if not settings.replay_rows:
        raise UserError("a folder to replay from was given; set sft.replay_rows above 0")
    train = dataclasses.replace(settings, batch_size=settings.replay_rows)
    check_batch(train, job.world)
    shards = ShardSet.open(job.replay)
    shards.check_vocabulary(job.model.config.vocab_size, job.source)
    data = dataclasses.replace(
        job.cfg.data,
        sequence_length=settings.sequence_length,
        mask_documents=True,
        curriculum=[],
        anneal_weights={},
    )
    cfg = dataclasses.replace(job.cfg, train=train, data=data)
    return open_loader(cfg, shards, job.run, job.world)


def in_shares(rows: list[dict], shares: dict[str, float], seed: int) -> tuple[list[dict], int]:
    """The most rows whose languages stand in these shares, drawn by `seed`; how many are left out.

    A language that is not named gets none. UserError when a named one has no rows.
    """
    shares = {lang: share / sum(shares.values()) for lang, share in shares.items() if share}
    if not shares:
        return rows, 0
    have = Counter(row.get("lang") for row in rows)
    if missing := [lang for lang in shares if not have[lang]]:
        there = ", ".join(map(str, have))
        raise UserError(f"sft.languages names {missing[0]!r}; the rows have {there}")
    total = min(have[lang] / share for lang, share in shares.items())
    left = {lang: round(total * share) for lang, share in shares.items()}
    kept = []
    for i in permute_array(np.arange(len(rows)), len(rows), round_keys(seed, "languages")):
        if left.get(rows[i].get("lang"), 0) > 0:
            left[rows[i]["lang"]] -= 1
            kept.append(i)
    return [rows[i] for i in sorted(kept)], len(rows) - len(kept)


def encode_dialogues(job: Job) -> Dialogues:
    """Tokenised dialogues; those above `sequence_length` are skipped or truncated, and counted."""
    limit, long = job.settings.sequence_length, job.settings.long

    def encode(row: dict) -> tuple[tuple | None, str]:
        ids, mask = encode_chat(job.tokenizer, row["messages"])
        if len(ids) <= limit:
            return (ids, mask), ""
        if long == "skip":
            return None, "skipped"
        if not any(mask[1:limit]):
            return None, "no answer left"
        return (ids[:limit], mask[:limit]), "truncated"

    remedy = f"sequence_length={limit}, or set sft.long=truncate"
    return Dialogues.from_encoded(job.encode(encode, remedy))
