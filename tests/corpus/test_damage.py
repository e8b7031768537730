"""Files of every container, damaged at random: what was not touched comes through."""

import gzip
import io
import json
import random
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from steel.corpus.sources.readers import Bad, json_records, records
from steel.documents import PIECE

HAN = "".join(map(chr, range(0x4E00, 0x4E00 + 3000)))
EDITS = [b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\n", b"\xff", b"x", b"{}", b"}, {"]


def entry(rng: random.Random, number: int) -> dict:
    """Nested as encyclopedia entries and dialogues are: its parts look like records, too."""
    text = "".join(rng.choices(HAN, k=rng.randrange(5, 40)))
    sections = [{"title": text[:3], "content": text + ' {} "q" [1]\\'} for _ in range(number % 4)]
    return {"title": f"{number}", "summary": text, "sections": sections, "tags": [], "url": None}


def lay_out(rows: list[dict], layout: str) -> tuple[bytes, list[tuple[int, int]]]:
    """The bytes of a file, and where in it each record stands."""
    ends = {"lines": ("", "\n", "\n"), "compact": ("[", ", ", "]"), "rows": ("[\n", ",\n", "\n]\n")}
    first, between, last = ends.get(layout, ("[\n", ",\n ", "\n]"))
    data, spans = first.encode(), []
    for number, row in enumerate(rows):
        written = json.dumps(row, ensure_ascii=False, indent=2 if layout == "indented" else None)
        data += between.encode() if number else b""
        spans.append((len(data), len(data) + len(written.encode())))
        data += written.encode()
    return data + last.encode(), spans


@pytest.mark.parametrize("layout", ["lines", "compact", "rows", "indented"])
@pytest.mark.parametrize("seed", range(60))
def test_json_that_was_not_touched_comes_through(layout, seed):
    rng = random.Random(seed)
    rows = [entry(rng, i) for i in range(30)]
    data, spans = lay_out(rows, layout)
    marks = [i for i, byte in enumerate(data) if byte in b'{}[]",\n']
    places = rng.sample(marks if seed % 2 else range(len(data)), seed % 3 + 1)
    touched = set()
    for at in sorted(places, reverse=True):  # so that the places before stay where they are
        removed = rng.randrange(2)
        data = data[:at] + rng.choice([*EDITS, b""]) + data[at + removed :]
        touched |= {i for i, (a, b) in enumerate(spans) if a + 1 - removed <= at < b}
    got = list(json_records(data[i : i + 97] for i in range(0, len(data), 97)))
    lost = [i for i, row in enumerate(rows) if i not in touched and row not in got]
    assert not lost, got


def test_one_broken_bracket_in_a_large_array_hides_nothing():
    rng = random.Random(0)
    rows = [entry(rng, i) for i in range(930)]
    data, spans = lay_out(rows, "compact")
    place = spans[6][1] - 1
    got = list(json_records([data[:place] + data[place + 1 :]]))
    assert [r for r in got if not isinstance(r, Bad)] == rows[:6] + rows[7:]
    [bad] = [r for r in got if isinstance(r, Bad)]
    assert bad.bytes == pytest.approx(spans[6][1] - spans[6][0], abs=20), "the size of what is lost"


def test_json_lines_whose_first_byte_is_a_bracket_are_lines():
    rows = [{"text": str(i)} for i in range(50)]
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    got = list(json_records([b"[" + data[1:]]))
    assert got == [Bad("invalid json", 13), *rows[1:]]
    assert list(json_records([b"[1, 2]\n" + data])) == [[1, 2], *rows]


def test_a_line_that_lost_its_newline_still_holds_its_records():
    assert list(json_records([b'{"a": 1}{"a": 2}\n{"a": 3}\n'])) == [{"a": 1}, {"a": 2}, {"a": 3}]


@pytest.mark.parametrize("suffix", ["gz", "zst"])
@pytest.mark.parametrize("damage", ["cut", "flip"])
@pytest.mark.parametrize("seed", range(4))
def test_a_compressed_file_gives_what_stands_before_the_damage(tmp_path, suffix, damage, seed):
    rng = random.Random(seed)
    rows = [entry(rng, i) for i in range(6000)]
    data = lay_out(rows, "lines")[0]
    checked = zstandard.ZstdCompressor(write_checksum=True)
    packed = gzip.compress(data) if suffix == "gz" else checked.compress(data)
    place = rng.randrange(len(packed) // 2, len(packed) - 20)
    rest = b"" if damage == "cut" else bytes([packed[place] ^ 0x55]) + packed[place + 1 :]
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(packed[:place] + rest)
    got = [record for _, record in records(path)]
    block = 0 if damage == "cut" and suffix == "gz" else 1 << 18  # text that a compressor holds
    sure = int(len(rows) * (place - 2 * PIECE) / len(packed)) - block // (len(data) // len(rows))
    assert sure > 0 and got[:sure] == rows[:sure]
    assert isinstance(got[-1], Bad), "a file that breaks off is never taken for a shorter one"


@pytest.mark.parametrize("layout", ["lines", "rows"])
def test_a_small_file_that_breaks_off_gives_what_stands_before(tmp_path, layout):
    rows = [entry(random.Random(i), i) for i in range(40)]
    packed = zstandard.compress(lay_out(rows[:30], layout)[0]) + zstandard.compress(b"x" * 99)[:-5]
    (tmp_path / "a.json.zst").write_bytes(packed)
    got = [record for _, record in records(tmp_path / "a.json.zst")]
    assert [record for record in got if not isinstance(record, Bad)] == rows[:30]
    assert got[-1].reason == "compressed file is cut off"


@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_row_group_costs_itself(tmp_path, seed):
    rng = random.Random(seed)
    rows = [{"INSTRUCTION": f"{i}", "RESPONSE": "".join(rng.choices(HAN, k=40))} for i in range(90)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=30)
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    start = column.dictionary_page_offset or column.data_page_offset
    data = bytearray(path.read_bytes())
    for place in rng.sample(range(start, start + column.total_compressed_size), 3):
        data[place] ^= rng.randrange(1, 256)
    path.write_bytes(data)
    got = [record for _, record in records(path)]
    assert all(row in got for row in rows[:30] + rows[60:])


def archive(path, rows: list[dict], members: int) -> list[int]:
    """A tar file of JSON lines; the places of its headers."""
    with tarfile.open(path, "w") as file:
        for number in range(members):
            data = lay_out(rows[number::members], "lines")[0]
            info = tarfile.TarInfo(f"{number}.jsonl")
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    with tarfile.open(path) as file:
        return [member.offset for member in file]


def test_a_damaged_tar_header_costs_its_member(tmp_path):
    rng = random.Random(0)
    rows = [entry(rng, i) for i in range(60)]
    for broken in range(3):
        headers = archive(tmp_path / "a.tar", rows, 3)
        data = bytearray((tmp_path / "a.tar").read_bytes())
        data[headers[broken] + 130] ^= 0x3C
        (tmp_path / "a.tar").write_bytes(data)
        got = [record for _, record in records(tmp_path / "a.tar")]
        assert all(row in got for i, row in enumerate(rows) if i % 3 != broken)
        [bad] = [record for record in got if isinstance(record, Bad)]
        assert bad.reason == "damaged tar file" and bad.bytes > 1000


def test_a_tar_file_that_is_cut_off_says_so(tmp_path):
    rng = random.Random(0)
    rows = [entry(rng, i) for i in range(60)]
    second = archive(tmp_path / "a.tar", rows, 3)[1]
    data = (tmp_path / "a.tar").read_bytes()
    for place in (second, second + 100, second + 3000):
        (tmp_path / "a.tar").write_bytes(data[:place])
        got = [record for _, record in records(tmp_path / "a.tar")]
        assert all(row in got for row in rows[::3])
        assert got[-1].reason == "tar file is cut off"
