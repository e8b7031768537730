"""Operators: small functions on text, registered by name, composed by recipes.

A *mapper* is text -> text, a *filter* is text -> None or a Reject, a *scorer* is text -> numbers
for `meta["scores"]`, a *deduplicator* is text -> fingerprint, which the step "dedup" compares;
their further parameters are what a recipe may set. Dialogue is handled once, here: a mapper sees
one turn at a time and can never touch what stands between turns; the others see all turns together;
a dialogue that would lose a turn is rejected as a whole.

Names that end in _mapper, _filter or _deduplicator are those of Data-Juicer, which cleaned the
original's texts: same parameters, same results, its damage included (`juicer.py` has the mappers,
`juicer_filters.py` the others). The rest is ours. To add an operator, write a function in
`mappers.py` or `filters.py` (or a module listed below):

    @operator("mapper")
    def lowercase(text: str, enabled: bool = True) -> str:
        return text.lower() if enabled else text

Every operator is called once with an empty text when a recipe is read: it raises ValueError for
parameters that cannot be, and Idle when it lacks what it needs to work.
"""

import difflib
import functools
import importlib
import inspect
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ...config import UserError
from ...documents import Document

_MODULES = ("mappers", "filters", "juicer", "juicer_filters")
_FUNCTIONS: dict[str, tuple[str, Callable]] = {}


class Reject(NamedTuple):
    """The document is removed. reason: in words; value: what was measured, limit: what it passed,
    where the operator measures; operator: its name, filled in when it is called."""

    reason: str
    value: float | None = None
    limit: float | None = None
    operator: str = ""


class Idle(Exception):
    """What an operator lacks. A recipe may list it all the same: it changes nothing, and the report
    says so."""


def within(
    what: str, value: float, low: float = -math.inf, high: float = math.inf
) -> Reject | None:
    """None if low <= value <= high, else the Reject. ValueError if the limits cross."""
    if low > high:
        raise ValueError(f"the minimum {low} is above the maximum {high}")
    if low <= value <= high:
        return None
    value = value if type(value) is int else float(value)  # NumPy's numbers are none of JSON's
    limit = low if value < low else high
    shown = f"{value:.4g}" if isinstance(value, float) else value
    return Reject(f"{what} {shown}, {'under' if value < low else 'over'} {limit}", value, limit)


@dataclass(frozen=True)
class Operator:
    """A registered function with its parameters bound. Call it with a document.

    idle: why it does nothing, if so.
    """

    name: str
    kind: str
    function: Callable[[str], Any]
    idle: str = ""

    def __call__(self, document: Document) -> Document | Reject:
        if self.idle:
            return document
        if self.kind == "mapper":
            return self._map(document)
        result = self.function(document.readable())
        if result is None:
            return document
        if self.kind == "filter":
            return result._replace(operator=self.name)
        scores = {**document.meta.get("scores", {}), **result}
        return replace(document, meta={**document.meta, "scores": scores})

    def _map(self, document: Document) -> Document | Reject:
        turns = document.messages
        before = [turn["content"] for turn in turns] or [document.text]
        after = list(map(self.function, before))
        if after == before:
            return document
        if not all(map(str.strip, after)):
            return Reject("a turn would be empty" if turns else "nothing left", operator=self.name)
        if not turns:
            return replace(document, text=after[0])
        turns = [turn | {"content": text} for turn, text in zip(turns, after, strict=True)]
        return replace(document, meta={**document.meta, "messages": turns})


def operator(kind: str) -> Callable[[Callable], Callable]:
    """Register a function under its own name: a mapper, filter, scorer or deduplicator."""

    def register(function: Callable) -> Callable:
        assert function.__name__ not in _FUNCTIONS, f"{function.__name__} registered twice"
        _FUNCTIONS[function.__name__] = (kind, function)
        return function

    return register


def registered() -> dict[str, tuple[str, Callable]]:
    """(kind, function) of all operators by name."""
    for module in _MODULES:
        importlib.import_module(f"{__name__}.{module}")
    return _FUNCTIONS


def make(entry: str | dict[str, dict | None]) -> Operator:
    """The operator of a recipe's entry, `name` or `{name: parameters}`. UserError for mistakes."""
    try:
        [(name, parameters)] = [(entry, {})] if isinstance(entry, str) else entry.items()
        parameters = dict(parameters or {})
    except (AttributeError, TypeError, ValueError):
        form = "`name` or `name: {parameter: value}`"
        raise UserError(f"a recipe lists operators as {form}, not {entry!r}") from None
    table = registered()
    if name not in table:
        near = difflib.get_close_matches(str(name), table, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(table))}"
        raise UserError(f"no operator named {name!r}; {hint}")
    kind, function = table[name]
    takes = _parameters(function)
    try:
        takes.bind(**parameters)
    except TypeError as error:
        raise UserError(f"operator {name}: {error}; it takes {takes}") from None
    bound = functools.partial(function, **parameters)
    try:
        bound("")
    except Idle as lacks:
        return Operator(name, kind, bound, str(lacks))
    except (ValueError, TypeError, re.error) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in parameters.items())
        raise UserError(f"operator {name}({given}): {error}") from None
    return Operator(name, kind, bound)


def _parameters(function: Callable) -> inspect.Signature:
    """What a recipe may set: all but the text."""
    signature = inspect.signature(function)
    settable = list(signature.parameters.values())[1:]
    return signature.replace(parameters=settable, return_annotation=signature.empty)


def apply(
    operators: Iterable[Operator],
    document: Document,
    changed: Callable[[Operator, Document, Document], Any],
) -> tuple[Document, Reject | None]:
    """(document after all operators, None), or (as it was when one removed it, the Reject).

    `changed` is called with (operator, before, after) for every operator that altered the document.
    """
    for op in operators:
        result = op(document)
        if isinstance(result, Reject):
            return document, result
        if result is not document and op.kind == "mapper":
            changed(op, document, result)
        document = result
    return document, None


def trace(operators: Iterable[Operator], document: Document) -> list[dict[str, str]]:
    """What each operator does to one document: {"operator", "before", "after" or "removed"}."""
    steps = []
    for op in operators:
        before, result = document.readable(), op(document)
        if isinstance(result, Reject):
            steps.append({"operator": op.name, "before": before, "removed": result.reason})
            break
        steps.append({"operator": op.name, "before": before, "after": result.readable()})
        document = result
    return steps
