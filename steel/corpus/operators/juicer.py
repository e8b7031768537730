"""The mappers of the original's two recipes, those of Data-Juicer 1.6.1: same names, parameters and
results, in code of our own that first looks whether there is anything to do.

They and the filters of `juicer_filters.py`, 22 operators in all, are here to be compared with. What
they do to Chinese, dialogue and code is shown by tests/corpus/test_juicer.py; `recipes/steel.yaml`
uses others where that matters.
"""

import functools
import re
import unicodedata

from ...config import needs
from . import operator

_MODES = "t2s s2t tw2s s2tw hk2s s2hk tw2sp s2twp t2tw tw2t t2hk hk2t t2jp jp2t".split()


@functools.cache
def _opencc(mode: str):
    with needs("chinese_convert_mapper", "opencc"):
        import opencc
    return opencc.OpenCC(mode)


@operator("mapper")
def chinese_convert_mapper(text: str, mode: str = "s2t") -> str:
    """Convert between Chinese scripts with OpenCC: t2s is traditional to simplified, s2t back."""
    if mode not in _MODES:
        raise ValueError(f"no mode {mode!r}; use {', '.join(_MODES)}")
    return text if text.isascii() else _opencc(mode).convert(text)


_EMAIL = r"[A-Za-z0-9.\-+_]+@[a-z0-9.\-+_]+\.[a-z]+"
_LINK = (
    r"(?i)\b((?:[a-z][\w-]+:(?:\/{1,3}|[a-z0-9%])|www\d{0,3}[.]|[a-z0-9.\-]+[.][a-z]{2,4}\/)"
    r"(?:[^\s()<>]+|\(([^\s()<>]+|(\([^\s()<>]+\)))*\))+"
    r"(?:\(([^\s()<>]+|(\([^\s()<>]+\)))*\)|[^\s`!()\[\]{};:\'\".,<>?«»“”‘’]))"
)
_BYTE = "(?:1[0-9][0-9]|2[0-4][0-9]|25[0-5]|[1-9][0-9]|[0-9])"
_IP = rf"(?:{_BYTE}\.){{3}}{_BYTE}|([\da-fA-F]{{1,4}}:){{7}}[\da-fA-F]{{1,4}}"
# What every match holds; where case is ignored, [a-z] has four letters more: İ, ı, ſ and the Kelvin sign.
_EMAIL_SIGN = re.compile("@")
_LINK_SIGN = re.compile(
    r":(?<=[\w-]:)[/a-zA-Z0-9%İıſ\u212a]|w[wW]{2}\d{0,3}[.]|W[wW]{2}\d{0,3}[.]"
    r"|[.][a-zA-Zİıſ\u212a]{2,4}/"
)
_IP_SIGN = re.compile(r"[.](?<=[0-9][.])[0-9]{1,3}[.][0-9]|:[\da-fA-F]{1,4}:")


def _substituted(text: str, own: str | None, pattern: str, sign: re.Pattern, repl: str) -> str:
    """repl for a recipe's own pattern, or for the standard one, which no newline matches: that is
    looked for only in lines with its sign."""
    if own:
        return re.sub(own, repl, text, flags=re.DOTALL)
    parts, done = [], 0
    while found := sign.search(text, done):
        start = text.rfind("\n", done, found.start()) + 1 or done
        end = text.find("\n", found.end())
        end = len(text) if end < 0 else end
        parts += text[done:start], re.sub(pattern, repl, text[start:end])
        done = end
    return "".join([*parts, text[done:]]) if parts else text


@operator("mapper")
def clean_email_mapper(text: str, pattern: str | None = None, repl: str = "") -> str:
    """Replace e-mail addresses."""
    return _substituted(text, pattern, _EMAIL, _EMAIL_SIGN, repl)


@operator("mapper")
def clean_links_mapper(text: str, pattern: str | None = None, repl: str = "") -> str:
    """Replace web links; `key:value` counts as one, in code and in prose."""
    return _substituted(text, pattern, _LINK, _LINK_SIGN, repl)


@operator("mapper")
def clean_ip_mapper(text: str, pattern: str | None = None, repl: str = "") -> str:
    """Replace IPv4 and IPv6 addresses, and version numbers of four parts."""
    return _substituted(text, pattern, _IP, _IP_SIGN, repl)


@operator("mapper")
def clean_html_mapper(text: str) -> str:
    """The text content of what an HTML parser (selectolax) makes of it; `a<b` is a tag to it."""
    if not ("<" in text or "&" in text or "\0" in text):  # a parser alters no more than these two:
        return text.lstrip("\t\n\f\r ").replace("\r\n", "\n").replace("\r", "\n")
    with needs("clean_html_mapper", "selectolax"):
        from selectolax.lexbor import LexborHTMLParser
    for tag, mark in (("<li>", "\n*"), ("</li>", ""), ("<ol>", "\n*"), ("</ol>", "")):
        text = text.replace(tag, mark)
    return LexborHTMLParser(text).text()


_COMMENT = re.compile(r"/\*[^*]*\*+(?:[^/*][^*]*\*+)*/")


@operator("mapper")
def clean_copyright_mapper(text: str) -> str:
    """Remove the first /* comment */ if it says "copyright"; without any such comment, all first
    lines that begin with //, # or --: `#include` and the headings of Markdown, too."""
    if found := _COMMENT.search(text) if "/*" in text else None:
        rights = "copyright" in found[0].lower()
        return text[: found.start()] + text[found.end() :] if rights else text
    place = 0
    while text.startswith(("//", "#", "--", "\n"), place):
        place = text.find("\n", place) + 1 or len(text)
    return text[place:]


_MACROS = (
    re.compile(r"\\\bnewcommand\b\*?\{(\\[a-zA-Z0-9]+?)\}\{(.*?)\}$", re.MULTILINE),
    re.compile(r"\\def\s*(\\[a-zA-Z0-9]+?)\s*\{(.*?)\}$", re.MULTILINE),
)


@operator("mapper")
def expand_macro_mapper(text: str) -> str:
    r"""Write out LaTeX macros without arguments (\newcommand, \def) where they are used."""
    if r"\newcommand" not in text and r"\def" not in text:
        return text
    macros = {m[1]: m[2] for macro in _MACROS for m in macro.finditer(text)}
    for name, value in macros.items():
        found = re.compile(rf"({re.escape(name)})([^a-zA-Z0-9])")
        text = found.sub(lambda m, value=value: value + m[2], text)
    return text


_FORMS = ("NFC", "NFKC", "NFD", "NFKD")


@operator("mapper")
def fix_unicode_mapper(text: str, normalization: str | None = None) -> str:
    """All of ftfy.fix_text: wrong decodings, and full-width marks to half, curly quotes to straight."""
    form = (normalization or "NFC").upper()
    if form not in _FORMS:
        raise ValueError(f"no normalization {form}; use {', '.join(_FORMS)}")
    table, suspicious, odd = _ftfy()
    fixed = _unescaped(text)
    if not suspicious(fixed):
        fixed = fixed.replace("\r\n", "\n") if "\r" in fixed else fixed
        fixed = _replaced(fixed, {char: table[char] for char in odd(fixed)})
        if not unicodedata.is_normalized(form, fixed):
            fixed = unicodedata.normalize(form, fixed)
        if fixed == text or not (suspicious(fixed) or odd(fixed) or _unescaped(fixed) != fixed):
            return fixed
    import ftfy

    return ftfy.fix_text(text, normalization=form)


def _unescaped(text: str) -> str:
    """What ftfy does to HTML entities: it leaves them alone from the first line with a tag on."""
    if "&" not in text:
        return text
    from ftfy import fixes

    tag = text.find("<")
    end = text.rfind("\n", 0, tag) + 1 if tag >= 0 else len(text)
    return fixes.unescape_html(text[:end]) + text[end:]


@functools.cache
def _ftfy():
    """(table, suspicious, odd): what ftfy does to single characters; whether a text may need ftfy
    for more than that; which characters of the table it holds.

    Each of ftfy's patterns of a wrong decoding takes two of its signs in a row, or one of a few
    alone: only texts that show these are given to its slow search.
    """
    from ftfy import badness, fixes

    steps = (fixes.fix_latin_ligatures, fixes.fix_character_width, fixes.uncurl_quotes)
    steps += (fixes.fix_line_breaks, fixes.remove_control_chars)
    plane = [chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000]
    between = "\U00010000"  # all characters in one call of each step
    fixed = functools.reduce(lambda text, step: step(text), steps, between.join(plane))
    pairs = zip(plane, fixed.split(between), strict=True)
    table = {char: new for char, new in pairs if new != char}
    odd = re.compile(f"[{re.escape(''.join(table))}]")
    ascii_odd = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\r]")
    ranges = re.findall("[^\x00-\x7f]-[^\x00-\x7f]|[^\x00-\x7f]", badness.BADNESS_RE.pattern)
    signs = "".join(re.findall(f"[{''.join(ranges)}]", "".join(plane[0xA0:])))
    first = signs.translate(dict.fromkeys(map(ord, "…—–―·’´")))  # never the first of two
    control, greek = "\x1b\x80-\x9f\ud800-\udfff", "ВГРСΒΓΞΟ"
    one, signs, first = f"{control}ŒœÃÂØÙ", re.escape(signs), re.escape(first)
    screen = re.compile(  # a set at its beginning is what `re` looks for fast
        f"[{one}{first}{greek}](?:(?<=[{one}])|(?<=[{first}])[{signs}]|(?<=[{greek}])-)"
    )
    controls = re.compile(f"[{control}]")

    def suspicious(text: str) -> bool:
        if len(text) > 1_000_000:
            return True
        if text.isascii():
            return "\x1b" in text
        return bool(screen.search(text) and (controls.search(text) or badness.is_bad(text)))

    return table, suspicious, lambda text: set((ascii_odd if text.isascii() else odd).findall(text))


_PUNCTUATION = dict(zip("，。、？！（）；：∶～【】％〈〉–━►", ",.,?!();::~[]%<>---", strict=True))
_PUNCTUATION |= dict.fromkeys("„”“«»１」「《》", '"') | dict.fromkeys("´’", "'")
_PUNCTUATION |= {"—": " - ", "．": ". ", "…": "..."}


@operator("mapper")
def punctuation_normalization_mapper(text: str) -> str:
    """Chinese marks to ASCII ones: 《》「」 become quotes, and so does the digit １."""
    return text if text.isascii() else _replaced(text, _PUNCTUATION)


def _replaced(text: str, table: dict[str, str]) -> str:
    """Characters replaced one after the other: what a table gives is never one of its keys."""
    for old, new in table.items():
        text = text.replace(old, new)
    return text


_ENDS = tuple(
    re.compile(pattern)
    for pattern in (
        r"([.。！!？\?])([^’”\n])",
        r"(\.{6})([^’”\n])",
        r"(\…{2})([^’”\n])",
        r"([.。！!？\?\.{6}\…{2}][’”])([^’”\n])",  # a set: a quote after 6 or 2 ends a sentence, too
    )
)
_RUNS = re.compile("[.。！!？?]{2}|[’”…]")
_NOT_LETTERS = re.compile(r"[^a-zA-Z0-9\u4e00-\u9fa5\n\t ]+")


@operator("mapper")
def remove_repeat_sentences_mapper(
    text: str,
    lowercase: bool = False,
    ignore_special_character: bool = True,
    min_repeat_sentence_length: int = 2,
) -> str:
    """Remove a sentence that stood there before, wherever: also the second `<|im_end|>`."""

    if _RUNS.search(text):
        split = _sentences(text)
    else:  # one mark at the end of each sentence, and no quotes: the same without patterns
        split = _replaced(text, {mark: mark + "\n" for mark in ".。！!？?"}).split("\n")
    sentences = [sentence for sentence in split if sentence]
    bare = "\n".join(map(str.strip, sentences))
    bare = bare.lower() if lowercase else bare
    keys = (_NOT_LETTERS.sub("", bare) if ignore_special_character else bare).split("\n")
    long = [key for key in keys if len(key) >= min_repeat_sentence_length]
    if len(set(long)) == len(long):
        return text
    seen: set[str] = set()
    lines, pairs = [], zip(sentences, keys, strict=True)
    for line in text.split("\n"):
        kept, left = "", len(line)
        while left:
            sentence, key = next(pairs)
            left -= len(sentence)
            if len(key) < min_repeat_sentence_length or key not in seen:
                kept += sentence
                seen.add(key)
        lines.append(kept)
    return "\n".join(lines)


def _sentences(text: str) -> list[str]:
    for end in _ENDS:
        text = end.sub(r"\1\n\2", text)
    return text.split("\n")


@operator("mapper")
def remove_specific_chars_mapper(
    text: str, chars_to_remove: str | list[str] = "◆●■►▼▲▴∆▻▷❖♡□"
) -> str:
    """Remove these characters."""
    return _replaced(text, dict.fromkeys(chars_to_remove, ""))


_SPACES = dict.fromkeys("\t\x84\xa0\u202f\u205f\u2060\u3000\ufffc", " ")
_SPACES |= dict.fromkeys(map(chr, range(0x2000, 0x200E)), " ")


@operator("mapper")
def whitespace_normalization_mapper(text: str) -> str:
    """Strip; every space but newlines becomes a plain one: the tabs of code, and zero-width ones."""
    text = text.strip()
    return text.replace("\t", " ") if text.isascii() else _replaced(text, _SPACES)
