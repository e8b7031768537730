import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel.config import UserError
from steel.corpus.operators import Reject, apply, make, registered, trace
from steel.corpus.recipe import load_recipe
from steel.documents import Document

NORMAL = "铁塔镇的早班电车从桥上缓缓开过，面包房的灯已经亮了：“早上好！”——学生们（背着书包）在站台上等车。"


def run(name, text, **parameters):
    result = make({name: parameters})(Document("x", text, "skypile"))
    return result if isinstance(result, Reject) else result.text


NAMES = sorted(registered())
OURS = [name for name in NAMES if not name.endswith(("_mapper", "_filter", "_deduplicator"))]


def test_every_operator_is_described():
    assert all(function.__doc__ for _, function in registered().values()) and len(NAMES) > 30


@pytest.mark.parametrize("name", OURS)
def test_our_operators_leave_an_ordinary_text_alone(name):
    parameters = {"phrases": ["广告"]} if name == "contains" else {}
    assert run(name, NORMAL, **parameters) == NORMAL


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("fix_unicode", "It doesnâ€™t freeze", "It doesn’t freeze"),
        ("fix_unicode", "“引号”和，标点不变", "“引号”和，标点不变"),
        ("fix_gbk", "你好，世界，今天天气".encode().decode("gbk"), "你好，世界，今天天气"),
        ("remove_control", "a\x00b\u200bc\ue5e5d\te\nf", "abcd\te\nf"),
        ("remove_control", "👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧"),
        ("normalise_whitespace", "　　一\r\n\r\n\r\n\r\n二  三 \n", "一\n\n二 三"),
        (
            "clean_html",
            "<div class='a'><p>一</p><br/>二&nbsp;三</div><script>var a=1</script>",
            "\n\n一\n\n二\xa0三\n",
        ),
        (
            "clean_html",
            "#include <vector>\nif (a<b && c>d) x;",
            "#include <vector>\nif (a<b && c>d) x;",
        ),
        ("clean_html", "若 a<b 且 c>d 则 List<String> 成立", "若 a<b 且 c>d 则 List<String> 成立"),
        ("clean_html", "在 HTML 里 <p>段落</p> 表示段落", "在 HTML 里 <p>段落</p> 表示段落"),
        ("clean_html", "<p>看</p> `<b>x</b>` <b>粗</b>", "\n看\n `<b>x</b>` 粗"),
        ("clean_html", "AT&T 与 R&D", "AT&T 与 R&D"),
    ],
)
def test_mappers_change_what_they_should_and_no_more(name, before, after):
    assert run(name, before) == after


def test_traditional_characters_become_simplified():
    assert run("chinese_convert_mapper", "東風吹柳綠，轉眼", mode="t2s") == "东风吹柳绿，转眼"


def test_code_keeps_its_indents_and_blank_lines():
    code = "class A:\n\n    x  = 1\n\n\n\ttabbed = 2\n"
    assert run(
        "normalise_whitespace", code, collapse=False, indent=True, blank_lines=2
    ) == code.strip("\n")


@pytest.mark.parametrize(
    ("name", "parameters", "text"),
    [
        ("text_length_filter", {"min_len": 3}, "短"),
        ("letter_ratio", {}, "！？……——" * 9),
        ("symbol_ratio", {}, "★◆●字" * 10),
        ("digit_ratio", {}, "13800138000 13900139000 电话"),
        ("char_repetition", {}, "买一送一，快来抢购吧朋友们！" * 12),
        ("mojibake", {}, "今天的天气非常好，我们去公园散步吧".encode().decode("gbk", "ignore")),
        ("maximum_line_length_filter", {"max_len": 100}, "字" * 101),
        ("max_token", {"max_chars": 50}, "图片 " + "aGVsbG8" * 10),
        ("contains", {"phrases": ["扫码", "关注"], "min_hits": 2}, "请扫码关注"),
    ],
)
def test_filters_remove_what_they_are_for_and_say_why(name, parameters, text):
    result = run(name, text, **parameters)
    assert isinstance(result, Reject) and result.reason and result.operator == name
    assert result.value > result.limit or result.value < result.limit


def test_chinese_punctuation_is_no_symbol():
    assert run("symbol_ratio", "“你好”，他说：“《书》（上）……”——！？；、【】「」", max_ratio=0.0)


TURN = st.text(
    alphabet=st.sampled_from("你好世界ab 1　\n\t\x00\u200b<p></p>&nbsp;★"), min_size=1, max_size=30
)


@given(turns=st.lists(TURN.filter(str.strip), min_size=2, max_size=6))
@settings(max_examples=60, deadline=None)
def test_no_operator_tears_a_dialogue(turns):
    messages = [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(turns)]
    document = Document("x", "", "belle_2m", "zh", {"messages": messages, "k": 1})
    operators = [
        make({n: {"phrases": ["zz"]} if n == "contains" else {}})
        for n in NAMES
        if n not in ("mojibake",)
    ]
    operators = [op for op in operators if op.kind != "deduplicator"]
    for op in operators:
        result = op(document)
        if not isinstance(result, Reject):
            assert [t["role"] for t in result.messages] == [t["role"] for t in messages]
            assert (
                all(t["content"].strip() for t in result.messages)
                and result.text == ""
                and result.meta["k"] == 1
            )
    assert document.meta["messages"] == messages, "operators must not change their input"


def test_special_tokens_inside_a_text_stay_text():
    text = "<|im_start|>user\n" + NORMAL + "<|im_end|>"
    operators = load_recipe("steel").operators("skypile")
    kept, _ = apply(operators, Document("x", text, "skypile"), lambda *change: None)
    assert kept.text == text


def test_apply_counts_and_trace_agree():
    operators = [make("remove_control"), make({"text_length_filter": {"min_len": 5}})]
    changed = []
    document = Document("x", "a\x00b", "skypile")
    last, reject = apply(operators, document, lambda op, *texts: changed.append((op.name, *texts)))
    assert last.text == "ab" and (reject.operator, reject.value, reject.limit) == (
        *("text_length_filter", 2, 5),
    )
    assert changed == [("remove_control", document, last)]
    steps = trace(operators, Document("x", "a\x00b", "skypile"))
    assert [step["operator"] for step in steps] == ["remove_control", "text_length_filter"]
    assert steps[0]["after"] == "ab" and steps[1]["removed"] == "characters 2, under 5"


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (["text_lenght_filter"], "did you mean text_length_filter"),
        ([{"text_length_filter": {"minimum": 1}}], "text_length_filter"),
        ([{"text_length_filter": [1]}], "parameter"),
        ([3], "a recipe lists"),
        ([{"text_length_filter": {"min_len": 9, "max_len": 1}}], "above"),
        ([{"char_repetition": {"n": 0}}], "must be 1"),
    ],
)
def test_mistakes_in_a_recipe_are_named(entries, words):
    with pytest.raises(UserError, match=words):
        [make(entry) for entry in entries]


def test_a_recipe_file_is_checked(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nclean:\n  text: [remove_control]\n  zhihu_kol: []\n")
    recipe = load_recipe(path)
    assert [o.name for o in recipe.operators("skypile")] == ["remove_control"]
    assert recipe.operators("zhihu_kol") == [] and load_recipe(recipe) is recipe
    for text, words in (
        ("cleen: {}", "has no cleen"),
        ("clean: {texts: []}", "has no texts"),
        ("- a", "must hold 'key: value'"),
        ("clean: [a]", "must be a mapping"),
        ("convert: {rules: x}", "rules must be"),
        ("a: [", "not valid YAML"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=words):
            load_recipe(path)


@given(
    text=st.text(alphabet="a字 \t\n\r\u3000\x85\u2028\x0b", max_size=30),
    collapse=st.booleans(),
    indent=st.booleans(),
)
def test_whitespace_is_normalised_by_these_rules_in_this_order(text, collapse, indent):
    expected = re.sub("\r\n?|[\x85\u2028\u2029]", "\n", text).replace("\u3000", " ")
    if collapse:
        expected = re.sub(r"(?<=\S)[ \t]{2,}", " ", expected)
    expected = re.sub(r"(?m)[ \t]+$", "", expected)
    if not indent:
        expected = re.sub(r"(?m)^[ \t]+", "", expected)
    expected = re.sub(r"\n{3,}", "\n\n", expected)
    expected = expected.strip("\n") if indent else expected.strip()
    mapper = make({"normalise_whitespace": {"collapse": collapse, "indent": indent}}).function
    assert mapper(text) == expected


@given(parts=st.lists(st.sampled_from(["甲乙丙丁戊己", "子丑寅卯", "a", "\n", "🙂"]), max_size=30))
def test_repeated_passages_are_cut_and_nothing_else(parts):
    text = "".join(parts)
    gone = set()
    for i in range(len(text) - 4):
        if text.find(text[i : i + 5]) <= i - 5:
            gone |= set(range(i, i + 5))
    mapper = make({"cut_repeats": {"min_chars": 5}}).function
    assert mapper(text) == "".join(c for i, c in enumerate(text) if i not in gone)


def test_a_page_that_says_everything_twice_says_it_once():
    page = "".join(chr(0x4E00 + 7 * i) for i in range(300))
    [recipe] = [load_recipe("steel").operators("skypile", False)]
    twice, reject = apply(recipe, Document("x", page + page, "skypile"), lambda *change: None)
    assert reject is None and twice.text == page


def test_indents_are_no_repetition():
    code = "".join(f"{' ' * 80}x{i} = y{i * i}\n" for i in range(400))
    with_spaces = run("char_repetition", code, max_ratio=0.6)
    assert isinstance(with_spaces, Reject)
    assert run("char_repetition", code, max_ratio=0.6, spaces=False) == code
