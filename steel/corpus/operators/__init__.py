"""Operators: small functions on text, registered by name, composed by recipes.

A *mapper* is text -> text, a *filter* is text -> None or the reason for removal; their further
parameters are what a recipe may set. Dialogue is handled once, here: a mapper sees one turn at a
time and can never touch what stands between turns; a filter sees all turns together; a dialogue
that would lose a turn is rejected as a whole.

To add an operator, write a function in `mappers.py` or `filters.py` (or a module listed below):

    @operator("mapper")
    def lowercase(text: str, enabled: bool = True) -> str:
        \"\"\"One line that `describe` shows.\"\"\"
        return text.lower() if enabled else text

Every operator is called once with an empty text when a recipe is read: it raises UserError for
parameters that cannot be.
"""

import difflib
import functools
import importlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from ...config import UserError
from ...documents import Document

_MODULES = ("mappers", "filters")
_FUNCTIONS: dict[str, tuple[str, Callable]] = {}


class Reject(NamedTuple):
    """The document is removed; `reason` says why, with the measured value where there is one."""

    reason: str


@dataclass(frozen=True)
class Operator:
    """A registered function with its parameters bound. Call it with a document."""

    name: str
    kind: str
    function: Callable[[str], str | None]

    def __call__(self, document: Document) -> Document | Reject:
        if self.kind == "filter":
            reason = self.function(document.readable())
            return document if reason is None else Reject(reason)
        messages = document.messages
        if not messages:
            text = self.function(document.text)
            if text == document.text:
                return document
            return replace(document, text=text) if text.strip() else Reject("nothing left")
        turns = [{**turn, "content": self.function(turn["content"])} for turn in messages]
        if turns == messages:
            return document
        if any(not turn["content"].strip() for turn in turns):
            return Reject("a turn would be empty")
        return replace(document, meta={**document.meta, "messages": turns})


def operator(kind: Literal["mapper", "filter"]) -> Callable[[Callable], Callable]:
    """Register a function under its own name."""

    def register(function: Callable) -> Callable:
        assert function.__name__ not in _FUNCTIONS, f"{function.__name__} registered twice"
        _FUNCTIONS[function.__name__] = (kind, function)
        return function

    return register


def _registered() -> dict[str, tuple[str, Callable]]:
    for module in _MODULES:
        importlib.import_module(f"{__name__}.{module}")
    return _FUNCTIONS


def names() -> list[str]:
    """The names of all operators."""
    return sorted(_registered())


def describe(name: str) -> str:
    """`name(parameters with defaults) [kind]: first line of its documentation`."""
    kind, function = _registered()[name]
    return f"{name}{_parameters(function)} [{kind}]: {inspect.getdoc(function).splitlines()[0]}"


def make(entry: str | dict[str, dict | None]) -> Operator:
    """The operator of a recipe's entry, `name` or `{name: parameters}`. UserError for mistakes."""
    try:
        [(name, parameters)] = [(entry, {})] if isinstance(entry, str) else entry.items()
        parameters = dict(parameters or {})
    except (AttributeError, TypeError, ValueError):
        form = "`name` or `name: {parameter: value}`"
        raise UserError(f"a recipe lists operators as {form}, not {entry!r}") from None
    table = _registered()
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
    bound("")
    return Operator(name, kind, bound)


def _parameters(function: Callable) -> inspect.Signature:
    """What a recipe may set: all but the text."""
    signature = inspect.signature(function)
    settable = list(signature.parameters.values())[1:]
    return signature.replace(parameters=settable, return_annotation=signature.empty)


def apply(
    operators: Iterable[Operator], document: Document, changed: Counter[str]
) -> tuple[Document | None, str]:
    """(document, "") after all operators, or (None, name of the operator that removed it).

    `changed` counts, by operator, the documents whose text was altered.
    """
    for op in operators:
        result = op(document)
        if isinstance(result, Reject):
            return None, op.name
        if result is not document:
            changed[op.name] += 1
        document = result
    return document, ""


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
