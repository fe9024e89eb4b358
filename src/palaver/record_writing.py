"""Functions from an instance's values to its record, generated once per entity: every write pays for them.

They take the values in declared order, texts that are stored as they are first; what cannot be stored is an error that names its field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

from palaver.declared import FieldSpec
from palaver.errors import NumberRange, Validation
from palaver.fields import Kind
from palaver.stored_json import settled
from palaver.values import MAX_INT, MIN_INT, KeyPart, Record, Value, key_part_size, size, text_size

_TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "number": (Decimal, int),
    "bytes": (bytes,),
}
FAULTS = (AttributeError, TypeError, ValueError, KeyError, ArithmeticError)
"""What an encoder raises for a value that is none of its field."""
_INT_BOUND = 11
_SHORT_PART = 256
"""Texts up to this long fit every limit of a key part, whatever their characters."""


def types_of(kind: Kind) -> tuple[type, ...] | None:
    """Return the types a stored value may have; None where any may be nested there."""
    if kind.column != "json":
        return _TYPES[kind.column]
    return None if kind.form is None else (kind.form,)


def unencodable(entity: str, name: str, value: object) -> Validation:
    """Return the error for a value that its field's encoder does not take."""
    return Validation(
        f"{entity}.{name} holds a {type(value).__name__} that its declaration does not allow.",
        hint="model_copy() does not validate; use patch, or build the instance anew.",
        entity=entity,
        field=name,
    )


def unfit(entity: str, name: str, value: object) -> Validation:
    """Return the error for a value that is of no type its field may have."""
    return Validation(f"{entity}.{name} holds a {type(value).__name__} that its declaration does not allow.", entity=entity, field=name)


def scalar_size(entity: str, name: str, value: Any) -> int:
    """Return a bound on the size of a field's scalar. Raises NumberRange for an integer of over 64 bits."""
    if type(value) is int:
        raise NumberRange(f"{entity}.{name} does not fit a 64-bit integer.", hint="Declare it as Decimal.", entity=entity, field=name)
    return size(value, f"{entity}.{name}")


def compile_writer(entity: str, specs: Sequence[FieldSpec]) -> Callable[[dict[str, Any], Record], int]:
    """Return the function that puts an instance's values into a record, checked, and returns a bound on their size."""
    scope: dict[str, Any] = {"settled": settled, "text_size": text_size, "scalar_size": scalar_size, "FAULTS": FAULTS}
    scope |= {"unencodable": unencodable, "unfit": unfit}
    lines = ["def write(values, record):", " total = 0"]
    for number, spec in enumerate(sorted(specs, key=lambda spec: not _is_plain_text(spec))):
        types = types_of(spec.kind)
        scope[f"encode{number}"] = spec.kind.encode
        scope[f"types{number}"] = types[0] if types is not None and len(types) == 1 else types
        lines += [f" value = values[{spec.name!r}]", " if value is not None:"]
        lines += [f"  {line}" for line in _field_lines(entity, spec, number)]
    return _made("write", [*lines, " return total"], scope)  # type: ignore[no-any-return]


def _is_plain_text(spec: FieldSpec) -> bool:
    return spec.kind.column == "text" and spec.kind.encode is None


def _field_lines(entity: str, spec: FieldSpec, number: int) -> list[str]:
    """Return the statements for one value that is there."""
    kind, name, length, what = spec.kind, spec.name, len(spec.stored), f"{entity}.{spec.name}"
    types = types_of(kind)
    lines: list[str] = []
    if kind.encode is not None:
        lines += [f"try: value = encode{number}(value)", f"except FAULTS: raise unencodable({entity!r}, {name!r}, value) from None"]
    if types is not None:
        lines.append(f"if type(value) {'is not' if len(types) == 1 else 'not in'} types{number}: raise unfit({entity!r}, {name!r}, value)")
    store = f"record[{spec.stored!r}] = value"
    if kind.column == "text":
        size = f"(len(value) if value.isascii() and '\\0' not in value else text_size(value, {what!r}))"
        return [*lines, f"total += {length} + {size}", store]
    if kind.column != "json":
        is_small = f"type(value) is int and {MIN_INT} <= value <= {MAX_INT}"
        return [*lines, f"total += {length + _INT_BOUND} if {is_small} else {length} + scalar_size({entity!r}, {name!r}, value)", store]
    lines += [f"value, bound = settled(value, {what!r})", f"total += {length} + bound", store]
    if kind.form is frozenset and not spec.optional:
        # No engine stores an empty set; where None is not allowed, its absence says that it is empty.
        first = len(lines) - 3
        return [*lines[:first], "if value:", *(f" {line}" for line in lines[first:])]
    return lines


def compile_key(names: Sequence[str]) -> Callable[[Record], tuple[KeyPart, ...]]:
    """Return the function that gives a record's key."""
    return _made("key", ["def key(record):", f" return ({''.join(f'record[{name!r}], ' for name in names)})"], {})  # type: ignore[no-any-return]


def compile_check(parts: Iterable[tuple[str, str, int, bool]]) -> Callable[[dict[str, Value]], None]:
    """Return the function that refuses a record with a key part that is no such part or too long; see `values.key_part_size`."""
    lines = ["def check(record):"]
    for column, what, most, required in parts:
        lines.append(f" part = record.get({column!r})")
        fits = f"(type(part) is str and 0 < len(part) <= {_SHORT_PART}) or type(part) is int"
        lines.append(f" if not ({fits}){'' if required else ' and part is not None'}: key_part_size(part, {what!r}, {most})")
    return _made("check", [*lines, " return"], {"key_part_size": key_part_size})  # type: ignore[no-any-return]


def _made(name: str, lines: Sequence[str], scope: dict[str, Any]) -> Any:
    exec("\n".join(lines) + "\n", scope)
    return scope[name]
