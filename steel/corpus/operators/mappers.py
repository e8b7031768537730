"""Mappers: text -> text. Each looks first whether there is anything to do; mostly there is not."""

import html
import re

import numpy as np

from . import characters as chars
from . import operator

# UTF-8 read as Windows-1252 or Latin-1: a lead byte shown as a letter, then a continuation byte
# shown as a symbol.
_MOJIBAKE = re.compile(
    "[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc"
    "\u2013\u2014\u2018-\u201e\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac\u2122]"
)
# C0 and C1 controls but tab and newlines, invisible marks (zero width, bidirectional, soft hyphen,
# BOM), private use, non-characters, lone surrogates. The zero-width joiners stay: emoji and some
# scripts need them.
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e"
    "\u2060-\u2069\ufeff\ufff0-\uffff\ue000-\uf8ff\ud800-\udfff]"
)
# What GBK makes of the first two bytes of common Chinese characters in UTF-8; rare in real text.
GBK_SIGN = re.compile("[锛銆鐨鍦涓浜鏄鍙鎴鍚鍜涔杩欎鎵鏉鎬庝潵鍒璁绗璇鎶]")
_HAN = re.compile("[\u4e00-\u9fff]")
# A pattern that begins with a set of characters is looked for fast; what it needs before them follows.
_LINE_END = re.compile("[\r\x85\u2028\u2029](?:(?<=\r)\n)?")
_ODD_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_LINE_TAIL = re.compile(r"[ \t](?<![ \t]{2})[ \t]*$", re.MULTILINE)
_LINE_HEAD = re.compile(r"\n[ \t]+")
_RUN = re.compile(r"[ \t](?<=\S[ \t])[ \t]+")

_BLOCK = (
    "p|div|br|hr|li|ul|ol|dl|dt|dd|table|thead|tbody|tr|h1|h2|h3|h4|h5|h6|section|article|header|"
    "footer|blockquote|pre|form|title|body|html|head"
)
_INLINE = (
    "span|a|b|i|u|s|em|strong|font|img|td|th|center|small|big|sub|sup|label|input|button|iframe|"
    "meta|link|nobr|nav|main|figure|figcaption|video|source|script|style"
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


@operator("mapper")
def fix_unicode(text: str) -> str:
    """Undo text that was decoded with the wrong encoding (ftfy), only where it looks like that."""
    if text.isascii() or not _MOJIBAKE.search(text):
        return text
    import ftfy

    lines = text.splitlines(keepends=True)
    return "".join(ftfy.fix_encoding(line) if _MOJIBAKE.search(line) else line for line in lines)


def _as_gbk(text: str, errors: str) -> str:
    """What the text was, if it is UTF-8 that somebody read as GBK."""
    return text.encode("gbk", errors).decode("utf-8", errors)


@operator("mapper")
def fix_gbk(text: str) -> str:
    """Undo UTF-8 read as GBK (浣犲ソ for 你好), line by line, where nothing was lost on the way."""
    if not GBK_SIGN.search(text):
        return text

    def repair(line: str) -> str:
        try:
            return _as_gbk(line, "strict") if is_gbk_mojibake(line) else line
        except UnicodeError:
            return line

    return "".join(map(repair, text.splitlines(keepends=True)))


def is_gbk_mojibake(line: str) -> bool:
    """Whether a line's beginning turns into Chinese when its GBK bytes are read as UTF-8.

    GBK bytes of ordinary Chinese are hardly ever a three-byte UTF-8 sequence; of misread UTF-8
    nearly all are.
    """
    if not GBK_SIGN.search(line):
        return False
    head = line[:400]
    chinese = len(_HAN.findall(head))
    return chinese >= 3 and len(_HAN.findall(_as_gbk(head, "ignore"))) >= 0.25 * chinese


@operator("mapper")
def remove_control(text: str) -> str:
    """Remove control, invisible, private-use characters; tab, newline, zero-width joiners stay."""
    return _CONTROL.sub("", text) if _CONTROL.search(text) else text


@operator("mapper")
def normalise_whitespace(
    text: str, collapse: bool = True, indent: bool = False, blank_lines: int = 1
) -> str:
    """Newlines as \\n, at most blank_lines blank lines, no space at line ends; collapse runs.

    indent=False removes the spaces that begin a line (Chinese paragraphs open with two ideographic
    spaces); indent=True keeps them, for code and for texts that may hold code.
    """
    text = _LINE_END.sub("\n", text)
    if not text.isascii():
        text = _ODD_SPACE.sub(" ", text)
    if collapse:
        text = _RUN.sub(" ", text)
    text = _LINE_TAIL.sub("", text)
    if not indent:
        text = _LINE_HEAD.sub("\n", text)  # the first line's go with the strip
    text = re.sub(rf"\n{{{blank_lines + 2},}}", "\n" * (blank_lines + 1), text)
    return text.strip("\n") if indent else text.strip()


@operator("mapper")
def cut_repeats(text: str, min_chars: int = 100) -> str:
    """Remove every passage of min_chars or more that stood in the text before, word for word: a
    summary printed twice, all but min_chars of two thousand dots.

    Exact substring deduplication (Lee et al. 2022, https://arxiv.org/abs/2107.06499) inside a text.
    """
    found = chars.sorted_ngrams(text if len(text) >= 2 * min_chars else "", min_chars)
    if not (found[1:] == found[:-1]).any():  # as in nearly all texts
        return text
    codes = chars.code_points(text)
    hashes = chars.ngram_hashes(codes, min_chars)
    _, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    again = np.flatnonzero(np.arange(len(hashes)) - first[which] >= min_chars)
    edges = np.bincount(again, minlength=len(codes) + 1)
    edges -= np.bincount(again + min_chars, minlength=len(codes) + 1)
    kept = codes[np.cumsum(edges[:-1]) == 0]
    return kept.tobytes().decode("utf-32-le", "surrogatepass")


@operator("mapper")
def clean_html(text: str) -> str:
    """Remove HTML tags, comments, scripts and entities of real HTML; code in backticks stays.

    A real tag has a known name and well-formed attributes; one-letter tags count only when they are
    closed too. So `#include <vector>`, `a<b 且 c>d` and `List<String>` pass untouched, and so does a
    text that speaks about HTML, where tags are what it teaches.
    """
    if "<" in text and _is_html(_CODE.sub("", text) if "`" in text else text):
        if _ABOUT_HTML.search(text):
            return text
        parts = _CODE.split(text) if "`" in text else [text]
        return "".join(part if i % 2 else _without_tags(part) for i, part in enumerate(parts))
    if "&" in text and "`" not in text and len(_ENTITY.findall(text)) >= 2:
        return html.unescape(text)
    return text


def _without_tags(text: str) -> str:
    text = _HIDDEN.sub("", text)
    text = _TAG.sub(lambda m: "\n" if m["block"] else "", text)
    return html.unescape(text)


def _is_html(text: str) -> bool:
    found = [m for _, m in zip(range(200), _TAG.finditer(text), strict=False)]
    closed = {m["name"].lower() for m in found if m.group().startswith("</")}
    return any(len(name) > 1 or name in closed for name in {m["name"].lower() for m in found})
