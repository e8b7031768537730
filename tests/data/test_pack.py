import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import documents, files, texts, write_documents, write_lines

from steel.config import UserError
from steel.data import ShardSet, append, pack
from steel.data.pack import find_inputs
from steel.data.shard_file import token_dtype
from steel.tokenizer import bpe, chat

pack_module = sys.modules["steel.data.pack"]
ROOT = Path(pack_module.__file__).parents[2]


def line(**record) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode()


def test_documents_come_back_in_order_with_a_separator_after_each(tmp_path, tokenizer_folder):
    words = texts(50, 1)
    write_documents(tmp_path / "docs/web.jsonl.zst", words)
    pack(tmp_path / "docs", tmp_path / "out", tokenizer_folder, shard_tokens=300)
    shards, tok = ShardSet.open(tmp_path / "out"), bpe.load(tokenizer_folder)
    assert [tok.decode(ids) for _, ids in documents(shards)] == words
    (piece,) = shards.pieces
    assert len(piece.shards) > 3
    assert all(s["tokens"] >= 300 for s in piece.shards[:-1])
    for shard in piece.shards:
        file = tmp_path / "out" / shard["path"]
        index = file.with_suffix(".idx").read_bytes()
        ends = np.frombuffer(index, "<i8", shard["documents"])
        assert np.array_equal(np.flatnonzero(np.fromfile(file, "<u2") == 0) + 1, ends)


def test_special_tokens_inside_text_stay_text(tmp_path, tokenizer_folder):
    text = "一<|endoftext|>二<|im_end|>三<|im_start|>"
    write_documents(tmp_path / "web.jsonl.zst", [text])
    pack(tmp_path / "web.jsonl.zst", tmp_path / "out", tokenizer_folder)
    tok = bpe.load(tokenizer_folder)
    ((_, ids),) = documents(ShardSet.open(tmp_path / "out"))
    assert ids.min() > 2 and tok.decode(ids) == text
    assert ids.tolist() == bpe.encode_text(tok, text)


def test_a_dialogue_is_rendered_by_the_chat_template(tmp_path, tokenizer_folder):
    turns = [{"role": "user", "content": "春<|im_end|>"}, {"role": "assistant", "content": "夏"}]
    write_lines(tmp_path / "qa.jsonl", [line(id="1", text="", meta={"messages": turns})])
    manifest = pack(tmp_path / "qa.jsonl", tmp_path / "out", tokenizer_folder)
    ((_, ids),) = documents(ShardSet.open(tmp_path / "out"), "qa")
    assert ids.tolist() == chat.encode_chat(bpe.load(tokenizer_folder), turns)[0]
    assert manifest["bytes"] == len(chat.render(turns).encode())


BAD = {
    b"": "blank_line",
    b"\xff\xfe": "undecodable",
    b"{": "bad_json",
    b"[1]": "bad_record",
    line(text=None): "bad_record",
    line(text=" \n"): "empty",
    b'{"text": "\\ud83d"}': "undecodable",
    line(text="", meta={"messages": [{"role": "boss", "content": "x"}]}): "bad_dialogue",
    line(text="", meta={"messages": []}): "bad_dialogue",
    line(text="", meta={"messages": 5}): "bad_dialogue",
}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.one_of(st.sampled_from(list(BAD)), st.text("春夏ab", min_size=1, max_size=9)),
        max_size=40,
    )
)
def test_every_record_is_in_a_shard_or_rejected_with_its_reason(
    tmp_path_factory, tokenizer_folder, records
):
    root = tmp_path_factory.mktemp("accounting")
    lines = [r if isinstance(r, bytes) else line(text=r) for r in records]
    if lines and lines[-1] == b"":
        lines.append(b"{")  # a line break at the very end does not open another line
    write_lines(root / "web.jsonl.zst", lines)
    manifest = pack(
        root / "web.jsonl.zst", root / "out", tokenizer_folder, shard_tokens=20, hold_out=0.3
    )
    expected: dict[str, int] = {}
    for item in lines:
        if item in BAD:
            expected[BAD[item]] = expected.get(BAD[item], 0) + 1
    assert manifest["rejected"] == expected
    assert manifest["documents"] + sum(expected.values()) == manifest["records"] == len(lines)
    rejects = json.loads((root / "out/rejects.json").read_text())
    assert rejects["reasons"] == expected and rejects["total"] == sum(expected.values())
    assert sorted((e["line"], e["reason"]) for e in rejects["examples"]) == [
        (i, BAD[item]) for i, item in enumerate(lines, 1) if item in BAD
    ]
    assert ShardSet.open(root / "out").manifest == manifest


def test_a_cut_or_damaged_input_is_named(tmp_path, tokenizer_folder):
    path = write_documents(tmp_path / "web.jsonl.zst", texts(200, 1))
    whole = path.read_bytes()
    for data, what in ((whole[:-5], "cut off"), (b"x" + whole[1:], "damaged")):
        path.write_bytes(data)
        with pytest.raises(UserError, match=f"web.jsonl.zst.*{what}"):
            pack(path, tmp_path / "out", tokenizer_folder)


def test_sources_are_named_by_file_or_folder(tmp_path, tokenizer_folder):
    write_documents(tmp_path / "docs/wiki.jsonl.zst", texts(3, 1))
    write_documents(tmp_path / "docs/web/00000.jsonl.zst", texts(3, 2))
    write_documents(tmp_path / "docs/web/00001.jsonl", texts(3, 3))
    (tmp_path / "docs/notes.json").write_text("{}")
    assert [(i.name, i.source, i.index) for i in find_inputs(tmp_path / "docs")] == [
        ("web/00000.jsonl.zst", "web", 0),
        ("web/00001.jsonl", "web", 1),
        ("wiki.jsonl.zst", "wiki", 0),
    ]
    packed = Counter()
    for shard in pack(tmp_path / "docs", tmp_path / "out", tokenizer_folder)["shards"]:
        packed[shard["source"]] += shard["documents"]
    assert packed == {"web": 6, "wiki": 3}


@pytest.mark.parametrize("case", ["absent", "empty", "no tokenizer", "other documents"])
def test_a_users_mistake_gets_one_line(tmp_path, tokenizer_folder, packed, case):
    (tmp_path / "empty").mkdir()
    write_documents(tmp_path / "new.jsonl.zst", texts(3, "new"))
    docs, out, tok, what = {
        "absent": (tmp_path / "absent", tmp_path / "out", tokenizer_folder, "no documents"),
        "empty": (tmp_path / "empty", tmp_path / "out", tokenizer_folder, "no .*jsonl.zst"),
        "no tokenizer": (
            tmp_path / "new.jsonl.zst",
            tmp_path / "out",
            tmp_path / "empty",
            "no tokenizer",
        ),
        "other documents": (tmp_path / "new.jsonl.zst", packed, tokenizer_folder, "empty folder"),
    }[case]
    before = files(packed)
    with pytest.raises(UserError, match=what) as error:
        pack(docs, out, tok)
    assert "\n" not in str(error.value) and files(packed) == before


def test_shards_carry_their_tokenizer(tmp_path, packed, tokenizer_folder):
    shards = ShardSet.open(packed)
    assert shards.tokenizer == packed / "tokenizer" and shards.vocab_size == 300
    tok = bpe.load(shards.tokenizer)
    assert tok.chat_template and tok.encode("春") == bpe.load(tokenizer_folder).encode("春")
    shards.check_vocabulary(300, tokenizer_folder)
    with pytest.raises(UserError, match="vocabulary of 300 entries, model.vocab_size is 299"):
        shards.check_vocabulary(299)
    bpe.save(bpe.train(texts(50, "x"), 270), tmp_path / "tok")
    with pytest.raises(UserError, match="is not the tokenizer that packed"):
        shards.check_vocabulary(300, tmp_path / "tok")
    shutil.copytree(packed, tmp_path / "out")
    shutil.copy(tmp_path / "tok/tokenizer.json", tmp_path / "out/tokenizer/tokenizer.json")
    with pytest.raises(UserError, match="is not the tokenizer that packed"):
        _ = ShardSet.open(tmp_path / "out").tokenizer


def test_two_inputs_with_the_same_content_are_refused_by_name(tmp_path, tokenizer_folder):
    write_documents(tmp_path / "docs/a.jsonl.zst", texts(9, 1))
    shutil.copy(tmp_path / "docs/a.jsonl.zst", tmp_path / "docs/b.jsonl.zst")
    with pytest.raises(UserError, match="b.jsonl.zst repeats the content of a.jsonl.zst"):
        pack(tmp_path / "docs", tmp_path / "out", tokenizer_folder)
    write_documents(tmp_path / "docs/b.jsonl.zst", texts(9, 1))  # other ids, same texts
    with pytest.raises(UserError, match="b.jsonl.zst repeats the content of a.jsonl.zst"):
        pack(tmp_path / "docs", tmp_path / "out", tokenizer_folder)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tokenizer"]


def test_reports_of_prepare_are_no_source(tmp_path, docs, packed, tokenizer_folder):
    shutil.copytree(docs, tmp_path / "docs")
    write_lines(tmp_path / "docs/report/duplicates.jsonl", [b'{"removed": "a", "kept": "b"}'])
    write_lines(tmp_path / "docs/duplicates.jsonl", [b'{"removed": "a", "kept": "b"}'])
    manifest = pack(tmp_path / "docs", tmp_path / "out", tokenizer_folder, shard_tokens=2000)
    assert manifest["rejected"] == {} and files(tmp_path / "out") == files(packed)


def test_two_packs_at_once_say_so_in_one_line(tmp_path, docs, tokenizer_folder):
    with (
        pack_module.locked(tmp_path / "out"),
        pytest.raises(UserError, match="another process is packing into .*out") as error,
    ):
        pack(docs, tmp_path / "out", tokenizer_folder)
    assert "\n" not in str(error.value)
    pack(docs, tmp_path / "out", tokenizer_folder)
    write_documents(tmp_path / "more.jsonl.zst", texts(9, "more"))
    with (
        pack_module.locked(tmp_path / "out"),
        pytest.raises(UserError, match="another process is packing into .*out"),
    ):
        append(tmp_path / "out", tmp_path / "more.jsonl.zst")


def test_packing_again_changes_nothing_and_is_deterministic(
    tmp_path, docs, packed, tokenizer_folder
):
    before = files(packed)
    assert pack(docs, packed, tokenizer_folder, shard_tokens=2000)["documents"] == 369
    pack(docs, tmp_path / "other", tokenizer_folder, shard_tokens=2000)
    assert files(packed) == before == files(tmp_path / "other")


UNGUARDED = """
import sys
import steel.data
sys.modules["steel.data.pack"].SMALL_BYTES = 0
steel.data.pack(sys.argv[1], sys.argv[2], sys.argv[3], shard_tokens=2000, workers=2)
"""


def test_any_number_of_workers_gives_the_same_bytes(tmp_path, docs, packed, tokenizer_folder):
    """In a script without a main guard, as a chapter's exported script is."""
    (tmp_path / "script.py").write_text(UNGUARDED)
    subprocess.run(
        [sys.executable, tmp_path / "script.py", docs, tmp_path / "out", tokenizer_folder],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert files(tmp_path / "out") == files(packed)


def test_packing_processes_start_without_heavy_packages():
    code = (
        "import sys, steel.data; "
        "print([m for m in ('torch', 'transformers', 'tokenizers', 'zstandard', 'rich') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert ran.stdout.strip() == "[]"


KILLED = """
import os, signal, sys
import steel.runlog, steel.data.shard_file, steel.data.tasks
from steel.tokenizer import bpe
pack_module = sys.modules["steel.data.pack"]
docs, out, tokenizer, *writes = sys.argv[1:]
bpe.load(tokenizer)  # imports what the children share
for at in map(int, writes):
    if os.fork() == 0:
        count, write = 0, steel.runlog.atomic_write
        def dying(path, data):
            global count
            count += 1
            if count == at:  # half of a temporary file, then the end
                path.parent.mkdir(parents=True, exist_ok=True)
                (path.parent / f".{path.name}.half").write_bytes(data[:3] if isinstance(data, bytes) else b"{")
                os.kill(os.getpid(), signal.SIGKILL)
            write(path, data)
        for module in (steel.runlog, pack_module, steel.data.tasks, steel.data.shards, steel.data.shard_file):
            module.atomic_write = dying
        pack_module.pack(docs, f"{out}/{at}", tokenizer, shard_tokens=2000)
    assert os.wait()[1] == signal.SIGKILL
"""


def test_kill_9_and_packing_again_is_byte_identical(tmp_path, docs, packed, tokenizer_folder):
    writes = len(files(packed))  # one atomic write a file: shards, records, rejects, manifest
    kills = [1, 3, 8, writes - 1, writes]
    subprocess.run(
        [sys.executable, "-c", KILLED, docs, tmp_path, tokenizer_folder, *map(str, kills)],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"},
        timeout=300,
    )
    for at in kills:
        out = tmp_path / str(at)
        assert files(out) != files(packed)
        with pytest.raises(UserError, match="no manifest.json"):
            ShardSet.open(out)
        pack(docs, out, tokenizer_folder, shard_tokens=2000)
        assert files(out) == files(packed), f"killed at write {at}"


def test_going_on_with_other_settings_is_refused(tmp_path, docs, packed, tokenizer_folder):
    shutil.copytree(packed, tmp_path / "out")
    (tmp_path / "out/manifest.json").unlink()
    with pytest.raises(UserError, match="hold_out differs"):
        pack(docs, tmp_path / "out", tokenizer_folder, shard_tokens=2000, hold_out=0.1)


def test_held_out_documents_are_apart_and_copies_stay_together(tmp_path, tokenizer_folder):
    words = texts(400, "hold")
    write_documents(tmp_path / "docs/a.jsonl.zst", words)
    write_documents(
        tmp_path / "docs/b.jsonl.zst", [*words[::-1], words[0]]
    )  # a copy of the whole would be refused
    pack(tmp_path / "docs", tmp_path / "out", tokenizer_folder, hold_out=0.2, shard_tokens=3000)
    tok = bpe.load(tokenizer_folder)
    train, validation = (
        {
            s: [tok.decode(i) for _, i in documents(ShardSet.open(tmp_path / "out", split), s)]
            for s in "ab"
        }
        for split in ("train", "validation")
    )
    assert set(train["a"]) == set(train["b"]) and set(validation["a"]) == set(validation["b"])
    assert not set(train["a"]) & set(validation["b"])
    assert 0.1 < len(validation["a"]) / 400 < 0.3


@pytest.mark.parametrize(
    "vocabulary, dtype", [(300, "uint16"), (65536, "uint16"), (65537, "uint32")]
)
def test_the_smallest_type_that_holds_the_vocabulary(vocabulary, dtype):
    assert token_dtype(vocabulary) == np.dtype(dtype)
    assert np.array([vocabulary - 1]).astype(token_dtype(vocabulary))[0] == vocabulary - 1


def test_a_big_vocabulary_is_packed_as_uint32(
    tmp_path, docs, packed, tokenizer_folder, monkeypatch
):
    import steel.data.tasks as tasks_module

    for module in (pack_module, tasks_module):
        monkeypatch.setattr(module, "token_dtype", lambda vocab_size: np.dtype("<u4"))
    assert pack(docs, tmp_path / "out", tokenizer_folder, shard_tokens=2000)["dtype"] == "uint32"
    wide, narrow = ShardSet.open(tmp_path / "out"), ShardSet.open(packed)
    assert all(
        np.array_equal(a[1], b[1]) for a, b in zip(documents(wide), documents(narrow), strict=True)
    )
    assert (tmp_path / "out/web/000-0000-00000.bin").stat().st_size == 2 * (
        packed / "web/000-0000-00000.bin"
    ).stat().st_size


REAL = os.environ.get("STEEL_REAL_DATA", "")


@pytest.mark.skipif(
    not (Path(REAL) / "tokenizer/qwen1.5").is_dir() or not REAL, reason="needs STEEL_REAL_DATA"
)
def test_the_originals_tokenizer_packs_as_uint32_with_its_own_separator(tmp_path):
    tok = bpe.load(Path(REAL) / "tokenizer/qwen1.5")
    words = [*texts(20, "qwen"), "春<|im_end|>秋<|endoftext|>", "The quick brown fox, 人工智能。"]
    turns = [{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "冬"}]
    write_documents(tmp_path / "docs/web.jsonl.zst", words)
    write_lines(tmp_path / "docs/qa.jsonl", [line(id="1", text="", meta={"messages": turns})])
    manifest = pack(tmp_path / "docs", tmp_path / "out", Path(REAL) / "tokenizer/qwen1.5")
    assert manifest["dtype"] == "uint32" and manifest["separator_id"] == tok.convert_tokens_to_ids(
        "<|endoftext|>"
    )
    shards = ShardSet.open(tmp_path / "out")
    assert [i.tolist() for _, i in documents(shards, "web")] == [
        bpe.encode_text(tok, w) for w in words
    ]
    assert [i.tolist() for _, i in documents(shards, "qa")] == [chat.encode_chat(tok, turns)[0]]
    assert max(int(i.max()) for _, i in documents(shards)) > 65535
