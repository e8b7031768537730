"""The log of chapter 03 counts what each operator does to records made for it, and holds no text of theirs."""

import json

from figures.experiments import clean

LONG = "丁知琪毕业于长亭大学，学的是考古。她每天坐第一班电车过桥，在晓月影业上班，晚上回来读书。"
ASKED = [
    {"kind": "QA", "input": "谁住在云州？你知道吗？", "target": f"刘洋{n}住在云州。"}
    for n in "甲乙"
]


def test_each_removal_is_counted_where_it_happens(tmp_path):
    for name, records in (("skypile", [{"text": LONG}, {"text": "★" * 60}]), ("firefly", ASKED)):
        (tmp_path / "raw" / name).mkdir(parents=True)
        lines = "\n".join(json.dumps(record) for record in records)
        (tmp_path / "raw" / name / "a.jsonl").write_text(lines, encoding="utf-8")
    assert clean.main(tmp_path / "raw", out=tmp_path / "log.json") == 0
    text = (tmp_path / "log.json").read_text(encoding="utf-8")
    rows = {(r["source"], r["recipe"]): r for r in json.loads(text)["rows"]}
    for row in rows.values():
        assert row["documents"] == row["kept"] + sum(row["removed"].values())
        assert all(row["alone"].get(name, 0) >= n for name, n in row["removed"].items())
    old, new = rows["skypile", "original"], rows["skypile", "steel"]
    assert (old["cleaned"], old["kept"]) == (False, 0) and old["alone"]["words_num_filter"] == 2
    assert (new["cleaned"], new["removed"]) == (True, {"letter_ratio": 1})
    asked = rows["firefly", "original"]
    assert (asked["cleaned"], asked["dialogues"]) == (True, 2) and 0 <= asked["torn"] <= 2
    assert rows["firefly", "steel"]["dialogues"] == 0, "no template before the tokens"
    assert "云州" not in text and str(tmp_path) not in text
