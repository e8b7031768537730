"""Multiple-choice exams: C-Eval, CMMLU, MMLU and the closed world, from a folder of CSV files, scored three ways.

| scoring  | the model sees         | its choice is                                                       |
|----------|------------------------|---------------------------------------------------------------------|
| letter   | question and options   | the likeliest of the letters as the first token of its reply        |
| text     | the question alone     | the option that is likeliest in the reply "The answer is …"         |
| generate | question and options   | what `answers.extract_choice` reads in its greedy reply, or nothing |

The same model can differ by 17 points between them, so a score without its way of scoring says little; and a score
without its standard error and the scores of trivial strategies beside it says less.

Text scoring gives the reply its first words (答案是…, The answer is …), as the plain format gives them in its marker.
It is not a courtesy: in byte-level BPE " Yunzhou" inside a sentence and "Yunzhou" at the start of a reply are different
tokens, and a model that has read the first a thousand times may hardly know the second (measured on one base model of
the closed world: English city questions 26 % on the bare name, 100 % inside the sentence).

Text scoring divides the log-probability by the option's UTF-8 bytes: without that, short options win (`accuracy_sum`
is reported beside it). The reply has to end, or its sentence has to, after the option: otherwise "13" could never lose
against "130", whose beginning it is.

Prompts are chat turns when the tokenizer has the chat tokens, since that is how the questions of SFT look; `chat=False`
gives the plain continuation format for base models. Few-shot examples come from the folder's `dev` split.
"""

from __future__ import annotations

import csv
import random
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..config import UserError
from ..machine import progress as progress_bar
from ..model.folder import stop_ids
from ..tokenizer.bpe import encode_text
from ..tokenizer.chat import encode_chat
from .answers import LETTERS, extract_choice
from .results import baselines, summarise
from .scoring import Score, context_length, greedy, score_continuations
from .subjects import suite_of

SCORINGS = ("letter", "text", "generate")


@dataclass(frozen=True)
class Question:
    """One multiple-choice question."""

    subject: str
    id: str
    question: str
    options: tuple[str, ...]
    """Texts of A, B, C, … in order."""
    answer: str
    """Letter of the right option."""
    explanation: str = ""

    @property
    def letters(self) -> str:
        """The letters in use, "ABCD" for four options."""
        return LETTERS[: len(self.options)]

    @property
    def chinese(self) -> bool:
        """Whether the question holds Hanzi; decides between 答案： and Answer: in plain prompts."""
        return any("\u4e00" <= c <= "\u9fff" for c in self.question)


# -- reading -----------------------------------------------------------------------------------------------------------


def load_exam(folder: Path | str, split: str = "test") -> list[Question]:
    """Read every subject of `folder/<split>/*.csv`, or of `folder/*_<split>.csv`, in the order of subject names.

    Known columns: (id,) question, A, B, … , answer(, explanation), in any case of letters; a file without such a header
    is read as MMLU writes it: question, options, answer. Raises UserError for a missing folder or an unreadable row.
    """
    folder = Path(folder)
    files = sorted((folder / split).glob("*.csv")) or sorted(folder.glob(f"*_{split}.csv"))
    if not files:
        splits = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
        hint = f"; it has {', '.join(splits)}" if splits else ""
        raise UserError(
            f"no exam in {folder}: expected {split}/<subject>.csv with question,A,B,C,D,answer{hint}"
        )
    return [question for file in files for question in _read_csv(file, split)]


def _read_csv(file: Path, split: str) -> list[Question]:
    subject = file.stem.removesuffix(f"_{split}")
    try:
        with open(file, encoding="utf-8-sig", newline="") as handle:
            rows = [row for row in csv.reader(handle) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {file}: {error}") from None
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if "question" not in header:  # MMLU: no header
        width = len(rows[0]) if rows else 6
        header = ["question", *LETTERS[: width - 2].lower(), "answer"]
    else:
        rows = rows[1:]
    letters = [letter for letter in LETTERS if letter.lower() in header]
    if "answer" not in header or len(letters) < 2:
        raise UserError(
            f"{file} needs the columns question, A, B, …, answer; it has {', '.join(filter(None, header))} "
            "(the test labels of C-Eval may be withheld: use the val split)"
        )
    questions = []
    for number, row in enumerate(rows):
        cells = dict(zip(header, (cell.strip() for cell in row), strict=False))
        options = tuple(cells.get(letter.lower(), "") for letter in letters)
        answer = cells.get("answer", "").upper()
        if (
            len(row) < len(header)
            or len(answer) != 1
            or answer not in letters
            or not cells["question"]
        ):
            raise UserError(
                f"{file}, question {number + 1}: expected {len(header)} cells and an answer of "
                f"{letters[0]}–{letters[-1]}, found {len(row)} cells and answer {answer!r}"
            )
        name = cells.get("id") or cells.get("") or str(number)
        questions.append(
            Question(
                subject, name, cells["question"], options, answer, cells.get("explanation", "")
            )
        )
    return questions


def shuffle_options(question: Question, seed: int) -> Question:
    """The same question with its options in an order drawn from (seed, subject, id)."""
    order = list(range(len(question.options)))
    random.Random(f"{seed}/{question.subject}/{question.id}").shuffle(order)
    answer = question.letters[order.index(question.letters.index(question.answer))]
    return replace(question, options=tuple(question.options[i] for i in order), answer=answer)


# -- prompts -----------------------------------------------------------------------------------------------------------


def format_question(question: Question, with_options: bool = True) -> str:
    """The text of a user turn: the question and, if asked for, one line "A. …" per option."""
    lines = [
        f"{letter}. {text}" for letter, text in zip(question.letters, question.options, strict=True)
    ]
    return "\n".join([question.question, *lines]) if with_options else question.question


def _examples(
    question: Question, shots: Sequence[Question], with_options: bool
) -> list[tuple[str, str]]:
    reply = (
        (lambda q: q.answer) if with_options else (lambda q: q.options[q.letters.index(q.answer)])
    )
    examples = [(format_question(q, with_options), reply(q)) for q in shots]
    return [*examples, (format_question(question, with_options), "")]


class Prompter:
    """Turns questions into token ids, in chat or plain format, and drops examples that do not fit the context."""

    def __init__(self, tok, chat: bool, max_length: int | None):
        self.tok, self.chat, self.max_length = tok, chat, max_length
        self.truncated = 0
        """Prompts that lost examples or, if that was not enough, their beginning."""

    def prompt(
        self, question: Question, shots: Sequence[Question], with_options: bool, room: int
    ) -> list[int]:
        """Ids up to where the reply begins; at most max_length - room of them."""
        ids = self._ids(question, shots, with_options)
        limit = None if self.max_length is None else self.max_length - room
        if limit is None or len(ids) <= limit:
            return ids
        self.truncated += 1
        shots = list(shots)
        while shots and len(ids) > limit:
            shots.pop(0)
            ids = self._ids(question, shots, with_options)
        return ids[-max(limit, 1) :]

    def _ids(self, question: Question, shots: Sequence[Question], with_options: bool) -> list[int]:
        turns = _examples(question, shots, with_options)
        if not self.chat:
            return encode_text(self.tok, self.plain(turns))
        messages = [
            {"role": role, "content": text}
            for user, reply in turns
            for role, text in (("user", user), ("assistant", reply))
        ][:-1]
        return encode_chat(self.tok, messages, add_generation_prompt=True)[0]

    @staticmethod
    def plain(turns: Sequence[tuple[str, str]]) -> str:
        """Continuation format: question, a line 答案： or Answer:, a blank line between examples."""
        blocks = []
        for user, reply in turns:
            marker = "答案：" if any("\u4e00" <= c <= "\u9fff" for c in user) else "Answer:"
            blocks.append(f"{user}\n{marker}{' ' if reply and marker.isascii() else ''}{reply}")
        return "\n\n".join(blocks)

    def reply(self, question: Question, text: str) -> list[int]:
        """Ids of a reply that names an option in a sentence, for text scoring; the plain format has its marker."""
        cue = ("答案是" if question.chinese else "The answer is ") if self.chat else ""
        return self.continuation(question, cue + text)

    def continuation(self, question: Question, text: str) -> list[int]:
        """Ids of a reply; after the ASCII marker of a plain prompt it starts with its space."""
        spaced = not self.chat and not question.chinese
        return encode_text(self.tok, " " + text if spaced else text) or encode_text(self.tok, " ")

    def closers(self) -> list[int]:
        """Tokens that end a reply or its sentence; one of them has to follow a text-scored option."""
        texts = ["。", "."] if self.chat else ["。", ".", "\n", "\n\n"]
        ids = [ids[0] for ids in (encode_text(self.tok, text) for text in texts) if len(ids) == 1]
        return sorted({*ids, *stop_ids(self.tok)})


def has_chat_tokens(tok) -> bool:
    """Whether the tokenizer knows `<|im_start|>` and `<|im_end|>` as tokens."""
    vocabulary = tok.get_vocab()
    return "<|im_start|>" in vocabulary and "<|im_end|>" in vocabulary


# -- scoring -----------------------------------------------------------------------------------------------------------


def run_exam(
    model,
    tok,
    folder: Path | str,
    *,
    scoring: Sequence[str] = SCORINGS,
    split: str = "test",
    shots: int = 0,
    subjects: Collection[str] | None = None,
    limit: int | None = None,
    batch_size: int = 128,
    max_new_tokens: int = 24,
    chat: bool | None = None,
    shuffle: bool = False,
    seed: int = 0,
    progress: bool = True,
    suite: str | None = None,
) -> dict:
    """Let a model sit an exam. Returns plain data for JSON: see `results.summarise` for its keys.

    `limit` bounds the questions per subject (None or 0: all), `shots` takes as many worked examples from the dev split,
    `shuffle` redraws the order of the options from `seed`, `chat=None` means: if the tokenizer has the chat tokens.
    `suite` names the exam where its subjects do not tell it.
    Raises UserError for an unknown way of scoring, an unknown subject or a folder without an exam.
    """
    started = time.perf_counter()
    questions, examples = _select(folder, scoring, split, shots, subjects, limit)
    if shuffle:
        questions = [shuffle_options(q, seed) for q in questions]
    chat = has_chat_tokens(tok) if chat is None else chat
    prompter = Prompter(tok, chat, context_length(model))
    chosen: dict[str, list[str | None]] = {}
    rows = len(questions) * sum(4 if way != "generate" else 1 for way in scoring)
    with (
        progress_bar(rows if progress else None, "exam", "answers")
        if progress
        else _no_bar() as bar
    ):
        for way in scoring:
            if way == "generate":
                chosen[way] = _generate(
                    model, tok, questions, examples, prompter, max_new_tokens, batch_size, bar
                )
            elif way == "letter":
                chosen[way] = _letter(model, questions, examples, prompter, batch_size, bar)
            else:
                chosen["text"], chosen["text_sum"] = _text(
                    model, questions, examples, prompter, batch_size, bar
                )
    suite = suite or suite_of(
        {
            file.stem.removesuffix(f"_{split}")
            for file in Path(folder).rglob("*.csv")
            if file.parent.name == split or file.stem.endswith(f"_{split}")
        }
    )
    return {
        "suite": suite,
        "split": split,
        "shots": shots,
        "seed": seed if shuffle else None,
        "chat": chat,
        "n": len(questions),
        "baselines": baselines(questions),
        **summarise(questions, chosen, suite),
        "truncated": prompter.truncated,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _select(
    folder, scoring, split, shots, subjects, limit
) -> tuple[list[Question], dict[str, list[Question]]]:
    unknown = set(scoring) - set(SCORINGS)
    if unknown or not scoring:
        raise UserError(
            f"unknown scoring {', '.join(sorted(unknown)) or '(none)'}; choose from {', '.join(SCORINGS)}"
        )
    by_subject: dict[str, list[Question]] = defaultdict(list)
    for question in load_exam(folder, split):
        by_subject[question.subject].append(question)
    missing = set(subjects or ()) - set(by_subject)
    if missing:
        raise UserError(
            f"no subject {', '.join(sorted(missing))} in {folder}; it has {', '.join(sorted(by_subject))}"
        )
    wanted = [s for s in by_subject if not subjects or s in subjects]
    examples: dict[str, list[Question]] = defaultdict(list)
    if shots:
        for question in load_exam(folder, "dev"):
            if len(examples[question.subject]) < shots:
                examples[question.subject].append(question)
    return [q for s in wanted for q in by_subject[s][: limit or None]], examples


def _letter(model, questions, examples, prompter: Prompter, batch_size: int, bar) -> list[str]:
    pairs = []
    for q in questions:
        prompt = prompter.prompt(q, examples[q.subject], True, room=1)
        pairs += [(prompt, prompter.continuation(q, letter)) for letter in q.letters]
    scores = iter(score_continuations(model, pairs, batch_size=batch_size, bar=bar))
    return [_best(q, [next(scores).log_prob for _ in q.letters]) for q in questions]


def _text(
    model, questions, examples, prompter: Prompter, batch_size: int, bar
) -> tuple[list[str], list[str]]:
    pairs = []
    for q in questions:
        replies = [prompter.reply(q, text) for text in q.options]
        prompt = prompter.prompt(q, examples[q.subject], False, room=max(map(len, replies)) + 1)
        pairs += [(prompt, reply) for reply in replies]
    scores: list[Score] = score_continuations(
        model, pairs, batch_size=batch_size, closers=prompter.closers(), bar=bar
    )
    by_byte, by_sum, at = [], [], 0
    for q in questions:
        sums = [score.log_prob for score in scores[at : at + len(q.options)]]
        at += len(q.options)
        sizes = [max(1, len(text.encode("utf-8"))) for text in q.options]
        by_byte.append(_best(q, [s / n for s, n in zip(sums, sizes, strict=True)]))
        by_sum.append(_best(q, sums))
    return by_byte, by_sum


def _generate(
    model, tok, questions, examples, prompter: Prompter, max_new_tokens, batch_size, bar
) -> list[str | None]:
    prompts = [
        prompter.prompt(q, examples[q.subject], True, room=max_new_tokens) for q in questions
    ]
    replies = greedy(model, prompts, max_new_tokens, stop_ids(tok), batch_size=batch_size, bar=bar)
    texts = [tok.decode(reply, skip_special_tokens=True) for reply in replies]
    if (
        not prompter.chat
    ):  # a base model goes on with the next question; its answer ends with the paragraph
        texts = [text.strip().split("\n\n")[0] for text in texts]
    return [extract_choice(text, q.options) for text, q in zip(texts, questions, strict=True)]


def _best(question: Question, values: Sequence[float]) -> str:
    # ties and NaN go to the first letter, which the baseline "always A" shows beside the score
    return question.letters[
        max(range(len(values)), key=lambda i: (values[i] == values[i], values[i], -i))
    ]


def _no_bar():
    from contextlib import nullcontext

    return nullcontext()
