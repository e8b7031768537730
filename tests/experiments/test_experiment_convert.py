"""The log of chapter 02 counts what is lost in records made for it, and holds no text of theirs."""

import json

from figures.experiments import convert

BAIKE = [
    {"title": "钢城", "summary": "钢城是一座虚构的城市，从一个种子长出来的。", "sections": []},
    {"title": "青岩", "summary": "", "sections": [{"title": "简介", "content": "山下的一座城。"}]},
    {"title": "空", "summary": "", "sections": []},
]
ZHIHU = [
    {"INSTRUCTION": "问", "RESPONSE": "答", "METADATA": json.dumps({"upvotes": words})}
    for words in ("赞同 312", "赞同 1.6 万", "赞同", "赞同 7")
]
BELLE = [
    {"conversations": [{"from": "human", "value": "谁？"}, {"from": "assistant", "value": last}]}
    for last in ("The Steel Corporation", "小钢。")
]


def test_each_loss_is_counted_by_its_mechanism(tmp_path):
    for name, records in (("baidu_baike", BAIKE), ("zhihu_kol", ZHIHU), ("belle_3_5m", BELLE)):
        (tmp_path / "raw" / name).mkdir(parents=True)
        lines = "\n".join(json.dumps(record) for record in records)
        (tmp_path / "raw" / name / "a.jsonl").write_text(lines, encoding="utf-8")
    assert convert.main(tmp_path / "raw", out=tmp_path / "log.json") == 0
    text = (tmp_path / "log.json").read_text(encoding="utf-8")
    rows = {row["source"]: row for row in json.loads(text)["rows"]}
    baike, zhihu, belle = rows["baidu_baike"], rows["zhihu_kol"], rows["belle_3_5m"]
    assert (baike["records"], baike["original"], baike["steel"]) == (3, 1, 2)
    assert (baike["empty_summary"], baike["of_these_with_text"]) == (2, 1)
    assert zhihu["upvotes"] == [312, 16_000, 0, 7] and zhihu["in_ten_thousands"] == [1]
    assert (zhihu["original"], zhihu["steel"]) == (1, 2)
    assert belle["ends_damaged"] == 1
    said = sum(len(turn["value"]) for record in BELLE for turn in record["conversations"])
    assert belle["original_without_template"] == said - 1 + len(
        BELLE
    )  # "Corporatio"; a break a pair
    assert belle["steel_characters"] == said + len(BELLE)
    assert "钢城" not in text and str(tmp_path) not in text
