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


def jacobian_ahead(pairs):
    """A `future` that looks at some pairs (output, input) only."""

    def future(layer, x_TD):
        jacobian = torch.autograd.functional.jacobian(layer, x_TD)
        return max(jacobian[t, :, i].abs().max().item() for t, i in pairs(len(x_TD)))

    return future


def every_pair(T):
    return [(t, i) for i in range(T) for t in range(i)]


def difference(step, central):
    """A `future` by finite differences."""

    def future(layer, x_TD):
        largest = 0.0
        for i in range(1, len(x_TD)):
            for d in range(x_TD.shape[1]):
                move = torch.zeros_like(x_TD)
                move[i, d] = step
                low = layer(x_TD - move) if central else layer(x_TD)
                rate = (layer(x_TD + move) - low) / (step * (1 + central))
                largest = max(largest, rate[:i].abs().max().item())
        return largest

    return future


def test_the_whole_upper_triangle_is_the_future():
    check("07.3", jacobian_ahead(every_pair))


@pytest.mark.parametrize(
    "wrong",
    [
        jacobian_ahead(lambda T: [(t, t + 1) for t in range(T - 1)]),
        jacobian_ahead(lambda T: [(t, i) for t, i in every_pair(T) if i <= t + 4]),
        jacobian_ahead(lambda T: [(t, T - 1) for t in range(T - 1)]),
        *(difference(step, central) for step in (1.0, 1e-3, 1e-6) for central in (False, True)),
    ],
)
def test_half_a_look_into_the_future_fails(wrong):
    with pytest.raises(CheckFailed, match="Hint:"):
        check("07.3", wrong)


def slots_read(weigh, own=False):
    """Exercise 07.4 with another weighing of the scores; own: read the open segment too."""

    def answer(x_TD, dispatch_DJ, prior_JD, C):
        weight_TJ = weigh(x_TD @ dispatch_DJ, C)
        n, m, rows = torch.zeros_like(prior_JD), 0, []
        for x_CD, w_CJ in zip(x_TD.split(C), weight_TJ.split(C), strict=True):
            more = n + w_CJ.T @ x_CD, m + w_CJ.sum(dim=0)[:, None]
            n, m = more if own else (n, m)
            rows.append(((prior_JD + n) / (1 + m)).flatten().expand(len(x_CD), -1))
            n, m = more
        return torch.cat(rows)

    return answer


def per_segment(s, C):
    return torch.cat([(part - part.amax(dim=0)).exp() for part in s.split(C)])


@pytest.mark.parametrize(
    "bound", [lambda s: 15 * torch.tanh(s / 15), lambda s: s.clamp(-15, 15)], ids=["cap", "clamp"]
)
def test_a_score_bounded_by_itself_is_safe(bound):
    check("07.4", slots_read(lambda s, C: bound(s).exp()))


WRONG = {
    "whole maximum": slots_read(lambda s, C: (s - s.amax(dim=0)).exp()),
    "whole maximum, detached": slots_read(lambda s, C: (s - s.amax(dim=0).detach()).exp()),
    "running maximum": slots_read(lambda s, C: (s - s.cummax(dim=0).values).exp()),
    "maximum of a segment": slots_read(per_segment),
    "maximum over slots": slots_read(lambda s, C: (s - s.amax(dim=1, keepdim=True)).exp()),
    "bounded too tightly": slots_read(lambda s, C: s.clamp(-5, 5).exp()),
    "no maximum at all": slots_read(lambda s, C: s.exp()),
    "reads its own segment": slots_read(lambda s, C: (15 * torch.tanh(s / 15)).exp(), own=True),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_maximum_that_is_not_taken_back_fails(wrong):
    with pytest.raises(CheckFailed, match="Hint:"):
        check("07.4", wrong)
