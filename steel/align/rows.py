"""Rows of post-training data: read jsonl, check each row, count what is refused and why.

One bad row never stops a run and is never dropped silently: it is counted under a reason, and the
counts close (`kept + sum(rejected) == read`). A missing or empty file is the user's mistake.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from .. import documents
from ..config import UserError
from ..evaluation.answers import LETTERS

Check = Callable[[dict], str | None]


def read_rows(data: Path | str | list, check: Check, what: str = "rows") -> tuple[list[dict], dict]:
    """Read one jsonl file or several, in the order given.

    check: None for a good row, else the reason (a few words) under which it is counted. what: what
    the rows are, for the error message. Returns the good rows and facts for the run log: "read" =
    "kept" + the sum of "rejected", "kinds", "langs", "sha256" of the rows, which names the data
    set. Raises UserError when a file is missing or cut off, or has no usable row.
    """
    paths = [Path(p) for p in ([data] if isinstance(data, str | Path) else data)]
    rows, rejected, digest = [], Counter(), hashlib.sha256()
    for path in paths:
        if not path.is_file():
            raise UserError(
                f"{what}: {path} does not exist; write the rows first (`steel world OUT`)"
            )
        refused: Counter[str] = Counter()
        found = list(_usable(path, check, refused))
        if not found:
            reasons = ", ".join(f"{n} {why}" for why, n in refused.items())
            raise UserError(f"{what}: no usable row in {path} ({reasons or 'it is empty'})")
        for row in found:
            digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode() + b"\n")
        rows += found
        rejected += refused
    facts = {"read": len(rows) + rejected.total(), "kept": len(rows)}
    facts["rejected"] = dict(sorted(rejected.items()))
    for key in ("kind", "lang"):
        facts[f"{key}s"] = dict(sorted(Counter(str(row.get(key, "?")) for row in rows).items()))
    return rows, {**facts, "sha256": digest.hexdigest()}


def _usable(path: Path, check: Check, refused: Counter[str]) -> Iterator[dict]:
    """The good rows of a file; the others are counted by reason."""
    for _, row in documents.read_rows(path, lambda _, why: refused.update([why])):
        if reason := check(row):
            refused[reason] += 1
        else:
            yield row


def check_turns(messages, last_role: str) -> str | None:
    """Why turns are not `[system] (user assistant)* …` ending in `last_role`; None if they are."""
    if not isinstance(messages, list) or not messages:
        return "no messages"
    for turn in messages:
        if not isinstance(turn, dict) or "role" not in turn or "content" not in turn:
            return "malformed turn"
        if not _is_text(turn["content"]):
            return "empty turn" if isinstance(turn["content"], str) else "malformed turn"
    roles = [turn["role"] for turn in messages]
    roles = roles[1:] if roles[0] == "system" else roles
    if any(role != ("user", "assistant")[i % 2] for i, role in enumerate(roles)):
        return "roles do not alternate"
    return None if roles[-1:] == [last_role] else f"last turn is not the {last_role}'s"


def _is_text(value) -> bool:
    return isinstance(value, str) and bool(value.strip())


def check_dialogue(row: dict) -> str | None:
    """SFT row {"messages"}: ends with an answer."""
    return check_turns(row.get("messages"), "assistant")


def check_preference(row: dict) -> str | None:
    """Preference row {"messages", "chosen", "rejected"}: two different answers to one prompt."""
    if reason := check_turns(row.get("messages"), "user"):
        return reason
    for key in ("chosen", "rejected"):
        if not _is_text(row.get(key)):
            return f"no {key} answer"
    return "chosen equals rejected" if row["chosen"] == row["rejected"] else None


def check_verifiable(row: dict) -> str | None:
    """RL row {"messages", "answer", "options"}: a prompt whose answer a program can check."""
    if reason := check_turns(row.get("messages"), "user"):
        return reason
    if not _is_text(row.get("answer")):
        return "no answer"
    options = row.get("options") or []
    if not isinstance(options, list) or not all(isinstance(o, str) and o for o in options):
        return "malformed options"
    if options and row["answer"] not in [*options, *LETTERS[: len(options)]]:
        return "answer is not among the options"
    return None
