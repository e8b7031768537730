"""Sources from a hub: whole, as a sample, any dataset by name; what goes wrong is one line."""

import fnmatch
import io
import json
from types import SimpleNamespace

import pytest

from steel.config import UserError
from steel.corpus.download import download, stream_dataset
from steel.corpus.pipeline import prepare
from steel.documents import read_documents


def hub_of(files: dict[str, bytes], damaged: set[str]):
    """A hub's download and its check; a damaged file arrives whole at the second call."""

    def snapshot(repo_id, repo_type, local_dir, allow_patterns, endpoint):
        for path, data in files.items():
            if any(fnmatch.fnmatch(path, pattern) for pattern in allow_patterns):
                (local_dir / path).parent.mkdir(parents=True, exist_ok=True)
                (local_dir / path).write_bytes(data[:-3] if path in damaged else data)

    class Api:
        def __init__(self, endpoint):
            assert endpoint in (None, "http://mirror")

        def list_repo_tree(self, repo_id, repo_type, recursive):
            yield SimpleNamespace(path="folder")
            yield from (SimpleNamespace(path=p, size=len(data)) for p, data in files.items())

        def verify_repo_checksums(self, repo_id, repo_type, local_dir):
            wrong = [{"path": path} for path in sorted(damaged)]
            damaged.clear()
            return SimpleNamespace(mismatches=wrong)

    class Files:
        def __init__(self, endpoint):
            pass

        def open(self, path, mode):
            return io.BytesIO(files[path.removeprefix("datasets/YeungNLP/firefly-train-1.1M/")])

    return {"snapshot_download": snapshot, "HfApi": Api, "HfFileSystem": Files}


def patch_hub(monkeypatch, functions):
    for name, function in functions.items():
        monkeypatch.setattr(f"huggingface_hub.{name}", function)


def test_download_checks_files_and_removes_a_damaged_one(tmp_path, monkeypatch):
    files = {"a.jsonl": b'{"x": 1}\n' * 5, "b.jsonl": b'{"x": 2}\n' * 5, "README.md": b"no"}
    patch_hub(monkeypatch, hub_of(files, {"b.jsonl"}))
    with pytest.raises(UserError, match="b.jsonl: damaged on the way"):
        download("firefly", tmp_path)
    assert [p.name for p in (tmp_path / "firefly").iterdir()] == ["a.jsonl"]
    said = []
    done = download("firefly", tmp_path / "firefly", endpoint="http://mirror", tell=said.append)
    assert "2 files" in done and "2 files, 0.00 GB, not stated" in said[0]
    free = SimpleNamespace(free=3)
    with monkeypatch.context() as small:
        small.setattr("shutil.disk_usage", lambda path: free)
        with pytest.raises(UserError, match="disk is too small"):
            download("firefly", tmp_path / "else")
    patch_hub(monkeypatch, hub_of({"README.md": b""}, set()))
    with pytest.raises(UserError, match="holds no file like"):
        download("firefly", tmp_path / "other")


def test_a_sample_is_a_source_of_its_own(tmp_path, monkeypatch):
    rows = [{"kind": "k", "input": f"问题{i}", "target": f"回答{i}"} for i in range(50)]
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    patch_hub(monkeypatch, hub_of({"a.jsonl": data, "b.jsonl": data}, set()))
    assert "70 records" in download("firefly", tmp_path / "raw", sample=70)
    assert [p.name for p in (tmp_path / "raw/firefly").iterdir()] == ["sample.jsonl.zst"]
    report = prepare(tmp_path / "raw", tmp_path / "out", steps=("convert",))
    assert report["totals"]["convert"] == {"in": 70, "kept": 70, "removed": 0}
    download("firefly", tmp_path / "raw")
    names = sorted(p.name for p in (tmp_path / "raw/firefly").iterdir())
    assert names == ["a.jsonl", "b.jsonl"], "the sample would be read twice"
    with pytest.raises(UserError, match="files of the whole"):
        download("firefly", tmp_path / "raw", sample=3)


def test_any_dataset_becomes_a_source_with_a_card(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "own").mkdir()
    lines = [json.dumps({"frage": f"问题{i}？", "antwort": f"第{i}个回答"}) for i in range(9)]
    (tmp_path / "own/train.jsonl").write_text("\n".join(lines))
    place = str(tmp_path / "own")
    with pytest.raises(UserError, match="it has frage, antwort"):
        stream_dataset(place, tmp_path / "raw", {"text": "inhalt"})
    with pytest.raises(UserError, match="no shape"):
        stream_dataset(place, tmp_path / "raw", {"question": "frage"})
    roles = {"question": "frage", "answer": "antwort"}
    assert "7 records" in stream_dataset(place, tmp_path / "raw", roles, sample=7)
    report = prepare(tmp_path / "raw", tmp_path / "out", steps=("convert",))
    [name] = report["sources"]
    first = next(read_documents(tmp_path / "out" / f"{name}.jsonl.zst"))
    assert [turn["content"] for turn in first.messages] == ["问题0？", "第0个回答"]


def test_download_says_how_to_get_what_no_hub_has_and_fails_offline_in_one_line(
    tmp_path, monkeypatch
):
    assert "aistudio" in download("baidu_qa", tmp_path)

    def offline(**_):
        raise ConnectionError("name resolution failed\nlong trace")

    patch_hub(monkeypatch, {"HfApi": offline})
    with pytest.raises(UserError, match="cannot be reached") as caught:
        download("moss", tmp_path)
    assert "\n" not in str(caught.value)
