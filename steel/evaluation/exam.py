"""Multiple-choice exams: C-Eval, CMMLU, MMLU and the closed world, scored three ways.

An exam is questions (`questions.load_exam`), a way of asking (`prompts.Prompter`) and a way of
scoring (one function of `SCORINGS`):

| scoring  | the model sees         | its choice is                                              |
|----------|------------------------|------------------------------------------------------------|
| letter   | question and options   | the likeliest of the letters as the first token of a reply |
| text     | the question alone     | the option likeliest in the reply "The answer is …"        |
| generate | question and options   | what `extract_choice` reads in its greedy reply, or nothing |

The same model can differ by 17 points between them, so a score without its way of scoring says
little; and a score without its standard error and the scores of trivial strategies beside it says
less.

Text scoring gives the reply its first words (答案是…, The answer is …), as the plain format gives
them in its marker. It is not a courtesy: in byte-level BPE " Yunzhou" inside a sentence and
"Yunzhou" at the start of a reply are different tokens, and a model that has read the first a
thousand times may hardly know the second (measured on one base model of the closed world: English
city questions 26 % on the bare name, 100 % inside the sentence). It divides the log-probability
by the option's UTF-8 bytes: without that, short options win (`accuracy_sum` is reported beside
it). The reply has to end, or its sentence has to, after the option: otherwise "13" could never
lose against "130", whose beginning it is.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..config import UserError
from ..model.folder import stop_ids
from .answers import extract_choice
from .prompts import Prompter, has_chat_tokens
from .questions import Question, load_exam, shuffle_options
from .results import baselines, summarise
from .scoring import context_length, greedy, score_continuations
from .suites import check_suite, split_of, suite_of


@dataclass
class Sitting:
    """A model at an exam: what each way of scoring needs."""

    model: nn.Module
    prompter: Prompter
    batch_size: int
    max_new_tokens: int


def _letter(sitting: Sitting, questions: Sequence[Question]) -> dict[str, list]:
    prompter, pairs = sitting.prompter, []
    for q in questions:
        prompt = prompter.prompt(q, with_options=True, room=1)
        pairs += [(prompt, prompter.reply(q, letter)) for letter in q.letters]
    scores = iter(_scores(sitting, pairs, "letter"))
    return {"letter": [_best(q, [next(scores) for _ in q.letters]) for q in questions]}


def _text(sitting: Sitting, questions: Sequence[Question]) -> dict[str, list]:
    prompter, pairs = sitting.prompter, []
    for q in questions:
        replies = [prompter.reply(q, text, cue=True) for text in q.options]
        room = max(map(len, replies)) + 1
        prompt = prompter.prompt(q, with_options=False, room=room)
        pairs += [(prompt, reply) for reply in replies]
    scores = iter(_scores(sitting, pairs, "text", prompter.closers()))
    by_byte, by_sum = [], []
    for q in questions:
        sums = [next(scores) for _ in q.options]
        sizes = [max(1, len(text.encode("utf-8"))) for text in q.options]
        by_byte.append(_best(q, [total / size for total, size in zip(sums, sizes)]))
        by_sum.append(_best(q, sums))
    return {"text": by_byte, "text_sum": by_sum}


def _generate(sitting: Sitting, questions: Sequence[Question]) -> dict[str, list]:
    prompter, new = sitting.prompter, sitting.max_new_tokens
    prompts = [prompter.prompt(q, with_options=True, room=new) for q in questions]
    stops = stop_ids(prompter.tok)
    replies = greedy(
        sitting.model, prompts, new, stops, batch_size=sitting.batch_size, title="exam: generate"
    )
    texts = [prompter.tok.decode(reply, skip_special_tokens=True) for reply in replies]
    if not prompter.chat:  # a base model goes on with the next question after a blank line
        texts = [text.strip().split("\n\n")[0] for text in texts]
    return {"generate": [extract_choice(text, q.options) for text, q in zip(texts, questions)]}


SCORINGS = {"letter": _letter, "text": _text, "generate": _generate}
"""Way of scoring → function from questions to {way: a letter per question, or None}."""


def _scores(sitting: Sitting, pairs: list, way: str, closers: Sequence[int] = ()) -> list[float]:
    options = {"batch_size": sitting.batch_size, "closers": closers, "title": f"exam: {way}"}
    return score_continuations(sitting.model, pairs, **options)


def _best(question: Question, values: Sequence[float]) -> str:
    # ties and NaN go to the first letter, which the baseline "always A" shows beside the score
    best = max(range(len(values)), key=lambda i: (values[i] == values[i], values[i], -i))
    return question.letters[best]


def run_exam(
    model,
    tok,
    folder: Path | str,
    *,
    suite: str = "",
    scoring: Collection[str] = tuple(SCORINGS),
    split: str = "",
    shots: int = 0,
    subjects: Collection[str] = (),
    limit: int | None = None,
    batch_size: int = 128,
    max_new_tokens: int = 24,
    chat: bool | None = None,
    shuffle_seed: int | None = None,
) -> dict:
    """Let a model sit an exam. Returns plain data for JSON: see `results.summarise` for its keys.

    Args:
        suite: the exam that the folder must hold, cmmlu, ceval, mmlu or world; "": recognised.
        split: "": the suite's split with public answers.
        shots: worked examples from the dev split before each question.
        subjects: only these. limit: questions per subject, None or 0: all.
        chat: chat turns, or a text to continue; None: turns if the tokenizer has their tokens.
        shuffle_seed: redraw the order of the options.

    Raises UserError for an unknown way of scoring or subject, and for a folder that holds no exam
    or another one than `suite`.
    """
    began = time.perf_counter()
    unknown = set(scoring) - set(SCORINGS)
    if unknown or not scoring:
        asked = ", ".join(sorted(unknown)) or "(none)"
        raise UserError(f"unknown scoring {asked}; choose from {', '.join(SCORINGS)}")
    split = split or split_of(suite)
    questions = load_exam(folder, split)
    there = list(dict.fromkeys(q.subject for q in questions))
    if suite:
        check_suite(suite, there, folder)
    suite = suite or suite_of(there)
    if missing := set(subjects) - set(there):
        names = ", ".join(sorted(missing))
        raise UserError(f"no subject {names} in {folder}; it has {', '.join(there)}")
    questions = _first(questions, limit, subjects)
    if shuffle_seed is not None:
        questions = [shuffle_options(q, shuffle_seed) for q in questions]
    chat = has_chat_tokens(tok) if chat is None else chat
    prompter = Prompter(tok, chat, context_length(model))
    for q in _first(load_exam(folder, "dev"), shots, subjects) if shots else []:
        prompter.examples.setdefault(q.subject, []).append(q)
    sitting = Sitting(model, prompter, batch_size, max_new_tokens)
    chosen: dict[str, list] = {}
    for way in scoring:
        chosen |= SCORINGS[way](sitting, questions)
    return {
        "suite": suite,
        "split": split,
        "shots": shots,
        "seed": shuffle_seed,
        "chat": chat,
        "n": len(questions),
        "baselines": baselines(questions),
        **summarise(questions, chosen, suite),
        "truncated": prompter.truncated,
        "seconds": round(time.perf_counter() - began, 3),
    }


def _first(
    questions: Sequence[Question], limit: int | None, subjects: Collection[str]
) -> list[Question]:
    """The first `limit` questions (None or 0: all) of each subject asked for (none: all)."""
    kept: dict[str, list[Question]] = {}
    for q in questions:
        rows = kept.setdefault(q.subject, [])
        if (not subjects or q.subject in subjects) and (not limit or len(rows) < limit):
            rows.append(q)
    return [q for rows in kept.values() for q in rows]
