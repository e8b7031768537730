"""Every number in the prose stands in the ledger, and every entry of the ledger holds."""

from pathlib import Path

import pytest

from figures import claims

ROOT = Path(__file__).resolve().parents[2]
ALL = claims.load()
CHAPTERS = [*sorted(path.stem for path in (ROOT / "book").glob("[0-9][0-9]_*.md")), "runbook"]


@pytest.mark.parametrize("claim", ALL, ids=lambda claim: claim.id)
def test_claim_holds(claim):
    claims.verify(claim)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_no_number_without_a_claim(chapter):
    missing = claims.uncovered(chapter, ALL)
    assert not missing, "no claim covers:\n" + "\n".join(missing)


def test_a_wrong_value_is_caught():
    good = next(claim for claim in ALL if isinstance(claim.value, (int, float)) and claim.check)
    wrong = claims.Claim(**(vars(good) | {"check": f"{good.value} + 1"}))
    with pytest.raises(AssertionError, match="the check gives"):
        claims.verify(wrong)


def test_a_text_that_is_gone_is_caught():
    wrong = claims.Claim(**(vars(ALL[0]) | {"text": "4,711 sentences nobody wrote", "value": 4711}))
    with pytest.raises(AssertionError, match="does not stand in book"):
        claims.verify(wrong)


def test_numbers_are_read_as_a_reader_reads_them():
    assert claims.numbers("1,122,922,770 parameters, +43 %, 34.9 to 49.8") == [
        1_122_922_770,
        43,
        34.9,
        49.8,
    ]
