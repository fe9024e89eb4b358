"""What a record is made of, and the rules every value obeys on every engine.

The set is closed: text, integers, Decimals, floats, booleans, bytes, lists, maps, sets, and None inside nested values
only. Sizes are metered as DynamoDB meters them, because its limits are the portable ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow, localcontext
from typing import TypeAlias

from palaver.errors import EmptyKey, ItemTooLarge, KeyTooLong, KeyType, NumberRange, Validation

Scalar: TypeAlias = "str | int | float | Decimal | bool | bytes"
Value: TypeAlias = "Scalar | list[Value] | dict[str, Value] | frozenset[str] | frozenset[bytes] | frozenset[int | Decimal] | None"
Record: TypeAlias = "dict[str, Value]"
KeyPart: TypeAlias = "str | int | bytes"

MAX_RECORD = 409_600
MAX_PARTITION = 2_048
MAX_SORT = 1_024
MAX_ENTRY = 2_600
MAX_DEPTH = 32
MAX_INT = 2**63 - 1
MIN_INT = -(2**63)

EXACT = Context(prec=38, Emin=-130, Emax=125, traps=[Inexact, InvalidOperation, Overflow])
_LARGEST = Decimal("9.9999999999999999999999999999999999999E+125")
_SMALLEST = Decimal("1E-130")
_LARGEST_FLOAT = 9.99e125


def text_size(text: str, what: str) -> int:
    """Return the UTF-8 length; reject U+0000 and lone surrogates, which no SQL engine stores faithfully."""
    if "\0" in text:
        raise Validation(f"{what} holds the character U+0000.", hint="Remove it, or store the text as bytes.")
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise Validation(f"{what} holds half of a surrogate pair.", hint="Decode the text again from its source bytes.") from None


def canonical(number: Decimal, what: str = "a number") -> Decimal:
    """Return the number without trailing zeros; 1, 1.0 and 1E0 are one number. Zero has no sign."""
    if not number.is_finite():
        raise NumberRange(f"{what} is not finite.")
    if not number:
        return Decimal(0)
    try:
        with localcontext(EXACT):
            exact = number.normalize()
    except (Inexact, InvalidOperation, Overflow):
        raise NumberRange(f"{what} has more than 38 significant digits.", hint="Round it before storing.") from None
    if not _SMALLEST <= exact.copy_abs() <= _LARGEST:
        raise NumberRange(f"{what} is outside 1E-130 to 9.99E+125.")
    return exact


def number_text(number: Decimal) -> str:
    """Return the one text form of a canonical number: plain digits where short, an exponent otherwise. Zero has no sign."""
    text = str(number) if number else "0"
    if "E" not in text:
        return text
    sign, digits, exponent = number.as_tuple()
    if isinstance(exponent, int) and 0 <= exponent <= 20 and len(digits) + exponent <= 38:
        return ("-" if sign else "") + "".join(map(str, digits)) + "0" * exponent
    return text


def number_key(number: int | Decimal) -> str:
    """Return text whose byte order is the order of the numbers: sign, exponent, digits; complemented below zero."""
    exact = canonical(Decimal(number))
    if not exact:
        return "1"
    sign, digits, _ = exact.as_tuple()
    exponent = exact.adjusted() + 500
    mantissa = "".join(map(str, digits))
    if not sign:
        return f"2{exponent:03d}{mantissa}"
    complement = "".join(chr(105 - ord(digit)) for digit in mantissa)
    return f"0{999 - exponent:03d}{complement}~"


def number_from_key(text: str) -> Decimal:
    """Return the number `number_key` encoded."""
    if text == "1":
        return Decimal(0)
    if text[0] == "2":
        exponent, mantissa = int(text[1:4]) - 500, text[4:]
    else:
        exponent = 999 - int(text[1:4]) - 500
        mantissa = "".join(chr(105 - ord(digit)) for digit in text[4:-1])
    number = Decimal((int(text[0] == "0"), tuple(map(int, mantissa)), exponent - len(mantissa) + 1))
    return canonical(number)


def number_size(number: int | float | Decimal, what: str) -> int:
    """Return the metered bytes of a number: one for two significant digits, and one more."""
    kind = type(number)
    if kind is int and MIN_INT <= number <= MAX_INT:
        digits = len(str(abs(number)).rstrip("0") or "0")
    elif type(number) is float and (number == 0 or 1e-130 <= abs(number) <= _LARGEST_FLOAT):
        # A float has at most 17 digits, so its own text says how many.
        digits = len(repr(abs(number)).partition("e")[0].replace(".", "").strip("0") or "0")
    elif kind is float and not math.isfinite(number):
        raise NumberRange(f"{what} is not finite.")
    else:
        exact = canonical(Decimal(repr(number)) if kind is float else Decimal(number), what)
        digits = len(exact.as_tuple().digits)
    return (digits + 1) // 2 + 1


def size(value: Value, what: str = "the value", depth: int = 0) -> int:
    """Return the metered bytes of a value, checking on the way that every engine can hold it."""
    kind = type(value)
    if kind is str:
        return text_size(value, what)  # type: ignore[arg-type]
    if kind is bool or value is None:
        return 1
    if kind is int or kind is float or kind is Decimal:
        return number_size(value, what)  # type: ignore[arg-type]
    if kind is bytes:
        return len(value)  # type: ignore[arg-type]
    if depth >= MAX_DEPTH:
        raise Validation(f"{what} is nested deeper than {MAX_DEPTH} levels.", hint="Flatten it, or store it as text.")
    if kind is dict:
        total = 3
        for name, inner in value.items():  # type: ignore[union-attr]
            if type(name) is not str:
                raise Validation(f"{what} has a map key that is not text.")
            total += 1 + (len(name) if name.isascii() and "\0" not in name else text_size(name, f"a map key in {what}"))
            if type(inner) is str and inner.isascii() and "\0" not in inner:
                total += len(inner)
            else:
                total += size(inner, what, depth + 1)
        return total
    if kind is list:
        total = 3
        for inner in value:  # type: ignore[union-attr]
            total += 1 + size(inner, what, depth + 1)
        return total
    if kind is frozenset:
        if not value:
            raise Validation(f"{what} is an empty set.", hint="Leave it out instead: an empty set is not stored anywhere.")
        kinds: set[type] = set(map(type, value))  # type: ignore[arg-type]
        if not (kinds == {str} or kinds == {bytes} or kinds <= {int, Decimal}):
            raise Validation(f"{what} is a set of mixed kinds.", hint="A set holds texts, or bytes, or integers and Decimals.")
        return 3 + sum(1 + size(inner, what, depth + 1) for inner in value)  # type: ignore[union-attr, misc]
    raise Validation(f"{what} has a type that is not stored: {kind.__name__}.")


def record_size(record: Mapping[str, Value], entity: str) -> int:
    """Return the metered bytes of a record, names included.

    Raises ItemTooLarge over 409,600 bytes, Validation for a value no engine may hold.
    """
    total = 0
    for name, value in record.items():
        total += text_size(name, "an attribute name") + size(value, f"{entity}.{name}")
    if total > MAX_RECORD:
        raise ItemTooLarge(
            f"A {entity} record would take {total:,} bytes; the most is {MAX_RECORD:,}.",
            hint="Mark its large field with Blob(...), or split the record.",
            entity=entity,
        )
    return total


def key_part_size(part: object, what: str, most: int) -> int:
    """Return the bytes of one key part; raise KeyType, EmptyKey, KeyTooLong or NumberRange."""
    if type(part) is str:
        length = text_size(part, what)
    elif type(part) is int:
        if not MIN_INT <= part <= MAX_INT:
            raise NumberRange(f"{what} needs more than 64 bits.")
        return 8
    elif type(part) is bytes:
        length = len(part)
    elif part is None:
        raise EmptyKey(f"{what} is missing.", hint="Every key part needs a value.")
    else:
        raise KeyType(f"{what} cannot be a key part: {type(part).__name__}.")
    if not length:
        raise EmptyKey(f"{what} is empty.", hint="Use a declared sentinel such as '@global' where there is no value.")
    if length > most:
        raise KeyTooLong(f"{what} takes {length:,} bytes; the most is {most:,}.", hint="Key by a shorter identifier or a hash.")
    return length


def check_name(name: object, what: str, most: int = MAX_SORT) -> None:
    """Raise KeyType, EmptyKey, KeyTooLong or Validation for what is no text that can be stored beside records."""
    if type(name) is not str:
        raise KeyType(f"{what} is a text, not {type(name).__name__}.")
    key_part_size(name, what, most)
