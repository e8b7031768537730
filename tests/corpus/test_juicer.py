"""The original's 22 operators: equal to their definitions in Data-Juicer, and what they do to good texts.

The definitions are written here as that program has them, character by character; ours are faster.
"""

import inspect
import re

import ftfy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel.config import UserError
from steel.corpus.operators import Reject, juicer, make, registered
from steel.corpus.operators.characters import special_table
from steel.corpus.recipe import load_recipe
from steel.documents import Document

PIECES = (
    *(
        "今天",
        "天气。",
        "很好！",
        "“是吗？”",
        "……",
        "——",
        "《书》",
        "１２",
        "ﬁ",
        "a.b@c.de ",
        "1.2.3.4 ",
        "6”好",
    ),
    *(
        "。。",
        "http://x.cn/a ",
        "www1.a.b/c，",
        "std::vector",
        "key:value ",
        "\n",
        "\t",
        " ",
        "  ",
        "　",
        "\u200b",
    ),
    *(
        "\x84",
        "◆",
        "é",
        "â€™",
        "Ã©",
        "×²",
        "&amp;",
        "&x;",
        "<b>",
        "#include <a>\n",
        "// c\n",
        "/* Copyright */",
    ),
    *(
        "/* x */",
        "’",
        "\\def\\a{b}\n",
        "\\a ",
        "word ",
        "word ",
        "一",
        "上",
        "42",
        "\r\n",
        "\x01",
        "Ⅳ",
        "ｈａｌｆ",
    ),
    *("a:ışık ", "Www.a.b ", "x.co/b ", "::", "&amp;lt;", "&#10;", "“", "W", "w.", ":"),
    *("ﾊ", "😀", "e\u0301", "1:2:3:4:5:6:7:8 ", "，", "好", "-- x\n", "# y\n"),
)
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=40).map("".join)
SPECIAL = {chr(code) for code in np.flatnonzero(special_table())}


def function(name, **parameters):
    return make({name: parameters}).function


def run(name, text, **parameters):
    result = make({name: parameters})(Document("x", text, "skypile"))
    return result if isinstance(result, Reject) else result.text


# -- their definitions -------------------------------------------------------------------------


def copyright_of(text):
    found = re.search("/\\*[^*]*\\*+(?:[^/*][^*]*\\*+)*/", text)
    if found:
        return (
            text[: found.start()] + text[found.end() :] if "copyright" in found[0].lower() else text
        )
    lines, skip = text.split("\n"), 0
    for line in lines:
        if not (line.startswith(("//", "#", "--")) or not line):
            break
        skip += 1
    return "\n".join(lines[skip:])


def sentences_of(text):
    text = re.sub(r"([.。！!？\?])([^’”])", r"\1\n\2", text)
    text = re.sub(r"(\.{6})([^’”])", r"\1\n\2", text)
    text = re.sub(r"(\…{2})([^’”])", r"\1\n\2", text)
    return re.sub(r"([.。！!？\?\.{6}\…{2}][’”])([^’”])", r"\1\n\2", text).split("\n")


def unrepeated(text):
    lines, seen = [], set()
    for line in text.split("\n"):
        kept = ""
        for sentence in sentences_of(line) if line else []:
            key = re.sub(r"[^a-zA-Z0-9\u4e00-\u9fa5\n\t ]", "", sentence.strip())
            if len(key) < 2 or key not in seen:
                kept += sentence
            if len(key) >= 2:
                seen.add(key)
        lines.append(kept)
    return "\n".join(lines)


def words_of(text):
    words = (word for word in re.split("[ \n\t]", text) if word)
    return [word.strip("".join(SPECIAL)) for word in words if word.strip("".join(SPECIAL))]


def frequent(text, n):
    counts = {}
    for i in range(len(text) - n + 1):
        counts[text[i : i + n]] = counts.get(text[i : i + n], 0) + 1
    sizes = sorted(counts.values(), reverse=True)
    top = min(int(np.sqrt(len(sizes))), len(sizes) - sizes.count(1))
    return sum(sizes[:top]) / max(sum(sizes), 1)


def repeated(words, n):
    grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
    return sum(grams.count(gram) > 1 for gram in grams) / max(len(grams), 1)


MAPPERS = {
    "clean_email_mapper": lambda text: re.sub(juicer._EMAIL, "", text),
    "clean_links_mapper": lambda text: re.sub(juicer._LINK, "", text),
    "clean_ip_mapper": lambda text: re.sub(juicer._IP, "", text),
    "clean_copyright_mapper": copyright_of,
    "fix_unicode_mapper": lambda text: ftfy.fix_text(text, normalization="NFC"),
    "punctuation_normalization_mapper": lambda text: "".join(
        juicer._PUNCTUATION.get(c, c) for c in text
    ),
    "remove_repeat_sentences_mapper": unrepeated,
    "remove_specific_chars_mapper": lambda text: re.sub("[◆●■►▼▲▴∆▻▷❖♡□]", "", text),
    "whitespace_normalization_mapper": lambda text: "".join(
        juicer._SPACES.get(c, c) for c in text.strip()
    ),
}


@pytest.mark.parametrize("name", MAPPERS)
@given(text=TEXTS)
@settings(max_examples=60, deadline=None)
def test_mappers_do_what_their_definitions_say(name, text):
    assert function(name)(text) == MAPPERS[name](text)


@given(text=TEXTS)
@settings(max_examples=40, deadline=None)
def test_html_without_markup_is_what_the_parser_says(text):
    from selectolax.lexbor import LexborHTMLParser

    plain = text.replace("<", "").replace("&", "").replace("\0", "")
    assert function("clean_html_mapper")(plain) == LexborHTMLParser(plain).text()


MEASURES = {
    "alphanumeric_filter": lambda text: sum(map(str.isalnum, text)) / max(len(text), 1),
    "average_line_length_filter": lambda text: len(text) / max(len(text.splitlines()), 1),
    "maximum_line_length_filter": lambda text: max(map(len, text.splitlines()), default=0),
    "text_length_filter": len,
    "special_characters_filter": lambda text: sum(c in SPECIAL for c in text) / max(len(text), 1),
    "words_num_filter": lambda text: len(words_of(text)),
    "word_repetition_filter": lambda text: repeated(words_of(text.lower()), 2),
    "character_repetition_filter": lambda text: frequent(text, 3),
}
LENGTHS = {"word_repetition_filter": {"rep_len": 2}, "character_repetition_filter": {"rep_len": 3}}


@pytest.mark.parametrize("name", MEASURES)
@given(text=TEXTS)
@settings(max_examples=40, deadline=None)
def test_filters_measure_what_their_definitions_say(name, text):
    takes = inspect.signature(registered()[name][1]).parameters
    unit = next(unit for unit in ("ratio", "len", "num") if f"max_{unit}" in takes)
    parameters = {f"min_{unit}": 1e9, f"max_{unit}": 1e9, **LENGTHS.get(name, {})}
    assert function(name, **parameters)(text).value == pytest.approx(MEASURES[name](text))


# -- the recipes, and the damage ---------------------------------------------------------------


def test_the_recipe_lists_the_original_operators():
    recipe = load_recipe("original")
    text, code = recipe.clean["text"], recipe.clean["code"]
    named = {entry if isinstance(entry, str) else next(iter(entry)) for entry in [*text, *code]}
    assert len(text) == 22 and len(code) == 15 and len(named) == 22
    assert all(name.endswith(("_mapper", "_filter", "_deduplicator")) for name in named)
    assert recipe.operators("skypile") == [] and len(recipe.operators("wikipedia_cn")) == 21
    assert set(recipe.idle()) == {"perplexity_filter", "alphanumeric_filter"}


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("clean_html_mapper", "#include <vector>\nint x;", "#include \nint x;"),
        ("clean_html_mapper", "若 a<b 且 c>d 则成立", "若 ad 则成立"),
        ("clean_copyright_mapper", "# 标题\n\n正文", "正文"),
        ("clean_copyright_mapper", "#include <a>\nint x;", "int x;"),
        ("clean_links_mapper", "d = {key:value}", "d = {}"),
        ("fix_unicode_mapper", "他说：“好（真的）！”", '他说:"好(真的)!"'),
        ("punctuation_normalization_mapper", "《论语》第１章", '"论语"第"章'),
        ("whitespace_normalization_mapper", "if x:\n\ty = 1", "if x:\n y = 1"),
        (
            "remove_repeat_sentences_mapper",
            "<|im_start|>user\n甲？<|im_end|>\n<|im_start|>user\n乙？<|im_end|>",
            "<|im_start|>user\n甲？<|im_end|>\n\n乙？",
        ),
    ],
)
def test_what_the_original_does_to_good_texts(name, before, after):
    assert run(name, before) == after


PAGE = "铁塔镇的早班电车从桥上缓缓开过，面包房的灯已经亮了，学生们背着书包在站台上等车。" * 2


def test_what_the_original_removes():
    assert run("words_num_filter", PAGE, lang="zh").value == 1, "one word, it thinks"
    assert run("average_line_length_filter", PAGE * 2, max_len=150).limit == 150
    diary = "5月1日，上午9:30，士兵一名，上山。\n" * 3
    assert run("special_characters_filter", diary).value > 0.5
    assert run("character_repetition_filter", PAGE * 30, max_ratio=0.4) == PAGE * 30, "it passes"


def test_spaces_collapse_chinese_under_simhash_and_characters_do_not():
    other = "小数点后面的零有什么用？老师让我们自己想一想，再把答案写在黑板上给大家看。" * 2
    spaced = function("document_simhash_deduplicator")
    by_character = function("document_simhash_deduplicator", tokenization="character")
    assert spaced(PAGE) == spaced(other) == 0
    assert bin(by_character(PAGE) ^ by_character(other)).count("1") > 10
    near = by_character(PAGE) ^ by_character(PAGE + "（转载）")
    assert bin(near).count("1") <= 10


def test_simhash_is_the_majority_of_its_features():
    from steel.corpus.operators.characters import simhash

    rng = np.random.default_rng(0)
    for count in (0, 1, 2, 7, 600):
        hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
        ones = [sum(int(h) >> bit & 1 for h in hashes) for bit in range(64)]
        expected = sum(1 << bit for bit in range(64) if 2 * ones[bit] > count)
        assert simhash(hashes) == expected


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("chinese_convert_mapper", {"mode": "x2y"}, "no mode"),
        ("fix_unicode_mapper", {"normalization": "NFX"}, "normalization"),
        ("clean_links_mapper", {"pattern": "("}, "clean_links_mapper"),
        ("text_length_filter", {"min_len": 9, "max_len": 1}, "above"),
        ("document_simhash_deduplicator", {"tokenization": "word"}, "tokenization"),
        ("document_simhash_deduplicator", {"hamming_distance": 6}, "hamming_distance"),
        ("character_repetition_filter", {"rep_len": 0}, "rep_len"),
        ("alphanumeric_filter", {"tokenization": True, "tokenizer": "nowhere.json"}, "nowhere"),
    ],
)
def test_wrong_parameters_are_named(name, parameters, words):
    with pytest.raises(UserError, match=words):
        make({name: parameters})


def test_a_filter_without_its_model_keeps_everything():
    op = make({"perplexity_filter": {"lang": "zh", "model": None}})
    document = Document("x", "任何文字", "skypile")
    assert op(document) is document and "model" in op.idle


ARPA = """\\data\\
ngram 1=5
ngram 2=2

\\1-grams:
-1.0\t<unk>
0\t<s>\t-0.3
-0.9\t</s>
-0.5\t好\t-0.2
-0.7\t的\t-0.1

\\2-grams:
-0.1\t<s> 好
-0.2\t好 的

\\end\\
"""


def test_perplexity_is_that_of_the_language_model(tmp_path):
    pytest.importorskip("kenlm")
    (tmp_path / "tiny.arpa").write_text(ARPA)
    model = {"model": str(tmp_path / "tiny.arpa")}
    # log10 P: <s> 好 -0.1, 好 的 -0.2, 的 </s> back-off -0.1 + -0.9; three tokens with the end
    assert run("perplexity_filter", "好的", max_ppl=0, **model).value == pytest.approx(
        10 ** (1.3 / 3), abs=0.06
    )
    assert run("perplexity_filter", "好的", max_ppl=3, **model) == "好的"
    strange = run("perplexity_filter", "龘龘", max_ppl=3, **model)
    assert strange.value > 3 == strange.limit
    (tmp_path / "broken").write_text("no model")
    with pytest.raises(UserError, match="broken"):
        make({"perplexity_filter": {"model": str(tmp_path / "broken")}})
