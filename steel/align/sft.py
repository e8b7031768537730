"""Supervised fine-tuning: teach a base model to answer.

loss = -sum over answer tokens t of log p(x_t | x_<t), over their number (Ouyang et al. 2022, §3.5):
only what the assistant says is predicted, in every turn. Dialogues are packed into rows without
tearing one; attention ends where a dialogue does. Sequence i of the stream is a pure function of
(data, seed, i), so a resumed run sees what an unbroken one would have seen.
"""

from __future__ import annotations

from pathlib import Path

from ..config import Config, UserError
from ..data.batch import Batch
from ..machine import progress
from ..model import SteelForCausalLM
from ..tokenizer.chat import encode_chat
from ..train.pretrain import next_token_loss
from .packing import Dialogues, PackedEpochs
from .stage import Job


def run(
    cfg: Config, model_folder: Path | str, data, run_dir: Path | str, *, resume: str = "auto"
) -> Path:
    """Fine-tune on dialogue rows {"messages": […], "kind", "lang"}; settings are `cfg.sft`.

    data: one jsonl file or a list of them; what is refused is counted in the log. run_dir: the
    stage's folder: log.jsonl, checkpoints/, hf/. Returns the Hugging Face folder of the result.
    """
    job = Job.open(cfg, "sft", model_folder, data, run_dir)
    settings, length = job.settings, job.settings.sequence_length
    if settings.z_loss and not isinstance(job.model, SteelForCausalLM):
        raise UserError("sft.z_loss is computed by Steel's own head; set sft.z_loss=0")
    dialogues, long = encode_dialogues(job.tokenizer, job.rows.rows, length, settings.long)
    stream = PackedEpochs(dialogues, length, cfg.seed, job.pad_id)
    job.set_steps(stream.per_epoch)
    counts = {
        "long": long,
        "dialogues": len(dialogues),
        "tokens": len(dialogues.tokens),
        "answer_tokens": int(dialogues.answer.sum()),
        "sequences_per_epoch": stream.per_epoch,
        "filled": round(len(dialogues.tokens) / (stream.per_epoch * length), 4),
    }
    loss_fn = next_token_loss(settings.z_loss)
    return job.train(batches(stream, job), loss_fn, counts, length, packed=True, resume=resume)


def encode_dialogues(
    tokenizer, rows: list[dict], limit: int, long: str = "skip"
) -> tuple[Dialogues, dict[str, int]]:
    """Tokenise dialogue rows; those above `limit` tokens are counted, and skipped or truncated.

    Raises UserError when none is left.
    """
    encoded, counts = [], {}
    with progress(len(rows), "encoding dialogues", "rows") as bar:
        for row in rows:
            bar.advance(1)
            ids, mask = encode_chat(tokenizer, row["messages"])
            if len(ids) > limit:
                ids, mask = ids[:limit], mask[:limit]
                kept = long == "truncate" and any(mask[1:])
                reason = "truncated" if kept else "skipped" if long == "skip" else "no answer left"
                counts[reason] = counts.get(reason, 0) + 1
                if not kept:
                    continue
            encoded.append((ids, mask))
    if not encoded:
        raise UserError(
            f"every dialogue is longer than sft.sequence_length={limit}; raise it, or "
            "sft.long=truncate"
        )
    return Dialogues.from_encoded(encoded), counts


def batches(stream: PackedEpochs, job: Job):
    """batch_fn of the loop: the micro-batches of this rank at a step."""
    settings, world = job.settings, job.world

    def batch_fn(step: int) -> list[Batch]:
        low, high = step * settings.batch_size, (step + 1) * settings.batch_size
        width = settings.micro_batch_size * world.size
        return [
            stream.batch(at + world.rank, min(at + width, high), world.size).to(world.device)
            for at in range(low, high, width)
        ]

    return batch_fn
