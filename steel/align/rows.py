"""Rows of post-training data: read jsonl, check each row, count what is refused and why.

One bad row never stops a run and is never dropped silently: it is counted under a reason, and the counts close
(`kept + sum(rejected) == read`). A missing or empty file is the user's mistake and says so in one line.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..config import UserError

Check = Callable[[dict], str | None]


@dataclass
class Rows:
    """Rows that passed their check, and how many were refused by reason."""

    rows: list[dict]
    read: int = 0
    rejected: Counter = field(default_factory=Counter)
    digest: str = ""  # sha256 of the kept rows: the identity of this data set

    def __len__(self) -> int:
        return len(self.rows)

    def report(self) -> dict:
        """Counts for the run log: read = kept + the sum of rejected."""
        return {
            "read": self.read,
            "kept": len(self.rows),
            "rejected": dict(sorted(self.rejected.items())),
        }


def paths_of(data) -> list[Path]:
    """One path or several, as a list of paths."""
    return [Path(p) for p in ([data] if isinstance(data, str | Path) else data)]


def read_rows(data, check: Check, what: str = "rows") -> Rows:
    """Read jsonl files in the order given.

    Args:
        data: one path or a list of paths.
        check: returns None for a good row, else the reason (a few words) under which it is counted.
        what: what the rows are, for the error message.
    Raises:
        UserError: a file is missing, or no usable row is left.
    """
    paths = paths_of(data)
    if not paths:
        raise UserError(f"no file of {what} was given; name at least one .jsonl file")
    result, digest = Rows([]), hashlib.sha256()
    for path in paths:
        if not path.is_file():
            raise UserError(
                f"{what}: {path} does not exist; write the post-training data first (`steel world OUT`)"
            )
        with path.open("rb") as lines:
            for line in lines:
                if line.strip():
                    _take(line, check, result, digest)
    if not result.rows:
        reasons = (
            ", ".join(f"{n} {why}" for why, n in result.rejected.items()) or "the files are empty"
        )
        raise UserError(f"{what}: no usable row in {', '.join(map(str, paths))} ({reasons})")
    result.digest = digest.hexdigest()
    return result


def _take(line: bytes, check: Check, result: Rows, digest) -> None:
    result.read += 1
    try:
        row = json.loads(line)
    except ValueError:  # JSONDecodeError and UnicodeDecodeError both are
        result.rejected["not json"] += 1
        return
    reason = check(row) if isinstance(row, dict) else "not an object"
    if reason:
        result.rejected[reason] += 1
        return
    result.rows.append(row)
    digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode() + b"\n")


def check_turns(messages, last_role: str) -> str | None:
    """Reason why a list of turns is not `[system] (user assistant)* …` ending in `last_role`; None if it is."""
    if not isinstance(messages, list) or not messages:
        return "no messages"
    for turn in messages:
        if (
            not isinstance(turn, dict)
            or not isinstance(turn.get("content"), str)
            or "role" not in turn
        ):
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
    """Preference row {"messages", "chosen", "rejected"}: two different, non-empty answers to one prompt."""
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


def count_by(rows: Iterable[dict], key: str) -> dict[str, int]:
    """How many rows carry each value of `key` (for the run log)."""
    return dict(sorted(Counter(str(row.get(key, "?")) for row in rows).items()))
