"""Multiple-choice exams: C-Eval, CMMLU, MMLU and the closed world, scored three ways.

| scoring  | the model sees         | its choice is                                              |
|----------|------------------------|------------------------------------------------------------|
| letter   | question and options   | the likeliest of the letters as the first token of a reply |
| text     | the question alone     | the option likeliest in the reply "The answer is …"        |
| generate | question and options   | what `extract_choice` reads in its greedy reply, or nothing |

The same model can differ by 17 points between them, so a score without its way of scoring says
little; and a score without its standard error and the scores of trivial strategies beside it says
less.

Text scoring gives the reply its first words (答案是…, The answer is …), as the plain format gives
them in its marker: in byte-level BPE " Yunzhou" inside a sentence and "Yunzhou" at the start of a
reply are different tokens, and a model that has read the first a thousand times may hardly know the
second (measured on one base model of the closed world: English city questions 26 % on the bare
name, 100 % inside the sentence). It divides the log-probability by the option's UTF-8 bytes:
without that, short options win (`accuracy_sum` is reported beside it). The reply has to end, or its
sentence has to, after the option: otherwise "13" could never lose against "130".
"""

import time
from collections.abc import Collection, Sequence
from pathlib import Path

from ..config import UserError
from ..model.folder import stop_ids
from .answers import extract_choice
from .prompts import Prompter, has_chat_tokens
from .questions import Question, load_exam, shuffle_options
from .results import baselines, summarise
from .scoring import context_length, greedy, score_continuations
from .suites import check_suite, split_of, suite_of

SCORINGS = ("letter", "text", "generate")


def run_exam(
    model,
    tok,
    folder: Path | str,
    *,
    suite: str = "",
    scoring: Collection[str] = SCORINGS,
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
    if not scoring or (unknown := set(scoring) - set(SCORINGS)):
        asked = ", ".join(sorted(unknown)) if scoring else "(none)"
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
    chosen: dict[str, list] = {}
    for way in scoring:
        options = {"batch_size": batch_size, "title": f"exam: {way}"}
        if way == "generate":
            chosen[way] = _written(model, prompter, questions, max_new_tokens, **options)
        else:
            chosen |= _likeliest(way, model, prompter, questions, **options)
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


def _likeliest(
    way: str, model, prompter: Prompter, questions: Sequence[Question], **options
) -> dict[str, list[str]]:
    """Letters of the likeliest replies: of the letters themselves, or of the options' texts."""
    bare = way == "letter"
    closers, pairs = () if bare else prompter.closers(), []
    for q in questions:
        texts = q.letters if bare else q.options
        replies = [prompter.reply(q, text, cue=not bare) for text in texts]
        room = max(map(len, replies)) + bool(closers)
        prompt = prompter.prompt(q, with_options=bare, room=room)
        pairs += [(prompt, reply) for reply in replies]
    scores = iter(score_continuations(model, pairs, closers=closers, **options))
    sums = [[next(scores) for _ in q.options] for q in questions]
    if bare:
        return {way: list(map(_best, questions, sums))}
    by_byte = [
        [total / max(1, len(text.encode())) for total, text in zip(totals, q.options)]
        for totals, q in zip(sums, questions)
    ]
    return {
        way: list(map(_best, questions, by_byte)),
        "text_sum": list(map(_best, questions, sums)),
    }


def _best(question: Question, values: Sequence[float]) -> str:
    # ties and NaN go to the first letter, which the baseline "always A" shows beside the score
    best = max(range(len(values)), key=lambda i: (values[i] == values[i], values[i], -i))
    return question.letters[best]


def _written(
    model, prompter: Prompter, questions: Sequence[Question], new_tokens: int, **options
) -> list[str | None]:
    """The letters that can be read in greedy replies."""
    prompts = [prompter.prompt(q, with_options=True, room=new_tokens) for q in questions]
    replies = greedy(model, prompts, new_tokens, stop_ids(prompter.tok), **options)
    texts = [prompter.tok.decode(reply, skip_special_tokens=True) for reply in replies]
    if not prompter.chat:  # a base model goes on with the next question after a blank line
        texts = [text.strip().split("\n\n")[0] for text in texts]
    return [extract_choice(text, q.options) for text, q in zip(texts, questions)]
