"""From chosen letters to numbers: accuracy, standard error, trivial baselines, comparison."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from .questions import Question
from .suites import groups_of


def share(right: Sequence[bool]) -> dict:
    """{"accuracy", "n", "se"} of answers; se = √(p(1-p)/n), as if they were independent."""
    n, p = len(right), sum(right) / len(right)
    return {"accuracy": p, "n": n, "se": math.sqrt(p * (1 - p) / n)}


def baselines(questions: Sequence[Question]) -> dict[str, float]:
    """Accuracies without knowledge: chance, always the first letter, the longest option.

    Options that tie for the longest share its point, so the number does not depend on their order.
    """
    total = {"chance": 0.0, "always_a": 0.0, "longest": 0.0}
    for q in questions:
        lengths = [len(text) for text in q.options]
        total["chance"] += 1 / len(lengths)
        total["always_a"] += q.answer == "A"
        if len(q.right) == max(lengths):
            total["longest"] += 1 / lengths.count(max(lengths))
    return {name: value / len(questions) for name, value in total.items()}


def summarise(
    questions: Sequence[Question], chosen: Mapping[str, Sequence[str | None]], suite: str
) -> dict:
    """Scores per way of scoring, per subject and per group.

    Returns
    {"scoring": {way: {"accuracy" (= micro: over questions), "micro", "macro" (mean over subjects),
    "se", "macro_se", "n", "letters": chosen letters counted, ["accuracy_sum"], ["unparsed": share
    without an answer]}}, "subjects" and "groups": {name: {"n", way: accuracy}},
    "answers": {"key", way: one letter per question, - for none}}.
    An answer that could not be read counts as wrong.
    """
    key, ways = "".join(q.answer for q in questions), [way for way in chosen if way != "text_sum"]
    letters = {way: "".join(a or "-" for a in answers) for way, answers in chosen.items()}
    parts: dict[str, dict] = {"subjects": defaultdict(list), "groups": defaultdict(list)}
    for i, q in enumerate(questions):
        parts["subjects"][q.subject].append(i)
        for group in groups_of(q.subject, suite):
            parts["groups"][group].append(i)

    def score(way: str, ids: Sequence[int]) -> dict:
        return share([letters[way][i] == key[i] for i in ids])

    def row(ids: Sequence[int]) -> dict:
        return {"n": len(ids), **{way: score(way, ids)["accuracy"] for way in ways}}

    scoring, every = {}, range(len(questions))
    for way in ways:
        whole, each = score(way, every), [score(way, ids) for ids in parts["subjects"].values()]
        scoring[way] = {
            **whole,
            "micro": whole["accuracy"],
            "macro": sum(s["accuracy"] for s in each) / len(each),
            "macro_se": math.sqrt(sum(s["se"] ** 2 for s in each)) / len(each),
            "letters": dict(sorted(Counter(letters[way]).items())),
        }
    if "text" in scoring:
        scoring["text"]["accuracy_sum"] = score("text_sum", every)["accuracy"]
    if "generate" in scoring:
        scoring["generate"]["unparsed"] = letters["generate"].count("-") / len(questions)
    tables = {
        part: {name: row(ids) for name, ids in found.items()} for part, found in parts.items()
    }
    answers = {"key": key, **{way: letters[way] for way in ways}}
    return {"scoring": scoring, **tables, "answers": answers}


def compare(before: dict, after: dict, way: str = "text") -> dict:
    """Is the second of two `run_exam` results on the same questions better? (McNemar 1947)

    Returns {"difference", "se" [fractions], "better", "worse" [questions that changed], "p": exact
    two-sided p-value of the sign test on the changed questions}. Raises ValueError when the two did
    not answer the same questions.
    """
    key = before["answers"]["key"]
    if key != after["answers"]["key"]:
        raise ValueError("the two results answer other questions, or in another order of options")
    rows = zip(before["answers"][way], after["answers"][way], key)
    pairs = [(a == right, b == right) for a, b, right in rows]
    better, worse, n = pairs.count((False, True)), pairs.count((True, False)), len(pairs)
    changed, difference = better + worse, (better - worse) / n
    tail = sum(math.comb(changed, i) for i in range(min(better, worse) + 1)) / 2**changed
    se = math.sqrt(max(0.0, changed / n - difference**2) / n)
    result = {"difference": difference, "se": se, "better": better, "worse": worse}
    return {**result, "p": min(1.0, 2 * tail)}
