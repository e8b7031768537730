"""The rules of the original Steel-LLM, bugs included, for comparison (recipe `original`).

Each is named after its source. Documented in the data chapter: Baike entries without a summary are
lost, "赞同 1.6 万" counts as 0 upvotes, the description of a Baidu question is ignored (so is the
input of a BELLE instruction, but it is empty in the real sample), punctuation becomes half-width by
NFKC, and the end of a conversation is stripped by characters instead of by the end marker. One thing
is not reproduced: there, a malformed record ended its whole file; here it is counted and skipped.
"""

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

from .rules import Piece, Rule, Skip, list_of, text_of

_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
_END = "<|im_end|>\n"
_SPEAKER = re.compile(r"<\|im_start\|>(?:user|assistant)\n?")
_ENDED = re.compile(r"<\|im_end\|>\n?")


def without_template(text: str) -> str:
    """A rendered dialogue as its turns, a line break between them."""
    return _ENDED.sub("\n", _SPEAKER.sub("", text.removeprefix(_SYSTEM)))


def _field(record: dict[str, Any], name: str) -> str:
    if name not in record:
        raise Skip(f"no {name}")
    return unicodedata.normalize("NFKC", text_of(record, name)).replace("\r", "")


def _gate(text: str) -> Piece:
    if len(text) < 20:
        raise Skip("fewer than 20 characters")
    return Piece(text)


def _conversation(questions: list[str], answers: list[str]) -> Piece:
    text = _SYSTEM + "".join(
        f"<|im_start|>user\n{q}{_END}<|im_start|>assistant\n{a}{_END}"
        for q, a in zip(questions, answers, strict=False)
    )
    return _gate(text.rstrip(_END))  # strips any of the characters < | i m _ e n d > and newline


def _untouched(name: str) -> Rule:
    """Sources that the original gave to its tokeniser as they came."""

    def rule(record: dict[str, Any], path: Path, options: dict) -> Piece:
        value = record.get(name)
        if not isinstance(value, str):
            raise Skip(f"no {name}" if value is None else f"{name} is not text")
        return Piece(value)

    return rule


def _joined(*names: str) -> Rule:
    return lambda record, path, options: _gate("\n".join(_field(record, name) for name in names))


def _asked(question: str, answer: str) -> Rule:
    """Even an empty question and answer pass the gate: the template alone is long enough."""

    def rule(record: dict[str, Any], path: Path, options: dict) -> Piece:
        user = f"<|im_start|>user\n{_field(record, question)}{_END}"
        return _gate(f"{_SYSTEM}{user}<|im_start|>assistant\n{_field(record, answer)}")

    return rule


skypile = _untouched("text")
wanjuan = _untouched("content")
wikipedia_cn = _joined("completion")
belle_2m = _joined("instruction", "output")
baidu_qa = _asked("title", "answer")
firefly = _asked("input", "target")


def starcoder(record: dict[str, Any], path: Path, options: dict) -> Piece:
    stars = record.get("max_stars_count")
    if isinstance(stars, int | float) and stars < 0:
        raise Skip("fewer than 0 stars")
    return _untouched("content")(record, path, options)


def wanjuan_exam(record: dict[str, Any], path: Path, options: dict) -> Piece:
    names = ("q_main", *(f"option_{letter}" for letter in "abcde"), "std_ans", "answer_detail")
    if any(record.get(name) is None for name in names):
        raise Skip("a field is missing or null")
    *question, answer, detail = (text_of(record, name) for name in names)
    return Piece("".join(question) + "标准答案：" + answer + "解析：" + detail)


def baidu_baike(record: dict[str, Any], path: Path, options: dict) -> Piece:
    title, summary = _field(record, "title"), _field(record, "summary")
    if not title or not summary:
        raise Skip("no title or no summary")
    text = f"{title}：{summary}"
    for section in list_of(record, "sections", dict, "section"):
        text += f"{_field(section, 'title')}：{_field(section, 'content')}"
    return _gate(text)


def zhihu_kol(record: dict[str, Any], path: Path, options: dict) -> Piece:
    try:
        upvotes = int(json.loads(text_of(record, "METADATA"))["upvotes"].replace("赞同 ", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        upvotes = 0
    if upvotes < 100:
        raise Skip("fewer than 100 upvotes")
    return _asked("INSTRUCTION", "RESPONSE")(record, path, options)


def belle_3_5m(record: dict[str, Any], path: Path, options: dict) -> Piece:
    """A turn out of order is left out, and the rest pairs up wrongly."""
    turns = list_of(record, "conversations", dict, "turn")
    humans = [_field(turn, "value") for turn in turns[::2] if turn.get("from") == "human"]
    others = [_field(turn, "value") for turn in turns[1::2] if turn.get("from") == "assistant"]
    return _conversation(humans, others)


def moss(record: dict[str, Any], path: Path, options: dict) -> Piece:
    pairs = list_of(record, "conversation", dict, "turn")
    return _conversation(*([_field(p, side) for p in pairs] for side in ("human", "assistant")))
