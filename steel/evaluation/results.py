"""From chosen letters to numbers: accuracies with their standard errors, trivial baselines, paired comparison."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from .subjects import groups_of


def binomial_se(p: float, n: int) -> float:
    """Standard error of a share p among n independent answers, √(p(1-p)/n)."""
    return math.sqrt(max(0.0, p * (1 - p)) / n) if n else 0.0


def baselines(questions: Sequence) -> dict[str, float]:
    """Accuracies of strategies that know nothing: blind chance, always the first letter, always the longest option.

    Options that tie for the longest share its point, so the number does not depend on their order.
    """
    total = {"chance": 0.0, "always_a": 0.0, "longest": 0.0}
    for q in questions:
        lengths = [len(text) for text in q.options]
        longest = [
            letter
            for letter, length in zip(q.letters, lengths, strict=True)
            if length == max(lengths)
        ]
        total["chance"] += 1 / len(q.options)
        total["always_a"] += q.answer == "A"
        total["longest"] += (q.answer in longest) / len(longest)
    return {name: value / len(questions) for name, value in total.items()}


def summarise(questions: Sequence, chosen: Mapping[str, Sequence[str | None]], suite: str) -> dict:
    """Scores per way of scoring, per subject and per group.

    Returns
    {"scoring": {way: {"accuracy" (= micro: over questions), "micro", "macro" (mean over subjects), "se",
    "macro_se", "n", "letters": chosen letters counted, ["accuracy_sum"], ["unparsed": share without an answer]}},
    "subjects" and "groups": {name: {"n", way: accuracy}},
    "answers": {"key", way: one letter per question, - for none}}.
    An answer that could not be read counts as wrong.
    """
    ways = [way for way in chosen if way != "text_sum"]
    right = {
        way: [a == q.answer for a, q in zip(answers, questions, strict=True)]
        for way, answers in chosen.items()
    }
    subjects: dict[str, list[int]] = defaultdict(list)
    groups: dict[str, list[int]] = defaultdict(list)
    for i, q in enumerate(questions):
        subjects[q.subject].append(i)
        for group in groups_of(q.subject, suite):
            groups[group].append(i)

    def table(parts: Mapping[str, list[int]]) -> dict:
        return {
            name: {"n": len(ids), **{way: _mean(right[way], ids) for way in ways}}
            for name, ids in parts.items()
        }

    scoring = {}
    for way in ways:
        micro = _mean(right[way], range(len(questions)))
        per_subject = [(_mean(right[way], ids), len(ids)) for ids in subjects.values()]
        scoring[way] = {
            "accuracy": micro,
            "micro": micro,
            "macro": sum(p for p, _ in per_subject) / len(per_subject),
            "se": binomial_se(micro, len(questions)),
            "n": len(questions),
            "macro_se": math.sqrt(sum(binomial_se(p, n) ** 2 for p, n in per_subject))
            / len(per_subject),
            "letters": dict(sorted(Counter(a or "-" for a in chosen[way]).items())),
        }
        if way == "text":
            scoring[way]["accuracy_sum"] = _mean(right["text_sum"], range(len(questions)))
        if way == "generate":
            scoring[way]["unparsed"] = sum(a is None for a in chosen[way]) / len(questions)
    answers = {"key": "".join(q.answer for q in questions)}
    answers |= {way: "".join(a or "-" for a in chosen[way]) for way in ways}
    return {
        "scoring": scoring,
        "subjects": table(subjects),
        "groups": table(groups),
        "answers": answers,
    }


def _mean(right: Sequence[bool], ids) -> float:
    ids = list(ids)
    return sum(right[i] for i in ids) / len(ids)


def compare(before: dict, after: dict, way: str = "text") -> dict:
    """Is the second of two `run_exam` results on the same questions better? A paired comparison (McNemar 1947).

    Returns {"difference", "se" [fractions], "better", "worse" [questions that changed], "p": exact two-sided p-value
    of the sign test on the changed questions}. Raises ValueError when the two did not answer the same questions.
    """
    key = before["answers"]["key"]
    if key != after["answers"]["key"]:
        raise ValueError(
            "the two results answer different questions, or the same ones in another order of options"
        )
    pairs = [
        (a == k, b == k)
        for a, b, k in zip(before["answers"][way], after["answers"][way], key, strict=True)
    ]
    better, worse, n = pairs.count((False, True)), pairs.count((True, False)), len(pairs)
    changed, difference = better + worse, (better - worse) / n
    tail = sum(math.comb(changed, i) for i in range(min(better, worse) + 1)) / 2**changed
    return {
        "difference": difference,
        "se": math.sqrt(max(0.0, changed / n - difference**2) / n),
        "better": better,
        "worse": worse,
        "p": min(1.0, 2 * tail),
    }
