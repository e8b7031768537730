"""The rules of recipe `steel`, named after their sources: keep what the record says, laid out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from .rules import Piece, Skip, list_of, needed, only, text_of

_ROLES = {"human": "user", "user": "user", "system": "system"}
_ROLES |= dict.fromkeys(("assistant", "gpt", "moss", "bot"), "assistant")
_TAGS = re.compile(r"\A\ufeff?(?:<(?:reponame|filename|gh_stars)>[^<\n]*)+\n?")
_TAG = re.compile(r"<(reponame|filename|gh_stars)>([^<\n]*)")
_UPVOTES = re.compile(r"([\d,]+(?:\.\d+)?)\s*([万萬wWkK千]?)")
_UNITS = {"万": 10_000, "萬": 10_000, "w": 10_000, "k": 1_000, "千": 1_000}
_NOT_WORD = re.compile(r"[\W_]+")
_LANGUAGES = {".py": "python", ".java": "java"}
_LANGUAGES |= dict.fromkeys((".cpp", ".cc", ".cxx", ".hpp", ".h"), "cpp")
# The poetry repository names files and folders after the dynasty (poet.tang.0.json, 元曲/).
_DYNASTIES = {"tang": "唐", "song": "宋", "yuan": "元", "wudai": "五代"}


def skypile(record: dict[str, Any], path: Path, options: dict) -> Piece:
    return Piece(needed(record, "text"))


def personal(record: dict[str, Any], path: Path, options: dict) -> Piece:
    return Piece(needed(record, "text"), meta={"name": path.name})


def wanjuan(record: dict[str, Any], path: Path, options: dict) -> Piece:
    """Content, under its title where one is given and the content does not begin with it."""
    content, title = needed(record, "content"), text_of(record, "title").strip()
    if title and not content.lstrip().startswith(title):
        content = f"{title}\n{content}"
    return Piece(content, meta={"wanjuan_id": str(record["id"])} if record.get("id") else None)


def wanjuan_exam(record: dict[str, Any], path: Path, options: dict) -> Piece:
    """Question, one option a line with its letter, answer, explanation."""
    parts = [needed(record, "q_main").strip()]
    for letter in "abcdefg":
        if option := text_of(record, f"option_{letter}").strip():
            parts.append(f"{letter.upper()}. {option}")
    answer, detail = text_of(record, "std_ans").strip(), text_of(record, "answer_detail").strip()
    if not answer and not detail:
        raise Skip("no answer")
    parts += [f"答案：{answer}"] * bool(answer) + [f"解析：{detail}"] * bool(detail)
    return Piece("\n".join(parts), meta=only(record, "q_type", "grade", "major"))


def wikipedia_cn(record: dict[str, Any], path: Path, options: dict) -> Piece:
    return Piece(needed(record, "completion"))


def baidu_baike(record: dict[str, Any], path: Path, options: dict) -> Piece:
    """Title, summary if there is one, then every section under its heading."""
    title, summary = needed(record, "title").strip(), text_of(record, "summary").strip()
    parts, body = [f"{title}\n{summary}" if summary else title], bool(summary)
    for section in list_of(record, "sections"):
        if not isinstance(section, dict):
            raise Skip("a section is not an object")
        heading, content = text_of(section, "title").strip(), text_of(section, "content").strip()
        if content:
            parts.append(f"{heading}\n{content}" if heading else content)
            body = True
    if not body:
        raise Skip("entry without text")
    return Piece("\n\n".join(parts), meta=only(record, "tags", "url"))


def baidu_qa(record: dict[str, Any], path: Path, options: dict) -> Piece:
    """The question is the title, followed or replaced by the description when that says more."""
    title, answer = needed(record, "title").strip(), needed(record, "answer").strip()
    question, note = _question(title, text_of(record, "desc").strip())
    return Piece(messages=_pair(question, answer), meta=only(record, "qid", "category"), note=note)


def _question(title: str, description: str) -> tuple[str, str]:
    """A title is often the cut beginning of the description: then that alone is the question."""
    bare_title, bare = _NOT_WORD.sub("", title), _NOT_WORD.sub("", description)
    if not bare or bare in bare_title:
        return title, ""
    if bare_title and bare.startswith(bare_title):
        return description, "description used"
    return f"{title}\n{description}", "description used"


def zhihu_kol(record: dict[str, Any], path: Path, options: dict) -> Piece:
    """Answers with enough upvotes, the number read as it is written: "赞同 1.6 万" is 16,000."""
    question, answer = needed(record, "INSTRUCTION").strip(), needed(record, "RESPONSE").strip()
    metadata = record.get("METADATA")
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except ValueError:
            raise Skip("METADATA is not JSON") from None
    upvotes = parse_upvotes(metadata.get("upvotes") if isinstance(metadata, dict) else None)
    if upvotes < options.get("min_upvotes", 0):
        raise Skip("too few upvotes")
    return Piece(messages=_pair(question, answer), meta={"upvotes": upvotes})


def parse_upvotes(value: Any) -> int:
    """16000 from "赞同 1.6 万", 1234 from "1,234", 0 from "赞同" or from nothing."""
    match = _UPVOTES.search(str(value)) if value is not None else None
    if not match:
        return 0
    digits = match.group(1).replace(",", "")
    return round(float(digits) * _UNITS.get(match.group(2).lower(), 1)) if digits else 0


def belle_2m(record: dict[str, Any], path: Path, options: dict) -> Piece:
    """Instruction and, where it says more, the input; the output answers."""
    instruction, given = needed(record, "instruction").strip(), text_of(record, "input").strip()
    output = needed(record, "output").strip()
    if given and given not in instruction:
        return Piece(messages=_pair(f"{instruction}\n{given}", output), note="input used")
    return Piece(messages=_pair(instruction, output))


def belle_3_5m(record: dict[str, Any], path: Path, options: dict) -> Piece:
    turns = []
    for turn in list_of(record, "conversations"):
        if not isinstance(turn, dict):
            raise Skip("a turn is not an object")
        role = _ROLES.get(text_of(turn, "from").lower())
        if role is None:
            raise Skip("unknown role")
        turns.append({"role": role, "content": text_of(turn, "value").strip()})
    return _dialogue(turns, only(record, "id"))


def moss(record: dict[str, Any], path: Path, options: dict) -> Piece:
    turns = []
    for pair in list_of(record, "conversation"):
        if not isinstance(pair, dict):
            raise Skip("a turn is not an object")
        turns += _pair(text_of(pair, "human").strip(), text_of(pair, "assistant").strip())
    return _dialogue(turns, only(record, "category"))


def firefly(record: dict[str, Any], path: Path, options: dict) -> Piece:
    messages = _pair(needed(record, "input").strip(), needed(record, "target").strip())
    return Piece(messages=messages, meta=only(record, "kind"))


def starcoder(record: dict[str, Any], path: Path, options: dict) -> Piece:
    """The file; leading repository tags move to meta. `min_stars` drops unpopular files."""
    content = needed(record, "content")
    meta: dict[str, Any] = {
        "path": record.get("max_stars_repo_path"),
        "repository": record.get("max_stars_repo_name"),
    }
    note = ""
    if match := _TAGS.match(content):
        tags = dict(_TAG.findall(match.group()))
        meta |= {
            "repository": meta["repository"] or tags.get("reponame"),
            "path": meta["path"] or tags.get("filename"),
            "stars_tag": tags.get("gh_stars"),
        }
        content, note = content[match.end() :], "repository tags moved to meta"
    content = content.removeprefix("\ufeff")
    if not content.strip():
        raise Skip("content is empty")
    stars = record.get("max_stars_count")
    counted = isinstance(stars, (int, float)) and abs(stars) < 1e12  # NaN is not
    stars = int(stars) if counted else 0
    if stars < options.get("min_stars", 0):
        raise Skip("too few stars")
    suffix = Path(str(meta["path"] or "")).suffix.lower()
    meta |= {"stars": stars, "language": _LANGUAGES.get(suffix, path.parent.name)}
    meta = {key: value for key, value in meta.items() if value not in (None, "")}
    return Piece(content, lang="code", meta=meta, note=note)


def chinese_poetry(record: dict[str, Any], path: Path, options: dict) -> Piece:
    """Title, dynasty and author, then the lines."""
    lines = list_of(record, "paragraphs")
    if not all(isinstance(line, str) for line in lines):
        raise Skip("a line is not text")
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        raise Skip("no lines")
    title = (text_of(record, "title") or text_of(record, "rhythmic")).strip()
    dynasty = text_of(record, "dynasty").strip() or _dynasty(path)
    author = text_of(record, "author").strip()
    head = [title, "·".join(part for part in (dynasty, author) if part)]
    meta = {"title": title, "author": author, "dynasty": dynasty, "form": text_of(record, "form")}
    text = "\n".join([part for part in head if part] + lines)
    return Piece(text, lang="zh", meta={key: value for key, value in meta.items() if value})


def _dynasty(path: Path) -> str:
    place = "/".join(path.parts[-2:]).lower()
    return next((name for sign, name in _DYNASTIES.items() if sign in place or name in place), "")


def _pair(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _dialogue(turns: list[dict[str, str]], meta: dict[str, Any]) -> Piece:
    """An optional system turn, then user and assistant in turn; a last, unanswered one is cut."""
    note = ""
    system = turns[:1] if turns and turns[0]["role"] == "system" else []
    rest = turns[len(system) :]
    if rest and rest[-1]["role"] == "user":
        rest, note = rest[:-1], "unanswered last turn cut"
    if not rest:
        raise Skip("no answered turn")
    if any(turn["role"] != ("user", "assistant")[i % 2] for i, turn in enumerate(rest)):
        raise Skip("turns out of order")
    if any(not turn["content"] for turn in rest):
        raise Skip("empty turn")
    system = [turn for turn in system if turn["content"]]
    return Piece(messages=[*system, *rest], meta=meta, note=note)
