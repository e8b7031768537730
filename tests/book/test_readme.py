"""What the README says of a life is what its committed log says."""

import json
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
