"""A reward model: the backbone with one number on top; the better answer gets the larger number.

loss = -log sigmoid(r(chosen) - r(rejected)) (Bradley and Terry 1952; Ouyang et al. 2022, eq. 1). The
number is read at the answer's last token, the only place that has seen all of it. What counts is the
accuracy on pairs it never saw. (GRPO's rewards come from a program instead: `align.verify`.)

Shapes: P pairs, R = 2P rows (all chosen, then all rejected), T tokens, D model width.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..config import UserError, sound
from ..data.order import Stream
from ..model.folder import open_model
from ..runlog import atomic_write
from ..train.loop import Stage
from .dpo import encode_pairs, pair_rows
from .logprobs import AnswerRows, encode_answer, pad_rows
from .stage import Job, split

HEAD_FILE = "reward_head.safetensors"


class RewardModel(nn.Module):
    """A causal LM's backbone and a linear head D -> 1 that starts at zero (reward 0 for all)."""

    def __init__(self, lm):
        super().__init__()
        self.lm = lm
        self.config, self.generation_config = lm.config, lm.generation_config
        placed = {"dtype": lm.dtype, "device": lm.device}
        self.head = nn.Linear(lm.config.hidden_size, 1, bias=False, **placed)
        nn.init.zeros_(self.head.weight)

    def forward(self, rows: AnswerRows) -> torch.Tensor:
        """Rewards (R,), float32 or wider, at the last answer token of each row."""
        hidden_RTD = self.lm.base_model(input_ids=rows.input_ids, use_cache=False)[0]
        steps_T = torch.arange(rows.answer.shape[1], device=rows.answer.device)
        last_R = (rows.answer * steps_T).amax(-1)
        hidden_RD = hidden_RTD[torch.arange(len(last_R), device=last_R.device), last_R]
        return self.head(hidden_RD)[:, 0].to(torch.promote_types(hidden_RD.dtype, torch.float32))

    def save_pretrained(self, folder: Path | str, **kwargs) -> None:
        """The backbone as a Hugging Face folder, the head beside it."""
        from safetensors.torch import save

        head, weights = self.head.weight, kwargs.pop("state_dict", None)
        if weights is not None:  # gathered from all ranks
            head = weights["head.weight"]
            kwargs["state_dict"] = {
                k.removeprefix("lm."): v for k, v in weights.items() if k.startswith("lm.")
            }
        self.lm.save_pretrained(folder, **kwargs)
        atomic_write(Path(folder) / HEAD_FILE, save({"weight": head.detach().cpu().contiguous()}))

    @classmethod
    def from_pretrained(cls, folder: Path | str):
        """(reward model, tokenizer) from a folder that this stage wrote."""
        from safetensors.torch import load_file

        file = Path(folder) / HEAD_FILE
        if not file.is_file():
            raise UserError(
                f"{folder} holds no reward model (no {HEAD_FILE}); train one with 'steel reward'"
            )
        lm, tokenizer = open_model(folder)
        model = cls(lm)
        with sound(file):
            model.head.load_state_dict(load_file(file))
        return model, tokenizer

    @torch.no_grad()
    def score(self, tokenizer, messages: list[dict], answers: list[str]) -> list[float]:
        """Rewards of several answers to one prompt."""
        rows = pad_rows([encode_answer(tokenizer, messages, answer) for answer in answers])
        return self(rows.to(self.lm.device)).tolist()


def loss(model: RewardModel, rows: AnswerRows):
    """loss_fn of the loop: sum of Bradley-Terry losses over pairs [nats], their number, metrics."""
    chosen_P, rejected_P = model(rows).chunk(2)
    margin_P = chosen_P - rejected_P
    pairs = len(margin_P)
    metrics = {
        "margin": (margin_P.detach().sum(), pairs),
        "accuracy": ((margin_P > 0).sum(), pairs),
        "tokens": (rows.input_ids.numel(), 1),
    }
    return -F.logsigmoid(margin_P).sum(), pairs, metrics


def hold_out(rows: list[dict], share: float, seed: int) -> tuple[list[int], list[int]]:
    """(training, held-out) row indices. Rows with the same prompt stay on one side, and the last
    prompt is for training."""
    prompts: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        prompts.setdefault(repr(row["messages"]), []).append(i)
    groups, held = list(prompts.values()), []
    for g in Stream("reward held out", seed, len(groups)).samples(range(len(groups))):
        if len(held) >= share * len(rows) or len(held) + len(groups[g]) == len(rows):
            break
        held += groups[g]
    return sorted({*range(len(rows))} - {*held}), sorted(held)


def stage(job: Job) -> Stage:
    """Train on preference rows; accuracy on held-out pairs is logged as an `eval` record.

    Settings are `cfg.reward`. The folder that it leaves is for `RewardModel.from_pretrained`.
    """
    settings, seed, device = job.settings, job.cfg.seed, job.world.device
    pairs = encode_pairs(job)
    training, held = hold_out([pair.row for pair in pairs], settings.holdout, seed)
    job.set_steps(len(training))
    job.model = RewardModel(job.model)
    stream = Stream("reward", seed, len(training))

    def rows_of(some: list[int]) -> AnswerRows:
        return pair_rows(pairs, some, job.pad_id).to(device)

    def batch_fn(step: int) -> list[AnswerRows]:
        return [rows_of([training[i] for i in some]) for some in job.take(stream, step)]

    def evaluate(model: RewardModel, step: int) -> dict:
        """Share of held-out pairs whose chosen answer gets the larger reward; a tie is half right."""
        right = 0.0
        for some in split(held, 32):
            chosen_P, rejected_P = model(rows_of(some)).chunk(2)
            right += float(((chosen_P > rejected_P) + 0.5 * (chosen_P == rejected_P)).sum())
        return {"held_out_accuracy": right / len(held), "held_out_pairs": len(held)}

    counts = {"pairs": len(training), "held_out": len(held)}
    judge = evaluate if held else None
    return job.stage(batch_fn, loss, settings.sequence_length, counts, evaluate=judge)
