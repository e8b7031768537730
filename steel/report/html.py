"""The report card as one HTML page: inline CSS, inline SVG, no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

from .card import TRAINED, count, device, duration, headline, percent, size, timed_stages, title
from .figures import bits_per_byte_dots, curve, forest
from .markdown import as_text

_CSS = """
:root{color-scheme:light dark;--ink:#1F2933;--soft:#52606D;--paper:#FCFBF8;--panel:#F3F1EA;--rule:#DDD9CE;
--steel:#2F5D7C;--slate:#7B8794;--look:#C2541D;
--serif:"Source Serif 4","Source Serif Pro",Georgia,"Noto Serif CJK SC","Source Han Serif SC","Songti SC",SimSun,serif;
--sans:Inter,system-ui,"Segoe UI",Helvetica,Arial,"Noto Sans CJK SC","PingFang SC","Microsoft YaHei",sans-serif}
@media (prefers-color-scheme:dark){:root{--ink:#E4E7EB;--soft:#A5B0BC;--paper:#14181D;--panel:#1C2229;--rule:#323B45;
--steel:#7FB2D6;--slate:#8A96A3;--look:#F08A54}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:17px/1.6 var(--serif)}
main{max-width:980px;margin:0 auto;padding:48px 20px 80px}
h1{font-size:2.3rem;line-height:1.15;margin:0 0 4px;font-weight:600;letter-spacing:-.01em}
h2{font-size:1.35rem;margin:56px 0 12px;padding-top:14px;border-top:2px solid var(--steel);font-weight:600}
p{margin:8px 0;max-width:42em}
.kicker{font:600 13px/1.4 var(--sans);letter-spacing:.08em;text-transform:uppercase;color:var(--steel);margin:0}
.soft,figcaption,.meta{color:var(--soft)}
.meta{font:13px/1.7 var(--sans);margin:10px 0 0;max-width:none}.meta b{font-weight:500;color:var(--ink)}
.meta span{margin-right:16px;display:inline-block}
.key{display:grid;grid-template-columns:repeat(auto-fit,minmax(165px,1fr));gap:1px;margin:30px 0 0;padding:0;
list-style:none}
.key li{box-shadow:0 0 0 1px var(--rule);padding:14px 16px}
.key .l{display:block;font:13px/1.3 var(--sans);color:var(--soft)}
.key .v{display:block;font-size:1.8rem;line-height:1.3;color:var(--steel);font-variant-numeric:lining-nums;
white-space:nowrap}
.key .n{display:block;font:12.5px/1.4 var(--sans);color:var(--soft)}
.curves{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:8px 28px}
figure{margin:18px 0;min-width:0}figure.wide{grid-column:1/-1}
figcaption{font:14px/1.5 var(--sans);max-width:60em;margin-top:2px}
.scroll{overflow-x:auto}
svg{display:block;width:100%;height:auto}
svg text{font-family:var(--sans);font-size:13px;fill:var(--soft)}
svg .label{fill:var(--ink)}
svg .block{font-size:12.5px;font-weight:600;fill:var(--soft);paint-order:stroke;stroke:var(--paper);stroke-width:5px}
svg .main-text{fill:var(--steel);font-weight:600}svg .look-text{fill:var(--look);font-weight:600}
.grid{stroke:var(--rule)}.chance{stroke:var(--slate);stroke-dasharray:5 4;stroke-width:1.5}
.look{stroke:var(--look);stroke-width:1.5;stroke-dasharray:2 3}
path{fill:none;stroke-linejoin:round}.raw{stroke:var(--steel);opacity:.32;stroke-width:1}
path.main{stroke:var(--steel);stroke-width:2.4}
.check{fill:var(--paper);stroke:var(--ink);stroke-width:1.6}
.dot-main{fill:var(--steel)}.dot-base{fill:var(--slate)}
.whisker-main{stroke:var(--steel);stroke-width:2.4}.whisker-base{stroke:var(--slate);stroke-width:2}
.span{stroke:var(--rule);stroke-width:3}
table{border-collapse:collapse;width:100%;font:14px/1.45 var(--sans);font-variant-numeric:tabular-nums lining-nums}
th{font-weight:500;color:var(--soft);text-align:right;vertical-align:bottom;white-space:nowrap}
td{text-align:right;vertical-align:top;white-space:nowrap}
th,td{padding:6px 10px;border-bottom:1px solid var(--rule)}
th:first-child,td:first-child,th.t,td.t{text-align:left}td:first-child,th:first-child{padding-left:0}
td.t{white-space:pre-wrap;overflow-wrap:anywhere}.nw{white-space:nowrap}
tr.last td{color:var(--steel);font-weight:600}
.bar{display:inline-block;height:9px;background:var(--steel);vertical-align:middle;margin-right:8px;min-width:1px}
.bar.g{background:var(--slate)}
.words td{font:16px/1.65 var(--serif)}
.words td:first-child{font:13px/2 var(--sans);color:var(--soft);white-space:nowrap}
details{margin:14px 0}summary{cursor:pointer;font:14px/1.5 var(--sans);color:var(--steel)}
ul.notes{padding-left:1.1em}.alert{color:var(--look);font-weight:600}
footer{margin-top:64px;font:13px/1.5 var(--sans);color:var(--soft)}
@media (max-width:600px){body{font-size:16px}main{padding:28px 16px 60px}h1{font-size:1.8rem}}
@media print{body{background:#fff}h2{break-after:avoid}figure,tr{break-inside:avoid}}
"""


def page(data: dict) -> str:
    """The whole page."""
    name = str((data.get("run") or {}).get("name") or "run")
    sections = [
        ("What it knows", _knows(data)),
        ("How it learned", _learned(data)),
        ("Text it has never seen", _unseen(data)),
        ("What it says", _says(data)),
        ("Time and memory", _time(data)),
        ("What it read", _read(data)),
        ("What it cost", _cost(data)),
        ("What does not hold", _notes(data)),
    ]
    body = "".join(
        f"<section><h2>{h}</h2>{content}</section>" for h, content in sections if content
    )
    html = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width,initial-scale=1"><title>Report card: {escape(name)}</title>'
        f"<style>{_CSS}</style></head><body><main>{_header(data, name)}{body}"
        f"<footer>Written by <b>steel report</b> from the files of this run; the numbers are in report.json, the "
        f"tables in report.md.</footer></main></body></html>\n"
    )
    return html.replace(" %", "\u00a0%")


def _header(data: dict, name: str) -> str:
    run, model = data.get("run") or {}, data.get("model") or {}
    hardware = run.get("hardware") if isinstance(run.get("hardware"), dict) else {}
    packages = ", ".join(f"{k} {v}" for k, v in (run.get("packages") or {}).items())
    pairs = [
        ("preset", run.get("preset")),
        ("seed", run.get("seed")),
        ("started", _when(run.get("started"))),
        ("parameters", count(model["parameters"]) if model.get("parameters") else ""),
        ("feed-forward", str(model.get("feed_forward") or "").replace("_", " ")),
        ("commit", run.get("commit")),
        ("config", run.get("config_hash")),
        ("machine", device(data)),
        ("memory", size(hardware.get("memory_bytes")) if hardware.get("memory_bytes") else ""),
        ("with", packages),
    ]
    meta = "".join(
        f"<span>{escape(k)} <b>{escape(str(v))}</b></span>" for k, v in pairs if v not in (None, "")
    )
    figures = "".join(
        f'<li><span class="l">{escape(f["label"])}</span><span class="v">{escape(f["value"])}</span>'
        f'<span class="n">{escape(f["note"])}</span></li>'
        for f in headline(data)
    )
    return (
        f'<header><p class="kicker">Report card</p><h1>{escape(name)}</h1><p class="meta">{meta}</p>'
        + (f'<ul class="key">{figures}</ul>' if figures else "")
        + "</header>"
    )


def _when(moment) -> str:
    if isinstance(moment, (int, float)):
        return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return str(moment or "")


def _table(
    header: Sequence[str], rows: Iterable[Sequence[str]], css: str = "", last: bool = False
) -> str:
    """Cells are HTML; a header that starts with "<" makes its column left-aligned text."""
    rows = list(rows)
    left = [h.startswith("<") for h in header]

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=t' if words else ''}>{cell}</{tag}>"
            for cell, words in zip(row, left, strict=True)
        )

    head = cells("th", [h.lstrip("<") for h in header])
    body = "".join(
        f"<tr{' class=last' if last and r is rows[-1] else ''}>{cells('td', r)}</tr>" for r in rows
    )
    return f'<div class="scroll"><table class="{css}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _knows(data: dict) -> str:
    exams = [e for e in data.get("exams", []) if e.get("exam") or e.get("cloze")]
    drawing = forest(exams)
    if not drawing:
        return ""
    exam = next((e["exam"] for e in reversed(exams) if e.get("exam")), None)
    if exam is None:
        return drawing
    b = exam["baselines"]
    words = (
        f"<p>{exam['n']:,} questions, {exam.get('shots', 0)}-shot. Beside the model stand strategies that know "
        f"nothing: chance {percent(b['chance'])}, always A {percent(b['always_a'])}, the longest option "
        f"{percent(b['longest'])}."
    )
    if (silent := (exam["scoring"].get("generate") or {}).get("unparsed")) is not None:
        words += f" No answer could be read in {percent(silent)} of the last model's replies; they count as wrong."
    ways = [w for w in ("text", "letter", "generate") if w in exam["scoring"]]
    everything = {"n": exam["n"], **{w: exam["scoring"][w]["micro"] for w in ways}}
    parts = [*exam.get("groups", {}).items(), ("all", everything)]
    groups = _table(
        ["group", "questions", *ways],
        [(escape(name), f"{p['n']:,}", *(percent(p[w]) for w in ways)) for name, p in parts],
        last=True,
    )
    subjects = _table(
        ["subject", "questions", *ways],
        [
            (escape(name), f"{p['n']:,}", *(percent(p[w]) for w in ways))
            for name, p in exam.get("subjects", {}).items()
        ],
    )
    return (
        f"{words}</p>{drawing}{groups}<details><summary>All {len(exam.get('subjects', {}))} subjects, last model"
        f"</summary>{subjects}</details>"
    )


def _learned(data: dict) -> str:
    stages = [s for s in data.get("stages", []) if s.get("curve")]
    drawings = "".join(curve(s, wide=s["name"] == "pretrain" or len(stages) == 1) for s in stages)
    return f'<div class="curves">{drawings}</div>' if drawings else ""


def _unseen(data: dict) -> str:
    exams = data.get("exams", [])
    drawing = bits_per_byte_dots(exams)
    if not drawing:
        return ""
    last = next(e for e in reversed(exams) if (e.get("perplexity") or {}).get("domains"))
    result, alarm = last["perplexity"], ""
    if result.get("nan_domains"):
        names = escape(", ".join(result["nan_domains"]))
        alarm = f'<p class="alert">No finite loss on {names}; the mean is therefore not given.</p>'
    rows = [
        (
            escape(name),
            number(r.get("bpb")),
            number(r.get("ppl"), 2),
            number(r.get("ppl_normalised"), 2),
            count(r.get("tokens")),
            count(r.get("bytes")),
            number(r.get("tokens_per_byte")),
        )
        for name, r in result["domains"].items()
    ]
    mean = result.get("geometric_mean") or {}
    rows.append(
        (
            "mean",
            number(mean.get("bpb")),
            number(mean.get("ppl"), 2),
            number(mean.get("ppl_normalised"), 2),
            "",
            "",
            "",
        )
    )
    header = [
        "domain",
        "bits per byte",
        "perplexity",
        "normalised",
        "tokens",
        "bytes",
        "tokens per byte",
    ]
    return (
        f"{alarm}{drawing}<details><summary>Perplexities, {escape(title(last['stage']))}</summary>"
        f"{_table(header, rows, last=True)}</details>"
    )


def number(value: float | None, digits: int = 3) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def _says(data: dict) -> str:
    def cell(words: str) -> str:
        chinese = any("\u4e00" <= c <= "\u9fff" for c in words)
        return f'<span lang="{"zh-Hans" if chinese else "en"}">{escape(words)}</span>'

    rows, before = [], None
    for s in data.get("samples", []):
        rows.append(
            (
                "" if s["stage"] == before else escape(title(s["stage"])),
                cell(as_text(s.get("prompt", ""))),
                cell(str(s.get("completion", ""))),
            )
        )
        before = s["stage"]
    return _table(["after", "<prompt", "<completion"], rows, "words") if rows else ""


def _time(data: dict) -> str:
    stages = timed_stages(data)
    if not stages:
        return ""
    longest = max((s.get("seconds") or 0 for s in stages), default=0) or 1
    biggest = max((s.get("peak_memory_bytes") or 0 for s in stages), default=0) or 1
    rows = []
    for s in stages:
        metric = s.get("metric", "loss")
        status = (
            ""
            if s.get("status") in ("done", None)
            else f' <span class="alert">{escape(str(s["status"]))}</span>'
        )
        rows.append(
            (
                escape(title(s["name"])) + status,
                count(s.get("steps")),
                count(s.get("tokens")),
                count(s.get("tokens_per_s")),
                number(s.get(metric)) + (" (reward)" if metric == "reward" else ""),
                _bar(s.get("seconds"), longest, "", duration(s.get("seconds"))),
                _bar(
                    s.get("peak_memory_bytes"),
                    biggest,
                    "g",
                    size(s.get("peak_memory_bytes") or None),
                ),
            )
        )
    total = sum(s.get("seconds") or 0 for s in stages)
    rows.append(
        (
            "all",
            "",
            count(sum(s.get("tokens") or 0 for s in stages if s["name"] in TRAINED)),
            "",
            "",
            duration(total),
            size(max((s.get("peak_memory_bytes") or 0 for s in stages), default=0) or None),
        )
    )
    return _table(
        ["stage", "steps", "tokens", "tokens/s", "last loss", "<time", "<peak memory"],
        rows,
        last=True,
    )


def _bar(value: float | None, largest: float, css: str, words: str) -> str:
    width = 90 * (value or 0) / largest
    return f'<span class="nw"><span class="bar {css}" style="width:{width:.0f}px"></span>{words}</span>'


def _read(data: dict) -> str:
    sources = data.get("data", [])
    if not sources:
        return ""
    rows = []
    for d in sources:
        share = d["kept"] / d["in"] if d.get("in") and d.get("kept") is not None else None
        reasons = list((d.get("removed") or {}).items())
        words = ", ".join(f"{n:,} {reason}" for reason, n in reasons[:3])
        more = sum(n for _, n in reasons[3:])
        rows.append(
            (
                escape(d["source"]),
                f"{d['in']:,}" if d.get("in") is not None else "–",
                f"{d['kept']:,}" if d.get("kept") is not None else "–",
                _bar(share, 1.0, "", percent(share)),
                escape(words + (f", {more:,} other" if more else "")) or "–",
            )
        )
    came, kept = (sum(d.get(key) or 0 for d in sources) for key in ("in", "kept"))
    share = kept / came if came else None
    rows.append(
        (
            "all",
            f"{came:,}",
            f"{kept:,}",
            _bar(share, 1.0, "", percent(share)),
            f"{came - kept:,} removed",
        )
    )
    return _table(
        ["source", "records in", "kept", "<share", "<removed, by step and reason"], rows, last=True
    )


def _cost(data: dict) -> str:
    cost = data.get("cost") or {}
    if not cost.get("seconds"):
        return ""
    trained = sum(s.get("tokens") or 0 for s in data.get("stages", []) if s["name"] in TRAINED)
    words = f"{duration(cost['seconds'])} of wall time on {escape(device(data) or 'this machine')}"
    words += f" for {count(trained)} training tokens" if trained else ""
    if cost.get("cpu_seconds"):
        words += f"; {duration(cost['cpu_seconds'])} of processor time"
    if cost.get("device_hours"):
        words += f"; {cost['device_hours']:.3g} device-hours"
    money = ""
    if cost.get("money") is not None:
        money = f" That is {cost['money']:,.2f} {escape(str(cost.get('currency', '')))}."
    return f"<p>{words}.{money} {escape(str(cost.get('note') or ''))}</p>"


def _notes(data: dict) -> str:
    skipped = [
        f"<b>{escape(title(s['name']))}</b> was skipped: {escape(str(s.get('reason') or 'no reason given'))}"
        for s in data.get("stages", [])
        if s.get("status") == "skipped"
    ]
    failed = [
        f'<b class="alert">{escape(title(s["name"]))} {escape(str(s["status"]))}</b>: '
        f"{escape(str(s.get('reason') or 'it did not finish'))}"
        for s in data.get("stages", [])
        if s.get("status") in ("failed", "running", "pending")
    ]
    items = failed + skipped + [escape(str(n)) for n in data.get("notes", [])]
    return f'<ul class="notes">{"".join(f"<li>{i}</li>" for i in items)}</ul>' if items else ""
