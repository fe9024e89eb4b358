"""What the compiled rows of the engines that speak SQL share: numbers as columns hold them, and how a function is generated."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from palaver.errors import NumberRange
from palaver.ops import MARK, Table
from palaver.values import canonical

LONG = ("text", "bytes", "json")
"""The kinds whose values are counted when a page is read."""
ENCODE = {"int": "whole", "float": "real", "number": "exact", "json": "nested"}
"""The functions that make a column's value of a field's, by the kinds that need one; each engine's scope has them."""


def whole(value: Any) -> Any:
    """Return a number as an integer column holds it."""
    if value is None or type(value) is int:
        return value
    if value != int(value):
        raise NumberRange("An integer field cannot hold a fraction.")
    return int(value)


def real(value: Any) -> Any:
    # Adding takes the sign from a zero, which not every engine keeps.
    return value if value is None else float(value) + 0.0


def exact(value: Any) -> Decimal | None:
    return value if value is None else canonical(Decimal(repr(value)) if type(value) is float else Decimal(value))


def encode_text(table: Table) -> str:
    """Return the function from a record and its revision to a row; its scope holds what ENCODE names."""
    parts = []
    for column in table.columns:
        value = f"record[{column.name!r}]" if column.name in table.key else f"get({column.name!r})"
        parts.append(f"{ENCODE[column.kind]}({value})" if column.kind in ENCODE and column.name not in table.key else value)
    return f"def made(record, revision):\n get = record.get\n return ({', '.join(parts)}, revision, get({MARK!r}))\n"


def compiled(text: str, scope: Mapping[str, Any]) -> Any:
    """Return the function `made` of a generated text."""
    names = dict(scope)
    exec(text, names)
    return names["made"]
