import functools
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_samples import DIALOGUES, TEXTS, array, jsonl, parquet, write_raw

from steel.config import UserError
from steel.corpus.convert import compare, convert_source, rules_of
from steel.corpus.pipeline import prepare
from steel.corpus.recipe import load_recipe
from steel.corpus.report import Tally
from steel.corpus.sources import SOURCES, original_rules, steel_rules
from steel.corpus.sources.readers import records
from steel.corpus.sources.rules import Piece, Skip
from steel.documents import read_documents

REAL = os.environ.get("STEEL_REAL_DATA")
convert = functools.partial(prepare, steps=("convert",))
FIELDS = sorted(
    {field for source in SOURCES.values() for field in source.fields}
    | {"upvotes", "value", "from", "human", "assistant", "content", "title"}
)
TEXT = st.text(max_size=12) | st.sampled_from(
    ["human", "assistant", "赞同 1.6 万", "{", '{"upvotes": 5}', "<gh_stars>1\n"]
)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
ANY = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
    ),
    max_leaves=8,
)
PATH = Path("cpp/train.parquet")
RAW_BY_HAND = "wanjuan wikipedia_cn skypile belle_2m belle_3_5m moss firefly".split()


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    root = tmp_path_factory.mktemp("convert")
    report = convert(write_raw(root / "raw", whole=True), root / "out")
    documents = {
        name: list(read_documents(root / f"out/{name}.jsonl.zst")) for name in report["sources"]
    }
    return report, documents


@pytest.mark.parametrize("recipe", ["steel", "original"])
@pytest.mark.parametrize("name", list(SOURCES))
def test_no_record_makes_a_rule_fail(name, recipe):
    rule = rules_of(load_recipe(recipe)).get(name)

    @given(
        record=st.dictionaries(st.sampled_from(FIELDS), ANY, max_size=6)
        | st.fixed_dictionaries(dict.fromkeys(SOURCES[name].fields, TEXT))
        | st.fixed_dictionaries(dict.fromkeys(SOURCES[name].fields, ANY))
    )
    @settings(max_examples=25, deadline=None)
    def check(record):
        try:
            assert isinstance(rule(record, PATH, {}), Piece)
        except Skip as skip:
            assert str(skip)

    if rule is not None:
        check()


@given(
    rows=st.lists(st.dictionaries(st.sampled_from(FIELDS), ANY, max_size=5), max_size=6),
    name=st.sampled_from(list(SOURCES)),
)
@settings(max_examples=30, deadline=None)
def test_arbitrary_json_is_counted_whole(tmp_path_factory, rows, name):
    folder = tmp_path_factory.mktemp("any")
    (folder / "rows.json").write_text(json.dumps(rows))
    tally = Tally("rejected")
    made = list(convert_source(name, [folder / "rows.json"], folder, load_recipe("steel"), tally))
    counts = tally.counts()
    assert counts["in"] == len(rows) and counts["kept"] == len(made)
    assert not any(reason.startswith("rule failed") for reason in counts["rejected"])


def test_sums_close_and_every_bad_record_has_a_reason(converted):
    report, documents = converted
    for name, part in report["sources"].items():
        counts = part["steps"]["convert"]
        assert counts["in"] == counts["kept"] + sum(counts["rejected"].values())
        assert counts["kept"] == len(documents[name])
    assert report["sources"]["skypile"]["steps"]["convert"]["rejected"] == {
        "invalid json": 1,
        "invalid utf-8": 1,
        "no text": 1,
        "record is not an object": 1,
        "text is empty": 1,
    }
    assert report["unrecognised_files"] == ["picture.png"]
    assert any("picture.png" in line for line in report["warnings"])


def test_pdf_without_pypdf_is_one_clear_line(converted):
    report, _ = converted
    [reason] = [
        r for r in report["sources"]["personal"]["steps"]["convert"]["rejected"] if "pdf" in r
    ]
    assert any(f"personal: 1 × {reason}" == line for line in report["warnings"])


def test_baike_keeps_entries_without_summary(converted):
    _, documents = converted
    assert [d.text for d in documents["baidu_baike"]] == [
        "石桥\n\n结构\n石桥由石块砌成，桥拱承受压力。",
        "电车\n电车是沿轨道行驶的公共交通工具。",
    ]


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("赞同 1.6 万", 16000),
        ("赞同 12 万", 120000),
        ("赞同 1,234", 1234),
        ("赞同 99", 99),
        ("赞同", 0),
        (None, 0),
        ("1.2K", 1200),
        (57, 57),
    ],
)
def test_upvotes_are_read_as_written(written, number):
    assert steel_rules.parse_upvotes(written) == number


def test_the_most_upvoted_answer_is_kept_by_steel_and_lost_by_the_original(converted, tmp_path):
    _, documents = converted
    assert [d.meta["upvotes"] for d in documents["zhihu_kol"]] == [16000, 1234]
    convert(write_raw(tmp_path / "raw"), tmp_path / "out", recipe="original")
    assert len(list(read_documents(tmp_path / "out/zhihu_kol.jsonl.zst"))) == 1


def test_description_and_input_are_used_when_they_add(converted):
    _, documents = converted
    questions = [d.messages[0]["content"] for d in documents["baidu_qa"]]
    assert questions == ["苹果什么时候成熟？", "怎么修车", "怎么走\n从车站到图书馆"]
    assert documents["belle_2m"][0].messages[0]["content"] == "翻译成英文\n早上好"


def test_dialogues_keep_their_turns_in_order(converted):
    report, documents = converted
    assert [[t["role"] for t in d.messages] for d in documents["belle_3_5m"]] == [
        ["user", "assistant"]
    ] * 2
    counts = report["sources"]["belle_3_5m"]["steps"]["convert"]
    assert counts["rejected"] == {"turns out of order": 1} and counts["notes"] == {
        "unanswered last turn cut": 1
    }
    assert len(documents["moss"][0].messages) == 4
    for name in ("baidu_qa", "zhihu_kol", "belle_2m", "belle_3_5m", "moss", "firefly"):
        assert all(d.text == "" and d.messages for d in documents[name])


def test_every_spelling_of_a_dialogue_gives_the_same_turns(converted):
    """Each mapped source: the question and the answer arrive, whatever the fields are called."""
    _, documents = converted
    for name, source in SOURCES.items():
        if not source.map or name in RAW_BY_HAND:
            continue
        made = documents[name]
        assert len(made) >= 2, name
        for document in made:
            if "text" in source.map:
                assert f"（{name}）" in document.text and not document.messages
                continue
            first, second = [turn["content"] for turn in document.messages[-2:]]
            assert f"（{name}）" in first and second in dict(DIALOGUES).values()
            assert ("input" not in source.map) or first.endswith("个")
            assert ("history" not in source.map) or document.messages[0]["content"] == "前一个问题"
            assert ("system" not in source.map) or document.messages[0]["role"] == "system"
            assert document.meta.get("rejected_answer") == (
                "不知道。" if "chosen" in source.map else None
            )


def test_a_transcript_and_a_multiple_choice_question_become_turns(converted):
    report, documents = converted
    [talk] = documents["belle_multiturn"]
    assert [turn["content"] for turn in talk.messages] == [
        "河上的雾从哪里来？",
        "来自水汽。",
        "什么时候散？",
        "天亮。",
    ]
    [exam] = documents["wanjuan_mcq"]
    assert [turn["content"] for turn in exam.messages] == ["最大的数是？\nA. 一\nB. 二", "答案：B"]
    assert report["sources"]["wanjuan_mcq"]["steps"]["convert"]["rejected"] == {"no options": 1}


def test_a_card_of_the_users_own_describes_a_new_source(tmp_path):
    folder = tmp_path / "raw" / "letters"
    folder.mkdir(parents=True)
    rows = [{"betreff": "雾", "brief": TEXTS[0]}, {"betreff": "雾"}, {"brief": TEXTS[1]}]
    jsonl(folder / "deep" / "a.jsonl.gz", rows)
    (folder / "card.yaml").write_text("map: {text: brief, title: betreff}\nkeep: [betreff]\n")
    report = convert(tmp_path / "raw", tmp_path / "out")
    assert report["sources"]["letters"]["steps"]["convert"]["rejected"] == {"no brief": 1}
    first, second = read_documents(tmp_path / "out" / "letters.jsonl.zst")
    assert first.text == f"雾\n{TEXTS[0]}" and first.meta["betreff"] == "雾"
    assert second.source == "letters" and second.text == TEXTS[1]
    (folder / "card.yaml").write_text("map: {text: betreff}\n")  # a changed card is used at once
    convert(tmp_path / "raw", tmp_path / "out")
    assert next(read_documents(tmp_path / "out" / "letters.jsonl.zst")).text == "雾"
    for card, said in (("map: {text: a, turns: b}", "no shape"), ("colour: red", "colour")):
        (folder / "card.yaml").write_text(card)
        with pytest.raises(UserError, match=said):
            prepare(tmp_path / "raw", tmp_path / "out")


def test_exam_questions_have_letters_and_separators(converted):
    _, documents = converted
    assert [d.text for d in documents["wanjuan_exam"]] == [
        "2+2=？\nA. 3\nB. 4\nC. 5\nD. 6\n答案：B\n解析：二加二等于四。"
    ]


def test_repository_tags_move_to_meta(converted):
    _, documents = converted
    [code] = documents["starcoder"]
    assert code.text.startswith("import os") and code.lang == "code"
    assert (
        code.meta["stars_tag"] == "1-10"
        and code.meta["repository"] == "x/y"
        and code.meta["language"] == "python"
    )


def test_a_poem_reads_as_a_poem(converted):
    _, documents = converted
    assert documents["chinese_poetry"][0].text == "早春\n唐·無名\n東風吹柳綠，\n細雨潤花紅。"
    piece = steel_rules.chinese_poetry(
        {"rhythmic": "浣溪沙", "author": "a", "paragraphs": ["一", "二"]},
        Path("宋词/ci.song.0.json"),
        {},
    )
    assert piece.text == "浣溪沙\n宋·a\n一\n二"


def test_personal_texts_in_other_encodings_are_read(converted):
    _, documents = converted
    assert {d.meta["file"] for d in documents["personal"]} == {"notes/one.md", "old.txt"}
    assert any(d.text.startswith("老文件") for d in documents["personal"])


def test_ids_are_unique_and_do_not_depend_on_where_the_folder_stands(converted, tmp_path):
    _, documents = converted
    ids = [d.id for ds in documents.values() for d in ds]
    assert len(set(ids)) == len(ids)
    raw = write_raw(tmp_path / "deep" / "raw", whole=True)
    convert(raw.parent, tmp_path / "out")
    assert {d.id for d in read_documents(tmp_path / "out")} == set(ids)


def test_the_original_strips_endings_that_belong_to_the_text():
    record = {
        "conversations": [
            {"from": "human", "value": "q"},
            {"from": "assistant", "value": "a Corporation"},
        ]
    }
    assert original_rules.belle_3_5m(record, PATH, {}).text.endswith("assistant\na Corporatio")
    assert (
        rules_of(load_recipe("steel"))["belle_3_5m"](record, PATH, {}).messages[1]["content"]
        == "a Corporation"
    )


def test_mistakes_are_one_clear_line(tmp_path):
    raw = write_raw(tmp_path / "raw")
    with pytest.raises(UserError, match="no recipe"):
        convert(raw, tmp_path / "out", recipe="stell")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no raw data recognised"):
        convert(tmp_path / "empty", tmp_path / "out")


@pytest.mark.skipif(not REAL, reason="STEEL_REAL_DATA is not set")
def test_recipe_original_equals_the_original_conversion_record_by_record(tmp_path):
    convert(Path(REAL) / "raw", tmp_path, recipe="original")
    for file in sorted((Path(REAL) / "parity/original_convert").glob("*.jsonl.zst")):
        expected = [record["text"] for _, record in records(file)]
        got = [document.text for document in read_documents(tmp_path / file.name)]
        same = sum(a == b for a, b in zip(expected, got, strict=False))
        print(f"{file.name}: {same} of {len(expected)} records match")
        assert got == expected, file.name


BROKEN = {
    "invalid json": b'{"text": "x',
    "invalid utf-8": b'{"text": "\xff\xfe"}',
    "record is not an object": b"[1]",
    "text is not text": b'{"text": 7}',
    "text is empty": b'{"text": " "}',
    "no text": b"{}",
    "NUL character": b'{"text": "a\\u0000b"}',
}


@pytest.mark.parametrize("end", ["jsonl", "jsonl.gz", "jsonl.zst", "tar"])
def test_ten_thousand_broken_records_cost_nobody_else(tmp_path, end):
    """Each is counted under its reason, the first of them with their places; the good ones stay."""
    kinds, lines, good = list(BROKEN.values()), [], 0
    for number in range(10_000):
        lines.append(kinds[number % len(kinds)])
        if number % 10 == 0:
            lines.append(json.dumps({"text": f"第{good}篇"}, ensure_ascii=False).encode())
            good += 1
    path = tmp_path / f"a.{end}"
    if end == "tar":
        data = b"\n".join(lines)
        with tarfile.open(path, "w") as archive:
            for name in ("../b.jsonl", "b.jsonl"):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    else:
        jsonl(path, lines)
    tally = Tally("rejected")
    made = convert_source("skypile", [path], tmp_path, load_recipe("steel"), tally)
    assert [document.text for document, _ in made] == [f"第{i}篇" for i in range(good)]
    slipped = tally.gone.pop("archive member outside its folder", 0)
    assert slipped == (end == "tar") and set(tally.gone) == set(BROKEN)
    assert tally.gone.total() == 10_000 and max(tally.gone.values()) <= 1429
    for place, (reason, line) in enumerate(BROKEN.items()):
        assert tally.more["first_rejected"][reason][0] == f"a.{end}:{lines.index(line) + slipped}"
        assert len(tally.more["first_rejected"][reason]) == 5, place


def test_broken_rows_of_arrays_and_parquet_cost_nobody_else(tmp_path):
    rows = [{"text": None}, {"text": "a\0b"}, {"text": ""}, {"text": "好"}] * 2500
    parquet(tmp_path / "a.parquet", rows)
    array(tmp_path / "a.json", rows)
    for name in ("a.parquet", "a.json"):
        tally = Tally("rejected")
        made = convert_source("skypile", [tmp_path / name], tmp_path, load_recipe("steel"), tally)
        assert len(list(made)) == 2500
        assert tally.gone == {"text is empty": 5000, "NUL character": 2500}


def test_both_conversions_are_compared_by_what_they_keep(tmp_path):
    rows = compare(write_raw(tmp_path / "raw"))
    assert rows["zhihu_kol"]["original"] == 1 and rows["zhihu_kol"]["steel"] == 2
    bare = rows["zhihu_kol"]["original_without_template"]
    assert 0 < bare < rows["zhihu_kol"]["original_characters"], "a template is no text"
    wiki = rows["wikipedia_cn"]
    assert wiki["original_without_template"] == wiki["original_characters"]
    assert rows["chinese_poetry"]["original"] == 0 < rows["chinese_poetry"]["steel_characters"]
