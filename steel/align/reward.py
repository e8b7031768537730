"""A reward model: the backbone with one number on top, trained so that the better answer gets the larger number.

loss = -log sigmoid(r(chosen) - r(rejected)) (Bradley and Terry 1952; Ouyang et al. 2022, eq. 1). The number is read at
the answer's last token, the only place that has seen all of it. What counts is the accuracy on pairs it never saw.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..config import Config, UserError
from ..model.folder import open_model
from ..runlog import atomic_write
from ..train.build import prepare
from ..train.loop import Stage
from ..train.parallel import join_world
from ..train.run_folder import RunFolder
from .dpo import Pairs, encode_pairs
from .logprobs import AnswerRows, encode_answer, pad_rows
from .rows import check_preference, count_by, read_rows
from .stage import Shuffled, device_of, open_student, split, train, with_steps

HEAD_FILE = "reward_head.safetensors"


class RewardModel(nn.Module):
    """A causal LM's backbone and a linear head D -> 1 that starts at zero (reward 0 for everything)."""

    def __init__(self, lm):
        super().__init__()
        self.lm = lm
        self.config = lm.config
        self.head = nn.Linear(lm.config.hidden_size, 1, bias=False, dtype=lm.dtype)
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

        weights = kwargs.pop("state_dict", None)
        if weights is not None:  # gathered from all ranks by the loop
            kwargs["state_dict"] = {
                k.removeprefix("lm."): v for k, v in weights.items() if k.startswith("lm.")
            }
        head = self.head.weight if weights is None else weights["head.weight"]
        self.lm.save_pretrained(folder, **kwargs)
        atomic_write(Path(folder) / HEAD_FILE, save({"weight": head.detach().cpu().contiguous()}))

    @classmethod
    def from_pretrained(cls, folder: Path | str):
        """(reward model, tokenizer) from a folder that `run` wrote."""
        from safetensors.torch import load_file

        if not (Path(folder) / HEAD_FILE).is_file():
            raise UserError(
                f"{folder} holds no reward model ({HEAD_FILE} is missing); train one with 'steel reward'"
            )
        lm, tokenizer = open_model(folder, device="cpu")
        model = cls(lm)
        model.head.load_state_dict(load_file(Path(folder) / HEAD_FILE))
        return model, tokenizer

    @torch.no_grad()
    def score(self, tokenizer, messages: list[dict], answers: list[str]) -> list[float]:
        """Rewards of several answers to one prompt."""
        rows = pad_rows([encode_answer(tokenizer, messages, answer) for answer in answers])
        return self(rows.to(device_of(self))).tolist()


def loss(model: RewardModel, micro: AnswerRows):
    """Sum of Bradley-Terry losses over pairs [nats], number of pairs, metrics."""
    chosen_P, rejected_P = model(micro.to(device_of(model))).chunk(2)
    margin_P = chosen_P - rejected_P
    metrics = {
        "margin": (margin_P.sum().item(), len(margin_P)),
        "accuracy": ((margin_P > 0).sum().item(), len(margin_P)),
        "tokens": (micro.input_ids.numel(), 1),
    }
    return -F.logsigmoid(margin_P).sum(), len(margin_P), metrics


@torch.no_grad()
def accuracy(model: RewardModel, pairs: Pairs, indices: list[int], batch: int = 32) -> float:
    """Share of pairs whose chosen answer gets the larger reward; a tie counts one half."""
    was_training, right = model.training, 0.0
    model.eval()
    for piece in split(indices, batch):
        chosen_P, rejected_P = model(pairs.rows(piece).to(device_of(model))).chunk(2)
        right += (
            ((chosen_P > rejected_P).float() + 0.5 * (chosen_P == rejected_P).float()).sum().item()
        )
    model.train(was_training)
    return right / len(indices)


def hold_out(rows: list[dict], share: float, seed: int) -> tuple[list[int], list[int]]:
    """(training, held-out) row indices. Rows with the same prompt stay on one side."""
    prompts: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        prompts.setdefault(repr(row["messages"]), []).append(i)
    groups, order = list(prompts.values()), Shuffled(len(prompts), seed, salt=0x4E1D)
    held: list[int] = []
    for g in range(len(groups)):
        if len(held) >= share * len(rows):
            break
        held += groups[order[g]]
    rest = set(range(len(rows))) - set(held)
    return sorted(rest), sorted(held)


def run(
    cfg: Config, model_folder: Path | str, data, run_dir: Path | str, *, resume: str = "auto"
) -> Path:
    """Train a reward model on preference rows; its accuracy on held-out pairs is logged as an `eval` record.

    The stage is `cfg.reward`; returns the folder of the result (`RewardModel.from_pretrained` reads it).
    """
    stage, run_folder, world = cfg.reward, RunFolder(run_dir), join_world()
    if not 0 <= stage.holdout <= 0.5:
        raise UserError(f"reward.holdout is {stage.holdout}; it must lie in 0..0.5")
    rows = read_rows(data, check_preference, "preference pairs")
    lm, tokenizer = open_student(model_folder, "reward training")
    pairs, long, kept = *encode_pairs(tokenizer, rows.rows, stage.sequence_length), rows.rows
    if long:
        raise UserError(
            f"{long['skipped']} pairs are longer than reward.sequence_length={stage.sequence_length}"
        )
    training, held = hold_out(kept, stage.holdout, cfg.seed)
    stage, stream = with_steps(stage, len(training)), Shuffled(len(training), cfg.seed, salt=0x4E2D)
    model = RewardModel(lm)
    counts = {
        **rows.report(),
        "pairs": len(training),
        "held_out": len(held),
        "sha256": rows.digest,
        "kinds": count_by(rows.rows, "kind"),
    }

    def batch_fn(step: int) -> list[AnswerRows]:
        mine = [training[i] for i in stream.take(step, stage.batch_size, world.rank, world.size)]
        return [pairs.rows(piece) for piece in split(mine, stage.micro_batch_size)]

    def evaluate(current, step: int) -> dict:
        return (
            {"held_out_accuracy": accuracy(current, pairs, held), "held_out_pairs": len(held)}
            if held
            else {}
        )

    model.to(world.device)
    prepare(model, stage, world, stage.sequence_length, False)
    whole = Stage("reward model", stage, model, batch_fn, loss, tokenizer=tokenizer)
    whole.evaluate = evaluate
    return train(cfg, whole, run_folder, world, counts, resume)
