"""GSM8K and HumanEval: what is read from a reply, and what a program may do."""

import json
import time

import pytest
import torch
from known_models import Bigram

from steel.config import UserError
from steel.evaluation.free import last_number, program, run_free, run_program
from steel.tokenizer.bpe import encode_text

ADD = {
    "task_id": "HumanEval/0",
    "prompt": 'from typing import List\n\n\ndef add(a: int, b: int) -> int:\n    """a + b"""\n',
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n",
}


def test_the_last_number_is_read():
    for text, number in (
        ("12 + 3 = 15", 15),
        ("so 1,234.5 dollars.", 1234.5),
        ("$-7", -7),
        ("6 apples #### 72", 72),
        ("It is -3.", -3),
    ):
        assert last_number(text) == number
    assert last_number("none") is None and last_number("") is None


@pytest.mark.parametrize(
    ("reply", "passes"),
    [
        ("    return a + b\n", True),
        ("    return a - b\n", False),
        ("Here:\n```python\ndef add(a: int, b: int) -> int:\n    x: List = [a, b]\n    return sum(x)\n```", True),
        ("    return a +\n", False),
        ("    import sys; sys.exit(1)\n", False),
        ("    while True: pass\n", False),
        ("    return bytearray(1 << 40) and 5\n", False),
    ],
)  # fmt: skip
def test_programs_are_judged_by_their_tests(reply, passes):
    began = time.monotonic()
    assert run_program(program(ADD, reply), seconds=3.0 if "while" not in reply else 1.0) == passes
    assert time.monotonic() - began < 60


def test_a_program_does_not_outlive_its_judge(tmp_path):
    mark = tmp_path / "alive"
    child = f"import time; time.sleep(2); open({str(mark)!r}, 'w')"
    code = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {child!r}])\n"
    assert run_program(code, seconds=20.0)
    time.sleep(3)
    assert not mark.exists()


def test_code_is_not_run_unasked(tmp_path, tok, model):
    with pytest.raises(UserError, match="--run-code allows it"):
        run_free(model, tok, tmp_path, "humaneval")
    with pytest.raises(UserError, match="steel eval fetch gsm8k"):
        run_free(model, tok, tmp_path, "gsm8k")
    (tmp_path / "test.jsonl").write_text('{"question": "1+1?"}\n')
    with pytest.raises(UserError, match="jsonl:1: no answer"):
        run_free(model, tok, tmp_path, "gsm8k")


def test_gsm8k_counts_what_it_cannot_read(tmp_path, tok):
    rows = [
        {"question": "1+1?", "answer": "1+1=2\n#### 2"},
        {"question": "1+2?", "answer": "#### 3"},
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = torch.zeros(len(tok), len(tok))
    last, two = encode_text(tok, "Answer:")[-1], encode_text(tok, "2")[0]
    table[last, two] = table[two, tok.eos_token_id] = 20.0
    result = run_free(Bigram(table), tok, tmp_path, "gsm8k", chat=False, max_new_tokens=8)
    assert result["answers"]["generate"] == "RW" and result["scoring"]["generate"]["unparsed"] == 0
    table[last, two], table[last, tok.eos_token_id] = 0.0, 20.0
    result = run_free(Bigram(table), tok, tmp_path, "gsm8k", chat=False, max_new_tokens=8)
    assert result["answers"]["generate"] == "--" and result["scoring"]["generate"]["accuracy"] == 0
