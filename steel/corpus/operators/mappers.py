"""Mappers: str -> str. Each looks first whether there is anything to do, since most texts need nothing."""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Callable

from ...config import UserError
from . import operator

# UTF-8 read as Windows-1252 or Latin-1: a lead byte shown as a letter, then a continuation byte shown as a symbol.
_MOJIBAKE = re.compile(
    "[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc"
    "\u2013\u2014\u2018-\u201e\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac\u2122]"
)
# C0 and C1 controls but tab and newlines, invisible marks (zero width, bidirectional, soft hyphen, BOM), private use,
# non-characters, lone surrogates. The zero-width joiners stay: emoji and some scripts need them.
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e"
    "\u2060-\u2069\ufeff\ufff0-\uffff\ue000-\uf8ff\ud800-\udfff]"
)
# What GBK makes of the first two bytes of common Chinese characters in UTF-8; rare in real text.
_GBK_SIGN = re.compile("[锛銆鐨鍦涓浜鏄鍙鎴鍚鍜涔杩欎鎵鏉鎬庝潵鍒璁绗璇鎶]")
_HAN = re.compile("[\u4e00-\u9fff]")
_LINE_END = re.compile("\r\n?|[\x85\u2028\u2029]")
_ODD_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_LINE_TAIL = re.compile(r"[ \t]+$", re.MULTILINE)
_LINE_HEAD = re.compile(r"^[ \t]+", re.MULTILINE)
_RUN = re.compile(r"(?<=\S)[ \t]{2,}")

_BLOCK = (
    "p|div|br|hr|li|ul|ol|dl|dt|dd|table|thead|tbody|tr|h1|h2|h3|h4|h5|h6|section|article|header|footer|"
    "blockquote|pre|form|title|body|html|head"
)
_INLINE = (
    "span|a|b|i|u|s|em|strong|font|img|td|th|center|small|big|sub|sup|label|input|button|iframe|meta|link|nobr|"
    "nav|main|figure|figcaption|video|source|script|style"
)
_ATTRIBUTES = r"""(?:\s+[a-zA-Z_:@][-\w:.]*(?:\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+))?)*\s*/?"""
_TAG = re.compile(rf"</?(?P<name>(?P<block>{_BLOCK})|{_INLINE}){_ATTRIBUTES}>", re.IGNORECASE)
_HIDDEN = re.compile(r"<!--.*?-->|<(script|style)\b[^>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_ABOUT_HTML = re.compile(
    r"(?<![./<\w])(?:html|css|javascript|xml)(?!\w)|代码|前端|<!doctype", re.IGNORECASE
)
_CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]+`)", re.DOTALL)
_ENTITY = re.compile(
    r"&(?:nbsp|lt|gt|amp|quot|apos|ldquo|rdquo|lsquo|rsquo|mdash|ndash|hellip|middot|copy|#\d{1,6}"
    r"|#x[0-9a-fA-F]{1,5});"
)


@operator("fix_unicode", "mapper")
def fix_unicode() -> Callable[[str], str]:
    """Undo text that was decoded with the wrong encoding (ftfy), only where it looks like that."""

    def apply(text: str) -> str:
        if text.isascii() or not _MOJIBAKE.search(text):
            return text
        import ftfy

        return "".join(
            ftfy.fix_encoding(line) if _MOJIBAKE.search(line) else line
            for line in text.splitlines(keepends=True)
        )

    return apply


def _as_gbk(text: str, errors: str) -> str:
    """What the text was, if it is UTF-8 that somebody read as GBK."""
    return text.encode("gbk", errors).decode("utf-8", errors)


@operator("fix_gbk", "mapper")
def fix_gbk() -> Callable[[str], str]:
    """Undo UTF-8 that was read as GBK (浣犲ソ for 你好), line by line, where nothing was lost on the way."""

    def repair(line: str) -> str:
        try:
            return _as_gbk(line, "strict") if is_gbk_mojibake(line) else line
        except UnicodeError:
            return line

    return lambda text: (
        "".join(map(repair, text.splitlines(keepends=True))) if _GBK_SIGN.search(text) else text
    )


def is_gbk_mojibake(line: str) -> bool:
    """Whether a line's beginning turns into Chinese when its GBK bytes are read as UTF-8.

    GBK bytes of ordinary Chinese are hardly ever a three-byte UTF-8 sequence; of misread UTF-8 nearly all are.
    """
    if not _GBK_SIGN.search(line):
        return False
    head = line[:400]
    chinese = len(_HAN.findall(head))
    return chinese >= 3 and len(_HAN.findall(_as_gbk(head, "ignore"))) >= 0.25 * chinese


@operator("remove_control", "mapper")
def remove_control() -> Callable[[str], str]:
    """Remove control, invisible and private-use characters; tab, newline and zero-width joiners stay."""
    return lambda text: _CONTROL.sub("", text) if _CONTROL.search(text) else text


@operator("normalise_whitespace", "mapper")
def normalise_whitespace(
    collapse: bool = True, indent: bool = False, blank_lines: int = 1
) -> Callable[[str], str]:
    """Newlines as \\n, at most blank_lines blank lines, no space at line ends; collapse runs; drop or keep indents.

    indent=False removes the spaces that begin a line (Chinese paragraphs open with two ideographic spaces);
    indent=True keeps them, for code and for texts that may hold code.
    """
    too_many = re.compile(rf"\n{{{blank_lines + 2},}}")
    most = "\n" * (blank_lines + 1)

    def apply(text: str) -> str:
        text = _LINE_END.sub("\n", text)
        if not text.isascii():
            text = _ODD_SPACE.sub(" ", text)
        if collapse:
            text = _RUN.sub(" ", text)
        text = _LINE_TAIL.sub("", text)
        if not indent:
            text = _LINE_HEAD.sub("", text)
        text = too_many.sub(most, text)
        return text.strip("\n") if indent else text.strip()

    return apply


@operator("clean_html", "mapper")
def clean_html() -> Callable[[str], str]:
    """Remove HTML tags, comments, scripts and entities, only if the text holds real tags; code in backticks stays.

    A real tag has a known name and well-formed attributes; one-letter tags count only when they are closed too. So
    `#include <vector>`, `a<b 且 c>d` and `List<String>` pass untouched, and so does a text that speaks about HTML,
    where tags are what it teaches.
    """

    def outside_code(text: str) -> str:
        text = _HIDDEN.sub("", text)
        text = _TAG.sub(lambda m: "\n" if m["block"] else "", text)
        return html.unescape(text)

    def apply(text: str) -> str:
        if "<" in text and _is_html(_CODE.sub("", text) if "`" in text else text):
            if _ABOUT_HTML.search(text):
                return text
            if "`" not in text:
                return outside_code(text)
            return "".join(
                part if i % 2 else outside_code(part) for i, part in enumerate(_CODE.split(text))
            )
        if "&" in text and "`" not in text and len(_ENTITY.findall(text)) >= 2:
            return html.unescape(text)
        return text

    return apply


def _is_html(text: str) -> bool:
    found = [m for _, m in zip(range(200), _TAG.finditer(text), strict=False)]
    if not found:
        return False
    closed = {m["name"].lower() for m in found if m.group().startswith("</")}
    return any(len(name) > 1 or name in closed for name in {m["name"].lower() for m in found})


@functools.cache
def _opencc(mode: str):
    try:
        import opencc
    except ImportError:
        raise UserError("operator convert_chinese needs opencc (pip install opencc)") from None
    return opencc.OpenCC(mode)


@operator("convert_chinese", "mapper")
def convert_chinese(mode: str = "t2s") -> Callable[[str], str]:
    """Convert between Chinese scripts with OpenCC: t2s is traditional to simplified, s2t the way back."""
    if mode not in ("t2s", "s2t", "tw2s", "tw2sp", "hk2s", "s2tw", "s2hk"):
        raise UserError(
            f"operator convert_chinese: no mode {mode!r}; use t2s, s2t, tw2s, tw2sp, hk2s, s2tw or s2hk"
        )
    return lambda text: text if text.isascii() else _opencc(mode).convert(text)
