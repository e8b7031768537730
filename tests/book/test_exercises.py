"""check("NN.k", answer): right answers hold, wrong ones get one line and a hint, unknown exercises are refused."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from figures.check import CheckFailed, check
from steel.config import UserError

ROOT = Path(__file__).resolve().parents[2]


def right(parameters, tokens, gpus, peak, share):
    if not 0 < share <= 1:
        raise ValueError
    return 6 * parameters * tokens / (gpus * peak * share * 86_400)


def test_a_right_answer_holds(capsys):
    check("00.3", right)
    assert capsys.readouterr().out == "00.3: holds.\n"


def careless(parameters, tokens, gpus, peak, share):
    return 6 * parameters * tokens / (gpus * peak * share * 86_400)


@pytest.mark.parametrize("wrong", [lambda *a: 60, lambda *a: 1 / 0, careless])
def test_a_wrong_answer_gets_a_hint_and_no_traceback(wrong):
    with pytest.raises(CheckFailed, match="Hint:") as failed:
        check("00.3", wrong)
    assert failed.value._render_traceback_() == [str(failed.value)]


def attend_with_copies(q, k, v, mask):
    """The chapter's own `attend`: right numbers, and every key copied for each of its query heads."""
    k, v = (z.repeat_interleave(q.shape[2] // z.shape[2], dim=2) for z in (k, v))
    score = torch.einsum("bthc,buhc->bhtu", q, k) * q.shape[-1] ** -0.5
    weight = score.masked_fill(~mask[:, None], -torch.inf).softmax(dim=-1)
    return torch.einsum("bhtu,buhc->bthc", weight, v)


def test_keys_that_are_copied_for_each_query_head_are_seen():
    with pytest.raises(CheckFailed, match="were copied"):
        check("06.3", attend_with_copies)


@pytest.mark.parametrize("name", ["00.9", "99.1"])
def test_an_unknown_exercise_is_refused(name):
    with pytest.raises(UserError):
        check(name, right)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "book" / "checks").glob("*.py")), ids=lambda path: path.stem
)
def test_every_check_is_used_by_its_chapter_and_has_a_hint(path):
    spec = importlib.util.spec_from_file_location(f"checks_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (ROOT / "book" / f"{path.stem}.md").read_text(encoding="utf-8")
    for name in [n for n in vars(module) if n.startswith("exercise_")]:
        assert getattr(module, name).__doc__, f"{name}: its docstring is the hint"
        call = f'check("{path.stem[:2]}.{name.removeprefix("exercise_")}"'
        assert call in text, f"{name} is not called in the chapter"
    for called in re.findall(r'check\("(\d\d)\.(\d+)"', text):
        assert called[0] == path.stem[:2] and f"exercise_{called[1]}" in vars(module)
