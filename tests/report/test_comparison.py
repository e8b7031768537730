"""The scrubber over stages and checkpoints, and the page that compares runs."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest
from typer.testing import CliRunner

from steel.cli import app
from steel.evaluation.results import share
from steel.report.card import collect
from steel.report.comparison import compare_runs, verdict
from steel.report.render import write_comparison, write_report
from steel.report.replies import MOST, logged, scrubber

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
OPTIONS += " --disable-background-networking --disable-component-update --virtual-time-budget=3000"
NASTY = "</script><b>粗</b> & \"'"
KEY, PEOPLE = "ABCD" * 20, [i // 4 for i in range(80)]


def exam(right: int, said: list[bool] | None = None, key: str = KEY, bytes_=(40, 60)) -> dict:
    """An exam whose first `right` questions are right; its documents cost more bits where fewer are."""
    text = key[:right] + "-" * (len(key) - right)
    score = share([a == b for a, b in zip(text, key)], PEOPLE)
    scoring = {"text": score | {"micro": score["accuracy"], "macro": score["accuracy"]}}
    whole = {"n": len(key), "text": score["accuracy"]}
    nats = [size * (1 - right / 100 + 0.001 * i) for i, size in enumerate(bytes_)]
    domain = {"bpb": sum(nats) / sum(bytes_), "documents": 2, "tokens": 9, "bytes": sum(bytes_)}
    domain["by_document"] = {"nats": nats, "bytes": list(bytes_)}
    page = {
        "exam": {"n": len(key), "suite": "world", "scoring": scoring, "groups": {"all": whole}}
        | {"subjects": {"all": whole}, "baselines": {"chance": 0.25, "always_a": 0.2}}
        | {"answers": {"key": key, "clusters": PEOPLE, "text": text}},
        "perplexity": {"domains": {"zh": domain}, "geometric_mean": {"bpb": domain["bpb"]}},
        "samples": [{"prompt": [{"role": "user", "content": "你好"}], "completion": f"{right} 次"}],
    }
    if said is not None:
        answers = [
            {"kind": "sum", "lang": "zh", "said": [f"{i}+1"], "reply": str(i), "right": ok}
            for i, ok in enumerate(said)
        ]
        kinds = {"sum": share(said)}
        page["conversation"] = share(said) | {"kinds": kinds, "answers": answers}
    return page


ONE = (("sft", exam(40)),)


def life(folder, preset="laptop", steps=(0, 10, 20), exams=ONE, status="done"):
    """A RUN folder of a life: pretraining that drew samples at `steps`, then the exams."""
    (folder / "pretrain").mkdir(parents=True)
    (folder / "exams").mkdir()
    lines = [{"kind": "header", "config": {"preset": preset, "seed": 1}}]
    for step in steps:
        lines.append({"kind": "step", "step": step, "tokens": 9 * step, "loss": 9.0})
        said = {"prompt": "林晓月住在", "completion": f"{step} {NASTY}"}
        lines.append({"kind": "sample", "step": step, **said})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "pretrain" / "log.jsonl").write_text(text, encoding="utf-8")
    for stage, page in exams:
        text = json.dumps({"stage": stage, **page})
        (folder / "exams" / f"{stage}.json").write_text(text, encoding="utf-8")
    stages = {"pretrain": {"status": status}} | {stage: {"status": "done"} for stage, _ in exams}
    state = {"run": {"name": folder.name, "preset": preset}, "stages": stages}
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    return folder


def dom(page, script=""):
    """The page's DOM after its script, and another one, have run."""
    where = page.with_name("opened.html")
    where.write_text(page.read_text(encoding="utf-8") + f"<script>{script}</script>", "utf-8")
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [BROWSER, *OPTIONS.split(), profile, "--dump-dom", where.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return re.sub(r"<script>.*?</script>", "", run.stdout, flags=re.S)


def shown(page):
    """What stands in the cells that are not hidden, of parts that are not."""
    parts = re.findall(r'<div class="said"( hidden="")?>(.*?)</table>', page, re.S)
    cells = [
        c for hid, part in parts if not hid for c in re.findall(r"<td data-at(.*?)</td>", part)
    ]
    return [unescape(re.sub(r"<[^>]*>", "", "<td" + c)) for c in cells if 'hidden=""' not in c]


TWO = (("sft", exam(40, [True, False])), ("dpo", exam(60, [True, True])))


def test_texts_stand_in_tables_without_script_and_are_escaped(tmp_path):
    page = write_report(life(tmp_path / "a", exams=TWO)).read_text(encoding="utf-8")
    bare = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert "<b>粗" not in page and page.count("</script>") == 1
    for step in (0, 10, 20):
        assert f"{step} &lt;/script&gt;&lt;b&gt;粗&lt;/b&gt; &amp; &#34;&#39;" in bare
    assert "pretraining, step 10" in bare and "after DPO" in bare and "40 次" in bare
    assert "data-at" in bare and " hidden" not in bare.replace('class="scrub" hidden', "").replace(
        "[hidden]", ""
    ).replace(".said hidden", "")
    assert "http" not in page and "src=" not in page


@pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine")
def test_the_scrubber_shows_one_moment_and_all_side_by_side(tmp_path):
    page = write_report(life(tmp_path / "a", exams=TWO))
    assert shown(dom(page))[0].endswith("60 次") and len(shown(dom(page))) == 3  # after DPO
    move = "const i = document.querySelectorAll('.scrub input'); "
    back = move + "i[0].value = 1; i[0].dispatchEvent(new Event('input', {bubbles: true}));"
    moved = dom(page, back)
    assert len(shown(moved)) == 1 and f"10 {NASTY}" in shown(moved)[0]
    assert 'aria-valuetext="pretraining, step 10"' in moved
    every = move + "i[1].checked = true; i[1].dispatchEvent(new Event('input', {bubbles: true}));"
    assert len(shown(dom(page, every))) == 3 + 2 + 4


def test_the_end_of_pretraining_is_told_once_and_a_long_run_is_thinned(tmp_path):
    ended = exam(40) | {"samples": [{"prompt": "林晓月住在", "completion": "云州"}]}
    data = collect(life(tmp_path / "a", exams=(("pretrain", ended),)))
    assert [s["step"] for s in data["samples"]] == [0, 10, None]
    rows = [{"step": s, "prompt": "a", "completion": str(s)} for s in [*range(99), 50]]
    steps = [r["step"] for r in logged("pretrain", rows)]
    assert len(steps) == MOST and steps[0] == 0 and steps[-1] == 98


def test_a_life_without_conversation_and_a_killed_one_are_compared(tmp_path):
    whole = life(tmp_path / "whole", exams=TWO)
    plain = life(tmp_path / "plain", exams=(("sft", exam(40)),))
    killed = life(tmp_path / "killed", steps=(0,), exams=(), status="running")
    (killed / "pretrain" / "log.jsonl").open("a").write('{"kind": "step", "st')
    page = write_comparison([whole, plain, killed], tmp_path / "c.html").read_text("utf-8")
    data = json.loads((tmp_path / "c.json").read_text("utf-8"))
    rows = {(r["stage"], r["what"]): r for r in data["rows"]}
    assert rows["sft", "text"]["differences"][0]["words"] == "no difference"
    assert rows["sft", "conversation"]["differences"] == [None, None]
    assert data["runs"][2]["unfinished"] == ["pretrain"] and "step 0: killed" in page
    assert "<b>粗" not in page
    alone = write_comparison(
        [killed, life(tmp_path / "b", steps=(), exams=())], tmp_path / "d.html"
    )
    assert "No exam of any stage" in alone.read_text("utf-8")


@pytest.mark.parametrize("right, words", [(41, "within two standard errors"), (60, "better")])
def test_a_paired_difference_is_the_packages_own(tmp_path, right, words):
    one = life(tmp_path / "one", exams=(("sft", exam(40, [True, False] * 20)),))
    two = life(tmp_path / "two", exams=(("sft", exam(right, [True] * 40)),))
    found = compare_runs([collect(one), collect(two)], [one, two])["rows"]
    text, talk, bits = (
        next(r for r in found if r["what"] == w) for w in ("text", "conversation", "zh")
    )
    (d,) = text["differences"]
    sums = [
        sum((40 <= i < right) - (right - 40) / 80 for i in range(c, c + 4)) for c in range(0, 80, 4)
    ]
    assert d["paired"] and d["difference"] == pytest.approx((right - 40) / 80)
    assert d["se"] == pytest.approx(sum(s * s for s in sums) ** 0.5 / 80) and d["words"] == words
    assert talk["differences"][0]["paired"] and talk["differences"][0]["words"] == "better"
    assert bits["less"] and bits["differences"][0]["difference"] < 0


def test_presets_with_other_questions_are_compared_unpaired(tmp_path):
    one = life(tmp_path / "one", exams=(("sft", exam(40)),))
    two = life(
        tmp_path / "two", "steel-1b", exams=(("sft", exam(60, key="BCDA" * 20, bytes_=(9, 9))),)
    )
    found = compare_runs([collect(one), collect(two)], [one, two])["rows"]
    text, bits = (
        next(r for r in found if r["what"] == w)["differences"][0] for w in ("text", "zh")
    )
    errors = [exam(n)["exam"]["scoring"]["text"]["se"] for n in (40, 60)]
    assert not text["paired"] and text["se"] == pytest.approx(
        (errors[0] ** 2 + errors[1] ** 2) ** 0.5
    )
    assert not bits["paired"] and bits["words"] == "no standard error"
    # letters that agree by chance do not make two exams the same one
    for run, asked in ((one, "a"), (two, "b")):
        (run / "world" / "exam" / "test").mkdir(parents=True)
        (run / "world" / "exam" / "test" / "city.csv").write_text(asked)
    shutil.copy(one / "exams" / "sft.json", two / "exams" / "sft.json")
    rows = compare_runs([collect(one), collect(two)], [one, two])["rows"]
    assert not next(r for r in rows if r["what"] == "text")["differences"][0]["paired"]


def test_verdicts_know_which_way_is_better():
    assert verdict(0.5, 0.1, less=False) == verdict(-0.5, 0.1, less=True) == "better"
    assert verdict(-0.5, 0.1, less=False) == "worse" and verdict(0.5, 0.0, False) != "better"


def test_one_run_has_every_moment_and_two_what_they_share():
    said = {"stage": "sft", "step": None, "kind": "text", "prompt": "a", "right": None}
    one = [said | {"completion": "x"}, said | {"prompt": "b", "completion": "y"}]
    two = [said | {"completion": "z"}, said | {"stage": "dpo", "completion": "z"}]
    alone, both = (
        scrubber([("1", one)], ["sft", "dpo"]),
        scrubber([("1", one), ("2", two)], ["sft", "dpo"]),
    )
    assert [r["prompt"] for r in alone["sections"][0]["rows"]] == ["a", "b"]
    assert both["moments"] == ["after SFT"] and len(both["sections"][0]["rows"]) == 1
    assert [c["text"] for c in both["sections"][0]["rows"][0]["cells"]] == ["x", "z"]


def test_the_command_compares_and_says_mistakes_in_one_line(tmp_path):
    runs = [str(life(tmp_path / name / "laptop", exams=TWO)) for name in "ab"]
    out = str(tmp_path / "new" / "c.html")
    assert CliRunner().invoke(app, ["report", *runs, "--out", out]).exit_code == 0
    page = (tmp_path / "new" / "c.html").read_text("utf-8")
    assert runs[0] in page and runs[1] in page  # both lives are called laptop
    for wrong in ([runs[0], "-o", out], [*runs, "-o", "c.pdf"], [runs[0], str(tmp_path / "none")]):
        found = CliRunner().invoke(app, ["report", *wrong])
        assert found.exit_code != 0 and "UserError" in repr(found.exception)
