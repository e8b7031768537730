"""``check("07.3", my_function)``: does an answer to a coding exercise of the book hold?

The checks stand beside the chapters, in `book/checks/<chapter>.py`: one function ``exercise_<number>(answer)`` an
exercise, whose assertions say what is wrong and whose docstring is the hint. They come with a checkout of the
repository, not with the installed package.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from steel.config import UserError

CHECKS = Path(__file__).resolve().parents[1] / "book" / "checks"


class CheckFailed(AssertionError):
    """An answer that does not hold; Jupyter shows its message without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def check(exercise: str, answer: Any) -> None:
    """Check ``answer`` (a function or a value) against exercise ``exercise``, e.g. ``"07.3"``.

    Prints one line when it holds; raises CheckFailed with what failed and a hint when it does not, and UserError
    for an exercise that does not exist.
    """
    test = _find(exercise)
    hint = " ".join((test.__doc__ or "").split())
    try:
        test(answer)
    except CheckFailed:
        raise
    except Exception as error:
        what = (
            str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        )
        raise CheckFailed(
            f"{exercise}: not yet. {what}" + (f"\nHint: {hint}" if hint else "")
        ) from error
    print(f"{exercise}: holds.")


def _find(exercise: str):
    chapter, _, number = exercise.partition(".")
    files = sorted(CHECKS.glob(f"{chapter}_*.py"))
    if not files:
        raise UserError(
            f"no checks for chapter {chapter} in book/checks: run the notebook from a checkout of the book"
        )
    spec = importlib.util.spec_from_file_location(f"steel_checks_{chapter}", files[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    test = getattr(module, f"exercise_{number}", None)
    if test is None:
        known = sorted(
            name.removeprefix("exercise_") for name in vars(module) if name.startswith("exercise_")
        )
        raise UserError(
            f"exercise {exercise} has no check; chapter {chapter} checks {', '.join(known) or 'none'}"
        )
    return test
