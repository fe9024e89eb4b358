"""Nested values as JSON text: plain JSON where JSON can say it, tags where it cannot.

A Decimal, bytes, a set or an integer beyond 64 bits becomes a map of one name that starts with `$:`. A map of the user
with such a name is stored as a list of pairs under `$:map`, so no value of the user can be taken for a tag.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from decimal import Decimal
from typing import Any

import orjson

from palaver.values import MAX_INT, MIN_INT, Value, number_text

_TAG = "$:"
_QUOTED_TAG = '"$:'


def dumps(value: Value) -> str:
    """Return a value as text from which `loads` makes the same value again."""
    try:
        text = orjson.dumps(value).decode()
    except TypeError:
        return orjson.dumps(_tagged(value)).decode()
    # Text of the user may look like a tag; only a walk can tell, and it leaves text alone.
    return text if _QUOTED_TAG not in text else orjson.dumps(_tagged(value)).decode()


def loads(text: str) -> Any:
    value = orjson.loads(text)
    return value if _QUOTED_TAG not in text else _untagged(value)


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
    return {name: _untagged(inner) for name, inner in value.items()}
