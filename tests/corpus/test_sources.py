import gzip
import io
import json
import tarfile

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_samples import write_raw

from steel.config import UserError
from steel.corpus.convert import rules_of
from steel.corpus.recipe import load_recipe
from steel.corpus.sources import KINDS, SOURCES, find_source, survey
from steel.corpus.sources.readers import Bad, json_records, records

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


CATALOGUE = """
    skypile wanjuan wanjuan_exam wikipedia_cn baidu_baike baidu_qa zhihu_kol belle_2m belle_3_5m moss
    firefly starcoder c4_zh wudao medical alpaca_zh belle_0_5m belle_1m belle_math belle_multiturn
    sharegpt self_cognition deepctrl infinity_instruct wanjuan_mcq ruozhiba code_feedback webinstruct
    openhermes ultrafeedback_zh ultrafeedback hh_rlhf_zh dpo_en_zh cci3_hq map_cc fineweb_edu_zh
    fineweb_edu chinese_poetry medical_sft medical_preference personal
""".split()


def test_every_source_has_a_complete_card_and_a_rule():
    assert set(SOURCES) == set(CATALOGUE) == set(rules_of(load_recipe("steel")))
    for source in SOURCES.values():
        text = source.card()
        assert source.table()["name"] == source.name and "| licence | not published" not in text
        for said in (source.title, source.licence, source.language, source.link, source.obtain):
            assert said and said in text
        assert source.container and source.original and source.fields
        assert all(f"`{field}`" in text for field in source.fields)
        assert set(source.map.values()) <= set(source.fields)
        assert bool(source.hub) == bool(source.hub_files) and source.kind in KINDS
    with pytest.raises(UserError, match="no source named"):
        find_source("wikipedia")


def test_a_raw_folder_is_recognised_by_name_and_by_content(tmp_path):
    raw = write_raw(tmp_path / "raw", whole=True)
    found, unknown = survey(raw)
    assert set(found) == set(SOURCES)
    assert [p.name for p in unknown] == ["picture.png"]
    assert [p.name for p in found["wanjuan_exam"]] == ["part-000002.jsonl.zst"]
    flat = tmp_path / "flat"
    flat.mkdir()
    for name, files in found.items():
        for number, path in enumerate(files):
            if SOURCES[name].signs:
                (flat / f"{name}-{number}{''.join(path.suffixes)}").write_bytes(path.read_bytes())
    for name, files in survey(flat)[0].items():
        assert all(file.name.startswith(f"{name}-") for file in files)


def test_a_missing_folder_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        survey(tmp_path / "nothing")


def pieces(data: bytes, size: int):
    return (data[i : i + size] for i in range(0, len(data), size))


@given(
    rows=st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), max_size=8),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 1]),
)
@settings(max_examples=80, deadline=None)
def test_an_array_is_cut_right_wherever_the_chunks_end(rows, chunk, indent):
    data = json.dumps(rows, indent=indent, ensure_ascii=False).encode()
    assert list(json_records(pieces(data, chunk))) == rows


@given(data=st.binary(max_size=80), chunk=st.integers(1, 30))
@settings(max_examples=80, deadline=None)
def test_no_bytes_make_the_json_reader_fail(data, chunk):
    for head in (b"", b"[", b'[{"a": 1}, ', b'{"a": 1}\n'):
        list(json_records(pieces(head + data, chunk)))


def test_a_damaged_element_costs_itself_only(tmp_path):
    (tmp_path / "a.json").write_text('[{"a": "x,]}"},\n {bad}, {"c" "oops},\n {"a": [1, [2]]}, ]')
    got = [record for _, record in records(tmp_path / "a.json")]
    bad = Bad("damaged or not an object", 21)  # from the brace to the brace
    assert got == [{"a": "x,]}"}, bad, {"a": [1, [2]]}]


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_plain_and_compressed_files_give_the_same_records_and_a_cut_one_says_so(tmp_path, suffix):
    rows = [{"text": f"{i} 号文件"} for i in range(500)]
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    halves = [data[:5000], data[5000:]]  # two gzip members, two zstd frames
    if suffix.endswith("gz"):
        data = b"".join(map(gzip.compress, halves))
    elif suffix.endswith("zst"):
        data = b"".join(map(zstandard.ZstdCompressor().compress, halves))
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"\xef\xbb\xbf" + data if suffix == "jsonl" else data)
    assert [record for _, record in records(path)] == rows
    path.write_bytes(data[:-7])
    *got, last = [record for _, record in records(path)]
    assert isinstance(last, Bad) and got == rows[: len(got)]


def test_tar_members_are_read_one_after_another(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for name, text in (
            ("d/x.jsonl", '{"content": "一"}\n{"content": "二"}\n'),
            ("d/readme.doc", "no"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    assert [r for _, r in records(tmp_path / "a.tar.gz")] == [
        {"content": "一"},
        {"content": "二"},
        Bad("unread member of a tar file: .doc", 2),
    ]


def test_a_broken_parquet_and_an_odd_encoding_become_reasons(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "a.txt").write_bytes(b"\xff\xff\xff\xff\xff")
    assert [r.reason[:18] for _, r in records(tmp_path / "a.parquet")] == ["unreadable parquet"]
    assert [r.reason for _, r in records(tmp_path / "a.txt")] == [
        "text encoding is neither UTF-8 nor UTF-16 nor GB18030"
    ]
