"""Values as DynamoDB's attribute values: native types, and a tag only where the native type cannot tell.

DynamoDB has one number type, so inside nested values a whole number is an integer and any other a float; a Decimal, and a
float that is whole, are a map of one name that starts with `$:`. So is a set DynamoDB has no type for, and a map whose
names it could mistake. Top-level numbers need no tag: the column's kind says what they are.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, TypeAlias

import orjson

from palaver.values import Value, number_text

Attribute: TypeAlias = "dict[str, Any]"
Item: TypeAlias = "dict[str, Attribute]"

MAX_ITEM = 409_600
MAX_LEVELS = 32
_NUMBERS = {int: "int", float: "float", Decimal: "number"}
_FLAT = frozenset((str, int, float, bool, type(None), Decimal, bytes))
_DIGITS = str.maketrans("", "", "+-.")


def encoded(kind: str, value: Value) -> Attribute:
    """Return a top-level value of a column; one that is not of the column's kind is tagged, so that it comes back as it was."""
    of = type(value)
    if of is str:
        return {"S": value}
    if of is int or of is float or of is Decimal:
        if kind == _NUMBERS[of]:
            return {"N": _digits(value)}
        return nested(value) if kind not in ("int", "float", "number") else {"M": {f"$:{_NUMBERS[of]}": {"N": _digits(value)}}}
    return nested(value)


def literal(value: Value) -> Attribute:
    """Return a value as a condition compares it: all numbers are one type."""
    return {"N": _digits(value)} if type(value) in _NUMBERS else nested(value)


def _digits(number: Any) -> str:
    # Adding takes the sign from a zero; DynamoDB does not keep one.
    return number_text(number) if type(number) is Decimal else repr(number + 0.0 if type(number) is float else number)


def nested(value: Value) -> Attribute:
    """Return a value inside a list, a map or a column of any kind."""
    known = _NESTED.get(type(value))
    return known(value) if known is not None else _NESTED[_base(value)](value)


def _base(value: object) -> type:
    """Return the stored type of which a value's type is a subclass; a bool is one of int and comes first."""
    return next(each for each in _NESTED if isinstance(value, each))


def _nested_float(value: float) -> Attribute:
    number = {"N": _digits(value)}
    return {"M": {"$:float": number}} if value.is_integer() else number


def _nested_map(value: Mapping[str, Value]) -> Attribute:
    # What most maps hold needs no call.
    inner: dict[str, Attribute] = {
        name: {"S": each} if type(each) is str else {"N": repr(each)} if type(each) is int else _NESTED.get(type(each), nested)(each)
        for name, each in value.items()
    }
    if "" in value or ("$:" in "".join(value) and any(name[:2] == "$:" for name in value)):
        return {"M": {"$:map": {"L": [{"L": [{"S": name}, attribute]} for name, attribute in inner.items()]}}}
    return {"M": inner}


def _set(value: frozenset[Any]) -> Attribute:
    """Return a native set; one with an empty element, or of Decimals, is tagged, because DynamoDB refuses or forgets those."""
    kinds = set(map(type, value))
    if kinds == {str} and "" not in value:
        return {"SS": sorted(value)}
    if kinds == {bytes} and b"" not in value:
        return {"BS": [b64encode(each).decode() for each in sorted(value)]}
    if kinds == {int}:
        return {"NS": list(map(str, sorted(value)))}
    return {"M": {"$:set": {"L": [nested(each) for each in sorted(value)]}}}


_NESTED: Mapping[type, Callable[[Any], Attribute]] = {
    str: lambda value: {"S": value},
    bool: lambda value: {"BOOL": value},
    int: lambda value: {"N": str(value)},
    type(None): lambda value: {"NULL": True},
    float: _nested_float,
    dict: _nested_map,
    list: lambda value: {"L": [{"S": each} if type(each) is str else nested(each) for each in value]},
    Decimal: lambda value: {"M": {"$:number": {"N": number_text(value)}}},
    bytes: lambda value: {"B": b64encode(value).decode()},
    frozenset: _set,
}


def decoded(kind: str, attribute: Attribute) -> Value:
    """Return the value `encoded` stored in a column of this kind."""
    ((native, value),) = attribute.items()
    if native == "N":
        if kind == "float":
            return float(value)
        if kind == "number":
            return Decimal(value)
        return _number(value)
    return value if native == "S" else plain(attribute)


def plain(attribute: Attribute) -> Value:
    """Return the value `nested` stored."""
    ((native, value),) = attribute.items()
    return _PLAIN[native](value)


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        number = Decimal(text)
        whole = int(number)
        return whole if whole == number else float(text)


def _map(value: Mapping[str, Attribute]) -> Value:
    if len(value) == 1:
        ((name, inner),) = value.items()
        if name.startswith("$:"):
            return _tagged(name, inner)
    return {name: plain(inner) for name, inner in value.items()}


def _tagged(name: str, inner: Attribute) -> Value:
    match name:
        case "$:number":
            return Decimal(inner["N"])
        case "$:float":
            return float(inner["N"])
        case "$:int":
            return int(_number(inner["N"]))
        case "$:set":
            members: Any = map(plain, inner["L"])
            return frozenset(members)
        case "$:map":
            return {pair["L"][0]["S"]: plain(pair["L"][1]) for pair in inner["L"]}
    return {name: plain(inner)}


_PLAIN: Mapping[str, Callable[[Any], Value]] = {
    "S": lambda value: value,
    "N": _number,
    "BOOL": lambda value: value,
    "NULL": lambda value: None,
    "B": b64decode,
    "M": _map,
    "L": lambda value: [plain(inner) for inner in value],
    "SS": frozenset,
    "BS": lambda value: frozenset(map(b64decode, value)),
    "NS": lambda value: frozenset(int(_number(each)) for each in value),
}


# --- limits emulators do not hold --------------------------------------------------------------------------------------


def item_size(item: Item) -> int:
    """Return the bytes DynamoDB counts for an item: names and values."""
    return sum(len(name.encode()) + attribute_size(attribute) for name, attribute in item.items())


def is_surely_within(most: int, items: Any) -> bool:
    """Say cheaply that items, alone or in a list, count at most so many bytes: their JSON is never shorter than what DynamoDB counts."""
    try:
        return len(orjson.dumps(items)) <= most
    except TypeError:
        return True  # half a surrogate pair, which the client refuses by name


def attribute_size(attribute: Attribute) -> int:
    ((native, value),) = attribute.items()
    match native:
        case "S":
            return len(value) if value.isascii() else len(value.encode())
        case "N":
            return _number_size(value)
        case "B":
            return _bytes_size(value)
        case "M":
            return 3 + sum(1 + len(name.encode()) + attribute_size(inner) for name, inner in value.items())
        case "L":
            return 3 + sum(1 + attribute_size(inner) for inner in value)
        case "SS":
            return sum(len(each.encode()) for each in value)
        case "NS":
            return sum(map(_number_size, value))
        case "BS":
            return sum(map(_bytes_size, value))
    return 1


def _number_size(text: str) -> int:
    # Two digits to a byte, aligned on the decimal point, and one for the exponent, one for a sign: at most 21 or 22.
    digits = text.lower().partition("e")[0].translate(_DIGITS).strip("0")
    return min(21, 2 + (len(digits) + 1) // 2) + text.startswith("-")


def _bytes_size(text: str) -> int:
    return len(text) // 4 * 3 - text[-2:].count("=")


def is_flat(value: Any) -> bool:
    """Say whether a list or a map holds scalars only, so that it is surely not nested too deep."""
    return _FLAT.issuperset(map(type, value.values() if type(value) is dict else value))


def levels(attribute: Attribute) -> int:
    """Return how deep a value is nested, itself counted."""
    ((native, value),) = attribute.items()
    if native != "M" and native != "L":
        return 1
    deepest = 1 if value else 0
    for inner in value.values() if native == "M" else value:
        # Most are scalars, which need no call.
        if "M" in inner or "L" in inner:
            deepest = max(deepest, levels(inner))
    return 1 + deepest
