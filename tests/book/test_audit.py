"""What the ledger of claims rests on is read off its checks; how wrong a number may be is measured."""

import math

import pytest

from figures import audit
from figures.claims import Claim, load


def claim(kind="computed", check="", text="", value=None, tolerance=0.0):
    return Claim("x.y", "00_story", text, {"kind": kind, "where": "here"}, value, check, tolerance)


@pytest.mark.parametrize(
    "kind, check, rests",
    [
        ("chosen", "", audit.NOTHING),
        ("paper", "facts.SAID['speed_up_percent']", audit.QUOTE),
        ("seed", "[90, 800]", audit.QUOTE),
        ("computed", "facts.STEEL['steps'] * 2", audit.QUOTE),
        ("computed", "6 * 7", audit.SUMS),
        ("computed", "preset('cpu').train.steps", audit.CODE),
        ("computed", "figures.draw_11:grad_op_costs", audit.CODE),
        ("log", "len(log('letters'))", audit.LOG),
        ("computed", "open('figures/runs/letters.json').read() and 1", audit.LOG),
    ],
)
def test_a_claim_rests_on_the_weakest_thing_that_it_names(kind, check, rests):
    assert audit.rests_on(claim(kind, check)) == rests


def slack(**entry):
    (number,) = audit.slacks([claim(**entry)])
    return number


def test_slack_is_the_distance_to_the_check_and_the_tolerance():
    assert slack(text="+43 %", value=43, check="42.86", tolerance=0.5).slack == pytest.approx(
        0.64 / 43
    )
    assert not slack(text="+43 %", value=43, check="42.6", tolerance=2).last_digit
    assert slack(text="1.5 GB", value=1.5, check="1.5").last_digit


def test_a_number_that_nothing_compares_has_no_bound():
    assert math.isinf(slack(text="1.5 GB", check="1 < 2").slack)
    both = audit.slacks([claim(text="1.5 GB of 7.25", value=1.5, check="1.5")])
    assert [n.slack < 1 for n in both] == [True, False]


def test_few_numbers_of_the_book_are_compared_with_nothing():
    """Chapter 19 counts them: one in twelve. New entries should not add to it."""
    numbers = audit.slacks(load())
    loose = [f"{n.claim}: {n.text}" for n in numbers if math.isinf(n.slack)]
    assert len(loose) / len(numbers) < 0.09, "give these numbers a value:\n" + "\n".join(loose)
