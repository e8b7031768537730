"""From chosen letters to numbers: accuracy, standard error, trivial baselines, comparison."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from .suites import groups_of


def binomial_se(p: float, n: int) -> float:
    """Standard error of a share p among n independent answers, √(p(1-p)/n)."""
    return math.sqrt(max(0.0, p * (1 - p)) / n) if n else 0.0


def baselines(questions: Sequence) -> dict[str, float]:
    """Accuracies without knowledge: chance, always the first letter, the longest option.

    Options that tie for the longest share its point, so the number does not depend on their order.
    """
    total = {"chance": 0.0, "always_a": 0.0, "longest": 0.0}
    for q in questions:
        lengths = [len(text) for text in q.options]
        longest = [letter for letter, n in zip(q.letters, lengths) if n == max(lengths)]
        total["chance"] += 1 / len(q.options)
        total["always_a"] += q.answer == "A"
        total["longest"] += (q.answer in longest) / len(longest)
    return {name: value / len(questions) for name, value in total.items()}


def summarise(questions: Sequence, chosen: Mapping[str, Sequence[str | None]], suite: str) -> dict:
    """Scores per way of scoring, per subject and per group.

    Returns
    {"scoring": {way: {"accuracy" (= micro: over questions), "micro", "macro" (mean over subjects),
    "se", "macro_se", "n", "letters": chosen letters counted, ["accuracy_sum"], ["unparsed": share
    without an answer]}}, "subjects" and "groups": {name: {"n", way: accuracy}},
    "answers": {"key", way: one letter per question, - for none}}.
    An answer that could not be read counts as wrong.
    """
    ways = [way for way in chosen if way != "text_sum"]
    subjects: dict[str, list[int]] = defaultdict(list)
    groups: dict[str, list[int]] = defaultdict(list)
    for i, q in enumerate(questions):
        subjects[q.subject].append(i)
        for group in groups_of(q.subject, suite):
            groups[group].append(i)

    def accuracy(way: str, ids: Sequence[int]) -> float:
        return sum(chosen[way][i] == questions[i].answer for i in ids) / len(ids)

    def table(parts: Mapping[str, list[int]]) -> dict:
        return {
            name: {"n": len(ids), **{way: accuracy(way, ids) for way in ways}}
            for name, ids in parts.items()
        }

    n, scoring = len(questions), {}
    for way in ways:
        micro = accuracy(way, range(n))
        shares = [(accuracy(way, ids), len(ids)) for ids in subjects.values()]
        variance = sum(binomial_se(p, size) ** 2 for p, size in shares)
        scoring[way] = {
            "accuracy": micro,
            "micro": micro,
            "macro": sum(p for p, _ in shares) / len(shares),
            "se": binomial_se(micro, n),
            "n": n,
            "macro_se": math.sqrt(variance) / len(shares),
            "letters": dict(sorted(Counter(a or "-" for a in chosen[way]).items())),
        }
    if "text" in scoring:
        scoring["text"]["accuracy_sum"] = accuracy("text_sum", range(n))
    if "generate" in scoring:
        scoring["generate"]["unparsed"] = chosen["generate"].count(None) / n
    answers = {"key": "".join(q.answer for q in questions)}
    answers |= {way: "".join(a or "-" for a in chosen[way]) for way in ways}
    parts = {"subjects": table(subjects), "groups": table(groups)}
    return {"scoring": scoring, **parts, "answers": answers}


def compare(before: dict, after: dict, way: str = "text") -> dict:
    """Is the second of two `run_exam` results on the same questions better? (McNemar 1947)

    Returns {"difference", "se" [fractions], "better", "worse" [questions that changed], "p": exact
    two-sided p-value of the sign test on the changed questions}. Raises ValueError when the two did
    not answer the same questions.
    """
    key = before["answers"]["key"]
    if key != after["answers"]["key"]:
        raise ValueError(
            "the two results answer different questions, or in another order of options"
        )
    rows = zip(before["answers"][way], after["answers"][way], key)
    pairs = [(a == right, b == right) for a, b, right in rows]
    better, worse, n = pairs.count((False, True)), pairs.count((True, False)), len(pairs)
    changed, difference = better + worse, (better - worse) / n
    tail = sum(math.comb(changed, i) for i in range(min(better, worse) + 1)) / 2**changed
    se = math.sqrt(max(0.0, changed / n - difference**2) / n)
    result = {"difference": difference, "se": se, "better": better, "worse": worse}
    return {**result, "p": min(1.0, 2 * tail)}
