import fnmatch
import functools
import importlib.util
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from raw_samples import jsonl, write_raw

from steel.config import UserError, load
from steel.corpus import steps
from steel.corpus.download import download, stream_dataset
from steel.corpus.pipeline import prepare
from steel.corpus.report import STEPS
from steel.corpus.sources import inside, survey
from steel.corpus.sources.readers import records
from steel.data.pack import find_inputs
from steel.documents import Document, DocumentWriter, read_documents, write_documents

REAL = os.environ.get("STEEL_REAL_DATA")
convert, clean, dedup = (functools.partial(prepare, steps=(step,)) for step in STEPS)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def place(document) -> str:
    return f"{document.source}/{document.meta['file']}:{document.meta['record']}"


def assert_sums_close(report: dict, out: Path) -> None:
    for name, part in report["sources"].items():
        before = None
        for step in STEPS:
            counts = part["steps"][step]
            gone = sum(counts.get("removed", {}).values()) + sum(
                counts.get("rejected", {}).values()
            )
            assert counts["in"] == counts["kept"] + gone and before in (None, counts["in"])
            before = counts["kept"]
        assert before == len(list(read_documents(out / f"{name}.jsonl.zst")))
    assert json.loads((out / "report.json").read_text()) == report


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepare")
    report = prepare(write_raw(root / "raw"), root / "out", trace=1)
    return root / "raw", root / "out", report


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


@pytest.fixture
def worked(monkeypatch):
    """The tasks that began to convert, by rank."""
    ranks, run = [], steps.Convert.run

    def counted(self, data=None, rank=0, world_size=1):
        ranks.append(rank)
        yield from run(self, data, rank, world_size)

    monkeypatch.setattr(steps.Convert, "run", counted)
    return ranks


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


@pytest.mark.parametrize("how", [{"tasks": 1}, {"tasks": 5}, {"tasks": 9, "workers": 2}])
def test_any_number_of_tasks_and_workers_gives_the_same_bytes(prepared, tmp_path, how):
    raw, out, report = prepared
    assert prepare(raw, tmp_path / "out", trace=1, **how) == report
    assert contents(tmp_path / "out") == contents(out)
    for name in ("report", "report/rejects", "report/traces"):
        assert contents(tmp_path / "out" / name) == contents(out / name) != {}


def test_a_run_stopped_anywhere_resumes_to_the_same_bytes(prepared, tmp_path, monkeypatch, worked):
    raw, out, report = prepared
    write_line, replace = DocumentWriter.write_line, os.replace
    for stop in range(1, 400, 7):
        events = itertools.count(1)

        def tick(stop=stop, events=events):
            if next(events) == stop:
                raise KeyboardInterrupt

        monkeypatch.setattr(
            DocumentWriter, "write_line", lambda self, line, t=tick: (t(), write_line(self, line))
        )
        monkeypatch.setattr(os, "replace", lambda old, new, t=tick: (t(), replace(old, new)))
        try:
            assert prepare(raw, tmp_path / "out") == report
            break
        except KeyboardInterrupt:
            assert (tmp_path / "out/.work").exists()
    else:
        pytest.fail("it never came to an end")
    assert contents(tmp_path / "out") == contents(out)
    assert [p.name for p in (tmp_path / "out/.work").iterdir()] == ["done.json"]
    assert len(set(worked)) > 5 and max(map(worked.count, set(worked))) <= 3, "done tasks, again"


HANGING = """
import os, signal, sys, time
from steel.corpus import steps

class Keep(steps.Keep):
    def run(self, data, rank=0, world_size=1):
        if rank == 5:
            os.kill(os.getpid(), signal.SIGKILL) if "suicide" in sys.argv else time.sleep(600)
        super().run(data, rank, world_size)

if __name__ == "__main__":
    import hanging
    from steel.cli import main

    steps.Keep = hanging.Keep
    main(["data", "prepare", *sys.argv[1:4]] + ["--workers", sys.argv[4], "--tasks", "12"])
"""


def start_hanging(raw: Path, out: Path, workers: int, *words: str) -> subprocess.Popen:
    """`steel data prepare` in its own processes, of which one never gets over task 5."""
    folder = out.parent / "code"
    folder.mkdir(exist_ok=True)
    (folder / "hanging.py").write_text(HANGING)
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    return subprocess.Popen(
        [sys.executable, folder / "hanging.py", raw, out, "--recipe=steel", str(workers), *words],
        env={**os.environ, "PYTHONPATH": path, "STEEL_QUIET": "1"},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(condition, process) -> None:
    while not condition():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_job_goes_on_without_repeating_a_finished_task(
    prepared, tmp_path, workers, worked
):
    raw, out, report = prepared

    def completed() -> set[int]:
        found = (tmp_path / "out/.work").glob("*/documents/completions/*")
        return {int(path.name) for path in found}

    process = start_hanging(raw, tmp_path / "out", workers)
    until(lambda: len(completed()) >= 5, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = completed()
    [work] = (tmp_path / "out/.work").iterdir()
    tasks = set(range(int(work.name.split("-")[1])))  # at most the 12: a task has whole files
    assert 5 <= len(before) < len(tasks) and not (tmp_path / "out/report.json").exists()
    assert prepare(raw, tmp_path / "out", tasks=12) == report
    assert contents(tmp_path / "out") == contents(out)
    assert sorted(worked) == sorted(tasks - before)


def test_a_worker_that_is_killed_ends_the_job_with_one_line(prepared, tmp_path):
    process = start_hanging(prepared[0], tmp_path / "out", 2, "suicide")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2 and said.count("\n") == 1 and "was killed" in said


def test_a_mistake_in_a_worker_process_is_one_line(tmp_path):
    for name in ("a", "b"):
        write_documents(tmp_path / f"1/{name}.jsonl.zst", [Document("1", "一段文字。" * 9, name)])
    whole = (tmp_path / "1/b.jsonl.zst").read_bytes()
    (tmp_path / "1/b.jsonl.zst").write_bytes(whole[:-9])
    for workers in (1, 2):
        with pytest.raises(UserError, match="cut off"):
            clean(tmp_path / "1", tmp_path / "2", workers=workers)


def test_slurm_runs_the_scripts_it_is_given(tmp_path, monkeypatch):
    """A stub sbatch that runs the generated script at once, task by task, in processes of its own."""
    scripts = {
        "sbatch": """
            while [[ $1 == --* ]]; do
              case $1 in --export=ALL,*) export "${1#--export=ALL,}";; esac; shift
            done
            last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
            for i in $(seq 0 "$last"); do
              SLURM_ARRAY_TASK_ID=$i SLURM_NODELIST=here bash "$1" >> "$0.log" 2>&1
            done
            echo Submitted batch job 7""",
        "srun": """
            while [[ $1 == -* ]]; do [[ $1 == -n ]] && shift; shift; done
            exec "$@" """,
        "scontrol": "echo here",
    }
    for name, body in scripts.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text("#!/bin/bash\n" + textwrap.dedent(body))
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    raw = write_raw(tmp_path / "all")
    for name in ("firefly", "skypile"):
        shutil.copytree(raw / name, tmp_path / "raw" / name)
    report = prepare(tmp_path / "raw", tmp_path / "local")
    how = {"partition": "cpu", "time": "1:00:00", "tasks_per_job": 2}
    there = prepare(tmp_path / "raw", tmp_path / "out", executor="slurm", options=how)
    assert there == report, (tmp_path / "bin/sbatch.log").read_text()
    assert contents(tmp_path / "out") == contents(tmp_path / "local")
    with pytest.raises(UserError, match="'time' and 'partition'"):
        prepare(tmp_path / "raw", tmp_path / "no", executor="slurm")


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray_gives_the_same_bytes(prepared, tmp_path, monkeypatch):
    import ray

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        how = {"executor": "ray", "workers": 2, "tasks": 3, "options": {"mem_per_cpu_gb": 0.5}}
        assert prepare(prepared[0], tmp_path / "out", **how) == prepared[2]
    finally:
        ray.shutdown()
    assert contents(tmp_path / "out") == contents(prepared[1])


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_a_folder_called_ray_is_not_ray(prepared, tmp_path, monkeypatch):
    (tmp_path / "here/ray").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "here")
    with pytest.raises(UserError, match="--executor ray needs Ray"):
        prepare(prepared[0], tmp_path / "out", executor="ray")


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


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    from steel.corpus.world import write_world

    root = tmp_path_factory.mktemp("world")
    config = load("smoke")
    write_world(root / "world", config.world, config.seed)
    report = prepare(root / "world/raw", root / "out")
    assert_sums_close(report, root / "out")
    truth = json.loads((root / "world/truth.json").read_text())["plants"]
    everything = {
        f"{name}/{inside(file, root / 'world/raw', name)}:{number}"
        for name, files in survey(root / "world/raw")[0].items()
        for file in files
        for number, _ in records(file)
    }
    return truth, {place(d): d.readable() for d in read_documents(root / "out")}, everything


def spot(plant: dict) -> str:
    return f"{plant['source']}/{plant['file']}:{plant['record']}"


def test_planted_copies_are_found_in_the_closed_world(world):
    truth, kept, everything = world
    for kind, least in (("exact_duplicate", 1.0), ("near_duplicate", 0.95)):
        plants = [p for p in truth if p["kind"] == kind]
        assert all(spot(p) in everything for p in plants)
        found = sum(not (spot(p) in kept and spot(p["of"]) in kept) for p in plants)
        assert found >= least * len(plants), f"{kind}: {found} of {len(plants)}"


@pytest.mark.parametrize(
    ("kind", "least"),
    [
        ("broken_json", 1),
        ("bad_utf8", 1),
        ("bad_role_order", 1),
        ("symbols", 0.85),
        ("repetition", 0.85),
        ("mojibake", 0.85),
        ("html", 0.85),
        ("wrong_type", 0.8),
        ("missing_field", 0.65),
        ("too_short", 0.4),
    ],
)
def test_planted_junk_is_removed_or_mended_in_the_closed_world(world, kind, least):
    """Where the damaged field is one that a record can do without (desc, input), it is kept."""
    truth, kept, _ = world
    plants = [spot(p) for p in truth if p["kind"] == kind]
    signs = {"mojibake": "[锛銆鐨鍦涓â]", "html": "</|<br|&nbsp"}
    good = sum(
        p not in kept or (kind in signs and not re.search(signs[kind], kept[p])) for p in plants
    )
    assert good >= least * len(plants), f"{kind}: {good} of {len(plants)}"


def test_good_records_of_the_closed_world_are_kept(world):
    truth, kept, everything = world
    touched = {spot(p) for p in truth} | {spot(p["of"]) for p in truth if p["of"]}
    lost = [
        p
        for p in everything - touched
        if p not in kept and not p.startswith(("zhihu_kol", "starcoder"))
    ]
    assert len(lost) <= 0.02 * len(everything), lost[:5]


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
