"""Log-probabilities of answers given their prompts: what reward models, DPO and GRPO are made of.

Shapes: R rows (prompt + answer, padded on the right), T tokens, K scored positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from ..tokenizer.chat import encode_chat

Row = tuple[list[int], int]
"""Token ids of prompt + answer, and where the answer starts."""


@dataclass
class AnswerRows:
    """Rows to score. `first` and `answers` are known on the host, so nobody waits for the device."""

    input_ids: torch.Tensor  # (R, T) int64
    answer: torch.Tensor  # (R, T) bool, True on the answer and the `<|im_end|>` that ends it
    first: int  # the first column that is an answer in any row, at least 1
    answers: int  # answer tokens in all rows

    def to(self, device) -> AnswerRows:
        """The same rows on `device`."""
        return replace(self, input_ids=self.input_ids.to(device), answer=self.answer.to(device))


def encode_answer(tokenizer, messages: list[dict], answer: str) -> Row:
    """Prompt + answer up to the answer's `<|im_end|>`; earlier answers belong to the prompt."""
    start = len(encode_chat(tokenizer, messages, add_generation_prompt=True)[0])
    ids, mask = encode_chat(tokenizer, [*messages, {"role": "assistant", "content": answer}])
    return ids[: max(i for i, bit in enumerate(mask) if bit) + 1], start


def pad_rows(rows: Sequence[Row], pad_id: int = 0) -> AnswerRows:
    """Pad on the right; a causal model never looks there, so no mask is needed."""
    longest = max(len(ids) for ids, _ in rows)
    input_ids = torch.full((len(rows), longest), pad_id, dtype=torch.int64)
    answer = torch.zeros((len(rows), longest), dtype=torch.bool)
    for r, (ids, start) in enumerate(rows):
        input_ids[r, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        answer[r, start : len(ids)] = True
    first = max(1, min(start for _, start in rows))
    return AnswerRows(input_ids, answer, first, sum(len(ids) - start for ids, start in rows))


@dataclass
class Scores:
    """What a model thinks of the answers; zeros outside `answer`."""

    logprob: torch.Tensor  # (R, K) log p(token | everything before it) [nats]
    answer: torch.Tensor  # (R, K) bool
    entropy: torch.Tensor | None  # (R, K) of the next token [nats], without gradient


def score_answers(
    model, rows: AnswerRows, temperature: float = 1.0, with_entropy: bool = False
) -> Scores:
    """Log-probability of every answer token; logits are made from the first answer on.

    With a temperature, logits are divided by it first: the distribution that the sampler drew from.
    """
    keep = rows.input_ids.shape[1] - (rows.first - 1)
    out = model(input_ids=rows.input_ids, logits_to_keep=keep, use_cache=False)
    logits = out.logits[:, -keep:][:, :-1]
    logits = (logits if logits.dtype == torch.float64 else logits.float()) / temperature
    answer, target = rows.answer[:, rows.first :], rows.input_ids[:, rows.first :]
    loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
    entropy = None
    if with_entropy:
        with torch.no_grad():
            log_p = logits.log_softmax(-1)
            entropy = -(log_p.exp() * log_p).sum(-1).masked_fill(~answer, 0.0)
    return Scores((-loss).view(target.shape).masked_fill(~answer, 0.0), answer, entropy)
