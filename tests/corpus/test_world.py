"""SteelTown: the same bytes from the same seed, exact truth, no leaks, every container readable, a fair exam."""

import csv
import difflib
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import zstandard

from steel.config import UserError, WorldConfig, load
from steel.corpus.world import LeakageError, build_world, check, write_world
from steel.corpus.world.containers import LABELS, leaves
from steel.corpus.world.people import table as words_of

SEED = 7
CONFIG = WorldConfig(
    people=16, attributes=["city", "university", "major", "company"], biographies_per_person=24
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "world"
    summary = write_world(out, CONFIG, SEED)
    return out, summary


def hashes(root):
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def raw_lines(path):
    """Records as the standard readers see them: bytes per line, dicts per parquet row or array element."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix in (".txt", ".md"):
        return [{"name": path.name, "text": path.read_text(encoding="utf-8")}]
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    elif path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().stream_reader(data).read()
    return json.loads(data) if data[:1] == b"[" else data.splitlines()


def parsed(record):
    return json.loads(record) if isinstance(record, bytes) else record


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def exam(out, split):
    tables = {}
    for path in sorted((out / "exam" / split).glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            tables[path.stem] = list(csv.DictReader(file))
    return tables


def test_same_seed_same_bytes_other_seed_other_bytes(written, tmp_path):
    out, _ = written
    write_world(tmp_path / "again", CONFIG, SEED)
    write_world(tmp_path / "other", CONFIG, SEED + 1)
    assert hashes(tmp_path / "again") == hashes(out)
    other = hashes(tmp_path / "other")
    assert all(
        other[k] != v
        for k, v in hashes(out).items()
        if k.startswith(("raw/sky", "exam/test", "truth"))
    )


def content(path):
    """What a file says, whatever the version of the compressor or of the Parquet writer."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        types = [[field.name, str(field.type)] for field in table.schema]
        return json.dumps([types, table.to_pylist()]).encode()
    data = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(data)
    return zstandard.ZstdDecompressor().decompress(data) if path.suffix == ".zst" else data


@pytest.mark.parametrize(
    ("preset", "expected"), [("smoke", "e73faebc5faa4ae9"), ("cpu", "2d4fa27b160d1351")]
)
def test_the_world_of_a_preset_stays_as_it_is(tmp_path, preset, expected):
    """Committed runs tell of these worlds: a change of a world is wanted, and they run again."""
    cfg = load(preset)
    write_world(tmp_path / "world", cfg.world, cfg.seed)
    digest = hashlib.sha256()
    for path in sorted((tmp_path / "world").rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(tmp_path).as_posix().encode() + b"\0" + content(path))
    assert digest.hexdigest()[:16] == expected


def test_bytes_do_not_depend_on_the_process(written, tmp_path):
    program = (
        "from steel.config import WorldConfig; from steel.corpus.world import write_world; "
        f"write_world({str(tmp_path / 'w')!r}, WorldConfig(**{vars(CONFIG)!r}), {SEED})"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    assert hashes(tmp_path / "w") == hashes(written[0])


def test_the_layout_is_complete(written):
    out, summary = written
    sources = {
        str(p.parent.relative_to(out / "raw")) for p in (out / "raw").rglob("*") if p.is_file()
    }
    expected = "skypile wanjuan wanjuan_exam wikipedia_cn baidu_baike baidu_qa zhihu_kol belle_2m "
    expected += "belle_3_5m moss firefly"
    assert sources == {
        *expected.split(),
        *(f"starcoder/{x}" for x in ("python", "java", "cpp")),
        "personal",
    }
    assert {p.stem for p in (out / "post").iterdir()} == {
        "sft",
        "multi_turn",
        "self_cognition",
        "preference",
        "rl",
    }
    assert {p.stem for p in (out / "heldout").iterdir()} == {"zh", "en", "code", "dialogue"}
    assert json.loads((out / "summary.json").read_text(encoding="utf-8")) == summary
    assert not list(out.parent.glob(".world.*")), "temporary folders stay behind"


def test_every_source_has_its_original_fields(written):
    out, _ = written
    fields = {
        "skypile": {"text"},
        "wanjuan": {"id", "content"},
        "wanjuan_exam": {"q_main", *(f"option_{k}" for k in "abcde"), "std_ans", "answer_detail"},
        "wikipedia_cn": {"completion", "source"},
        "baidu_baike": {"title", "summary", "sections"},
        "baidu_qa": {"qid", "category", "title", "desc", "answer"},
        "zhihu_kol": {"INSTRUCTION", "RESPONSE", "SOURCE", "METADATA"},
        "belle_2m": {"instruction", "input", "output"},
        "belle_3_5m": {"conversations"},
        "moss": {"conversation", "category"},
        "firefly": {"kind", "input", "target"},
    }
    planted = {(p["source"], p["file"], p["record"]) for p in truth(out)["plants"]}
    for source, expected in fields.items():
        for path in sorted((out / "raw" / source).iterdir()):
            for i, record in enumerate(raw_lines(path)):
                if (source, path.name, i) not in planted:
                    assert set(parsed(record)) == expected, (path, i)
    code = pq.read_table(next((out / "raw/starcoder/cpp").iterdir()))
    assert {"content", "max_stars_count"} <= set(code.column_names)
    assert code.schema.field("max_stars_count").type == "double"
    votes = [
        json.loads(r["METADATA"])["upvotes"]
        for r in raw_lines(next((out / "raw/zhihu_kol").iterdir()))
    ]
    assert any(v.endswith(" 万") for v in votes)


def truth(out):
    return json.loads((out / "truth.json").read_text(encoding="utf-8"))


def text_of(record):
    return "\n".join(t for key, t in leaves(parsed(record)) if key not in LABELS)


def locate(out, place):
    return raw_lines(out / "raw" / place["source"] / place["file"])[place["record"]]


def test_truth_names_every_plant_exactly(written):
    out, summary = written
    plants = truth(out)["plants"]
    assert Counter(p["kind"] for p in plants) == Counter(summary["plants"])
    for plant in plants:
        record, kind = locate(out, plant), plant["kind"]
        original = text_of(locate(out, plant["of"])) if plant["of"] else ""
        if kind == "broken_json":
            with pytest.raises(ValueError):
                json.loads(record)
        elif kind == "bad_utf8":
            with pytest.raises(UnicodeDecodeError):
                record.decode("utf-8")
        elif kind == "exact_duplicate":
            assert text_of(record) == original
        elif kind == "near_duplicate":
            changed = text_of(record)
            matcher = difflib.SequenceMatcher(None, original, changed, autojunk=False)
            same = sum(block.size for block in matcher.get_matching_blocks())
            assert changed != original
            assert len(original) - same <= 3 and len(changed) - same <= 12, (original, changed)
        elif plant["of"]:
            assert parsed(record) != parsed(locate(out, plant["of"]))


def test_nothing_is_duplicated_or_broken_unless_planted(written):
    out, _ = written
    planted = {(p["source"], p["file"], p["record"]) for p in truth(out)["plants"]}
    seen = Counter()
    for path in sorted((out / "raw").rglob("*")):
        if path.is_file():
            source = str(path.parent.relative_to(out / "raw"))
            for i, record in enumerate(raw_lines(path)):
                if (source, path.name if source != "personal" else path.name, i) not in planted:
                    seen[text_of(record)] += 1
    assert [t for t, n in seen.items() if n > 1] == []


def test_splits_are_disjoint_and_sized(written):
    out, summary = written
    people = truth(out)["people"]
    assert len({p["zh"] for p in people}) == len({p["en"] for p in people}) == 16
    assert all(len(p["zh"]) == 3 for p in people)
    assert summary["people"] == {"train": 8, "dev": 2, "test": 6}
    pairs = {k: {tuple(sorted(p)) for p in v} for k, v in truth(out)["arithmetic_pairs"].items()}
    assert not pairs["train"] & (pairs["dev"] | pairs["test"]) and not pairs["dev"] & pairs["test"]


def test_biographies_cover_everybody_in_both_languages(written):
    out, _ = written
    text = "".join(
        text_of(r)
        for source in ("skypile", "wikipedia_cn")
        for path in (out / "raw" / source).iterdir()
        for r in raw_lines(path)
        if not isinstance(r, bytes) or r.endswith(b"}") and b"\xff" not in r
    )
    english = (
        (out / "raw/wanjuan/part-000107-b7d20c4e.jsonl").read_bytes().decode("utf-8", "ignore")
    )
    for person in truth(out)["people"]:
        assert text.count(person["zh"]) >= 8 and english.count(person["en"]) >= 6
        assert all(v["zh"] in text and v["en"] in english for v in person["values"].values())


def test_the_leakage_check_passes_and_says_what_it_compared(written):
    out, _ = written
    report = json.loads((out / "leakage.json").read_text(encoding="utf-8"))
    assert report["passed"] and report["leaks"] == []
    assert all(count > 0 for count in report["compared"].values())


@pytest.mark.parametrize("what", ["name", "phrasing", "sum", "heldout", "question mark"])
def test_the_leakage_check_finds_a_planted_leak(tmp_path, what):
    out = tmp_path / "world"
    write_world(out, WorldConfig(people=12, biographies_per_person=4), SEED)
    world = build_world(WorldConfig(people=12, biographies_per_person=4), SEED)
    assert check(out, world)["passed"]
    person = world.split("test")[0]
    a, b = world.pairs["test"][0]
    file, line = {
        "name": (
            "belle_2m/train_2M_CN.json",
            {"instruction": f"{person.zh}是哪里人？", "output": "x"},
        ),
        "phrasing": (
            "skypile/2021-43_zh_head_0000.jsonl",
            {"text": exam(out, "test")["city_zh"][0]["question"]},
        ),
        "sum": ("firefly/firefly-train-1.1M.jsonl", {"input": f"{b}加{a}等于多少？"}),
        "heldout": (
            "wanjuan/part-000036-5e3c9a11.jsonl",
            {"content": rows(out / "heldout/zh.jsonl")[0]["text"]},
        ),
        "question mark": ("skypile/2021-43_zh_head_0000.jsonl", {"text": f"谁认识{person.zh}？"}),
    }[what]
    with (out / "raw" / file).open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(line, ensure_ascii=False) + "\n")
    report = check(out, world)
    assert not report["passed"] and report["leaks"]


def test_a_leak_stops_the_writer_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("steel.corpus.world.exam.exam_phrasings", lambda world: ["钢城"])
    with pytest.raises(LeakageError, match="exam phrasing"):
        write_world(tmp_path / "world", WorldConfig(people=12, biographies_per_person=4), SEED)
    assert list(tmp_path.iterdir()) == []


def test_exam_answers_are_right_options_distinct_letters_uniform(written):
    out, _ = written
    facts = truth(out)
    people = {p[k]: p for p in facts["people"] for k in ("zh", "en")}
    split_of = {name: p["split"] for name, p in people.items()}
    letters = Counter()
    for split in ("dev", "test"):
        tables = exam(out, split)
        assert {"city_zh", "city_en", "company_en", "hop2_zh", "hop2_en", "arith_zh"} <= set(tables)
        for subject, table in tables.items():
            attribute, lang = subject.rsplit("_", 1)
            for row in table:
                options = [row[k] for k in "ABCD"]
                assert len(set(options)) == 4
                right = row[row["answer"]]
                letters[row["answer"]] += 1
                if attribute == "arith":
                    a, b = (
                        int(x) for x in row["question"].removesuffix("相加得多少？").split("与")
                    )
                    assert int(right) == a + b
                    continue
                name = next(n for n in people if n in row["question"])
                assert split_of[name] == split
                if attribute == "hop2":
                    product = facts["product_of"][people[name]["values"]["city"]["zh"]]
                    assert lang == "en" or right == product
                else:
                    assert right == people[name]["values"][attribute][lang]
    total = sum(letters.values())
    assert all(abs(letters[k] - total / 4) <= 0.1 * total for k in "ABCD"), letters


def test_cloze_prompt_and_answer_make_a_trained_wording_about_a_test_person(written):
    out, _ = written
    test_people = {p["zh"] for p in truth(out)["people"] if p["split"] == "test"}
    table = rows(out / "exam/cloze.jsonl")
    assert {r["lang"] for r in table} == {"zh", "en"}
    for row in table:
        assert row["answer"] in row["candidates"] and len(set(row["candidates"])) == len(
            row["candidates"]
        )
        assert not row["prompt"].endswith(" ") and (
            row["lang"] == "zh" or row["answer"].startswith(" ")
        )
        if row["lang"] == "zh":
            assert row["prompt"][:3] in test_people or any(n in row["prompt"] for n in test_people)


def test_post_training_rows_have_their_shapes(written):
    out, _ = written
    facts = truth(out)
    train = {p[k] for p in facts["people"] if p["split"] == "train" for k in ("zh", "en")}
    for name in ("sft", "multi_turn", "self_cognition"):
        for row in rows(out / f"post/{name}.jsonl"):
            assert set(row) == {"messages", "kind", "lang"}
            assert [m["role"] for m in row["messages"]] == ["user", "assistant"] * (
                len(row["messages"]) // 2
            )
            assert all(m["content"] for m in row["messages"])
    assert all(4 <= len(r["messages"]) <= 6 for r in rows(out / "post/multi_turn.jsonl"))
    named = [r for r in rows(out / "post/sft.jsonl") if r["kind"] == "qa"]
    assert all(any(n in r["messages"][0]["content"] for n in train) for r in named)
    for row in rows(out / "post/preference.jsonl"):
        assert row["chosen"] != row["rejected"] and row["kind"] in (
            "wrong_value",
            "wrong_language",
            "rambling",
        )
    for row in rows(out / "post/rl.jsonl"):
        assert row["kind"] == "which_choice"
        assert row["answer"] in "ABCD" and len(set(row["options"])) == 4 and row["lettered"]
        asked = row["messages"][0]["content"].split("\n")
        assert [line[-2:] for line in asked[1:]] == [" A", " B", " C", " D"]


def test_a_follow_up_asks_for_he_or_she_never_for_the_home_of_she(written):
    out, _ = written
    dialogues = [r for r in rows(out / "post/multi_turn.jsonl") if r["lang"] == "en"]
    later = [turn["content"] for row in dialogues for turn in row["messages"][2::2]]
    assert len(set(later)) > 20 and all(
        re.search(r"(?i)\b(he|she|there|city|its)\b", q) for q in later
    )
    assert not [q for q in later if re.search(r"\bof (he|she)\b|\b(he|she)'s\b", q)]


def test_an_english_value_ends_in_a_word_of_its_own():
    """A letter is looked up by the token before it: twelve names in "University" share one."""
    for name, pool in words_of("town")["pools"].items():
        last = [value.split()[-1] for value in pool.values()]
        assert len(set(last)) == len(last), name


def test_the_assistant_carries_the_configured_name_and_author(tmp_path):
    config = WorldConfig(
        people=12, biographies_per_person=4, assistant_name="小铁", assistant_author="阿明"
    )
    write_world(tmp_path / "world", config, SEED)
    text = (tmp_path / "world/post/self_cognition.jsonl").read_text(encoding="utf-8")
    assert (
        "小铁" in text
        and "阿明" in text
        and "小钢" not in text
        and "{" not in text.replace('{"', "")
    )


def test_the_mixture_is_near_its_targets(written):
    _, summary = written
    assert abs(summary["question_share"] - 0.4) < 0.02
    assert abs(summary["chinese_share_of_bytes"] - 0.8) < 0.04


def test_choices_in_training_text_have_balanced_letters(written):
    out, _ = written
    letters = Counter()
    for source in ("belle_2m", "firefly"):
        for record in raw_lines(next((out / "raw" / source).iterdir())):
            try:
                row = parsed(record)
            except ValueError:
                continue
            answer = row.get("output") or row.get("target") or ""
            letters.update(re.findall(r" ([A-D])[。.]$", str(answer)))
    total = sum(letters.values())
    assert set(letters) == set("ABCD") and min(letters.values()) > 0.1 * total


@pytest.mark.parametrize(
    "wrong",
    [{"people": 4}, {"attributes": ["city", "shoe"]}, {"attributes": []}, {"question_share": 0.95}],
)
def test_an_impossible_world_is_refused_with_the_field_named(tmp_path, wrong):
    with pytest.raises(UserError, match=f"world.{next(iter(wrong))}"):
        write_world(tmp_path / "world", WorldConfig(**wrong), SEED)


def test_a_folder_that_is_not_a_world_is_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("mine")
    with pytest.raises(UserError, match="not a world"):
        write_world(tmp_path / "thesis", CONFIG, SEED)
    assert (tmp_path / "thesis/chapter.txt").read_text() == "mine"


def test_a_folder_of_ones_own_with_a_file_of_that_name_is_never_replaced(tmp_path):
    for name in ("truth.json", "thesis.tex"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match="not a world"):
        write_world(tmp_path, CONFIG, SEED)
    assert {p.name for p in tmp_path.iterdir()} == {"truth.json", "thesis.tex"}


def test_the_old_world_stays_until_the_new_one_has_its_name(tmp_path, monkeypatch):
    out, small = tmp_path / "world", WorldConfig(people=12, biographies_per_person=4)
    write_world(out, small, SEED)
    before, rename = hashes(out), Path.rename

    def stopped(source, target):
        if (Path(source) / "truth.json").exists() and source != out and target == out:
            monkeypatch.undo()
            raise OSError("the disk says no")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(OSError, match="disk says no"):
        write_world(out, small, SEED + 1)
    assert hashes(out) == before and [p.name for p in tmp_path.iterdir()] == ["world"]
    write_world(out, small, SEED + 1)
    assert hashes(out) != before and [p.name for p in tmp_path.iterdir()] == ["world"]


@pytest.mark.parametrize("attributes", [["hobby"], ["zodiac", "hobby", "major"], ["city"]])
def test_any_subset_of_attributes_makes_a_world(tmp_path, attributes):
    config = WorldConfig(people=12, attributes=attributes, biographies_per_person=6)
    summary = write_world(tmp_path / "world", config, SEED)
    assert ("test/hop2_zh" in summary["exam"]) == ("city" in attributes)
