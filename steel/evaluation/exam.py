"""Multiple-choice exams: C-Eval, CMMLU, MMLU and the closed world, scored in several ways.

| scoring  | the model sees         | its choice is                                              |
|----------|------------------------|------------------------------------------------------------|
| letter   | question and options   | the likeliest of the letters as the first token of a reply |
| text     | the question alone     | the option likeliest in the reply "The answer is …"        |
| generate | question and options   | what `extract_choice` reads in its greedy reply, or nothing |
| cot      | that, and "step by step" | the same, read from a longer reply                       |
| bind     | that, and the right option | the likeliest of the letters behind it                 |

Where letters stand after their options (`letters="after"`), two more numbers take the letter apart:
*bind* asks only for copying, and *written*, read from the replies of `generate`, is the letter that
the model writes behind the option that it chose itself.

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

import itertools
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from ..config import UserError
from ..model.folder import stop_ids
from ..tokenizer.bpe import encode_text
from .answers import extract_choice, final_letter
from .partial import Partial
from .prompts import Prompter, has_chat_tokens
from .questions import Question, load_exam, shuffle_options
from .results import baselines, summarise
from .scoring import context_length, greedy, score_continuations
from .suites import about, check_suite, suite_of

SCORINGS = ("letter", "text", "generate", "cot", "bind")
COT_TOKENS = 256
"""Longest reply of way cot [tokens], as max_new_tokens is of generate."""
AT_ONCE = 1024
"""Questions that are answered before their answers are written to the file of a run."""


def run_exam(
    model,
    tok,
    folder: Path | str,
    *,
    suite: str = "",
    scoring: Collection[str] = SCORINGS[:3],
    split: str = "",
    shots: int = 0,
    subjects: Collection[str] = (),
    limit: int | None = None,
    batch_size: int = 128,
    max_new_tokens: int = 24,
    chat: bool | None = None,
    shuffle_seed: int | None = None,
    style: str = "steel",
    bos: bool = False,
    partial: Path | None = None,
    letters: str = "",
) -> dict:
    """Let a model sit an exam. Returns plain data for JSON: see `results.summarise` for its keys.

    Args:
        suite: the exam that the folder must hold, cmmlu, ceval, mmlu or world; "": recognised.
        split: "": the suite's split with public answers.
        shots: worked examples from the dev split before each question.
        subjects: only these. limit: questions per subject, None or 0: all.
        chat: chat turns, or a text to continue; None: turns if the tokenizer has their tokens.
        shuffle_seed: redraw the order of the options.
        style: whose prompts: steel, official or lm-eval.
        bos: begin with the separator of documents.
        partial: a file for the answers so far; with it, an exam that was stopped goes on.
        letters: where an option's letter stands, "before" or "after"; "": as the suite has it.

    Raises UserError for an unknown way of scoring, style or subject, and for a folder that holds no
    exam or another one than `suite`.
    """
    began = time.perf_counter()
    if not scoring or (unknown := set(scoring) - set(SCORINGS)):
        asked = ", ".join(sorted(unknown)) if scoring else "(none)"
        raise UserError(f"unknown scoring {asked}; choose from {', '.join(SCORINGS)}")
    suite, split, questions = the_questions(folder, suite, split, subjects, limit, shuffle_seed)
    chat = has_chat_tokens(tok) if chat is None else chat
    letters = letters or about(suite)["letters"]
    words = {"style": style, "suite": suite, "letters": letters}
    prompter = Prompter(tok, chat, context_length(model), **words, bos=bos)
    for q in _first(load_exam(folder, "dev"), shots, subjects) if shots else []:
        prompter.examples.setdefault(q.subject, []).append(q)
    asked = {"suite": suite, "split": split, "shots": shots, "seed": shuffle_seed, "chat": chat}
    asked |= {"style": style, "letters": letters, "bos": bos, "n": len(questions)}
    limits = {"generate": max_new_tokens, "cot": COT_TOKENS}
    more = {"limit": limit, "subjects": sorted(subjects), "cot": COT_TOKENS, "new": max_new_tokens}
    kept = Partial(partial, asked | more | {"model": _fingerprint(model) if partial else []})
    chosen: dict[str, list] = {}
    for way, at in itertools.product(scoring, range(0, len(questions), AT_ONCE)):
        some = questions[at : at + AT_ONCE]

        def answer(way=way, some=some) -> dict:
            options = {"batch_size": batch_size, "title": f"exam: {way}"}
            before, room = prompter.truncated, limits.get(way)
            if room:
                found = _written(way, model, prompter, some, room, **options)
            elif way == "bind":
                found = {way: bound(model, prompter, some, **options)}
            else:
                found = _likeliest(way, model, prompter, some, **options)
            return {"chosen": found, "truncated": prompter.truncated - before}

        for name, letters in kept.part(f"{way} {at}", answer)["chosen"].items():
            chosen.setdefault(name, []).extend(letters)
    return {
        **asked,
        "baselines": baselines(questions),
        **summarise(questions, chosen, suite),
        "truncated": sum(part["truncated"] for part in kept.done.values()),
        "seconds": round(time.perf_counter() - began, 3),
    }


def the_questions(
    folder: Path | str,
    suite: str = "",
    split: str = "",
    subjects: Collection[str] = (),
    limit: int | None = None,
    shuffle_seed: int | None = None,
) -> tuple[str, str, list[Question]]:
    """(suite, split, questions); arguments and errors are those of `run_exam`."""
    split = split or about(suite)["split"]
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
    return suite, split, questions


def _fingerprint(model) -> list[float]:
    """Numbers that another model, or the same at another step, hardly shares."""
    return [round(p.detach().float().sum().item(), 3) for p in model.parameters()]


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


def bound(model, prompter: Prompter, questions: Sequence[Question], **options) -> list[str]:
    """The likeliest letter directly behind the right option's text."""
    pairs = []
    for q in questions:
        said = prompter.reply(q, q.right, cue=True)
        letters = [encode_text(prompter.tok, f" {letter}") for letter in q.letters]
        prompt = prompter.prompt(q, with_options=True, room=len(said) + max(map(len, letters)))
        pairs += [(prompt + said, letter) for letter in letters]
    scores = iter(score_continuations(model, pairs, **options))
    return [_best(q, [next(scores) for _ in q.options]) for q in questions]


def _written(
    way: str, model, prompter: Prompter, questions: Sequence[Question], new_tokens: int, **options
) -> dict[str, list[str | None]]:
    """The options that can be read in greedy replies, and the letters that stand behind them."""
    steps, tok = way == "cot", prompter.tok
    prompts = [prompter.prompt(q, True, room=new_tokens, steps=steps) for q in questions]

    def ended(ids: list[int]) -> bool:  # a base model goes on with the next question
        return not prompter.chat and "\n\n" in tok.decode(ids).lstrip()

    replies = greedy(model, prompts, new_tokens, stop_ids(tok), ended=ended, **options)
    texts = [tok.decode(reply, skip_special_tokens=True) for reply in replies]
    if not prompter.chat:
        texts = [text.strip().split("\n\n")[0] for text in texts]
    chosen = {way: [extract_choice(text, q.options) for text, q in zip(texts, questions)]}
    if way == "generate" and prompter.letters == "after":
        chosen["written"] = [final_letter(text) for text in texts]
    return chosen
