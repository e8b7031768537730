"""The extractor earns nothing for nothing, and everything for a correct answer in any usual form."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel.evaluation.answers import extract_choice

CITIES = {"A": "青岩", "B": "云州", "C": "临江", "D": "白沙"}
ENGLISH = {"A": "Oak Hill", "B": "Cloud City", "C": "River Bend", "D": "White Sand"}
SUMS = {"A": "13", "B": "130", "C": "31", "D": "30"}

FORMS = [
    "{L}",
    "{L}.",
    "({L})",
    "（{L}）",
    "{L}、",
    "{L}。",
    " {L}\n",
    "**{L}**",
    "答案是{L}",
    "答案是{L}。",
    "答案：{L}",
    "答案: {L}",
    "答案为{L}。",
    "答案是 （{L}）",
    "正确答案是：{L}",
    "所以答案是{L}。",
    "因此，答案应该是{L}",
    "选{L}",
    "选 {L}。",
    "应选{L}",
    "故选{L}",
    "我选择{L}。",
    "选项{L}正确",
    "{L}是正确的",
    "{L}项正确。",
    "Answer: {L}",
    "The answer is {L}.",
    "The correct answer is ({L}).",
    "Option {L} is correct.",
    "answer is option {L}",
    "I choose {L}",
    "{L}. {T}",
    "{L}、{T}。",
    "{L} {T}",
    "（{L}）{T}",
    "答案是{L}. {T}",
    "{T}",
    "{T}。",
    "答案是{T}。",
    "她住在{T}。",
]


@pytest.mark.parametrize("options", [CITIES, ENGLISH, SUMS])
@pytest.mark.parametrize("form", FORMS)
def test_every_usual_form_of_every_letter_is_read(form, options):
    for letter, text in options.items():
        assert extract_choice(form.format(L=letter, T=text), options) == letter


def test_options_may_be_a_list_and_full_width_letters_count():
    assert extract_choice("答案是Ｃ", list(CITIES.values())) == "C"
    assert extract_choice("选B", []) == "B"


@pytest.mark.parametrize(
    "response",
    [
        "",
        " ",
        "\n",
        "。",
        "...",
        "?",
        "<|im_end|>",
        "我不知道。",
        "I do not know",
        "这道题很难",
        "A good question",
        "Abracadabra",
        "BBC",
        "CD-ROM",
        "E",
        "答案是E",
        "答案是",
        "The answer is",
        "Answer: both",
        "以上都对",
        "ABCD",
        "A、B、C、D",
        "答案是A和B",
        "A或C",
        "A or B",
        "选A或B",
        "青岩和云州",
        "不是云州",
        "A. 青岩\nB. 云州\nC. 临江\nD. 白沙",
        "A. 青岩 B. 云州 C. 临江 D. 白沙",
    ],
)
def test_garbage_and_ambiguity_earn_none(response):
    assert extract_choice(response, CITIES) is None


@given(st.text(alphabet=st.characters(blacklist_characters="ABCDabcd"), max_size=60))
@settings(max_examples=300, deadline=None)
def test_text_without_letters_or_options_earns_none(response):
    import unicodedata

    normal = unicodedata.normalize("NFKC", response)
    if any(c in normal for c in "ABCDabcd") or any(t in normal for t in CITIES.values()):
        return
    assert extract_choice(response, CITIES) is None


@given(st.text(max_size=80), st.sampled_from([CITIES, ENGLISH, SUMS]))
@settings(max_examples=300, deadline=None)
def test_any_text_returns_an_option_or_none(response, options):
    assert extract_choice(response, options) in {*options, None}


@given(st.text(alphabet="的一是在了有我他这中大来上个国说们", max_size=30), st.sampled_from("ABCD"))
@settings(max_examples=200, deadline=None)
def test_a_statement_after_any_reasoning_is_read(reasoning, letter):
    assert extract_choice(f"{reasoning}。答案是{letter}。", CITIES) == letter


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("答案是A。不对，重新想一下，答案是B。", "B"),  # the last word counts
        ("A. 青岩错。B. 云州对。答案为B", "B"),  # elimination
        ("A. 青岩错。B. 云州对。C. 临江错。D. 白沙错。", "B"),
        ("不选A，选C。", "C"),
        ("不是青岩，是临江。", "C"),
        ("他住在临江，不在青岩。", "C"),
        ("青岩是一座城市。林晓住在云州。", "B"),  # the last sentence counts
        ("答案是B。因为青岩在北方。", "B"),  # a statement outweighs mere mention
        ("A is wrong. The answer is D.", "D"),
        ("答案是B. 云州", "B"),
        ("解析：题目问的是城市。\n\nD", "D"),
    ],
)
def test_reasoned_answers(response, letter):
    assert extract_choice(response, CITIES) == letter


def test_a_number_inside_a_longer_number_is_not_it():
    assert extract_choice("47+83=130", SUMS) == "B"
    assert extract_choice("13", SUMS) == "A"
    assert extract_choice("1300", SUMS) is None
    assert extract_choice("0.13", SUMS) is None


def test_the_prompt_is_not_an_argument():
    import inspect

    assert list(inspect.signature(extract_choice).parameters) == ["response", "options"]
