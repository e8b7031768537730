"""The JSON file of an experiment: what it is, then one row after another. The same call goes on where it stopped.

A file says at its top what its rows have in common (`same`: configuration, data, budget); a file of another experiment
is refused, so that rows of two never stand together. It is written whole after every row, one row a line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from steel.config import UserError
from steel.machine import commit, hardware, packages
from steel.runlog import atomic_write


class Ledger:
    """`content` is what the file holds: kind, the entries of `same`, provenance, `rows`, and what `write` added.

    path: the JSON file; None keeps the rows in memory. fresh: begin anew whatever the file holds.
    Raises UserError when the file holds another experiment.
    """

    def __init__(self, path: Path | str | None, kind: str, same: dict, fresh: bool = False):
        self.path = Path(path) if path is not None else None
        same = json.loads(json.dumps(same))  # as it will be read again
        self.content = {"kind": kind, **same, "rows": []}
        if self.path is not None and self.path.exists() and not fresh:
            self.content = self._read(kind, same)
        self.content |= {"commit": commit(), "packages": packages(), "hardware": hardware()}

    def _read(self, kind: str, same: dict) -> dict:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            other = [key for key, value in same.items() if found.get(key) != value]
            known = found["kind"] == kind and isinstance(found["rows"], list)
        except (ValueError, KeyError, TypeError, AttributeError):
            known, other = False, []
        if not known:
            raise UserError(f"{self.path} is no log of this experiment ({kind}); use another file")
        if other:
            raise UserError(
                f"{self.path} holds rows of another {', '.join(other)}; use another file"
            )
        return found

    @property
    def rows(self) -> list[dict]:
        """Rows so far, in the order in which they came."""
        return self.content["rows"]

    def find(self, **keys) -> dict | None:
        """The first row with these values, or None."""
        return next((r for r in self.rows if all(r.get(k) == v for k, v in keys.items())), None)

    def add(self, row: dict) -> dict:
        """Append a row and write the file."""
        self.rows.append(row)
        self.write()
        return row

    def write(self, **more) -> None:
        """Write the file whole, with `more` at its top level."""
        self.content |= more
        if self.path is None:
            return
        parts = [f'"{key}": {_line(value)}' for key, value in self.content.items()]
        rows = ",\n".join(map(_line, self.rows))
        at = list(self.content).index("rows")
        parts[at] = f'"rows": [\n{rows}\n]' if self.rows else '"rows": []'
        atomic_write(self.path, "{" + ",\n".join(parts) + "}\n")

    def fill(self, keys: Iterable[dict], work: Callable[[dict], dict], say=None) -> list[dict]:
        """The rows with these keys, in their order; what is missing is worked out and written. say: gets each row."""
        found = []
        for key in keys:
            row = self.find(**key)
            if row is None:
                row = self.add({**key, **work(key)})
            found.append(row)
            if say is not None:
                say(row)
        return found


def _line(value) -> str:
    return json.dumps(value, ensure_ascii=False)
