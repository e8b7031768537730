import json

from align_world import config, rl_rows, turn, write

from steel.align import samples
from steel.align.grpo import Roller
from steel.align.rows import check_dialogue, check_preference, check_verifiable, read_rows
from steel.align.verify import verify

GRPO = {"group_size": 6, "max_new_tokens": 5, "micro_batch_size": 3}


def sevens(n):
    rows = [{"messages": [turn("user", f"{q}?")], "answer": "7", "kind": "sum"} for q in range(n)]
    return [*rows, {"messages": [turn("user", "长" * 400)], "answer": "7"}]


def answered(monkeypatch, texts):
    """Every prompt is answered by these, in turn."""

    def answers(roller, some):
        rows = [roller.prompts[i][1] for i in some for _ in range(GRPO["group_size"])]
        said = [texts[at % len(texts)] for at in range(len(rows))]
        return [(t, verify(r, t).correct, whole) for (t, whole), r in zip(said, rows, strict=True)]

    monkeypatch.setattr(samples, "_answers", answers)


def test_pairs_right_answers_and_prompts_are_rows_of_their_stages(base, tmp_path, monkeypatch):
    said = [("8", True), ("7", False), ("是7", True), ("7", True), ("是7", True), ("6", True)]
    answered(monkeypatch, said)
    data, out = write(tmp_path / "rl.jsonl", sevens(4)), tmp_path / "out"
    report = samples.sample(config(grpo=GRPO), base[0], data, out)
    assert report["pass_at_1"] == 4 / 6 and report["pass_at_k"] == 1 and report["skipped"] == 1
    assert report["rows"] == {"preference": 4, "sft": 8, "rl": 4} and report["prompts"] == 4
    checks = {"preference": check_preference, "sft": check_dialogue, "rl": check_verifiable}
    rows = {name: read_rows(out / f"{name}.jsonl", check)[0] for name, check in checks.items()}
    pair = rows["preference"][0]
    assert (pair["chosen"], pair["rejected"], pair["kind"]) == ("是7", "8", "sum")
    answers = [row["messages"][-1]["content"] for row in rows["sft"]]
    assert answers == ["是7", "7"] * 4  # ended by themselves, each once
    assert (
        rows["rl"][0]["solved"] == 4 / 6 and json.loads((out / "report.json").read_text()) == report
    )


def test_what_is_always_or_never_solved_has_nothing_to_teach(base, tmp_path, monkeypatch):
    for text in ("7", "8"):
        answered(monkeypatch, [(text, True)])
        data = write(tmp_path / "rl.jsonl", sevens(4))
        report = samples.sample(config(grpo=GRPO), base[0], data, tmp_path / text)
        assert report["rows"] == {"preference": 0, "sft": 4 * (text == "7"), "rl": 0}


def test_a_prompt_draws_the_same_answers_whatever_its_batch(base, tmp_path, monkeypatch):
    seen, whole = [], Roller.verdict

    def verdict(self, row, completion):
        seen[-1].append((row["answer"], row["messages"][0]["content"], tuple(completion.ids)))
        return whole(self, row, completion)

    monkeypatch.setattr(Roller, "verdict", verdict)
    data = write(tmp_path / "rl.jsonl", rl_rows(5))
    for size in (1, 5):
        seen.append([])
        samples.sample(
            config(grpo={**GRPO, "micro_batch_size": size}), base[0], data, tmp_path / str(size)
        )
    assert seen[0] == seen[1] and len({ids for *_, ids in seen[0]}) > 10
