"""Tasks without options: GSM8K (the last number of a reply) and HumanEval (does the program run?).

HumanEval runs what a model wrote. It is off until `run_code`: the program runs in a process of its
own with limits on time, memory and processes, in an empty folder; that keeps mistakes away, not malice.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ..config import UserError
from ..documents import read_rows
from ..model.folder import stop_ids
from ..tokenizer.bpe import encode_text
from ..tokenizer.chat import encode_chat
from .prompts import has_chat_tokens
from .results import share
from .scoring import context_length, greedy

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")
_ENDS = {
    "gsm8k": re.compile(r"(\n\n)?Question:"),
    "humaneval": re.compile(r"\n(class|def|#|if|print)"),
}
AT_ONCE = 32  # replies in one batch
SECONDS = 5.0  # that a program may take
_KEYS = {"gsm8k": {"question", "answer"}, "humaneval": {"prompt", "test", "entry_point"}}


def last_number(text: str) -> float | None:
    """The number behind "####", or else the last one, without thousands separators; None: none."""
    found = _NUMBER.findall(text.rpartition("####")[2] or text) or _NUMBER.findall(text)
    return float(found[-1].replace(",", "").replace("$", "")) if found else None


def load_rows(folder: Path | str, suite: str, split: str = "test") -> list[dict]:
    """Rows of FOLDER/<split>.jsonl; raises UserError for a missing file or key."""
    file = Path(folder) / f"{split}.jsonl"
    if not file.is_file():
        raise UserError(f"no {suite} at {file}; 'steel eval fetch {suite} {folder}' gets it")
    rows = []
    for number, row in read_rows(file):
        if missing := _KEYS[suite] - row.keys():
            raise UserError(f"{file}:{number}: no {', '.join(sorted(missing))}")
        rows.append(row)
    if not rows:
        raise UserError(f"no row in {file}")
    return rows


def run_free(
    model,
    tok,
    folder: Path | str,
    suite: str,
    *,
    shots: int = 0,
    limit: int | None = None,
    max_new_tokens: int = 512,
    chat: bool | None = None,
    run_code: bool = False,
) -> dict:
    """gsm8k or humaneval, greedily, pass@1. Returns plain data for JSON, keyed like `run_exam`:

    {"suite", "shots", "chat", "n", "scoring": {"generate": {"accuracy", "n", "se", "unparsed"}},
    "answers": {"key": one R per question, "generate": R right, W wrong, - none}, "replies",
    "seconds"}. Worked examples of GSM8K come from its train split; HumanEval has none. Raises
    UserError for an unknown suite, missing rows, and HumanEval without `run_code`.
    """
    if suite not in _KEYS:
        raise UserError(f"suite '{suite}' is not one of {', '.join(_KEYS)}")
    if suite == "humaneval" and not run_code:
        raise UserError("humaneval runs programs that the model wrote; --run-code allows it")
    began, rows = time.perf_counter(), load_rows(folder, suite)[: limit or None]
    chat = has_chat_tokens(tok) if chat is None else chat
    examples = load_rows(folder, suite, "train")[:shots] if shots and suite == "gsm8k" else []
    room = (context_length(model) or 1 << 30) - max_new_tokens
    if room < 1:
        raise UserError(f"no room for {max_new_tokens} new tokens in {context_length(model)}")
    prompts = [_prompt(tok, suite, row, examples, chat)[-room:] for row in rows]

    def ended(ids: list[int]) -> bool:
        return not chat and bool(_ENDS[suite].search(tok.decode(ids)))

    how = {"ended": ended, "batch_size": AT_ONCE, "title": suite}
    replies = greedy(model, prompts, max_new_tokens, stop_ids(tok), **how)
    texts = [tok.decode(ids, skip_special_tokens=True) for ids in replies]
    for i, text in enumerate(texts):
        if not chat and (end := _ENDS[suite].search(text)):
            texts[i] = text[: end.start()]
    judge = _number_right if suite == "gsm8k" else _passes
    right = [judge(row, text) for row, text in zip(rows, texts)]
    marks = "".join("-" if mark is None else "WR"[mark] for mark in right)
    score = share([mark is True for mark in right]) | {"unparsed": marks.count("-") / len(marks)}
    return {
        "suite": suite,
        "shots": len(examples),
        "chat": chat,
        "n": len(rows),
        "scoring": {"generate": score},
        "answers": {"key": "R" * len(rows), "generate": marks},
        "replies": texts,
        "seconds": round(time.perf_counter() - began, 3),
    }


def _prompt(tok, suite: str, row: dict, examples: Sequence[dict], chat: bool) -> list[int]:
    if suite == "humaneval":
        if not chat:
            return encode_text(tok, row["prompt"])
        say = "Complete this Python function. Answer with the whole function.\n```python\n"
        turns = [{"role": "user", "content": f"{say}{row['prompt']}```"}]
        return encode_chat(tok, turns, add_generation_prompt=True)[0]
    if chat:
        pairs = [(("user", e["question"]), ("assistant", e["answer"])) for e in examples]
        turns = [*(turn for pair in pairs for turn in pair), ("user", row["question"])]
        messages = [{"role": role, "content": text} for role, text in turns]
        return encode_chat(tok, messages, add_generation_prompt=True)[0]
    blocks = [f"Question: {e['question']}\nAnswer: {e['answer']}" for e in examples]
    return encode_text(tok, "\n\n".join([*blocks, f"Question: {row['question']}\nAnswer:"]))


def _number_right(row: dict, text: str) -> bool | None:
    """Whether the reply's last number is the answer's, to 1e-4; None without a number."""
    found, wanted = last_number(text), last_number(row["answer"])
    return None if found is None else wanted is not None and abs(found - wanted) < 1e-4


def program(row: dict, text: str) -> str:
    """Prompt and reply as one program that ends in the tests; a code block counts as the whole."""
    block = re.search(r"```(?:python)?\n(.*?)(?:```|\Z)", text, re.DOTALL)
    body = block[1] if block else text
    whole = body if f"def {row['entry_point']}" in body else row["prompt"] + body
    if whole is body:  # the imports above the function stand in the prompt
        whole = row["prompt"].partition("def ")[0] + body
    return f"{whole}\n\n{row['test']}\n\ncheck({row['entry_point']})\n"


def _passes(row: dict, text: str) -> bool | None:
    """Whether the program ends by itself, in time and without an error; None without a reply."""
    return run_program(program(row, text), SECONDS) if text.strip() else None


def run_program(code: str, seconds: float) -> bool:
    """Run Python code in a process of its own; True when it ends in time with exit code 0."""
    with tempfile.TemporaryDirectory() as folder:
        limits = _LIMITS.format(cpu=int(seconds) + 1)
        Path(folder, "program.py").write_text(limits + code)
        command = [sys.executable, "-I", "program.py"]
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        bare = {key: os.environ[key] for key in ("PATH", "SYSTEMROOT") if key in os.environ}
        child = subprocess.Popen(command, cwd=folder, env=bare, start_new_session=True, **quiet)
        try:
            return child.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:  # the whole session, whatever it started
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


_LIMITS = """\
import resource as _r
for _what, _most in ((_r.RLIMIT_AS, 1 << 30), (_r.RLIMIT_CPU, {cpu}), (_r.RLIMIT_FSIZE, 1 << 20)):
    try:
        _r.setrlimit(_what, (_most, _most))
    except (ValueError, OSError):  # a system that does not know this limit
        pass
del _r, _what, _most
"""
