"""Guards as condition expressions, where DynamoDB can judge them exactly as `ops.holds` does.

A guard it cannot judge is not sent: the engine reads the record, judges it here and writes on the revision it read. An
expression may be stricter than its guard, which costs a second look, but never laxer.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from palaver.expr import And, Compare, Condition, Exists, In, Not, Or, parse_path
from palaver.ops import MARK, REVISION, Absent, Alive, Guard, Holds, Unchanged, When
from palaver.records.dynamo_keys import ASIDE, Layout
from palaver.records.dynamo_values import Attribute, literal

MAX_EXPRESSION = 4_096
MAX_OPERATORS = 300
_OPERATORS = ("AND", "OR", "NOT", "=", "<", ">", "(", ",", "+")
_NUMBERS = (int, float, Decimal)
_ORDERED = {"text": (str,), "int": _NUMBERS, "float": _NUMBERS, "number": _NUMBERS, "bytes": (bytes,)}
_SCALARS = {**_ORDERED, "bool": (bool,)}


class Terms:
    """The names and values of one request; every name is aliased, because hundreds of words are reserved."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.values: dict[str, Attribute] = {}
        self._known: dict[str, str] = {}
        self._scalars: dict[tuple[str, str], str] = {}

    def name(self, attribute: str) -> str:
        alias = self._known.get(attribute)
        if alias is None:
            alias = self._known[attribute] = f"#{len(self._known)}"
            self.names[alias] = attribute
        return alias

    def value(self, attribute: Attribute) -> str:
        ((native, value),) = attribute.items()
        known = self._scalars.get((native, value)) if type(value) is str else None
        if known is not None:
            return known
        alias = f":{len(self.values)}"
        self.values[alias] = attribute
        if type(value) is str:
            self._scalars[native, value] = alias
        return alias

    def into(self, body: dict[str, Any]) -> dict[str, Any]:
        """Add what the expressions of a request name; DynamoDB refuses empty maps."""
        if self.names:
            body["ExpressionAttributeNames"] = self.names
        if self.values:
            body["ExpressionAttributeValues"] = self.values
        return body


class NotNative(Exception):
    """DynamoDB cannot judge this as the contract wants it."""


def conjunction(parts: Sequence[str]) -> str:
    return " AND ".join(dict.fromkeys(parts))


def nothing_stored(layout: Layout, terms: Terms) -> str:
    return f"attribute_not_exists({terms.name(layout.base.partition.attribute)})"


def something_stored(layout: Layout, terms: Terms) -> str:
    return f"attribute_exists({terms.name(layout.base.partition.attribute)})"


def alive(layout: Layout, terms: Terms, now_us: int) -> list[str]:
    return [something_stored(layout, terms), *visible(layout, terms, now_us)]


def visible(layout: Layout, terms: Terms, now_us: int) -> list[str]:
    """Return what is true of a stored record that exists for readers; also a filter, which may not name the key."""
    parts = [f"attribute_not_exists({terms.name(MARK)})"]
    if layout.table.expires is not None:
        expires = terms.name(layout.table.expires)
        parts.append(f"(attribute_not_exists({expires}) OR {expires} > {_second(terms, now_us)})")
    return parts


def _second(terms: Terms, now_us: int) -> str:
    return terms.value({"N": str(now_us // 1_000_000)})


def unchanged(layout: Layout, terms: Terms, revision: int | None) -> str:
    if revision is None:
        return nothing_stored(layout, terms)
    if revision == 0:
        return f"({something_stored(layout, terms)} AND attribute_not_exists({terms.name(REVISION)}))"
    return f"{terms.name(REVISION)} = {terms.value({'N': str(revision)})}"


def guarded(layout: Layout, terms: Terms, guards: Sequence[Guard], now_us: int) -> list[str]:
    """Return the conjuncts of all guards. Raises NotNative where DynamoDB cannot judge one of them."""
    parts: list[str] = []
    for guard in guards:
        parts += _guard(layout, terms, guard.when, now_us)
    return parts


def _guard(layout: Layout, terms: Terms, when: When, now_us: int) -> list[str]:
    match when:
        case Absent():
            if layout.table.expires is None:
                return [nothing_stored(layout, terms)]
            expired = f"{terms.name(layout.table.expires)} <= {_second(terms, now_us)}"
            return [f"({nothing_stored(layout, terms)} OR (attribute_not_exists({terms.name(MARK)}) AND {expired}))"]
        case Alive():
            return alive(layout, terms, now_us)
        case Unchanged(revision):
            return [unchanged(layout, terms, revision)]
        case Holds(condition):
            # True of an empty record, it may hold where nothing is live; DynamoDB is then asked for less than that.
            text = condition_text(layout, terms, condition)
            return [*alive(layout, terms, now_us), f"attribute_not_exists({terms.name(ASIDE)})", text]


def condition_text(layout: Layout, terms: Terms, condition: Condition) -> str:
    """Return an expression with exactly the condition's meaning over a record with nothing set aside."""
    match condition:
        case And(parts) | Or(parts):
            if not parts:
                raise NotNative
            if len(parts) == 1:
                # DynamoDB refuses parentheses that say nothing.
                return condition_text(layout, terms, parts[0])
            word = " AND " if isinstance(condition, And) else " OR "
            return "(" + word.join(condition_text(layout, terms, part) for part in parts) + ")"
        case Not(inner):
            return f"(NOT {condition_text(layout, terms, inner)})"
        case Exists(path):
            steps = parse_path(path)
            if len(steps) > 1 or steps[0] in layout.hidden:
                raise NotNative
            return f"attribute_exists({terms.name(str(steps[0]))})"
        case In(path, values):
            attribute, _ = _column(layout, parse_path(path))
            if not 0 < len(values) <= 100:
                raise NotNative
            asked = ", ".join(terms.value(_literal(value)) for value in values)
            return f"{terms.name(attribute)} IN ({asked})"
        case Compare(path, op, value):
            attribute, kind = _column(layout, parse_path(path))
            return _compare(terms, attribute, kind, op, value)


def _column(layout: Layout, steps: Sequence[str | int]) -> tuple[str, str]:
    """Return a column DynamoDB may compare: one on top whose kind has no tags."""
    kind = layout.kinds.get(str(steps[0]), "json")
    if len(steps) > 1 or kind not in _SCALARS or steps[0] in layout.hidden:
        raise NotNative
    return str(steps[0]), kind


def _literal(value: Any) -> Attribute:
    if type(value) not in (str, int, float, Decimal, bool, bytes):
        raise NotNative
    if type(value) in _NUMBERS and (value != value or (value and not 1e-130 <= abs(value) < 1e126)):
        raise NotNative
    if type(value) in _NUMBERS and len(Decimal(repr(value) if type(value) is float else value).as_tuple().digits) > 38:
        raise NotNative
    return literal(value)


def _compare(terms: Terms, attribute: str, kind: str, op: str, value: Any) -> str:
    alias = terms.name(attribute)
    match op:
        case "==":
            return f"{alias} = {terms.value(_literal(value))}"
        case "!=":
            return f"(NOT {alias} = {terms.value(_literal(value))})"
        case "<" | "<=" | ">" | ">=":
            # DynamoDB refuses an operator over a type that has no order.
            if type(value) not in _ORDERED.get(kind, ()):
                raise NotNative
            return f"{alias} {op} {terms.value(_literal(value))}"
    if type(value) is not {"text": str, "bytes": bytes}.get(kind) or not value:
        raise NotNative
    function = "begins_with" if op == "starts_with" else "contains"
    return f"{function}({alias}, {terms.value(literal(value))})"


def checked(expression: str) -> str:
    """Return an expression within DynamoDB's limits. Raises NotNative over 4 KB or 300 operators."""
    if len(expression) < MAX_OPERATORS:
        return expression
    if len(expression) > MAX_EXPRESSION or sum(map(expression.count, _OPERATORS)) > MAX_OPERATORS:
        raise NotNative
    return expression
