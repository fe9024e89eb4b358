"""One JSON form for every value, so that what is exported today is read the same in ten years.

Decimals are texts with all their digits, bytes are base64, instants are ISO 8601 in UTC with six fraction digits, sets
are sorted lists. Secret fields are never in it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import orjson
from pydantic import BaseModel

from palaver.codec import BlobRef
from palaver.declared import Declared
from palaver.fields import stored_name
from palaver.large_object import LargeObject

# What JSON leaves as it is and `str.splitlines` takes for the end of a line: U+0085, U+2028 and U+2029. Only texts can hold them.
_SEPARATORS = tuple((char.encode(), f"\\u{ord(char):04x}".encode()) for char in "\x85\u2028\u2029")


def columns(declared: Declared) -> list[str]:
    """Return the names of an entity's exported fields, in order of declaration: every field that is not secret."""
    fields = declared.entity.model_fields
    return [stored_name(name, fields[name]) for name, spec in declared.fields.items() if not spec.secret]


def json_record(declared: Declared, entity: Any, leave_out: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return an instance as plain JSON values; a large value that was not fetched is named by its object's key."""
    fields = declared.entity.model_fields
    held = entity.__dict__
    return {
        stored_name(name, fields[name]): json_value(held[name])
        for name, spec in declared.fields.items()
        if not spec.secret and name not in leave_out
    }


def json_value(value: Any) -> Any:
    """Return a value of a field as a plain JSON value."""
    kind = type(value)
    if value is None or kind is str or kind is int or kind is float or kind is bool:
        return value
    match value:
        case BlobRef() | LargeObject():
            return {"$object": value.key, "bytes": value.size}
        case BaseModel():
            fields = type(value).model_fields
            return {stored_name(name, info): json_value(getattr(value, name)) for name, info in fields.items()}
        case Enum():
            return json_value(value.value)
        case Decimal():
            return decimal_text(value)
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        case date() | time():
            return value.isoformat()
        case timedelta():
            return decimal_text(Decimal(value // timedelta(microseconds=1)).scaleb(-6))
        case bytes():
            return base64.b64encode(value).decode()
        case frozenset() | set():
            return sorted((json_value(element) for element in value), key=repr)
        case Mapping():
            return {str(name): json_value(inner) for name, inner in value.items()}
        case UUID():
            return str(value)
        case str() | int() | float():
            return value
        case Sequence():
            return [json_value(element) for element in value]
    raise TypeError(f"A {kind.__name__} has no JSON form.")


def decimal_text(number: Decimal) -> str:
    """Return all digits of a number, with an exponent only where there would be many zeros."""
    return f"{number:f}" if -20 <= number.adjusted() <= 40 else str(number)


def line(record: Mapping[str, Any]) -> bytes:
    """Return one line of JSON, ended by a newline, and one line for whoever splits at other characters too."""
    text = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    for separator, escaped in _SEPARATORS:
        if separator in text:
            text = text.replace(separator, escaped)
    return text


def cell(value: Any) -> str:
    """Return a CSV cell: nothing for a missing value, otherwise quoted, nested values as JSON."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return '"' + text.replace('"', '""') + '"'
