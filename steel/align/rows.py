"""Rows of post-training data: read jsonl, check each row, count what is refused and why.

One bad row never stops a run and is never dropped silently: it is counted under a reason, and the
counts close (`kept + sum(rejected) == read`). A missing or empty file is the user's mistake.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .. import documents
from ..config import UserError

Check = Callable[[dict], str | None]


@dataclass
class Rows:
    """Rows that passed their check, and how many were refused by reason."""

    rows: list[dict]
    rejected: Counter = field(default_factory=Counter)
    digest: str = ""  # sha256 of the kept rows: the identity of this data set

    def report(self) -> dict:
        """Counts for the run log: read = kept + the sum of rejected."""
        kept, rejected = len(self.rows), dict(sorted(self.rejected.items()))
        counts = {"read": kept + sum(rejected.values()), "kept": kept, "rejected": rejected}
        for key, name in (("kind", "kinds"), ("lang", "langs")):
            counts[name] = dict(sorted(Counter(str(r.get(key, "?")) for r in self.rows).items()))
        return {**counts, "sha256": self.digest}


def read_rows(data: Path | str | list, check: Check, what: str = "rows") -> Rows:
    """Read one jsonl file or several, in the order given.

    check: None for a good row, else the reason (a few words) under which it is counted. what: what
    the rows are, for the error message. Raises UserError when a file is missing or cut off, or no
    usable row is left.
    """
    paths = [Path(p) for p in ([data] if isinstance(data, str | Path) else data)]
    if not paths:
        raise UserError(f"no file of {what} was given; name at least one .jsonl file")
    result, digest = Rows([]), hashlib.sha256()
    for path in paths:
        if not path.is_file():
            raise UserError(
                f"{what}: {path} does not exist; write the rows first (`steel world OUT`)"
            )
        for _, row in documents.read_rows(path, lambda _, why: result.rejected.update([why])):
            if reason := check(row):
                result.rejected[reason] += 1
                continue
            result.rows.append(row)
            digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode() + b"\n")
    if not result.rows:
        reasons = ", ".join(f"{n} {why}" for why, n in result.rejected.items())
        files = ", ".join(map(str, paths))
        raise UserError(f"{what}: no usable row in {files} ({reasons or 'the files are empty'})")
    result.digest = digest.hexdigest()
    return result


def check_turns(messages, last_role: str) -> str | None:
    """Why turns are not `[system] (user assistant)* …` ending in `last_role`; None if they are."""
    if not isinstance(messages, list) or not messages:
        return "no messages"
    for turn in messages:
        if not isinstance(turn, dict) or "role" not in turn:
            return "malformed turn"
        if not isinstance(turn.get("content"), str):
            return "malformed turn"
        if not turn["content"].strip():
            return "empty turn"
    roles = [turn["role"] for turn in messages]
    if roles[0] == "system":
        roles = roles[1:]
    if roles != [("user", "assistant")[i % 2] for i in range(len(roles))]:
        return "roles do not alternate"
    if not roles or roles[-1] != last_role:
        return f"last turn is not the {last_role}'s"
    return None


def check_dialogue(row: dict) -> str | None:
    """SFT row {"messages"}: ends with an answer."""
    return check_turns(row.get("messages"), "assistant")


def check_preference(row: dict) -> str | None:
    """Preference row {"messages", "chosen", "rejected"}: two different answers to one prompt."""
    if reason := check_turns(row.get("messages"), "user"):
        return reason
    for key in ("chosen", "rejected"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            return f"no {key} answer"
    return "chosen equals rejected" if row["chosen"] == row["rejected"] else None


def check_verifiable(row: dict) -> str | None:
    """RL row {"messages", "answer", "options"}: a prompt whose answer a program can check."""
    if reason := check_turns(row.get("messages"), "user"):
        return reason
    if not isinstance(row.get("answer"), str) or not row["answer"].strip():
        return "no answer"
    options = row.get("options") or []
    if not isinstance(options, list) or not all(isinstance(o, str) and o for o in options):
        return "malformed options"
    letters = "ABCDEFGHIJ"[: len(options)]
    if options and row["answer"] not in options and row["answer"] not in tuple(letters):
        return "answer is not among the options"
    return None
