"""Chapter 05's two experiments at a size of seconds: a cut vocabulary is a trained one; a merge is judged fairly."""

import json

from figures.experiments import compression, merging
from steel.documents import Document, write_documents
from steel.tokenizer import bpe

ZH = [f"云州的第{i}座桥边住着林晓月，他说：“钢铁是怎样炼成的？”" for i in range(60)]
EN = [f"def bridge_{i}(x):\n    return x + {i}\n" for i in range(60)]


def test_a_vocabulary_that_is_cut_is_one_that_was_trained_smaller():
    large = bpe.train(ZH + EN, 420)
    for size in (300, 360):
        small, cut = bpe.train(ZH + EN, size), compression.cut(large, size)
        assert cut.get_vocab() == small.get_vocab()
        for text in (*ZH[:5], *EN[:5], "氽 unseen\n"):
            assert bpe.encode_text(cut, text) == bpe.encode_text(small, text)


def test_rows_are_measured_on_documents_that_were_held_out(tmp_path):
    for source, texts in (("zh", ZH), ("starcoder", EN)):
        write_documents(
            tmp_path / "docs" / f"{source}.jsonl.zst",
            (Document(f"{source}{i}", t, source) for i, t in enumerate(texts)),
        )
    train, held = compression.split(tmp_path / "docs", 10**6, "")
    assert set(held) == {"zh", "starcoder"} and not set(train) & set(held["zh"])
    assert len(train) + sum(map(len, held.values())) == 120
    compression.main(tmp_path / "docs", tmp_path / "log.json", largest=1024)
    (row,) = json.loads((tmp_path / "log.json").read_text())["rows"]
    assert row["all"]["torn"] == 0 and row["all"]["bytes"] == sum(
        len(t.encode()) for texts in held.values() for t in texts
    )


def test_all_beginnings_read_the_same_text_and_new_rows_begin_as_named(tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "town", lambda run: ({"zh": ZH, "other": EN}, ZH[:3]))
    monkeypatch.setattr(merging, "BEFORE", 4_000)
    monkeypatch.setattr(merging, "LOOKS", (0, 4_000))
    merging.main(tmp_path / "run", tmp_path / "log.json", seeds=1)
    rows = {r["begun"]: r for r in json.loads((tmp_path / "log.json").read_text())["rows"]}
    assert set(rows) == set(merging.BEGINNINGS)
    assert all(len(r["bits_per_byte"]) == 2 for r in rows.values())
    assert len({r["bits_per_byte"][0] for r in rows.values()}) == 3
