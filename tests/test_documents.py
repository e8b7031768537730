import errno

import pytest
import zstandard

from steel.config import UserError
from steel.documents import (
    BrokenFile,
    Document,
    DocumentWriter,
    document_id,
    guess_language,
    read_documents,
    read_rows,
    write_documents,
    write_rows,
)

DOCUMENTS = [
    Document("a-1", "你好，世界", "skypile", "zh", {"file": "x", "record": 0}),
    Document(
        "a-2",
        "",
        "belle_2m",
        "zh",
        {
            "messages": [
                {"role": "user", "content": "问"},
                {"role": "assistant", "content": "答\n第二行"},
            ]
        },
    ),
    Document("a-3", "line\u2028separator and 😀", "personal", "en", {}),
]


def test_documents_come_back_as_written_and_equal_documents_give_equal_bytes(tmp_path):
    assert write_documents(tmp_path / "a.jsonl.zst", DOCUMENTS) == 3
    write_documents(tmp_path / "b.jsonl.zst", list(DOCUMENTS))
    assert list(read_documents(tmp_path / "a.jsonl.zst")) == DOCUMENTS
    assert (tmp_path / "a.jsonl.zst").read_bytes() == (tmp_path / "b.jsonl.zst").read_bytes()
    assert len(list(read_documents(tmp_path))) == 6


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    write_documents(path, DOCUMENTS[:1])
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), DocumentWriter(path) as writer:
        writer.write(DOCUMENTS[1])
        raise ZeroDivisionError
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_at_the_end_leaves_no_litter(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_documents(tmp_path / "a.jsonl.zst", DOCUMENTS)
    assert list(tmp_path.iterdir()) == []


def test_rows_come_with_their_line_numbers_whatever_their_strings_hold(tmp_path):
    rows = [{"text": "a\u2028b\x85c"}, {"text": "d"}]
    write_rows(tmp_path / "a.jsonl", rows)
    data = b"\n" + (tmp_path / "a.jsonl").read_bytes() + b" \n"
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(data))
    for name in ("a.jsonl", "a.jsonl.zst"):
        assert list(read_rows(tmp_path / name)) == [(2, rows[0]), (3, rows[1])]


def test_a_bad_row_is_named_or_counted_and_a_cut_file_is_never_shorter(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n[1]\n{"a"\n{"a": 2}\n')
    with pytest.raises(UserError, match=r"a.jsonl:2: not an object"):
        list(read_rows(path))
    refused = []
    rows = [row for _, row in read_rows(path, lambda *what: refused.append(what))]
    assert rows == [{"a": 1}, {"a": 2}] and refused == [(2, "not an object"), (3, "not json")]
    packed = zstandard.compress(path.read_bytes())
    (tmp_path / "b.jsonl.zst").write_bytes(packed[:-3])
    with pytest.raises(BrokenFile, match="cut off"):
        list(read_rows(tmp_path / "b.jsonl.zst", lambda *what: None))


def test_a_cut_file_is_reported_and_not_read_as_shorter(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    write_documents(path, DOCUMENTS * 50)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="cut off|damaged"):
        list(read_documents(path))


@pytest.mark.parametrize("line", ['{"text": "no id"}', "[]", '"x"'])
def test_a_line_that_is_no_document_is_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match="a.jsonl:1: not a document"):
        list(read_documents(tmp_path / "a.jsonl"))


def test_a_missing_file_gives_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        list(read_documents(tmp_path / "nothing"))


def test_ids_are_stable_and_differ_by_source_file_and_record():
    assert (
        document_id("skypile", "a.jsonl", 3)
        == "skypile-" + document_id("skypile", "a.jsonl", 3)[8:]
    )
    ids = {document_id(s, f, n) for s in ("a", "b") for f in ("x", "y") for n in range(100)}
    assert len(ids) == 400


@pytest.mark.parametrize(
    ("text", "lang"), [("今天天气很好 OK", "zh"), ("It is a fine day 好", "en"), ("123 !?", "und")]
)
def test_language_is_guessed_from_the_script(text, lang):
    assert guess_language(text) == lang
