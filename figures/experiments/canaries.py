"""Canaries: strings planted in training text, so that one knows what a test for contamination finds.

Each planted string has controls drawn by the same rule that were never written anywhere. A model
that memorised the planted one finds it likelier than nearly all controls (Carlini et al. 2019):

    exposure = log2(controls + 1) - log2(rank of the planted string among them)

The blind number beside it comes from no model: a planted string that is shorter or plainer than its
controls would be told apart without any training.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from steel.evaluation.scoring import score_continuations
from steel.tokenizer.bpe import before_document_id, encode_text

_DIGITS = 8


@dataclass(frozen=True)
class Canary:
    """A string to plant `times` times in training text, and strings like it that are not planted."""

    text: str
    controls: tuple[str, ...]
    times: int


def canaries(times: Sequence[int], controls: int = 63, seed: int = 1) -> list[Canary]:
    """One canary per number of times that it is to be planted; 0: known not to be there."""
    found = []
    for i, count in enumerate(times):
        rng = random.Random(f"canary/{seed}/{i}")
        numbers = rng.sample(range(10**_DIGITS), controls + 1)
        texts = [f"第{i}号档案的编号是{n:0{_DIGITS}d}。" for n in numbers]
        found.append(Canary(texts[0], tuple(texts[1:]), count))
    return found


def exposure(model, tok, planted: Sequence[Canary], batch_size: int = 128) -> dict:
    """{"rows": [{"times", "rank", "exposure" [bits]}], "auroc": of planted against unplanted
    canaries' exposure (None without both), "most": the largest exposure that can be seen [bits],
    "blind": the same AUROC with the number of tokens in place of the model}.
    """
    begin, pairs = [before_document_id(tok)], []
    for canary in planted:
        pairs += [(begin, encode_text(tok, text)) for text in (canary.text, *canary.controls)]
    scores = iter(score_continuations(model, pairs, batch_size=batch_size, title="canaries"))
    sizes = iter([-len(ids) for _, ids in pairs])
    rows, blind = [], []
    for canary in planted:
        count = len(canary.controls) + 1
        own, plain = ([next(values) for _ in range(count)] for values in (scores, sizes))
        rank = _rank(own)
        bits = math.log2(count / rank)
        rows.append({"times": canary.times, "rank": rank, "exposure": bits})
        blind.append(math.log2(count / _rank(plain)))
    marks = [canary.times > 0 for canary in planted]
    most = math.log2(max((len(c.controls) + 1 for c in planted), default=1))
    found = {"rows": rows, "auroc": auroc([row["exposure"] for row in rows], marks), "most": most}
    return found | {"blind": auroc(blind, marks)}


def _rank(values: Sequence[float]) -> float:
    """Place of the first among all, 1 for the largest; ties share theirs."""
    ahead, alike = (sum(f(v) for v in values[1:]) for f in (values[0].__lt__, values[0].__eq__))
    return 1 + ahead + alike / 2


def auroc(values: Sequence[float], marks: Sequence[bool]) -> float | None:
    """P(a marked value is larger than an unmarked one), ties one half; None without both."""
    yes = [v for v, mark in zip(values, marks) if mark]
    no = [v for v, mark in zip(values, marks) if not mark]
    wins = sum((a > b) + (a == b) / 2 for a in yes for b in no)
    return wins / (len(yes) * len(no)) if yes and no else None
