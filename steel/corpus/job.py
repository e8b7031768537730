"""One call of `prepare`: what it works on, and where its intermediate files lie."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .dedup import NO_DEDUP, Dedup
from .recipe import Recipe


@dataclass(frozen=True)
class Job:
    """One call of `prepare`, all paths absolute: it travels to other processes and machines."""

    root: Path
    out: Path
    recipe: Recipe
    steps: tuple[str, ...]
    trace: int
    files: dict[str, list[Path]]  # by source
    about: dict[str, Any]  # for the report
    blocks: list[dict[str, list[Path]]]  # the files of each task, by source
    digest: str  # of everything that decides the outputs

    @property
    def done(self) -> Path:
        return self.out / ".work" / "done.json"

    @property
    def work(self) -> Path:
        return self.out / ".work" / f"{self.digest}-{len(self.blocks)}"

    @property
    def copies(self) -> Dedup:
        return self.recipe.dedup if "dedup" in self.steps else NO_DEDUP

    def outcome(self) -> str:
        """What stands in done.json when this call has been made and its outputs still stand."""
        sizes = {file.name: file.stat().st_size for file in sorted(self.out.glob("*.json*"))}
        return json.dumps([self.digest, sizes])

    def is_done(self) -> bool:
        return self.done.is_file() and self.done.read_text() == self.outcome()

    def make_room(self) -> None:
        """Remove what other calls have left in OUT/.work, and this one's if its outputs are gone."""
        self.done.unlink(missing_ok=True)
        finished = (self.work / "report/completions/00000").exists()
        for old in self.done.parent.glob("*"):
            if old.is_file():
                old.unlink()
            elif old != self.work or finished:
                shutil.rmtree(old)
