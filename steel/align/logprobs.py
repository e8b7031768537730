"""Log-probabilities of answers given their prompts: what DPO and GRPO are made of.

Shapes: R rows (prompt + answer, padded on the right), T tokens, K scored positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..tokenizer.chat import encode_chat


@dataclass
class AnswerRows:
    """Rows to score: input_ids_RT int64 and answer_RT bool, True on the answer and the `<|im_end|>` that ends it."""

    input_ids: torch.Tensor
    answer: torch.Tensor

    def to(self, device) -> AnswerRows:
        return AnswerRows(self.input_ids.to(device), self.answer.to(device))


def encode_answer(tokenizer, messages: list[dict], answer: str) -> tuple[list[int], int]:
    """Token ids of prompt + answer, ending with the answer's `<|im_end|>`, and where the answer starts.

    Earlier answers in a multi-turn prompt belong to the prompt.
    """
    start = len(encode_chat(tokenizer, messages, add_generation_prompt=True)[0])
    ids, mask = encode_chat(tokenizer, [*messages, {"role": "assistant", "content": answer}])
    end = max(i for i, bit in enumerate(mask) if bit) + 1
    assert start < end
    return ids[:end], start


def pad_rows(rows: Sequence[tuple[Sequence[int], int]], pad_id: int = 0) -> AnswerRows:
    """Pad (ids, answer start) rows on the right; a causal model never looks there, so no mask is needed."""
    longest = max(len(ids) for ids, _ in rows)
    input_ids = torch.full((len(rows), longest), pad_id, dtype=torch.int64)
    answer = torch.zeros((len(rows), longest), dtype=torch.bool)
    for r, (ids, start) in enumerate(rows):
        input_ids[r, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        answer[r, start : len(ids)] = True
    return AnswerRows(input_ids, answer)


@dataclass
class Scores:
    """What a model thinks of the answers; zeros outside `answer_RK`."""

    logprob: torch.Tensor  # (R, K) log p(token | everything before it), in nats
    answer: torch.Tensor  # (R, K) bool
    entropy: (
        torch.Tensor | None
    )  # (R, K) entropy of the next-token distribution in nats, without gradient


def score_answers(
    model, rows: AnswerRows, temperature: float = 1.0, with_entropy: bool = False
) -> Scores:
    """Log-probability of every answer token. Logits are made from the first answer on, not for the prompts.

    With a temperature, logits are divided by it first: the distribution that the sampler drew from.
    """
    first = max(
        int(rows.answer.any(0).int().argmax()), 1
    )  # first column that is an answer in any row
    keep = rows.input_ids.shape[1] - (first - 1)
    logits = model(input_ids=rows.input_ids, logits_to_keep=keep, use_cache=False).logits[
        :, -keep:
    ][:, :-1]
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if temperature != 1.0:
        logits = logits / temperature
    answer, target = rows.answer[:, first:], rows.input_ids[:, first:]
    logprob = -F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view(
        target.shape
    )
    entropy = None
    if with_entropy:
        with torch.no_grad():
            log_p = logits.log_softmax(-1)
            entropy = -(log_p.exp() * log_p).sum(-1).masked_fill(~answer, 0.0)
    return Scores(logprob.masked_fill(~answer, 0.0), answer, entropy)
