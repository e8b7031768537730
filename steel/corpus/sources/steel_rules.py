"""The rules of recipe `steel`, named after their sources: keep what the record says, laid out.

A source without a function here has a card that names its fields: see `plain`.
"""

import json
import re
from pathlib import Path
from typing import Any

from .rules import Piece, Rule, Skip, list_of, needed, text_of

_ROLES = {"human": "user", "user": "user", "system": "system"}
_ROLES |= dict.fromkeys(("assistant", "gpt", "moss", "bot"), "assistant")
_TAGS = re.compile(r"\A\ufeff?(?:<(?:reponame|filename|gh_stars)>[^<\n]*)+\n?")
_TAG = re.compile(r"<(reponame|filename|gh_stars)>([^<\n]*)")
_UPVOTES = re.compile(r"(\d[\d,]*(?:\.\d+)?)\s*([万萬wWkK千]?)")
_UNITS = {"万": 10_000, "萬": 10_000, "w": 10_000, "k": 1_000, "千": 1_000}
_NOT_WORD = re.compile(r"[\W_]+")
_LANGUAGES = {".py": "python", ".java": "java"}
_LANGUAGES |= dict.fromkeys((".cpp", ".cc", ".cxx", ".hpp", ".h"), "cpp")
# The poetry repository names files and folders after the dynasty (poet.tang.0.json, 元曲/).
_DYNASTIES = {"tang": "唐", "song": "宋", "yuan": "元", "wudai": "五代"}


def plain(document: list[str], keep: list[str]) -> Rule:
    """The rule of a source whose document is one field, or the answer in one field to another.

    keep: fields that go into the meta of the document.
    """

    def rule(record: dict[str, Any], path: Path, options: dict) -> Piece:
        texts = [needed(record, name) for name in document]
        messages = _pair(*(text.strip() for text in texts)) if len(texts) == 2 else None
        return Piece("" if messages else texts[0], messages, meta=only(record, *keep))

    return rule


def only(record: dict[str, Any], *names: str) -> dict[str, Any]:
    """The fields of `names` that hold something, for a document's meta."""
    return {name: record[name] for name in names if record.get(name) not in (None, "", [], {})}


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
    needed(record, "q_main")
    choices = {f"option_{letter}": f"{letter.upper()}. " for letter in "abcdefg"}
    ends = {"std_ans": "答案：", "answer_detail": "解析："}
    texts = {name: text_of(record, name).strip() for name in ("q_main", *choices, *ends)}
    if not any(texts[name] for name in ends):
        raise Skip("no answer")
    label = {"q_main": ""} | choices | ends
    text = "\n".join(label[name] + text for name, text in texts.items() if text)
    return Piece(text, meta=only(record, "q_type", "grade", "major"))


def baidu_baike(record: dict[str, Any], path: Path, options: dict) -> Piece:
    """Title, summary if there is one, then every section under its heading."""
    title, summary = needed(record, "title").strip(), text_of(record, "summary").strip()
    sections = []
    for section in list_of(record, "sections", dict, "section"):
        heading, content = text_of(section, "title").strip(), text_of(section, "content").strip()
        if content:
            sections.append(f"{heading}\n{content}" if heading else content)
    if not summary and not sections:
        raise Skip("entry without text")
    head = f"{title}\n{summary}" if summary else title
    return Piece("\n\n".join([head, *sections]), meta=only(record, "tags", "url"))


def baidu_qa(record: dict[str, Any], path: Path, options: dict) -> Piece:
    """The question is the title, followed or replaced by the description when that says more."""
    title, answer = needed(record, "title").strip(), needed(record, "answer").strip()
    description, meta = text_of(record, "desc").strip(), only(record, "qid", "category")
    bare_title, bare = _NOT_WORD.sub("", title), _NOT_WORD.sub("", description)
    if not bare or bare in bare_title:
        return Piece(messages=_pair(title, answer), meta=meta)
    # A title is often the cut beginning of the description: then that alone is the question.
    cut = bare_title and bare.startswith(bare_title)
    question = description if cut else f"{title}\n{description}"
    return Piece(messages=_pair(question, answer), meta=meta, note="description used")


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
    match = _UPVOTES.search(str(value))
    if not match:
        return 0
    return round(float(match[1].replace(",", "")) * _UNITS.get(match[2].lower(), 1))


def belle_2m(record: dict[str, Any], path: Path, options: dict) -> Piece:
    """Instruction and, where it says more, the input; the output answers."""
    instruction, given = needed(record, "instruction").strip(), text_of(record, "input").strip()
    output = needed(record, "output").strip()
    if given and given not in instruction:
        return Piece(messages=_pair(f"{instruction}\n{given}", output), note="input used")
    return Piece(messages=_pair(instruction, output))


def belle_3_5m(record: dict[str, Any], path: Path, options: dict) -> Piece:
    turns = []
    for turn in list_of(record, "conversations", dict, "turn"):
        role = _ROLES.get(text_of(turn, "from").lower())
        if role is None:
            raise Skip("unknown role")
        turns.append({"role": role, "content": text_of(turn, "value").strip()})
    return _dialogue(turns, only(record, "id"))


def moss(record: dict[str, Any], path: Path, options: dict) -> Piece:
    turns = []
    for pair in list_of(record, "conversation", dict, "turn"):
        turns += _pair(text_of(pair, "human").strip(), text_of(pair, "assistant").strip())
    return _dialogue(turns, only(record, "category"))


def starcoder(record: dict[str, Any], path: Path, options: dict) -> Piece:
    """The file; leading repository tags move to meta. `min_stars` drops unpopular files."""
    content, tags, note = needed(record, "content"), {}, ""
    if match := _TAGS.match(content):
        tags, content = dict(_TAG.findall(match[0])), content[match.end() :]
        note = "repository tags moved to meta"
    content = content.removeprefix("\ufeff")
    if not content.strip():
        raise Skip("content is empty")
    stars = record.get("max_stars_count")
    counted = isinstance(stars, int | float) and abs(stars) < 1e12  # NaN is not
    stars = int(stars) if counted else 0
    if stars < options.get("min_stars", 0):
        raise Skip("too few stars")
    place = record.get("max_stars_repo_path") or tags.get("filename")
    meta = {
        "path": place,
        "repository": record.get("max_stars_repo_name") or tags.get("reponame"),
        "stars_tag": tags.get("gh_stars"),
        "stars": stars,
        "language": _LANGUAGES.get(Path(str(place or "")).suffix.lower(), path.parent.name),
    }
    return Piece(content, None, "code", only(meta, *meta), note)


def chinese_poetry(record: dict[str, Any], path: Path, options: dict) -> Piece:
    """Title, dynasty and author, then the lines."""
    lines = [line.strip() for line in list_of(record, "paragraphs", str, "line") if line.strip()]
    if not lines:
        raise Skip("no lines")
    title = (text_of(record, "title") or text_of(record, "rhythmic")).strip()
    dynasty, author = (text_of(record, name).strip() for name in ("dynasty", "author"))
    if not dynasty:
        place = "/".join(path.parts[-2:]).lower()
        named = (name for sign, name in _DYNASTIES.items() if sign in place or name in place)
        dynasty = next(named, "")
    head = [title, "·".join(filter(None, (dynasty, author)))]
    meta = {"title": title, "author": author, "dynasty": dynasty, "form": text_of(record, "form")}
    return Piece("\n".join([*filter(None, head), *lines]), None, "zh", only(meta, *meta))


def _pair(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _dialogue(turns: list[dict[str, str]], meta: dict[str, Any]) -> Piece:
    """An optional system turn, then user and assistant in turn; a last, unanswered one is cut."""
    note = ""
    system = [turn for turn in turns[:1] if turn["role"] == "system"]
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
