"""Raw files to clean, unique documents: what the whole way and each step of it leave."""

import functools
import json
import os
import time
from pathlib import Path

import pytest
from raw_samples import assert_sums_close, contents, jsonl, write_raw

from steel.config import UserError
from steel.corpus.pipeline import prepare
from steel.corpus.report import STEPS
from steel.data.pack import find_inputs
from steel.documents import Document, read_documents, write_documents

REAL = os.environ.get("STEEL_REAL_DATA")
convert, clean, dedup = (functools.partial(prepare, steps=(step,)) for step in STEPS)


def test_the_sums_close_and_nothing_else_lies_in_the_folder(prepared):
    _, out, report = prepared
    assert_sums_close(report, out)
    assert set(contents(out)) == {f"{name}.jsonl.zst" for name in report["sources"]} | {
        "report.json"
    }
    assert {i.source for i in find_inputs(out)} == set(report["sources"]), (
        "what `pack` takes for documents"
    )
    assert [p.name for p in (out / ".work").iterdir()] == ["done.json"]


def test_copies_across_sources_go_and_the_edited_source_stays(prepared):
    _, out, report = prepared
    pairs = [json.loads(line) for line in (out / "report/duplicates.jsonl").open()]
    assert all(p["kept"] and p["removed"] and p["kept"] != p["removed"] for p in pairs)
    web = report["sources"]["skypile"]["steps"]["dedup"]["removed"]
    assert web["exact"] >= 3, "two texts stand in wikipedia_cn already, one twice in skypile"
    assert report["sources"]["wikipedia_cn"]["steps"]["dedup"]["removed"] == {}


def test_poetry_becomes_simplified_and_text_is_tidy(prepared):
    _, out, _ = prepared
    [poem] = read_documents(out / "chinese_poetry.jsonl.zst")
    assert poem.text == "早春\n唐·无名\n东风吹柳绿，\n细雨润花红。"
    assert not any("\r" in d.readable() or "　" in d.readable() for d in read_documents(out))


def test_a_second_call_does_nothing_and_a_changed_file_is_noticed(prepared, tmp_path, worked):
    raw = write_raw(tmp_path / "raw")
    report = prepare(raw, tmp_path / "out")
    worked.clear()
    assert prepare(raw, tmp_path / "out", tasks=2, workers=2) == report and worked == []
    jsonl(
        raw / "firefly/more.jsonl",
        [{"kind": "QA", "input": "谁修的这座桥？", "target": "镇上的石匠。"}],
    )
    again = prepare(raw, tmp_path / "out")
    assert again["sources"]["firefly"]["steps"]["convert"]["kept"] == 2
    (tmp_path / "out/moss.jsonl.zst").unlink()
    assert prepare(raw, tmp_path / "out") == again
    assert (tmp_path / "out/moss.jsonl.zst").exists(), "an output that was lost is made again"
    assert prepare(raw / "firefly", tmp_path / "out")["sources"].keys() == {"firefly"}
    assert set(contents(tmp_path / "out")) == {"firefly.jsonl.zst", "report.json"}, "stale outputs"


def test_a_recipe_without_a_rule_for_any_source_is_one_line(prepared, tmp_path):
    with pytest.raises(UserError, match="original has no rule for chinese_poetry"):
        prepare(prepared[0] / "chinese_poetry", tmp_path / "out", "original")


def test_an_output_inside_the_raw_folder_is_refused(prepared):
    with pytest.raises(UserError, match="lies inside"):
        prepare(prepared[0], prepared[0] / "docs")


def test_convert_clean_and_dedup_one_at_a_time_give_what_prepare_gives(prepared, tmp_path):
    raw, out, report = prepared
    convert(raw, tmp_path / "1")
    cleaned = clean(tmp_path / "1", tmp_path / "2")
    unique = dedup(tmp_path / "2", tmp_path / "3")
    for name in report["sources"]:
        assert (tmp_path / f"3/{name}.jsonl.zst").read_bytes() == (
            out / f"{name}.jsonl.zst"
        ).read_bytes()
        assert (
            cleaned["sources"][name]["steps"]["clean"] == report["sources"][name]["steps"]["clean"]
        )
        assert (
            unique["sources"][name]["steps"]["dedup"] == report["sources"][name]["steps"]["dedup"]
        )


def test_recipe_original_leaves_out_what_the_original_did_not_have(tmp_path):
    report = prepare(write_raw(tmp_path / "raw"), tmp_path / "out", recipe="original")
    assert report["sources_without_a_rule"] == ["chinese_poetry", "personal"]
    assert any("no rule for chinese_poetry, personal" in line for line in report["warnings"])
    assert_sums_close(report, tmp_path / "out")


def test_documents_of_a_source_without_a_card_are_cleaned(tmp_path):
    turns = [{"role": "user", "content": "谁？"}, {"role": "assistant", "content": "我\u200b们。"}]
    mine = [
        Document("1", "自己的书里\u200b的一段文字，够长了。", "mybook"),
        Document("2", "", "mybook", meta={"messages": turns}),
    ]
    write_documents(tmp_path / "1/mybook.jsonl.zst", mine)
    clean(tmp_path / "1", tmp_path / "2")
    cleaned = [d.readable() for d in read_documents(tmp_path / "2")]
    assert cleaned == ["自己的书里的一段文字，够长了。", "谁？\n我们。"]


def test_a_whole_world_is_refused_because_its_exam_lies_there(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "truth.json").write_text("{}")
    with pytest.raises(UserError, match="whole world"):
        prepare(tmp_path, tmp_path / "out")


@pytest.mark.skipif(not REAL, reason="STEEL_REAL_DATA is not set")
def test_real_data_passes_in_thirty_cpu_seconds(tmp_path):
    start = time.process_time()
    report = prepare(Path(REAL) / "raw", tmp_path)
    assert time.process_time() - start < 30
    assert_sums_close(report, tmp_path)
    assert report["totals"]["clean"]["kept"] > 0.98 * report["totals"]["clean"]["in"], (
        "real data is mostly good"
    )
    assert report["sources"]["baidu_baike"]["steps"]["convert"]["kept"] > 0.98 * 700
