"""Supervised fine-tuning: teach a base model to answer.

loss = -sum over answer tokens t of log p(x_t | x_<t), over their number (Ouyang et al. 2022, §3.5):
only what the assistant says is predicted, in every turn. Dialogues are packed into rows without
tearing one; attention ends where a dialogue does. Sequence i of the stream is a pure function of
(data, seed, i), so a resumed run sees what an unbroken one would have seen.
"""

from ..config import UserError
from ..data.batch import Batch
from ..model import SteelForCausalLM
from ..tokenizer.chat import encode_chat
from ..train.loop import Stage
from ..train.pretrain import next_token_loss
from .packing import Dialogues, PackedEpochs
from .stage import Job


def stage(job: Job) -> Stage:
    """Fine-tune on dialogue rows {"messages": […], "kind", "lang"}; settings are `cfg.sft`."""
    z_loss, length = job.settings.z_loss, job.settings.sequence_length
    if z_loss and not isinstance(job.model, SteelForCausalLM):
        raise UserError("sft.z_loss is computed by Steel's own head; set sft.z_loss=0")
    dialogues = encode_dialogues(job)
    stream = PackedEpochs(dialogues, length, job.cfg.seed, job.pad_id)
    job.set_steps(stream.per_epoch)

    def batch_fn(step: int) -> list[Batch]:
        return [stream.batch(draws).to(job.world.device) for draws in job.draws(step)]

    counts = {
        "dialogues": len(dialogues),
        "tokens": len(dialogues.tokens),
        "answer_tokens": int(dialogues.answer.sum()),
        "sequences_per_epoch": stream.per_epoch,
        "filled": round(len(dialogues.tokens) / (stream.per_epoch * length), 4),
    }
    return job.stage(batch_fn, next_token_loss(z_loss), length, counts, packed=True)


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
