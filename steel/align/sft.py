"""Supervised fine-tuning: teach a base model to answer.

Dialogues are packed into rows without tearing one; positions restart at each dialogue (document mask), and only the
assistant's tokens are predicted, in every turn. Sequence i of the stream is a pure function of (data, seed, i), so a
resumed run sees what an unbroken one would have seen.
"""

from __future__ import annotations

from pathlib import Path

from ..config import Config, UserError
from ..data.batch import Batch
from ..machine import progress
from ..model.folder import stop_ids
from ..tokenizer.chat import encode_chat
from ..train.build import prepare
from ..train.loop import Stage
from ..train.parallel import World, join_world
from ..train.pretrain import next_token_loss
from ..train.run_folder import RunFolder
from .packing import Dialogues, PackedEpochs
from .rows import check_dialogue, count_by, read_rows
from .stage import open_student, train, with_steps


def run(
    cfg: Config, model_folder: Path | str, data, run_dir: Path | str, *, resume: str = "auto"
) -> Path:
    """Fine-tune the model in `model_folder` on dialogue rows {"messages": […], "kind", "lang"}.

    Args:
        cfg: the stage is `cfg.sft`.
        data: one jsonl file or a list of them; what is refused is counted in the log.
        run_dir: the stage's folder: log.jsonl, checkpoints/, hf/.
    Returns:
        the Hugging Face folder of the result.
    """
    stage, run_folder, world = cfg.sft, RunFolder(run_dir), join_world()
    rows = read_rows(data, check_dialogue, "dialogues")
    model, tokenizer = open_student(model_folder, "SFT")
    pad_id = stop_ids(tokenizer)[-1]
    dialogues, long = encode_dialogues(tokenizer, rows.rows, stage.sequence_length, stage.long)
    stream = PackedEpochs(dialogues, stage.sequence_length, cfg.seed, pad_id)
    stage = with_steps(stage, stream.per_epoch)
    filled = int(dialogues.lengths.sum()) / (stream.per_epoch * stage.sequence_length)
    counts = {
        **rows.report(),
        "long": long,
        "kinds": count_by(rows.rows, "kind"),
        "langs": count_by(rows.rows, "lang"),
        "dialogues": len(dialogues),
        "tokens": len(dialogues.tokens),
        "answer_tokens": int(dialogues.answer.sum()),
        "sequences_per_epoch": stream.per_epoch,
        "filled": round(filled, 4),
        "sha256": rows.digest,
    }
    model.to(world.device)
    prepare(model, stage, world, stage.sequence_length, True)
    batch_fn, loss_fn = batches(stream, stage, world), next_token_loss(stage.z_loss)
    whole = Stage("SFT", stage, model, batch_fn, loss_fn, tokenizer=tokenizer)
    return train(cfg, whole, run_folder, world, counts, resume)


def encode_dialogues(
    tokenizer, rows: list[dict], limit: int, long: str = "skip"
) -> tuple[Dialogues, dict[str, int]]:
    """Tokenise dialogue rows; those above `limit` tokens are skipped or truncated, and counted by reason.

    Raises UserError when none is left.
    """
    if long not in ("skip", "truncate"):
        raise UserError(f"sft.long is '{long}'; use skip or truncate")
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
            f"every dialogue is longer than sft.sequence_length={limit}; raise it, or sft.long=truncate"
        )
    return Dialogues.from_encoded(encoded), counts


def batches(stream: PackedEpochs, stage, world: World):
    """batch_fn of the loop: the micro-batches of this rank at a step."""

    def batch_fn(step: int) -> list[Batch]:
        low, high = step * stage.batch_size, (step + 1) * stage.batch_size
        width = stage.micro_batch_size * world.size
        starts = range(low, high, width)
        return [
            stream.batch(at + world.rank, min(at + width, high), world.size).to(world.device)
            for at in starts
        ]

    return batch_fn
