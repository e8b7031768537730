"""A reward model: the backbone with one number on top; the better answer gets the larger number.

loss = -log sigmoid(r(chosen) - r(rejected)) (Bradley and Terry 1952; Ouyang et al. 2022, eq. 1). The
number is read at the answer's last token, the only place that has seen all of it. What counts is the
accuracy on pairs it never saw.

Shapes: P pairs, R = 2P rows (all chosen, then all rejected), T tokens, D model width.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..config import Config, UserError
from ..data.order import Stream
from ..model.folder import open_model
from ..runlog import atomic_write
from .dpo import Pairs, encode_pairs
from .logprobs import AnswerRows, encode_answer, pad_rows
from .stage import Job, device_of, split

HEAD_FILE = "reward_head.safetensors"


class RewardModel(nn.Module):
    """A causal LM's backbone and a linear head D -> 1 that starts at zero (reward 0 for all)."""

    def __init__(self, lm):
        super().__init__()
        self.lm = lm
        self.config, self.generation_config = lm.config, lm.generation_config
        head = nn.Linear(lm.config.hidden_size, 1, bias=False, dtype=lm.dtype, device=lm.device)
        self.head = head
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
        """(reward model, tokenizer) from a folder that `run` wrote."""
        from safetensors.torch import load_file

        file = Path(folder) / HEAD_FILE
        if not file.is_file():
            raise UserError(
                f"{folder} holds no reward model (no {HEAD_FILE}); train one with 'steel reward'"
            )
        lm, tokenizer = open_model(folder)
        model = cls(lm)
        model.head.load_state_dict(load_file(file))
        return model, tokenizer

    @torch.no_grad()
    def score(self, tokenizer, messages: list[dict], answers: list[str]) -> list[float]:
        """Rewards of several answers to one prompt."""
        rows = pad_rows([encode_answer(tokenizer, messages, answer) for answer in answers])
        return self(rows.to(device_of(self))).tolist()


def loss(model: RewardModel, micro: AnswerRows):
    """loss_fn of the loop: sum of Bradley-Terry losses over pairs [nats], their number, metrics."""
    chosen_P, rejected_P = model(micro.to(device_of(model))).chunk(2)
    margin_P = chosen_P - rejected_P
    pairs = len(margin_P)
    metrics = {
        "margin": (margin_P.detach().sum(), pairs),
        "accuracy": ((margin_P > 0).sum(), pairs),
        "tokens": (micro.input_ids.numel(), 1),
    }
    return -F.logsigmoid(margin_P).sum(), pairs, metrics


def accuracy(model: RewardModel, pairs: Pairs, indices: list[int], batch: int = 32) -> float:
    """Share of pairs whose chosen answer gets the larger reward; a tie counts one half."""
    right = 0.0
    for piece in split(indices, batch):
        chosen_P, rejected_P = model(pairs.batch(piece).to(device_of(model))).chunk(2)
        right += float(((chosen_P > rejected_P) + 0.5 * (chosen_P == rejected_P)).sum())
    return right / len(indices)


def hold_out(rows: list[dict], share: float, seed: int) -> tuple[list[int], list[int]]:
    """(training, held-out) row indices. Rows with the same prompt stay on one side."""
    prompts: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        prompts.setdefault(repr(row["messages"]), []).append(i)
    groups, held = list(prompts.values()), []
    for g in Stream("reward held out", seed, len(groups)).samples(range(len(groups)))[0]:
        if len(held) >= share * len(rows):
            break
        held += groups[g]
    return sorted({*range(len(rows))} - {*held}), sorted(held)


def run(
    cfg: Config, model_folder: Path | str, data, run_dir: Path | str, *, resume: str = "auto"
) -> Path:
    """Train on preference rows; accuracy on held-out pairs is logged as an `eval` record.

    Settings are `cfg.reward`. Returns the folder that `RewardModel.from_pretrained` reads.
    """
    job = Job.open(cfg, "reward", model_folder, data, run_dir)
    settings = job.settings
    pairs, long = encode_pairs(job, settings.sequence_length)
    training, held = hold_out(pairs.rows, settings.holdout, cfg.seed)
    job.set_steps(len(training))
    stream = Stream("reward", cfg.seed, len(training))

    def batch_fn(step: int) -> list[AnswerRows]:
        mine = [training[i] for i in job.take(stream, step)]
        return [pairs.batch(piece) for piece in split(mine, settings.micro_batch_size)]

    def evaluate(model: RewardModel, step: int) -> dict:
        return {"held_out_accuracy": accuracy(model, pairs, held), "held_out_pairs": len(held)}

    counts = {"long": long, "pairs": len(training), "held_out": len(held)}
    return job.train(
        batch_fn,
        loss,
        counts,
        settings.sequence_length,
        model=RewardModel(job.model),
        evaluate=evaluate if held else None,
        resume=resume,
    )
