"""Which option did the response choose? Read from the response alone, and never guessed.

The original's reward looked for a letter in prompt + response, found the "A" of the printed options
and paid an empty answer 25 %. Here the prompt is not even an argument. A response that names no
option, or names two, is `None`.

Order of belief, strongest first:

1. a statement: "答案是B", "选 B", "B 正确", "Answer: B", "option B is correct"; the last one, so
   that a response that changes its mind is taken at its last word;
2. a response, or its last or first line, that is a letter, alone or followed by its option: "B",
   "(B)", "B. 云州";
3. the text of exactly one option, searched from the last sentence backwards.

Negated letters and options ("不选A", "not B", "A 错") are crossed out first.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence

LETTERS = "ABCDEFGHIJ"

_NOT = (
    r"(?:不应该?|不可能|不会|并不|并非|不|非|别|排除|没有?"
    r"|isn't|is not|not|never|cannot be|exclude)"
)
_WRONG = (
    r"(?:错误?|不对|不正确|不符|不是|排除"
    r"|(?:is|are) (?:not|wrong|incorrect|false)|isn't|wrong|incorrect|false)"
)
_RIGHT = r"(?:正确|对|是对的|是正确的|符合题意|is (?:the )?(?:correct|right|true)|correct|right)"
_OF = r"(?:应该?(?:是|为|选)|可能是|就是|选择|是|为|选|项|is|option|[:=,])"


def extract_choice(response: str, options: Mapping[str, str] | Sequence[str]) -> str | None:
    """Letter of the option that `response` chooses, or None when it chooses none or more than one.

    `options` maps letters to texts, or lists the texts of A, B, C, … in order; an empty list means
    that only letters A to D can be recognised.
    """
    texts = _as_mapping(options)
    text = _normalise(response)
    if not text:
        return None
    text = _drop_negated(text, texts)
    for read in (_stated, _bare, _by_text):
        found = read(text, texts)
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def final_letter(response: str) -> str | None:
    """The letter that a response ends with, where the layout puts it behind the value ("… 云州 C。")."""
    found = re.search(r"(?<![A-Za-z0-9])([A-J])[.。]?\s*$", response)
    return found[1] if found else None


def _as_mapping(options: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    if not isinstance(options, Mapping):
        options = dict(zip(LETTERS, options or [""] * 4))
    return {letter: _normalise(text) for letter, text in options.items()}


def _normalise(text: str) -> str:
    """NFKC (Ｂ and ： become ASCII), no markup stars, single spaces, a line break after each 。"""
    text = unicodedata.normalize("NFKC", text).replace("*", "").replace("`", "")
    return re.sub(r"[ \t]+", " ", text.replace("。", ".\n")).strip()


def _letter(texts: Mapping[str, str]) -> str:
    """A letter that stands alone: not in a word, and not the first of "A或B", "A and B", "AB"."""
    alternatives = "".join(texts)
    return (
        rf"(?<![A-Za-z0-9])[(\[\"'“「]?([{alternatives}])[)\]\"'”」]?(?![A-Za-z0-9])"
        rf"(?!\s*(?:和|与|或者?|及|、|/|,|and\b|or\b)\s*[(]?[{alternatives}](?![A-Za-z]))"
    )


def _drop_negated(text: str, texts: Mapping[str, str]) -> str:
    names = [re.escape(t) for t in sorted(texts.values(), key=len, reverse=True) if t]
    names = "(?:" + "|".join(names) + ")" if names else "(?!)"
    letter = rf"(?<![A-Za-z0-9])[{''.join(texts)}](?![A-Za-z0-9])"
    named = rf"(?:{letter}(?:\s*[.:,、]?\s*{names})?|{names})"
    text = re.sub(rf"{named}(?:选?项)?\s*[,:、]?\s*(?:都|也|明显)?{_WRONG}", " ", text)
    return re.sub(rf"{_NOT}\s*(?:选择?|是|在|为|住在?|option|the)?\s*{named}", " ", text)


def _stated(text: str, texts: Mapping[str, str]) -> set[str]:
    letter = _letter(texts)
    # "答案是A和B" is not read by half: it has no match, because _letter looks ahead.
    forms = [
        rf"(?:答案|结论|answer|choice|choose|chose|pick|select|option is)"
        rf"(?:\s|选项|应该?|{_OF})*{letter}",
        rf"(?:应该?选|选择?|选项(?:是|为))\s*[:,]?\s*(?:选项)?\s*{letter}",
        rf"{letter}\s*(?:选?项)?\s*(?:才|都)?(?:是)?{_RIGHT}",
        rf"{letter}\s*(?:选?项)?\s*是?(?:答案|the answer)",
    ]
    forms += [
        rf"(?<![A-Za-z0-9])({key})[.:,、)]?\s*{re.escape(value)}\s*[,:]?\s*{_RIGHT}"
        for key, value in texts.items()
        if value
    ]
    found = [m for form in forms for m in re.finditer(form, text, re.IGNORECASE)]
    hits = [(m.start(1), m.group(1)) for m in found if m.group(1) in texts]
    return {max(hits)[1]} if hits else set()


def _bare(text: str, texts: Mapping[str, str]) -> set[str]:
    letters = "".join(texts)
    lines = [line.strip() for line in text.splitlines() if line.strip(" .!")]
    alone = rf"[(\[\"'“「]?([{letters}])[)\]\"'”」]?\s*(?:选?项)?[.:,、!]*"
    for line in lines[-1:] + lines[:1]:
        if match := re.fullmatch(alone, line):
            return {match.group(1)}
    # a letter with its own option behind it; a list of all options names more than one
    found = {
        key
        for key, value in texts.items()
        for line in lines
        if value and re.match(rf"[(]?{key}[)]?\s*[.:,、]?\s*{re.escape(value)}\s*[.!]?\s*$", line)
    }
    if found or len(lines) != 1:
        return found
    leading = re.match(rf"[(]?([{letters}])(?:[)]\s*[.:,、]?|[.:,、])(?=\D|$)", lines[0])
    others = set(re.findall(rf"(?<![A-Za-z0-9])[{letters}](?=[.:,、)])", lines[0]))
    return {leading.group(1)} if leading and len(others) <= 1 else set()


def _by_text(text: str, texts: Mapping[str, str]) -> set[str]:
    for sentence in reversed(re.split(r"[\n!?;]|(?<![A-J])\.(?=\s|$)", text)):
        found, rest = set(), sentence
        # Longest first and crossed out when seen, so that "130" does not count as "13" as well.
        for key, value in sorted(texts.items(), key=lambda item: -len(item[1])):
            pattern = _whole(value)
            if pattern and re.search(pattern, rest, re.IGNORECASE):
                found.add(key)
                rest = re.sub(pattern, "\x00", rest, flags=re.IGNORECASE)
        if found:
            return found
    return set()


def _whole(value: str) -> str:
    """Pattern of an option's text as a whole word or number; between Hanzi any place counts."""
    value = value.rstrip(".!\n ")
    if not value:
        return ""
    before = r"(?<![A-Za-z0-9.])" if value[0].isascii() and value[0].isalnum() else ""
    after = r"(?![A-Za-z0-9])(?!\.\d)" if value[-1].isascii() and value[-1].isalnum() else ""
    return before + re.escape(value) + after
