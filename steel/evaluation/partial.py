"""Answers so far, so that an evaluation that was stopped goes on: one JSON line per finished part."""

import json
from collections.abc import Callable
from pathlib import Path

from ..config import UserError
from ..documents import read_rows


class Partial:
    """Parts of an evaluation, kept in a file (None: kept nowhere), which begins with what was asked.

    Raises UserError for a file that begins with anything else.
    """

    def __init__(self, file: Path | None, asked: dict):
        self.file, self.done = file, {}
        if file is None:
            return
        rows = []
        if file.is_file():  # a line that was cut off is answered again
            rows = [row for _, row in read_rows(file, refuse=lambda *_: None)]
        if rows and rows[0] != json.loads(json.dumps(asked)):
            raise UserError(f"{file} holds answers to another evaluation; remove it or use another")
        self.done = {row["part"]: row["answers"] for row in rows[1:]}
        if not rows:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._write(asked)

    def part(self, name: str, work: Callable[[], dict]) -> dict:
        """The answers of a part: those of the file, or of `work`, which are added to it."""
        if name not in self.done:
            self.done[name] = work()
            if self.file:
                self._write({"part": name, "answers": self.done[name]})
        return self.done[name]

    def _write(self, row: dict) -> None:
        with open(self.file, "a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(row, ensure_ascii=False))
