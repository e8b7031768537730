"""The claims ledger: every number in the book's prose is checked by code, or it may not stand there.

`book/claims.yml` (and `book/claims/<chapter>.yml`, one a chapter, so that two authors do not collide) is a list of::

    - id: story.speedup               # unique, chapter's name first
      chapter: 00_story               # a file in book/, without .md
      text: "10,500 to 15,000 tokens/s is +43 %"      # verbatim in the chapter's prose
      value: 43                       # number (or list) the check must give; it must also stand in `text`
      tolerance: 0.5                  # absolute, default 0
      source: {kind: paper, where: "arXiv 2502.06635, Table 2, exp. 8 and 7"}   # seed|paper|log|computed|chosen
      check: "(facts.TABLE_2[7]['tokens_per_s'] / facts.TABLE_2[8]['tokens_per_s'] - 1) * 100"

`check` is a Python expression over ``facts`` (figures/facts.py), ``log("<id>")`` (a committed run log as a list of
dicts), ``outputs("<chapter>")`` (the stored text outputs of its notebook as one string), ``preset("cpu")`` (a
Config) and ``math``; or
``"module:function"``, a function without arguments. It gives a number to compare with ``value``, or True.
``kind: chosen`` marks a number that asserts nothing (an example's size, a budget of an exercise): no check.

    python -m figures.claims 00_story      lists the claims of a chapter and the numbers that no claim covers
"""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from figures import facts, known_runs

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("seed", "paper", "log", "computed", "chosen")


@dataclass
class Claim:
    """One entry of the ledger; see the module's docstring for the fields."""

    id: str
    chapter: str
    text: str
    source: dict
    value: float | list | None = None
    check: str = ""
    tolerance: float = 0.0
    note: str = field(default="")


def load(folder: Path = ROOT / "book") -> list[Claim]:
    """All claims. Raises ValueError that names the file for a malformed entry or an id used twice."""
    claims: list[Claim] = []
    for path in [folder / "claims.yml", *sorted((folder / "claims").glob("*.yml"))]:
        for entry in (
            yaml.safe_load(path.read_text(encoding="utf-8")) or [] if path.exists() else []
        ):
            try:
                claim = Claim(**entry)
            except TypeError as error:
                raise ValueError(f"{path.name}: {entry.get('id', entry)}: {error}") from None
            if claim.source.get("kind") not in KINDS or not claim.source.get("where"):
                raise ValueError(
                    f"{path.name}: {claim.id}: source needs kind ({'|'.join(KINDS)}) and where"
                )
            if any(other.id == claim.id for other in claims):
                raise ValueError(f"{path.name}: the id {claim.id} is used twice")
            claims.append(claim)
    return claims


def log(run_id: str) -> list[dict]:
    """Rows of figures/runs/<run_id>.jsonl, or the "rows" of <run_id>.json (a report that grew row by row)."""
    path = ROOT / "figures" / "runs" / f"{run_id}.jsonl"
    if not path.exists():
        return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["rows"]
    return [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
    ]


def outputs(chapter: str) -> str:
    """All stored text outputs (streams, text/plain, text/markdown) of a chapter's notebook."""
    notebook = json.loads((ROOT / "notebooks" / f"{chapter}.ipynb").read_text(encoding="utf-8"))
    parts = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            for text in (output.get("text"), data.get("text/markdown") or data.get("text/plain")):
                parts.append("".join(text) if isinstance(text, list) else text or "")
    return "\n".join(parts)


def numbers(text: str) -> list[float]:
    """Numbers as they are read: ``1,122,922,770`` and ``1.07`` are one number each."""
    found = re.findall(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?", text)
    return [float(number.replace(",", "")) for number in found]


def verify(claim: Claim) -> None:
    """Raises AssertionError that says what does not hold."""
    if claim.text and collapse(claim.text) not in collapse(prose(claim.chapter)):
        raise AssertionError(
            f"{claim.id}: the text does not stand in book/{claim.chapter}.md: {claim.text!r}"
        )
    if claim.source["kind"] == "chosen":
        return
    values = (
        claim.value
        if isinstance(claim.value, list)
        else []
        if claim.value is None
        else [claim.value]
    )
    for value in values:
        if not any(
            math.isclose(abs(value), number, rel_tol=1e-12) for number in numbers(claim.text)
        ):
            raise AssertionError(
                f"{claim.id}: its value {value} does not stand in its text {claim.text!r}"
            )
    if not claim.check:
        raise AssertionError(f"{claim.id}: has no check")
    result = evaluate(claim.check)
    if isinstance(result, bool):
        if not result:
            raise AssertionError(f"{claim.id}: {claim.check} is False")
        return
    results = list(result) if isinstance(result, (list, tuple)) else [result]
    if len(results) != len(values):
        raise AssertionError(f"{claim.id}: the check gives {results}, the ledger says {values}")
    for got, said in zip(results, values, strict=True):
        if abs(got - said) > claim.tolerance + 1e-9:
            raise AssertionError(
                f"{claim.id}: the check gives {got}, the book says {said} (± {claim.tolerance})"
            )


def evaluate(check: str):
    """The value of an expression, or of ``module:function``."""
    if re.fullmatch(r"[\w.]+:\w+", check):
        module, function = check.split(":")
        return getattr(importlib.import_module(module), function)()
    names = {
        "facts": facts,
        "known_runs": known_runs,
        "log": log,
        "outputs": outputs,
        "preset": _preset,
        "math": math,
        "numbers": numbers,
    }
    return eval(check, names)  # noqa: S307 (the ledger is our own code)


def _preset(name: str):
    from steel.config import load as load_preset

    return load_preset(name)


# ------------------------------------------------------------------------------------------ prose


def prose(chapter: str) -> str:
    """The text of a chapter without code, mathematics, addresses and markup that readers do not see."""
    text = (ROOT / "book" / f"{chapter}.md").read_text(encoding="utf-8")
    text = _without_code(re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S))
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", "", text, flags=re.S)
    text = re.sub(r"\{[\w:-]+\}`[^`]*`|`[^`\n]*`", "", text)  # roles, inline code
    return re.sub(r"\]\([^)]*\)|<https?:[^>]*>|https?://\S+", "]", text)


def words(chapter: str) -> int:
    """Words that a reader of a chapter reads: cells, displayed formulas and citations do not count; a formula or a name
    inside a sentence is one word."""
    text = (ROOT / "book" / f"{chapter}.md").read_text(encoding="utf-8")
    text = _without_code(re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S))
    text = re.sub(r"\$\$.*?\$\$|\{[\w:-]+\}`[^`]*`|\]\([^)]*\)", "", text, flags=re.S)
    text = re.sub(r"\$[^$\n]+\$|`[^`\n]*`", "x", text)
    return len(re.findall(r"\S*\w\S*", text))


def _without_code(text: str) -> str:
    """Drop code cells and code blocks; of other directives drop only the fences and options."""
    kept, open_directives, code = [], [], ""
    for line in text.splitlines():
        fence = re.match(r"\s*(`{3,}|:{3,})(.*)$", line)
        if code:
            if fence and fence[1] == code and not fence[2].strip():
                code = ""
        elif fence and not fence[2].strip() and fence[1] in open_directives:
            open_directives.remove(fence[1])
        elif fence and re.match(
            r"\{(?!code|math|bibliography|table-of|image|figure)", fence[2].strip()
        ):
            open_directives.append(fence[1])
            kept.append(re.sub(r"^\{[\w-]+\}", "", fence[2].strip()))
        elif fence:
            code = fence[1]
        elif not (open_directives and re.match(r"\s*:[\w-]+:", line)):
            kept.append(line)
    return "\n".join(kept)


def collapse(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("\u00a0", " ").replace("\u202f", " ")).strip()


_UNITS = r"(?:%|per cent|[kMGT]?B\b|[kMGT]iB\b|[kMGT]?FLOP|billion|million|trillion|thousand|tokens|days|hours|hanzi)"
_BARE = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+|\d{4,}"
NUMBER = re.compile(rf"(?<![\w.,])(?:{_BARE}|\d+(?=[ \u00a0\u202f]?{_UNITS}))", re.I)


def uncovered(chapter: str, claims: list[Claim]) -> list[str]:
    """Numbers of the prose (decimals, four digits and more, quantities with a unit; not years, not exercise numbers)
    that no claim's text covers, each with its surroundings."""
    text = collapse(prose(chapter))
    text = re.sub(r"(?:\*\*|exercise |answer |answer to )\d\d\.\d", "", text, flags=re.I)
    covered = [
        (at.start(), at.end())
        for claim in claims
        if claim.chapter == chapter and claim.text
        for at in re.finditer(re.escape(collapse(claim.text)), text)
    ]
    missing = []
    for match in NUMBER.finditer(text):
        if re.fullmatch(r"20[0-3]\d", match[0]):
            continue
        if not any(begin <= match.start() and match.end() <= end for begin, end in covered):
            missing.append(f"{match[0]}   …{text[max(0, match.start() - 50) : match.end() + 30]}…")
    return missing


def main(argv: list[str]) -> int:
    failures, claims = 0, load()
    for chapter in argv or sorted({claim.chapter for claim in claims}):
        mine = [claim for claim in claims if claim.chapter == chapter]
        print(f"{chapter}: {len(mine)} claims")
        for claim in mine:
            try:
                verify(claim)
            except AssertionError as error:
                failures += 1
                print(f"  fails: {error}")
        for line in uncovered(chapter, claims):
            failures += 1
            print(f"  no claim covers: {line}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
