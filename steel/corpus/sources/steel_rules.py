"""The rules of recipe `steel`, named after their sources: keep what the record says, laid out.

A source without a function here has a card that says which field plays which role: see `mapped`.
"""

import json
import re
from pathlib import Path
from typing import Any

from ...config import UserError
from .rules import Piece, Rule, Skip, list_of, needed, text_of

# What a card's map may name: the roles that are needed, and those that may be added.
SHAPES = [
    ({"text"}, {"title"}),
    ({"question", "answer"}, {"input", "history", "system"}),
    ({"turns"}, {"system"}),
    ({"chosen", "rejected"}, {"question", "system"}),
]
_ROLES = {"human": "user", "user": "user", "prompter": "user", "system": "system"}
_ROLES |= dict.fromkeys(("assistant", "gpt", "moss", "bot"), "assistant")
_TRANSCRIPT = re.compile(r"(?:\A|\n)(Human|Assistant)[:：]")
_TAGS = re.compile(r"\A\ufeff?(?:<(?:reponame|filename|gh_stars)>[^<\n]*)+\n?")
_TAG = re.compile(r"<(reponame|filename|gh_stars)>([^<\n]*)")
_UPVOTES = re.compile(r"(\d[\d,]*(?:\.\d+)?)\s*([万萬wWkK千]?)")
_UNITS = {"万": 10_000, "萬": 10_000, "w": 10_000, "k": 1_000, "千": 1_000}
_NOT_WORD = re.compile(r"[\W_]+")
_LANGUAGES = {".py": "python", ".java": "java"}
_LANGUAGES |= dict.fromkeys((".cpp", ".cc", ".cxx", ".hpp", ".h"), "cpp")
# The poetry repository names files and folders after the dynasty (poet.tang.0.json, 元曲/).
_DYNASTIES = {"tang": "唐", "song": "宋", "yuan": "元", "wudai": "五代"}


def mapped(roles: dict[str, str], keep: list[str], where: str = "map") -> Rule:
    """The rule of a source whose card maps roles to fields, as one of `SHAPES`.

    text: the document, under its title. question and answer: a dialogue; what the input adds stands
    below the question, the turns of the history and the system prompt before it. turns: a list of
    turns, see `turns_of`. chosen and rejected: the dialogue with the chosen answer, and the rejected
    one in its meta; question is a text or turns. keep: more fields for the meta. UserError otherwise.
    """
    given = set(roles)
    if not any(needs <= given <= needs | may for needs, may in SHAPES):
        shapes = " | ".join(" ".join(sorted(n)) + f" [{' '.join(sorted(m))}]" for n, m in SHAPES)
        raise UserError(f"{where}: no shape of a record is {' '.join(roles) or '()'}: {shapes}")

    def rule(record: dict[str, Any], path: Path, options: dict) -> Piece:
        def text(role: str) -> str:
            return text_of(record, roles[role]).strip() if role in roles else ""

        meta = only(record, *keep)
        if "text" in roles:
            title, content = text("title"), needed(record, roles["text"])
            if title and not content.lstrip().startswith(title):
                content = f"{title}\n{content}"
            return Piece(content, meta=meta)
        before = [{"role": "system", "content": text("system")}] if text("system") else []
        if "turns" in roles:
            turns = turns_of(record.get(roles["turns"]), roles["turns"])
            said = bool(turns) and turns[0]["role"] == "system"
            return _dialogue(turns if said else [*before, *turns], meta)
        if "chosen" in roles:
            return _preference(record, roles, before, meta)
        question, more = needed(record, roles["question"]).strip(), text("input")
        note = "input used" if more and more not in question else ""
        if "history" in roles:
            before += turns_of(record.get(roles["history"]), roles["history"])
        asked = _pair(f"{question}\n{more}" if note else question, needed(record, roles["answer"]))
        asked[1]["content"] = asked[1]["content"].strip()
        return _dialogue([*before, *asked], meta, note)

    return rule


def turns_of(value: Any, name: str) -> list[dict[str, str]]:
    """The turns in a list (or one object), in any of the usual spellings.

    {"from" or "role", "value" or "content" or "text"}, {"human", "assistant"}, [question, answer].
    """
    value = [value] if isinstance(value, dict) else value
    if not isinstance(value, list | None):
        raise Skip(f"{name} is not a list")
    turns = []
    for turn in value or []:
        if isinstance(turn, list) and len(turn) == 2:
            turn = dict(zip(("human", "assistant"), turn))
        if not isinstance(turn, dict):
            raise Skip("a turn is not an object")
        if who := next((key for key in ("from", "role") if key in turn), ""):
            role = _ROLES.get(text_of(turn, who).lower())
            if role is None:
                raise Skip("unknown role")
            said = next((key for key in ("value", "content", "text") if key in turn), "value")
            turns.append({"role": role, "content": text_of(turn, said).strip()})
        else:
            turns += _pair(text_of(turn, "human").strip(), text_of(turn, "assistant").strip())
    return turns


def _preference(record: dict, roles: dict[str, str], before: list, meta: dict) -> Piece:
    """The dialogue that ends in the chosen answer; the rejected one goes into the meta."""

    def side(role: str) -> list[dict[str, str]]:
        value = record.get(roles[role])
        if isinstance(value, str):
            return [{"role": "assistant", "content": value.strip()}]
        return turns_of(value, roles[role])

    chosen, rejected = side("chosen"), side("rejected")
    if not (chosen and rejected and chosen[-1]["role"] == rejected[-1]["role"] == "assistant"):
        raise Skip("no chosen or no rejected answer")
    if not rejected[-1]["content"] or rejected[-1] == chosen[-1]:
        raise Skip("nothing rejected")
    asked = record.get(roles.get("question", ""))
    if len(chosen) == 1:  # else it begins with the question
        asked = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        chosen = [*turns_of(asked, roles.get("question", "question")), *chosen]
    return _dialogue([*before, *chosen], meta | {"rejected_answer": rejected[-1]["content"]})


def only(record: dict[str, Any], *names: str) -> dict[str, Any]:
    """The fields of `names` that hold something, for a document's meta."""
    return {name: record[name] for name in names if record.get(name) not in (None, "", [], {})}


def personal(record: dict[str, Any], path: Path, options: dict) -> Piece:
    return Piece(needed(record, "text"), meta={"name": path.name})


def wanjuan_exam(record: dict[str, Any], path: Path, options: dict) -> Piece:
    """Question, one option a line with its letter, answer, explanation."""
    question, answer = _exam(record)
    return Piece(f"{question}\n{answer}", meta=only(record, "q_type", "grade", "major"))


def wanjuan_mcq(record: dict[str, Any], path: Path, options: dict) -> Piece:
    """The same as a dialogue; only questions with options."""
    question, answer = _exam(record)
    if not text_of(record, "option_a").strip():
        raise Skip("no options")
    return Piece(messages=_pair(question, answer), meta=only(record, "q_type", "grade", "major"))


def _exam(record: dict[str, Any]) -> tuple[str, str]:
    needed(record, "q_main")
    asks = {"q_main": ""} | {f"option_{letter}": f"{letter.upper()}. " for letter in "abcdefg"}
    ends = {"std_ans": "答案：", "answer_detail": "解析："}

    def lines(labels: dict[str, str]) -> str:
        texts = {name: text_of(record, name).strip() for name in labels}
        return "\n".join(labels[name] + text for name, text in texts.items() if text)

    if not lines(ends):
        raise Skip("no answer")
    return lines(asks), lines(ends)


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


def belle_multiturn(record: dict[str, Any], path: Path, options: dict) -> Piece:
    """The instruction is a transcript that ends where the assistant has to speak: the output."""
    said = f"{needed(record, 'instruction').strip()}\n{text_of(record, 'input').strip()}".strip()
    _, *parts = _TRANSCRIPT.split(said)
    pairs = zip(parts[::2], parts[1::2])
    turns = [{"role": _ROLES[who.lower()], "content": text.strip()} for who, text in pairs]
    if turns and turns[-1] == {"role": "assistant", "content": ""}:
        turns.pop()
    answer = {"role": "assistant", "content": needed(record, "output").strip()}
    return _dialogue([*turns, answer], {})


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


def _dialogue(turns: list[dict[str, str]], meta: dict[str, Any], note: str = "") -> Piece:
    """An optional system turn, then user and assistant in turn; a last, unanswered one is cut."""
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
