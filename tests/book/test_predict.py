"""The Predict box takes an answer, keeps it in the browser, and shows it beside the measurement."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from book.stored_outputs import NOT_YET

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = [p for p in sorted((ROOT / "book").glob("[0-9][0-9]_*.md")) if p.stem not in NOT_YET]
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
OPTIONS += " --disable-background-networking --disable-component-update --virtual-time-budget=3000"

PAGE = """<!doctype html><body>
<div class="admonition predict"><p class="admonition-title">Predict</p><ol><li>days?</li><li>which?</li></ol></div>
<div class="admonition predict"><p>How low?</p></div>
<div class="steel-answer" data-question="1.1" data-value="46" data-low="44" data-high="48" data-unit="days">46</div>
<div class="steel-answer" data-question="1.2"><p>the second</p></div>
<div class="steel-answer" data-question="2" data-value="5e-07"><p>tiny</p></div>
<script>BEFORE</script><script>SCRIPT</script><script>AFTER</script>"""
TYPED = """addEventListener("load", () => {
  const [a, b, c] = document.querySelectorAll("input.steel-predict");
  for (const [input, text] of [[a, "about 1,200 days"], [b, "the last"], [c, "1e-3"]])
    { input.value = text; input.dispatchEvent(new Event("input")); } });"""


def dom(tmp_path: Path, script: str, before: str = "", after: str = "") -> str:
    page = tmp_path / "page.html"
    text = PAGE.replace("BEFORE", before).replace("AFTER", after)
    page.write_text(text.replace("SCRIPT", script), encoding="utf-8")
    command = [
        BROWSER,
        *OPTIONS.split(),
        f"--user-data-dir={tempfile.mkdtemp(dir=tmp_path)}",
        "--dump-dom",
    ]
    run = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return re.sub(r"<script>.*?</script>", "", run.stdout, flags=re.S)


@pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine")
def test_answers_are_kept_and_shown_beside_the_measurement(tmp_path):
    script = (ROOT / "book" / "_static" / "predict.js").read_text(encoding="utf-8")
    empty = dom(tmp_path, script)
    assert empty.count('class="steel-predict"') == 3 and "Your answer:" not in empty
    typed = dom(tmp_path, script, after=TYPED)
    assert re.findall(r"Your answer: ([^<]+)<", typed) == ["about 1,200 days", "the last", "1e-3"]
    assert 'aria-label="guess 1200, measured 46 days, seeds 44 to 48"' in typed
    assert 'aria-label="guess 0.001, measured 5e-7' in typed
    assert typed.count('class="guess"') == 2, "a choice has no place on a number line"
    # A browser writes its storage to disk when it likes, so both halves are looked at inside one page.
    kept = "localStorage.setItem('steel-guess:page.html:1.2', 'the last');"
    assert "Your answer: the last" in dom(tmp_path, script, before=kept)
    shown = "addEventListener('load', () => { document.title = localStorage['steel-guess:page.html:1.1']; });"
    assert "<title>about 1,200 days</title>" in dom(tmp_path, script, after=TYPED + shown)


@pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine")
def test_a_browser_that_stores_nothing_and_a_page_without_script_lose_no_text(tmp_path):
    script = (ROOT / "book" / "_static" / "predict.js").read_text(encoding="utf-8")
    forbid = "Object.defineProperty(window, 'localStorage', {get() { throw new Error('no'); }});"
    assert dom(tmp_path, script, before=forbid, after=TYPED).count('class="steel-predict"') == 3
    plain = dom(tmp_path, "")
    assert "days?" in plain and "the second" in plain and "steel-predict" not in plain


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_question_of_a_box_is_answered_by_name(path):
    text = path.read_text(encoding="utf-8")
    boxes = re.findall(r"```\{admonition\} Predict\n:class: predict\n(.*?)\n```", text, re.S)
    asked = []
    for k, box in enumerate(boxes, 1):
        items = re.findall(r"^(\d+)\. ", box, re.M)
        asked += [f"{k}.{item}" for item in items] or [str(k)]
    answered = re.findall(r'\banswer\(\s*f?"([\d.]+)"', text)
    assert boxes and sorted(set(answered)) == sorted(asked)
