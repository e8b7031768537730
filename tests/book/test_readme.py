"""What the README says of a life is what its committed log says."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_life_in_the_readme_is_the_life_in_the_log():
    rows = [
        json.loads(line)
        for line in (ROOT / "figures" / "runs" / "laptop.jsonl").read_text("utf-8").splitlines()
    ]
    header = rows[0]
    people = next(r for r in rows if r["kind"] == "exam" and r["stage"] == "grpo")["people"]
    stages = [r for r in rows if r["kind"] == "stage"]
    tokens = max(r["tokens"] for r in rows if r["kind"] == "step")
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    said = (
        f"{sum(s['seconds'] for s in stages) / 60:.1f} minutes, "
        f"{max(s['peak_memory_bytes'] for s in stages) / 2**30:.1f} GiB, "
        f"{header['parameters'] / 1e6:.1f} million parameters, {tokens / 1e6:.1f} million tokens"
    )
    assert said in text
    timed = json.loads((ROOT / "figures" / "runs" / "laptop-time.json").read_text("utf-8"))["rows"]
    minutes = f"{sum(row['seconds'] for row in timed) / 60:.1f} minutes"
    assert f"offline; {minutes} on two idle cores" in text and f"took {minutes}" in text
    for share, words in (
        (people["text"], "of the questions about held-out people"),
        (people["generate"], "when it writes freely"),
        (people["letter"], "by letter"),
    ):
        assert f"{share:.0%}".replace("%", " %") + " " + words in text, words


def test_what_the_stages_change_in_the_readme_is_in_the_log_of_the_seeds():
    log, fresh = (
        json.loads((ROOT / "figures" / "runs" / name).read_text("utf-8"))
        for name in ("life-seeds.json", "life-seeds-fresh.json")
    )
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    chinese = "".join((ROOT / "README.zh-CN.md").read_text(encoding="utf-8").split())

    def talk(rows: list[dict], stage: str) -> int:
        return round(sum(60 * row["conversation"] for row in rows if row["stage"] == stage))

    before, tuned, end = (talk(log["rows"], stage) for stage in ("pretrain", "sft", "grpo"))
    assert f"from {before} of 180 messages of a stranger answered to {tuned}" in text
    assert f"to {end} of 180 ({end / 180:.0%})".replace("%", " %") in text
    assert f"answers {talk(fresh['rows'], 'grpo')} of its 60" in text
    for said in (
        f"答对{before}句",
        f"{tuned}句",
        f"{end}句",
        f"60句答对{talk(fresh['rows'], 'grpo')}句",
    ):
        assert said in chinese
    for stage in ("sft", "dpo", "grpo"):
        moved, error = (100 * value for value in log["pooled"][stage]["generate"])
        assert f"{moved:.1f} ± {error:.1f}" in text and f"{moved:.1f}±{error:.1f}" in chinese
    assert f"option by {-100 * log['pooled']['sft']['text'][0]:.0f} points" in text


def test_both_readmes_show_the_same_commands():
    def commands(name: str) -> list[str]:
        blocks = re.findall("```\n(.*?)```", (ROOT / name).read_text("utf-8"), re.DOTALL)
        return [line.partition("#")[0].strip() for line in "".join(blocks).splitlines()]

    assert commands("README.zh-CN.md") == commands("README.md")


def test_what_talk_in_a_row_is_in_the_readme_is_in_its_log():
    rows = json.loads((ROOT / "figures" / "runs" / "in-a-row.json").read_text("utf-8"))["rows"]
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    chinese = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
    ends = {
        kind: [r for r in rows if r["stage"] == "grpo" and bool(r["joined"]) == kind]
        for kind in (False, True)
    }
    alone, joined = (
        f"{100 * sum(r['right'][3] for r in of) / sum(r['n'] for r in of):.0f} %"
        for of in ends.values()
    )
    first = round(sum(60 * r["exam"]["conversation"] for r in ends[True]))
    assert f"others they answer in {alone} of cases" in text and f"it is {joined}, with" in text
    assert f"{first} of the table's 180 messages" in text
    assert all(
        said in chinese for said in (f"只答对 {alone}", f"答对 {joined}", f"答对 {first} 句")
    )
    for way in ("text", "generate", "written"):  # "free answers as before"
        means = [sum(r["exam"][way] for r in of) / len(of) for of in ends.values()]
        assert abs(means[0] - means[1]) < 0.01
