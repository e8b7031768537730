"""The report card: read from whatever a RUN folder holds, written whole, readable by everybody."""

import json
import math
import re
from html.parser import HTMLParser

import pytest

from steel.config import UserError
from steel.report.card import collect
from steel.report.charts import nice_ticks
from steel.report.render import write_report
from steel.report.words import count, duration, size, title

VOID = {"meta", "br", "img", "hr", "input", "link"}


class Reader(HTMLParser):
    """Checks that every tag closes, and remembers what is on the page."""

    def __init__(self):
        super().__init__()
        self.open, self.svgs, self.titles, self.ids = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert "src" not in attrs and not any(k.startswith("on") for k in attrs if tag != "form")
        assert not any(
            str(v).startswith(("http:", "https:", "//"))
            for k, v in attrs.items()
            if k in ("src", "href")
        )
        if tag == "svg":
            self.svgs.append(attrs)
        if tag == "title" and self.open and self.open[-1] == "svg":
            self.titles.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self.open[-2:] == ["svg", "title"]:
            self.titles[-1] += data


def read(page):
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    return reader


def exam(text, letter=0.3):
    def score(p):
        return {
            "accuracy": p,
            "micro": p,
            "macro": p,
            "se": 0.02,
            "macro_se": 0.02,
            "n": 400,
            "letters": {"A": 400},
        }

    return {
        "n": 400,
        "shots": 0,
        "baselines": {"chance": 0.25, "always_a": 0.24, "longest": 0.27},
        "scoring": {
            "letter": score(letter),
            "text": {**score(text), "accuracy_sum": text},
            "generate": {**score(text), "unparsed": 0.1},
        },
        "subjects": {"city_zh": {"n": 400, "letter": letter, "text": text, "generate": text}},
        "groups": {"zh": {"n": 400, "letter": letter, "text": text, "generate": text}},
    }


def bpb(value):
    domain = {
        "bpb": value,
        "nats_per_byte": None,
        "tokens": 10,
        "bytes": 40,
        "documents": 1,
        "tokens_per_byte": 0.25,
        "ppl": 4.0,
        "ppl_normalised": None,
        "nan_documents": int(value is None),
    }
    return {
        "domains": {"web": domain},
        "nan_domains": [] if value else ["web"],
        "geometric_mean": {"bpb": value, "ppl": None, "ppl_normalised": None},
    }


@pytest.fixture
def run(tmp_path):
    """A small but complete RUN folder."""
    for stage, metric in (("pretrain", "loss"), ("sft", "loss"), ("grpo", "reward")):
        (tmp_path / stage).mkdir()
        header = {
            "kind": "header",
            "config": {"seed": 3, "preset": "laptop", "model": {"feed_forward": "dense"}},
            "config_hash": "abc",
            "commit": "1234567",
            "packages": {"torch": "2.13"},
            "parameters": 1115264,
            "hardware": {"cores": 2, "cpu": "a CPU"},
            "time_s": 0.0,
        }
        common = {"kind": "step", "tokens_per_s": 900.0, "peak_memory_bytes": 2**28}
        lines = [
            header,
            *(
                {
                    **common,
                    "step": s,
                    "tokens": s * 1000,
                    "loss": 5 / s,
                    metric: 5 / s,
                    "time_s": float(s),
                }
                for s in range(1, 40)
            ),
        ]
        lines.insert(
            20,
            {"kind": "event", "what": "skipped step", "why": "<loss>", "step": 20, "time_s": 19.5},
        )
        lines += [
            {"kind": "eval", "step": 39, "tokens": 39000, "loss": 0.2, "time_s": 39.0},
            {
                "kind": "sample",
                "step": 39,
                "prompt": "林晓月住在",
                "completion": "云州 & <b>",
                "time_s": 39.5,
            },
            {"kind": "event", "what": "end", "step": 39, "time_s": 40.0},
        ]
        (tmp_path / stage / "log.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (tmp_path / "exams").mkdir()
    for stage, text, bits in (("init", 0.25, 3.0), ("pretrain", 0.6, 0.5), ("grpo", 0.925, None)):
        cloze = {"accuracy": text, "n": 99, "se": 0.03}
        (tmp_path / "exams" / f"{stage}.json").write_text(
            json.dumps(
                {"stage": stage, "exam": exam(text), "cloze": cloze, "perplexity": bpb(bits)}
            )
        )
    (tmp_path / "docs").mkdir()
    steps = {
        "convert": {"in": 10, "kept": 9, "rejected": {"broken JSON": 1}},
        "clean": {"in": 9, "kept": 7, "removed": {"too short": 2}, "rejected": {}},
        "dedup": {"in": 7, "kept": 6, "removed": {"exact": 1}},
    }
    (tmp_path / "docs" / "report.json").write_text(
        json.dumps({"sources": {"skypile": {"steps": steps}}})
    )
    (tmp_path / "state.json").write_text(
        json.dumps(
            {
                "run": {"name": "my <run>"},
                "cost": {"seconds": 400.0},
                "stages": {
                    "docs": {"status": "done", "seconds": 3.0},
                    "pretrain": {"status": "done", "seconds": 300.0},
                    "sft": {"status": "done", "seconds": 40.0},
                    "dpo": {"status": "skipped", "reason": "no pairs <given>"},
                    "grpo": {"status": "done", "seconds": 57.0},
                    "exam:grpo": {"status": "done", "seconds": 5.0},
                },
            }
        )
    )
    return tmp_path


def test_the_page_is_well_formed_names_its_figures_and_fetches_nothing(run):
    page = write_report(run).read_text(encoding="utf-8")
    reader = read(page)
    assert len(reader.svgs) == len(reader.titles) == 5  # three curves, the exam, bits per byte
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 20 for svg in reader.svgs)
    assert all(len(name) > 20 for name in reader.titles)
    assert "林晓月住在" in page and "云州 &amp; &lt;b&gt;" in page and 'lang="zh-Hans"' in page
    assert "my &lt;run&gt;" in page and "no pairs &lt;given&gt;" in page
    assert "prefers-color-scheme:dark" in page and "http" not in page
    assert not re.search(r"\bnan\b|None|inf\b", re.sub(r"<style>.*?</style>", "", page, flags=re.S))


def test_every_section_stands_on_the_page_with_its_numbers(run):
    page = write_report(run).read_text(encoding="utf-8")
    sections = dict(re.findall(r"<h2>(.*?)</h2>(.*?)</section>", page, flags=re.S))
    expected = {
        "What it knows": ("400 questions, 0-shot", "chance 25.0\u00a0%", "All 1 subjects"),
        "How it learned": ("39 steps", "held out 0.200", "skipped step", "reward per reply"),
        "Text it has never seen": ("0.500", "Untrained: 3.00"),
        "What it says": ("林晓月住在", "pretraining"),
        "Time and memory": ("5.0 min", "256 MiB", "1 exams", "(reward)"),
        "What it read": ("60.0\u00a0%", "2 clean: too short", "4 removed"),
        "What it cost": ("6.7 min of wall time on 2 cores a CPU for 117 k training tokens",),
        "What does not hold": ("DPO</b> was skipped",),
    }
    assert list(sections) == list(expected)
    for name, words in expected.items():
        assert not [w for w in words if w not in sections[name]], name
    text = (run / "report.md").read_text(encoding="utf-8")
    for name in expected.keys() - {"How it learned", "What it cost"}:
        assert f"\n## {name}" in text


def test_headline_is_derived_from_the_files(run):
    page = write_report(run).read_text(encoding="utf-8")
    figures = re.findall(r'<span class="l">(.*?)<.*?class="v">(.*?)<.*?class="n">(.*?)<', page)
    value, note = ({label: words[i] for label, *words in figures} for i in (0, 1))
    assert value["exam, text-scored"] == "92.5\u00a0%"
    assert "chance 25.0\u00a0%" in note["exam, text-scored"]
    assert "untrained 25.0\u00a0%" in note["exam, text-scored"]
    assert value["cloze"] == "60.0\u00a0%" and value["bits per byte"] == "0.500"
    assert value["total time"] == "6.7 min" and value["peak memory"] == "256 MiB"


def test_collect_reads_logs_counts_and_reasons(run):
    data = collect(run)
    stages = {s["name"]: s for s in data["stages"]}
    assert list(stages) == ["docs", "pretrain", "sft", "dpo", "grpo", "exam:grpo"]
    assert stages["pretrain"]["steps"] == 39 and stages["pretrain"]["tokens"] == 39000
    assert stages["pretrain"]["eval_loss"] == 0.2 and stages["grpo"]["metric"] == "reward"
    assert [e["what"] for e in stages["sft"]["events"]] == ["skipped step"]
    assert (
        data["run"]["seed"] == 3
        and data["run"]["preset"] == "laptop"
        and data["model"]["parameters"] == 1115264
    )
    assert [e["stage"] for e in data["exams"]] == ["init", "pretrain", "grpo"]
    source = data["data"][0]
    assert (source["in"], source["kept"]) == (10, 6)
    assert sum(source["removed"].values()) == source["in"] - source["kept"]


def test_a_domain_without_a_number_is_shouted_not_dropped(run):
    page = write_report(run).read_text(encoding="utf-8")
    assert "No finite loss on web" in page and "no number" in page
    assert "**NaN**" in (run / "report.md").read_text(encoding="utf-8")


def test_report_json_is_strict_json_and_rebuilds_the_page(run):
    page = write_report(run).read_text(encoding="utf-8")
    data = json.loads(
        (run / "report.json").read_text(encoding="utf-8"),
        parse_constant=lambda _: pytest.fail("NaN"),
    )
    assert write_report(run, data).read_text(encoding="utf-8") == page
    assert write_report(run, {"run": {"name": "x"}, "cost": {"seconds": math.nan}}).is_file()


@pytest.mark.parametrize(
    "missing", ["state.json", "exams", "docs", "pretrain", "grpo/log.jsonl", "everything"]
)
def test_any_missing_part_is_left_out(run, missing):
    import shutil

    for target in list(run.iterdir()) if missing == "everything" else [run / missing]:
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    read(write_report(run).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "damaged", ["state.json", "docs/report.json", "exams/grpo.json", "pretrain/log.jsonl"]
)
def test_a_damaged_part_is_noted(run, damaged):
    (run / damaged).write_text('{"kind": "step", "step": 1, "los', encoding="utf-8")
    page = write_report(run).read_text(encoding="utf-8")
    read(page)
    assert "cannot be read" in page or damaged.endswith("log.jsonl")


def test_a_damaged_line_of_a_log_is_noted(run):
    log = run / "sft" / "log.jsonl"
    log.write_text(log.read_text().replace('"step": 7', '"ste', 1))
    assert any("1 damaged line" in note for note in collect(run)["notes"])


def test_time_is_added_over_resumes(tmp_path):
    (tmp_path / "sft").mkdir()
    times = [0.0, 10.0, 20.0, 0.0, 5.0]
    (tmp_path / "sft" / "log.jsonl").write_text(
        "".join(
            json.dumps({"kind": "step", "step": i, "tokens": i, "loss": 1.0, "time_s": t}) + "\n"
            for i, t in enumerate(times)
        )
    )
    assert collect(tmp_path)["stages"][0]["seconds"] == 25.0


def test_a_folder_that_does_not_exist_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="no run folder"):
        write_report(tmp_path / "none")


def test_numbers_read_well():
    assert [count(n) for n in (None, 12, 1234, 8970.4, 12345, 1.1e6, 2.5e9)] == [
        "–",
        "12",
        "1,234",
        "8,970",
        "12.3 k",
        "1.1 M",
        "2.5 B",
    ]
    assert [duration(s) for s in (3, 400, 6000, 300000)] == ["3.0 s", "6.7 min", "1.7 h", "3.5 d"]
    assert [size(n) for n in (2**20, 3 * 2**29)] == ["1 MiB", "1.50 GiB"]
    assert title("exam:sft") == "exam after SFT" and title("exam:init") == "exam before training"
    assert nice_ticks(0, 7.4, 5) == [0, 2, 4, 6] and nice_ticks(0, 1) == pytest.approx(
        [0, 0.2, 0.4, 0.6, 0.8, 1]
    )
