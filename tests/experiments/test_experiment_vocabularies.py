"""Vocabularies under two budgets: complete rows, bits from whole documents, and a second call that goes on."""

import json
import math
from pathlib import Path

from figures.experiments import vocabularies
from steel.evaluation.perplexity import load_domains

ZH = [f"云州的第{i}座桥边住着林晓月，他说：“钢铁是怎样炼成的？”" for i in range(60)]


def test_every_vocabulary_is_judged_under_both_budgets_on_the_same_bytes(tmp_path, monkeypatch):
    held = {"Chinese": ZH[:4]}
    monkeypatch.setattr(vocabularies, "town", lambda run: (ZH[4:], held))
    for name, value in (("BUDGET_BYTES", 3_000), ("BUDGET_SECONDS", 0.01), ("SLICE", 1_500)):
        monkeypatch.setattr(vocabularies, name, value)
    monkeypatch.setattr(vocabularies, "ENTRIES", (259, 400))
    out = tmp_path / "log.json"
    vocabularies.main(tmp_path / "run", out, seeds=1)
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert {(r["budget"], r["entries"]) for r in rows} == {
        (budget, entries) for budget in ("bytes", "seconds") for entries in (259, 400)
    }
    size = sum(len(text.encode()) for text in held["Chinese"])
    for row in rows:
        domain = row["domains"]["Chinese"]
        nats = domain["tokens"] * math.log(domain["ppl"])
        assert math.isclose(nats, domain["bpb"] * math.log(2) * size, rel_tol=1e-6)
        assert row["bytes"] >= 1_500
        assert (domain["tokens"] == size) == (row["entries"] == 259)
    vocabularies.main(tmp_path / "run", out, seeds=1)
    assert json.loads(out.read_text(encoding="utf-8"))["rows"] == rows


def test_domains_are_written_as_the_command_reads_them(tmp_path):
    turns = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}]
    held = {"Chinese": ZH[:2], "dialogue": [turns]}
    files = vocabularies.write_domains(held, tmp_path / "heldout")
    assert load_domains([Path(file) for file in files]) == held
