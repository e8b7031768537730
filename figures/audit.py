"""What the ledger of claims (figures/claims.py) can see, and what it cannot: chapter 19.

rests_on(claim)     what stands under a sentence: CODE that runs again, a LOG that is read again, a QUOTE, SUMS of
                    the check's own numbers, or NOTHING
slacks(claims)      for every number that needs a claim: by how much it could be wrong before its check objects
"""

from __future__ import annotations

import ast
import contextlib
import io
import math
import re
from dataclasses import dataclass

from . import claims as ledger
from .claims import Claim

CODE, LOG, QUOTE, SUMS, NOTHING = "code", "log", "quotation", "sums", "nothing"
RESTS = {  # what a claim rests on → what CI does about it
    CODE: "the code runs again",
    LOG: "a committed log is read again",
    SUMS: "a sum is done again",
    QUOTE: "our copy of somebody's page is read again",
    NOTHING: "asserts nothing",
}


def rests_on(claim: Claim) -> str:
    """The weakest thing that a claim names: its kind first, then what its check reads."""
    if claim.source["kind"] == "chosen":
        return NOTHING
    if claim.source["kind"] in ("seed", "paper"):
        return QUOTE
    reads = names(claim.check)
    if claim.source["kind"] == "log" or "log" in reads or "figures/runs" in claim.check:
        return LOG
    if "facts" in reads and not reads & {"preset", "outputs", "__import__", "function"}:
        return QUOTE
    return CODE if reads else SUMS


def names(check: str) -> set[str]:
    """What a check reads beyond its own numbers: facts, log, outputs, preset, a module (__import__), a function."""
    if re.fullmatch(r"[\w.]+:\w+", check):
        return {"function"}
    known = {"facts", "log", "outputs", "preset", "__import__", "open"}
    return known & {
        n.id for n in ast.walk(ast.parse(check, mode="eval")) if isinstance(n, ast.Name)
    }


@dataclass(frozen=True)
class Number:
    """A number of the prose as it is printed, and how wrong it may be, upwards or downwards, before its check objects.

    slack: as a share of the number; infinite where no check compares it. last_digit: whether one unit more and one
    unit less in the last digit shown are both refused.
    """

    claim: str
    kind: str
    text: str
    slack: float
    last_digit: bool


def slacks(claims: list[Claim]) -> list[Number]:
    """Every number that needs a claim, of claims that assert something, held against what its check gives today."""
    found = []
    for claim in claims:
        if claim.source["kind"] == "chosen" or not claim.check:
            continue
        pairs = compared(claim)
        for text in printed(claim):
            value = float(text.replace(",", ""))
            unit = 10.0 ** -len(text.partition(".")[2])
            held = [got for said, got in pairs if math.isclose(abs(said), value, rel_tol=1e-12)]
            free = [
                max(abs(got - value) + claim.tolerance, 1e-9) / max(value, 1e-9) for got in held
            ]
            refused = any(
                min(abs(got - value - unit), abs(got - value + unit)) > claim.tolerance + 1e-9
                for got in held
            )
            slack = min(free, default=math.inf)
            found.append(Number(claim.id, claim.source["kind"], text, slack, refused))
    return found


def compared(claim: Claim) -> list[tuple[float, float]]:
    """(what the ledger says, what the check gives), in absolute value, for every value that is compared."""
    said = claim.value if isinstance(claim.value, list) else [claim.value]
    with contextlib.chdir(ledger.ROOT), contextlib.redirect_stdout(io.StringIO()):
        got = ledger.evaluate(claim.check)
    if isinstance(got, bool) or said == [None]:
        return []
    got = list(got) if isinstance(got, (list, tuple)) else [got]
    return [(abs(s), abs(g)) for s, g in zip(said, got, strict=True)]


def printed(claim: Claim) -> list[str]:
    """The numbers of a claim's text that would be missed without it, as they are printed."""
    text = ledger.collapse(claim.text)
    found = (match[0] for match in ledger.NUMBER.finditer(text))
    return [n for n in found if not re.fullmatch(r"20[0-3]\d", n)]
