"""Multiple-choice questions, read from folders of CSV files as the exams come."""

import csv
import random
from dataclasses import dataclass, replace
from pathlib import Path

from ..config import UserError, sound
from .answers import LETTERS


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
    """Why it is right, where the file says so (C-Eval's dev split does)."""

    @property
    def letters(self) -> str:
        """The letters in use, "ABCD" for four options."""
        return LETTERS[: len(self.options)]

    @property
    def right(self) -> str:
        """Text of the right option."""
        return self.options[self.letters.index(self.answer)]

    @property
    def chinese(self) -> bool:
        """Whether the question holds Hanzi."""
        return has_hanzi(self.question)


def has_hanzi(text: str) -> bool:
    """Whether a text holds Hanzi."""
    return any("\u4e00" <= c <= "\u9fff" for c in text)


def load_exam(folder: Path | str, split: str = "test") -> list[Question]:
    """Read every subject of `folder/<split>/*.csv`, or of `folder/*_<split>.csv`, by their names.

    Known columns: (id,) question, A, B, … , answer, in any case of letters; a file without such a
    header is read as MMLU writes it: question, options, answer. Raises UserError for a missing
    folder or an unreadable row.
    """
    folder = Path(folder)
    files = sorted((folder / split).glob("*.csv")) or sorted(folder.glob(f"*_{split}.csv"))
    if not files:
        splits = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
        hint = f"; it has {', '.join(splits)}" if splits else ""
        raise UserError(
            f"no exam in {folder}: expected {split}/<subject>.csv with "
            f"question,A,B,C,D,answer{hint}"
        )
    return [question for file in files for question in _read_csv(file, split)]


def _read_csv(file: Path, split: str) -> list[Question]:
    subject, questions = file.stem.removesuffix(f"_{split}"), []
    with sound(file), open(file, encoding="utf-8-sig", newline="") as handle:
        rows = [row for row in csv.reader(handle) if any(cell.strip() for cell in row)]
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if "question" in header:
        rows = rows[1:]
    else:  # MMLU has no header
        header = ["question", *LETTERS[: len(header) - 2].lower(), "answer"]
    letters = [letter for letter in LETTERS if letter.lower() in header]
    if "answer" not in header or len(letters) < 2:
        raise UserError(
            f"{file} needs the columns question, A, B, …, answer; it has "
            f"{', '.join(filter(None, header))} (the test labels of C-Eval are withheld: "
            "use its val split, or --suite ceval)"
        )
    for number, row in enumerate(rows):
        cells = dict(zip(header, (cell.strip() for cell in row)))
        answer = cells.get("answer", "").upper()
        if len(row) < len(header) or answer not in letters or not cells["question"]:
            raise UserError(
                f"{file}, question {number + 1}: expected {len(header)} cells and an answer of "
                f"{letters[0]}–{letters[-1]}, found {len(row)} cells and answer {answer!r}"
            )
        name = cells.get("id") or cells.get("") or str(number)
        options = tuple(cells[letter.lower()] for letter in letters)
        why = cells.get("explanation", "")
        questions.append(Question(subject, name, cells["question"], options, answer, why))
    return questions


def shuffle_options(question: Question, seed: int) -> Question:
    """The same question with its options in an order drawn from (seed, subject, id)."""
    options = list(question.options)
    random.Random(f"{seed}/{question.subject}/{question.id}").shuffle(options)
    answer = question.letters[options.index(question.right)]
    return replace(question, options=tuple(options), answer=answer)
