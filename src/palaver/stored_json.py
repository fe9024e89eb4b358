"""Nested values as JSON text: plain JSON where JSON can say it, tags where it cannot.

A Decimal, bytes, a set or an integer beyond 64 bits becomes a map of one name that starts with `$:`. A map of the user
with such a name is stored as a list of pairs under `$:map`, so no value of the user can be taken for a tag. A zero loses its sign.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from decimal import Decimal
from typing import Any

import orjson

from palaver.values import MAX_INT, MIN_INT, Value, number_text, size

_TAG = "$:"
_QUOTED_TAG = '"$:'
_SHORT = 100_000
_FEW = 16
_WIDEST = 2**53
_WIDE_EXPONENT = re.compile(r"\de[+-]?\d{3}")
_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STRICT = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_LEVELS = 24


def settled(value: Any, what: str) -> tuple[Value, int]:
    """Return a nested value checked for storage, as a copy of its own where it is plain JSON, and a bound on its size.

    The bound is never below what `values.size` meters and at most about twice that. Raises what `values.size` raises.
    The walk of `values.size` costs ten times what reading the JSON costs, so it is only taken where JSON cannot tell.
    """
    if type(value) is dict and len(value) <= _FEW and (bound := _flat_size(value)):
        return value.copy(), bound
    try:
        data = orjson.dumps(value, option=_STRICT)
    except TypeError:
        return value, size(value, what)
    # Looking into a text takes a tenth of looking into bytes.
    text = data.decode()
    if len(data) > _SHORT or "\\u0000" in text or _has_wide_exponent(text) or not _is_shallow(text):
        return value, size(value, what)
    copy = orjson.loads(data)
    # Unequal: something that only looked like JSON, such as a tuple or NaN. An empty set or None key ends there too.
    return (copy, 2 * len(data) + 3) if copy == value else (value, size(value, what))


def _flat_size(value: dict[Any, Any]) -> int:
    """Return a bound on the size of a small map of plain scalars, the commonest nested value; 0 where it is anything else."""
    total = 3
    for name, inner in value.items():
        kind = type(inner)
        if kind is str:
            if not inner.isascii() or "\0" in inner:
                return 0
            total += len(inner)
        elif kind is not bool and not (
            (kind is int and -_WIDEST < inner < _WIDEST) or (kind is float and (inner == 0 or 1e-100 < abs(inner) < 1e100))
        ):
            return 0
        if type(name) is not str or not name.isascii() or "\0" in name:
            return 0
        total += len(name) + 12
    return total


def _has_wide_exponent(text: str) -> bool:
    """Say whether a number of three exponent digits may be there; a few look-ups spare most values the slow search."""
    maybe = "e1" in text or "e2" in text or "e3" in text or "e-1" in text or "e-2" in text or "e-3" in text or "e+" in text
    return maybe and _WIDE_EXPONENT.search(text) is not None


def _is_shallow(text: str) -> bool:
    """Say whether nesting is surely within limits: strip innermost brackets until none are left."""
    if text.count("[") + text.count("{") <= _LEVELS:
        return True
    brackets = text.encode().translate(None, _BRACKETS)
    for _ in range(_LEVELS):
        if not brackets:
            return True
        brackets = brackets.replace(b"{}", b"").replace(b"[]", b"")
    return False


def dumps(value: Value) -> str:
    """Return a value as text from which `loads` makes the same value again."""
    try:
        text = orjson.dumps(value).decode()
    except TypeError:
        return orjson.dumps(_tagged(value)).decode()
    # Text of the user may look like a tag; only a walk can tell, and it leaves text alone. Most texts have no such sign at all.
    is_plain = ("$" not in text or _QUOTED_TAG not in text) and "-0.0" not in text
    return text if is_plain else orjson.dumps(_tagged(value)).decode()


def packed(value: Value) -> bytes:
    """Return `dumps` as UTF-8."""
    return dumps(value).encode()


def with_exact_floats(value: Value) -> str:
    """Return `dumps` for a store that keeps numbers as decimals: floats that would come back as others are tagged."""
    return orjson.dumps(_tagged(_marked(value))).decode()


class _Exact(float):
    """A float that a decimal column would change."""


def _marked(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {name: _marked(inner) for name, inner in value.items()}
    if kind is list:
        return [_marked(inner) for inner in value]
    return _Exact(value) if kind is float and (value == 0 or "e" in repr(value)) else value


def loads(text: str) -> Any:
    value = orjson.loads(text)
    return value if "$" not in text or _QUOTED_TAG not in text else _untagged(value)


def _tagged(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        if any(name.startswith(_TAG) for name in value):
            return {"$:map": [[name, _tagged(inner)] for name, inner in value.items()]}
        return {name: _tagged(inner) for name, inner in value.items()}
    if kind is list:
        return [_tagged(inner) for inner in value]
    if kind is Decimal:
        return {"$:number": number_text(value)}
    if kind is bytes:
        return {"$:bytes": b64encode(value).decode()}
    if kind is frozenset:
        return {"$:set": [_tagged(inner) for inner in sorted(value)]}
    if kind is _Exact:
        return {"$:float": repr(float(value) + 0.0)}
    if kind is float:
        # Zero has no sign: not every engine keeps one.
        return value + 0.0
    if kind is int and not MIN_INT <= value <= MAX_INT:
        return {"$:int": str(value)}
    return value


def _untagged(value: Any) -> Any:
    kind = type(value)
    if kind is list:
        return [_untagged(inner) for inner in value]
    if kind is not dict:
        return value
    if len(value) == 1:
        match value:
            case {"$:map": pairs}:
                return {name: _untagged(inner) for name, inner in pairs}
            case {"$:number": text}:
                return Decimal(text)
            case {"$:bytes": text}:
                return b64decode(text)
            case {"$:set": elements}:
                return frozenset(map(_untagged, elements))
            case {"$:int": text}:
                return int(text)
            case {"$:float": text}:
                return float(text)
    return {name: _untagged(inner) for name, inner in value.items()}
