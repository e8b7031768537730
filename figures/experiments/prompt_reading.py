"""The original's reward read the prompt as well as the response: what that pays, question by question.

    python -m figures.experiments.prompt_reading --cmmlu CMMLU/test

It handed prompt + response to a cascade of patterns that looks for a letter: "答案是B", "B 正确", one at the start,
the first one anywhere. The prompt prints "A." before any response can be found. The cascade here follows that order
but is not the original's code, and leaves out its last resort, a fuzzy match of the options' texts.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

from steel.config import UserError
from steel.evaluation.answers import extract_choice

from . import command

CASCADE = [
    r"(?:选择?|(?:答案|选项)[^A-D不非]{0,10}?(?:是|为|选|：|:))[^A-D]{0,10}?([A-D])(?![A-Za-z])",
    r"([A-D])(?:选?项)?[^A-D不非]{0,4}?(?:正确|对[的，。：]|符合)",
    r"^[(（]?([A-D])(?:[。.，,：:)）]|$)",
    r"(?<![A-Za-z])([A-D])(?![A-Za-z=])",
]
PROMPT = "<|im_start|>user\n以下是一道单选题：\n{question}\n{options}\n请给出答案。<|im_end|>\n<|im_start|>assistant\n"
RESPONSES = {
    "nothing": "",
    "the right letter": "{right}",
    "答案是 + right letter": "答案是{right}",
    "a wrong letter": "{wrong}",
}


def first_letter(text: str) -> str | None:
    """The letter that the cascade finds."""
    found = (re.search(pattern, text) for pattern in CASCADE)
    return next((match.group(1) for match in found if match), None)


def questions(folder: Path) -> list[dict]:
    """Rows {Question, A, B, C, D, Answer} of a folder of CMMLU's files."""
    rows = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows += [row for row in csv.DictReader(file) if row.get("Answer") in tuple("ABCD")]
    if not rows:
        raise UserError(f"{folder} holds no questions; give CMMLU's folder test")
    return rows


def paid(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Share of full rewards for each response: as the original reads (prompt and all), and as Steel does.

    `reads A`: how often the original finds "A", whatever was answered.
    """
    counts = {name: Counter() for name in RESPONSES}
    for row in rows:
        options = [row[letter] for letter in "ABCD"]
        listed = "\n".join(
            f"{letter}. {text}" for letter, text in zip("ABCD", options, strict=True)
        )
        prompt = PROMPT.format(question=row["Question"], options=listed)
        right = row["Answer"]
        wrong = "ABCD"["ABCD".index(right) - 1]
        for name, form in RESPONSES.items():
            response = form.format(right=right, wrong=wrong)
            found = first_letter(prompt + response)
            counts[name] += Counter(original=found == right, reads_A=found == "A")
            counts[name]["response_only"] += extract_choice(response, options) == right
    return {
        name: {key: count[key] / len(rows) for key in ("original", "response_only", "reads_A")}
        for name, count in counts.items()
    }


def main(cmmlu: Path) -> None:
    """What four responses earn by each reading, over all questions of the folder."""
    rows = questions(cmmlu)
    print(f"{len(rows):,} questions       original   response only   original reads A")
    for name, shares in paid(rows).items():
        print(
            f"{name:<28} {shares['original']:>7.1%} {shares['response_only']:>13.1%} {shares['reads_A']:>15.1%}"
        )


if __name__ == "__main__":
    command(main)
