"""Conditions, filters and update operands as values.

`F("status") == "pending"` is a frozen value with a path and a literal. It has no truth value: combine with `&`, `|`, `~`.
Comparisons hold between values of one type only: text never equals a number, and a missing attribute compares false.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow, localcontext
from typing import Any, Literal, NoReturn, TypeAlias

from palaver.errors import Expression, NumberRange
from palaver.values import EXACT, MAX_INT, MIN_INT, Value, canonical

_STEP = re.compile(r"\.([^.\[\]]+)|\[([0-9]{1,6})\]")


class _Combines:
    __slots__ = ()

    def __and__(self, other: Condition) -> And:
        # One level however many there are: each is a call of whoever evaluates it.
        return And((*(self.conditions if isinstance(self, And) else (self,)), other))

    def __or__(self, other: Condition) -> Or:
        return Or((*(self.conditions if isinstance(self, Or) else (self,)), other))

    def __invert__(self) -> Not:
        return Not(self)  # type: ignore[arg-type]

    def __bool__(self) -> NoReturn:
        raise Expression("A condition has no truth value.", hint="Combine conditions with &, | and ~, not with and, or, not.")


@dataclass(frozen=True, slots=True, eq=False)
class Path:
    """A field, or a place inside one: `F("intent.name")`, `F("entities[0].id")`."""

    name: str

    def __str__(self) -> str:
        return self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> Compare:  # type: ignore[override]
        return Compare(self, "==", other)

    def __ne__(self, other: object) -> Compare:  # type: ignore[override]
        return Compare(self, "!=", other)

    def __lt__(self, other: object) -> Compare:
        return Compare(self, "<", other)

    def __le__(self, other: object) -> Compare:
        return Compare(self, "<=", other)

    def __gt__(self, other: object) -> Compare:
        return Compare(self, ">", other)

    def __ge__(self, other: object) -> Compare:
        return Compare(self, ">=", other)

    def __bool__(self) -> NoReturn:
        raise Expression("A path has no truth value.", hint="Compare it: F('name') == value.")

    def between(self, low: object, high: object) -> And:
        return And((Compare(self, ">=", low), Compare(self, "<=", high)))

    def is_in(self, values: Iterable[object]) -> In:
        if isinstance(values, str | bytes):
            raise Expression("is_in() takes several values, and one text was given.", hint='Write is_in(["…"]), or contains("…").')
        return In(self, tuple(values))

    def starts_with(self, prefix: str) -> Compare:
        return Compare(self, "starts_with", prefix)

    def contains(self, value: object) -> Compare:
        """Ask whether a text holds a part, or a list or set an element."""
        return Compare(self, "contains", value)

    def exists(self) -> Exists:
        return Exists(self)

    def missing(self) -> Not:
        return Not(Exists(self))

    def if_absent(self, default: object) -> IfAbsent:
        """Use the stored value as an operand, or the default where there is none."""
        return IfAbsent(self, default)  # type: ignore[arg-type]

    def append(self, *items: object) -> Append:
        """Use the stored list as an operand, with items added at its end."""
        return Append(self, items)  # type: ignore[arg-type]


def F(path: str) -> Path:
    """Name a field for a condition, a filter or an update operand."""
    parse_path(Path(path))
    return Path(path)


CompareOp: TypeAlias = Literal["==", "!=", "<", "<=", ">", ">=", "starts_with", "contains"]


@dataclass(frozen=True, slots=True)
class Compare(_Combines):
    path: Path
    op: CompareOp
    value: Any


@dataclass(frozen=True, slots=True)
class In(_Combines):
    path: Path
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Exists(_Combines):
    path: Path


@dataclass(frozen=True, slots=True)
class Not(_Combines):
    condition: Condition


@dataclass(frozen=True, slots=True)
class And(_Combines):
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Or(_Combines):
    conditions: tuple[Condition, ...]


Condition: TypeAlias = "Compare | In | Exists | Not | And | Or"


@dataclass(frozen=True, slots=True)
class IfAbsent:
    path: Path
    default: Value


@dataclass(frozen=True, slots=True)
class Append:
    path: Path
    items: tuple[Value, ...]


Operand: TypeAlias = "Value | Path | IfAbsent | Append"


OPERANDS = (Path, IfAbsent, Append)
"""Values of `set` that read the record as it is stored."""


def parse_path(path: Path) -> tuple[str | int, ...]:
    """Return the steps of a path: names and list positions. Raises Expression where it cannot be read."""
    try:
        if path.name.isidentifier():
            return (path.name,)
    except AttributeError:
        raise Expression(f"A path is a text, not {type(path.name).__name__}.") from None
    steps: list[str | int] = []
    at = 0
    # With a dot before it the first name is read like all others.
    text = "." + path.name
    while at < len(text):
        found = _STEP.match(text, at)
        if not found:
            break
        steps.append(found[1] if found[1] is not None else int(found[2]))
        at = found.end()
    if at != len(text):
        raise Expression("A path could not be read.", hint="Write names separated by dots, list positions in brackets: entities[0].id.")
    return tuple(steps)


MISSING: Any = object()


def resolve(record: Mapping[str, Value], steps: Sequence[str | int], missing: Any = None) -> Any:
    """Return what is stored at a path, `missing` where there is nothing; a null inside a nested value is something."""
    value: Any = record
    for step in steps:
        if isinstance(step, int):
            if not isinstance(value, list) or step >= len(value):
                return missing
            value = value[step]
        else:
            if not isinstance(value, Mapping) or step not in value:
                return missing
            value = value[step]
    return value


def evaluate(condition: Condition, record: Mapping[str, Value]) -> bool:
    """Say whether a bound condition is true of a record as stored. Every engine's answer equals this one."""
    match condition:
        case And(conditions):
            return all(evaluate(part, record) for part in conditions)
        case Or(conditions):
            return any(evaluate(part, record) for part in conditions)
        case Not(inner):
            return not evaluate(inner, record)
        case Exists(path):
            return resolve(record, parse_path(path), MISSING) is not MISSING
        case In(path, values):
            stored = resolve(record, parse_path(path), MISSING)
            return stored is not MISSING and any(same(stored, value) for value in values)
        case Compare(path, op, value):
            return _compare(resolve(record, parse_path(path), MISSING), op, value)


def same(a: Value, b: Value) -> bool:
    """Say whether two values are one: same type, equal content; all numbers are one type, and True is not 1."""
    kind = _kind(a)
    if kind != _kind(b):
        return False
    if kind == "number":
        return _number(a) == _number(b)
    if kind == "list":
        return len(a) == len(b) and all(map(same, a, b))  # type: ignore[arg-type]
    if kind == "map":
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)  # type: ignore[union-attr, index]
    return a == b


def _compare(stored: Value, op: CompareOp, value: Value) -> bool:
    if stored is MISSING:
        # DynamoDB: a missing attribute is unequal to everything, so != holds.
        return op == "!="
    if op == "==":
        return same(stored, value)
    if op == "!=":
        return not same(stored, value)
    if op == "contains":
        if isinstance(stored, str):
            return isinstance(value, str) and value in stored
        if isinstance(stored, bytes):
            return isinstance(value, bytes) and value in stored
        return isinstance(stored, list | frozenset) and any(same(element, value) for element in stored)
    kind = _kind(stored)
    if kind != _kind(value) or kind not in ("text", "number", "bytes"):
        return False
    left: Any = _number(stored) if kind == "number" else stored.encode() if isinstance(stored, str) else stored
    right: Any = _number(value) if kind == "number" else value.encode() if isinstance(value, str) else value
    match op:
        case "<":
            return bool(left < right)
        case "<=":
            return bool(left <= right)
        case ">":
            return bool(left > right)
        case ">=":
            return bool(left >= right)
        case "starts_with":
            return kind != "number" and bool(left.startswith(right))


def _kind(value: Value) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float | Decimal):
        return "number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, bytes):
        return "bytes"
    if isinstance(value, list):
        return "list"
    if isinstance(value, dict):
        return "map"
    if isinstance(value, frozenset):
        return "set"
    return "null"


def _number(value: Any) -> Decimal | int:
    return Decimal(repr(value)) if isinstance(value, float) else value


def add_numbers(old: Any, amount: Any, what: str) -> Value:
    """Return the exact sum, an int where both are ints, a float where either is a float.

    Raises NumberRange where 38 digits do not hold it.
    """
    if type(old) is int and type(amount) is int:
        total = old + amount
        if not MIN_INT <= total <= MAX_INT:
            raise NumberRange(f"Adding to {what} needs more than 64 bits.")
        return total
    if isinstance(old, float) or isinstance(amount, float):
        return float(old) + float(amount)
    try:
        with localcontext(EXACT):
            return canonical(Decimal(old) + Decimal(amount), what)
    except (Inexact, InvalidOperation, Overflow, DivisionByZero):
        raise NumberRange(f"Adding to {what} needs more than 38 significant digits.") from None


def map_paths(condition: Condition, change: Any) -> Condition:
    """Return the condition with every leaf replaced by `change(leaf)`: how a declaration binds names and encodes literals."""
    match condition:
        case And(conditions):
            return And(tuple(map_paths(part, change) for part in conditions))
        case Or(conditions):
            return Or(tuple(map_paths(part, change) for part in conditions))
        case Not(inner):
            return replace(condition, condition=map_paths(inner, change))
        case Compare() | In() | Exists():
            return change(condition)  # type: ignore[no-any-return]
        case _:
            raise Expression("This is no condition.", hint='Compare a field: F("active") == True.')


def paths(condition: Condition) -> list[Path]:
    """Return every path a condition names."""
    found: list[Path] = []

    def note(leaf: Any) -> Any:
        found.append(leaf.path)
        return leaf

    map_paths(condition, note)
    return found
