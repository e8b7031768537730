"""From chosen letters to numbers: accuracy, standard error, trivial baselines, comparison."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from ..config import UserError
from .questions import Question
from .suites import clusters_of, groups_of


def share(right: Sequence[bool], clusters: Sequence[int] | None = None) -> dict:
    """{"accuracy", "n", "se"} of answers.

    se = √(Σ_c (Σ_{i in c} (s_i - p))²) / n over clusters c of answers (Miller 2024, eq. 4); without
    clusters that is √(p(1-p)/n).
    """
    n, p = len(right), sum(right) / len(right)
    return {"accuracy": p, "n": n, "se": clustered([(r - p) / n for r in right], clusters)}


def clustered(residuals: Sequence[float], clusters: Sequence[int] | None = None) -> float:
    """Standard error of a mean from what each answer adds to its error; clusters are independent."""
    sums: dict[int, float] = defaultdict(float)
    for i, residual in enumerate(residuals):
        sums[clusters[i] if clusters else i] += residual
    return math.sqrt(math.fsum(s * s for s in sums.values()))


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
    "clusters": number, "answers": {"key", "clusters", way: one letter per question, - for none}}.
    Standard errors are clustered by what questions share (`clusters_of`). An answer that could not
    be read counts as wrong.
    """
    key, ways = "".join(q.answer for q in questions), [way for way in chosen if way != "text_sum"]
    letters = {way: "".join(a or "-" for a in answers) for way, answers in chosen.items()}
    clusters = clusters_of(questions, suite)
    parts: dict[str, dict] = {"subjects": defaultdict(list), "groups": defaultdict(list)}
    for i, q in enumerate(questions):
        parts["subjects"][q.subject].append(i)
        for group in groups_of(q.subject, suite):
            parts["groups"][group].append(i)

    def score(way: str, ids: Sequence[int]) -> dict:
        return share([letters[way][i] == key[i] for i in ids], [clusters[i] for i in ids])

    def row(ids: Sequence[int]) -> dict:
        return {"n": len(ids), **{way: score(way, ids)["accuracy"] for way in ways}}

    scoring, every = {}, range(len(questions))
    for way in ways:
        whole = score(way, every)
        each = {name: score(way, ids) for name, ids in parts["subjects"].items()}
        residuals = [
            ((letters[way][i] == key[i]) - each[q.subject]["accuracy"]) / each[q.subject]["n"]
            for i, q in enumerate(questions)
        ]
        scoring[way] = {
            **whole,
            "micro": whole["accuracy"],
            "macro": sum(s["accuracy"] for s in each.values()) / len(each),
            "macro_se": clustered(residuals, clusters) / len(each),
            "letters": dict(sorted(Counter(letters[way]).items())),
        }
    if "text" in scoring:
        scoring["text"]["accuracy_sum"] = score("text_sum", every)["accuracy"]
    for way in {"generate", "cot"} & {*scoring}:
        scoring[way]["unparsed"] = letters[way].count("-") / len(questions)
    tables = {
        part: {name: row(ids) for name, ids in found.items()} for part, found in parts.items()
    }
    answers = {"key": key, "clusters": clusters, **{way: letters[way] for way in ways}}
    return {"scoring": scoring, **tables, "clusters": len({*clusters}), "answers": answers}


def compare(before: dict, after: dict, way: str = "text") -> dict:
    """Is the second of two `run_exam` results on the same questions better? (McNemar 1947)

    Returns {"difference", "se" (clustered as the answers are), "z" [fractions], "better", "worse"
    [questions that changed], "p": exact two-sided p-value of the sign test on the changed
    questions, as if they were independent}. Raises UserError when the two did not answer the same
    questions, or not in this way.
    """
    before, after = before["answers"], after["answers"]
    key = before["key"]
    if key != after["key"]:
        raise UserError("the two results answer other questions, or in another order of options")
    if way not in before or way not in after:
        raise UserError(f"no answers by {way} in both results")
    rows = zip(before[way], after[way], key)
    pairs = [(a == right, b == right) for a, b, right in rows]
    better, worse, n = pairs.count((False, True)), pairs.count((True, False)), len(pairs)
    changed, difference = better + worse, (better - worse) / n
    tail = sum(math.comb(changed, i) for i in range(min(better, worse) + 1)) / 2**changed
    se = clustered([(b - a - difference) / n for a, b in pairs], before.get("clusters"))
    result = {"difference": difference, "se": se, "z": difference / se if se else 0.0}
    return {**result, "better": better, "worse": worse, "p": min(1.0, 2 * tail)}
