"""Verifiable rewards: a program reads the response and says whether it is right.

The response is all it reads. The original's reward searched prompt + response for a letter and paid
an empty response 25 %, because the prompt prints "A". Here an empty response earns exactly 0, and so
does one that hedges by listing several answers.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache

from ..evaluation.answers import LETTERS, extract_choice, final_letter

_NUMBER = re.compile(r"(?<![A-Za-z0-9_.])-?[0-9]+(?![A-Za-z0-9_]|\.[0-9])")
_SENTENCE_END = re.compile(r"[。!?;；\n]|\.(?=\s|$)")
_HEDGE = re.compile(r"、|/|\||或|还是|(?<![a-z])(?:or|either)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Verdict:
    """`correct`: the response answers rightly, wholly. `readable`: it names an answer, right or wrong."""

    correct: bool
    readable: bool
    score: float = 0.0
    """Share of what was asked for that is right: of a value with its letter, each is a half."""

    def __post_init__(self):
        object.__setattr__(self, "score", max(self.score, float(self.correct)))


def verify(row: dict, response: str, rivals: Collection[str] = ()) -> Verdict:
    """Judge a response to an RL row {"answer", "options", "kind", "lettered"} from the response alone.

    With options: the option chosen (`extract_choice`), and for a row that is `lettered` the letter
    that the response has to end with. A number: the last number. Otherwise the
    answer has to stand in the first sentence as a whole word (kind "hop2" may reason first: in any),
    beside no alternative and no rival. rivals: the other answers that questions of this kind have.
    """
    text = _plain(response)
    if not text:
        return Verdict(False, False)
    if row.get("options"):
        letter, right = extract_choice(response, row["options"]), right_letter(row)
        parts = [letter == right]
        if row.get("lettered"):
            parts.append(final_letter(response) == right)
        return Verdict(all(parts), letter is not None, sum(parts) / len(parts))
    answer = _plain(row["answer"])
    if _NUMBER.fullmatch(answer):
        numbers = _NUMBER.findall(text)
        right = bool(numbers) and _integer(numbers[-1]) == _integer(answer)
        return Verdict(right, bool(numbers))
    return _contains(text, answer, rivals, anywhere=row.get("kind") == "hop2")


def right_letter(row: dict) -> str:
    """Letter of the right option; `answer` may be the letter or the option's text."""
    if row["answer"] in row["options"]:
        return LETTERS[row["options"].index(row["answer"])]
    return row["answer"]


def rivals_of(rows: Iterable[dict], most: int = 256) -> dict[str, frozenset[str]]:
    """The answers of each kind of open question: a closed class, if there are at most `most`."""
    answers: dict[str, set[str]] = {}
    for row in rows:
        if not row.get("options"):
            answers.setdefault(row.get("kind", ""), set()).add(_plain(row["answer"]))
    return {kind: frozenset(found) for kind, found in answers.items() if len(found) <= most}


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip()


def _integer(number: str) -> str:
    """The one spelling of an integer; `int` refuses one of 4,301 digits, which a model may write."""
    digits = number.lstrip("-0") or "0"
    return f"-{digits}" if number[0] == "-" and digits != "0" else digits


def _contains(text: str, answer: str, rivals: Collection[str], anywhere: bool) -> Verdict:
    # The answer is cut out before sentences are, so that a name with a full stop in it stays whole.
    marked = _whole(answer).sub("\x00", text)
    scope = marked if anywhere else _SENTENCE_END.split(marked, maxsplit=1)[0]
    readable = bool(re.search(r"\w", scope)) or "\x00" in scope
    hedged = _HEDGE.search(scope) or any(r != answer and _whole(r).search(marked) for r in rivals)
    return Verdict("\x00" in scope and not hedged, readable)


@lru_cache(maxsize=4096)
def _whole(name: str) -> re.Pattern:
    """Pattern of a name as a whole word; Hanzi have no word breaks, so there any place counts."""
    before = r"(?<![A-Za-z0-9])" if name[0].isascii() else ""
    after = r"(?![A-Za-z0-9])" if name[-1].isascii() else ""
    return re.compile(before + re.escape(name) + after, re.IGNORECASE)
