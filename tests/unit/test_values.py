"""Values: numbers that order as text, sizes to the byte, and what no engine may hold."""

from __future__ import annotations

import json
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from palaver import values
from palaver.errors import EmptyKey, ItemTooLarge, KeyTooLong, KeyType, NumberRange, PalaverError, Validation
from palaver.testing.records.texts import NAUGHTY
from palaver.values import (
    MAX_INT,
    MIN_INT,
    canonical,
    key_part_size,
    number_from_key,
    number_key,
    number_text,
    record_size,
    size,
    text_size,
)


@st.composite
def exact_decimals(draw: st.DrawFn) -> Decimal:
    """Any number of up to 38 digits within the range every engine holds."""
    digits = draw(st.text("0123456789", min_size=1, max_size=38))
    exponent = draw(st.integers(-130, 125 - len(digits) + 1))
    return Decimal((draw(st.integers(0, 1)), tuple(map(int, digits)), exponent))


LARGEST = Decimal("9.9999999999999999999999999999999999999E+125")
SMALLEST = Decimal("1E-130")


@given(exact_decimals(), exact_decimals())
@example(LARGEST, LARGEST.copy_negate())
@example(SMALLEST, Decimal(0))
@example(-SMALLEST, SMALLEST)
@example(Decimal("-1.1"), Decimal("-1.10001"))
@example(Decimal("-1"), Decimal("-1.0000000000000000000000000000000000001"))
def test_number_keys_order_as_the_numbers_do(a: Decimal, b: Decimal) -> None:
    assert (a < b) == (number_key(a).encode() < number_key(b).encode())
    assert (a == b) == (number_key(a) == number_key(b))


@given(exact_decimals())
@example(LARGEST)
@example(SMALLEST)
@example(Decimal("-0"))
def test_a_number_key_holds_the_whole_number(number: Decimal) -> None:
    assert canonical(number) == number_from_key(number_key(number))
    assert number_key(number).isascii()
    assert len(number_key(number)) <= 43


@given(st.integers(MIN_INT, MAX_INT), st.integers(MIN_INT, MAX_INT))
def test_integers_have_number_keys_too(a: int, b: int) -> None:
    assert (a < b) == (number_key(a) < number_key(b))
    assert number_key(a) == number_key(Decimal(a))
    assert a == number_from_key(number_key(a))


@given(exact_decimals())
def test_a_canonical_number_is_equal_short_and_has_one_form(number: Decimal) -> None:
    found = canonical(number)
    assert number == found
    assert str(found) == str(canonical(found))
    assert not str(found).endswith("0") or found == 0 or "E" in str(found)
    for other in (number, number.normalize(values.EXACT), number * 1 if len(number.as_tuple().digits) < 28 else number):
        assert str(found) == str(canonical(other))


@given(exact_decimals())
@example(Decimal("1E+20"))
@example(Decimal("1E+21"))
@example(Decimal("12345678901234567890123456789012345678"))
def test_a_number_text_is_the_number(number: Decimal) -> None:
    assert canonical(number) == Decimal(number_text(canonical(number)))


@pytest.mark.parametrize(
    "text", ["1E-130", "-1E-130", str(LARGEST), "-" + str(LARGEST), "0", "-0", "0E+500", "12345678901234567890123456789012345678"]
)
def test_numbers_at_the_limits_are_canonical(text: str) -> None:
    assert Decimal(text) == canonical(Decimal(text))


@pytest.mark.parametrize(
    "text", ["9E-131", "1E+126", "-1E+126", "NaN", "sNaN", "Infinity", "-Infinity", "1.00000000000000000000000000000000000001", "1E+999999"]
)
def test_numbers_past_the_limits_are_refused(text: str) -> None:
    with pytest.raises(NumberRange):
        canonical(Decimal(text))
    with pytest.raises(NumberRange):
        size(Decimal(text))


def test_the_decimal_context_of_the_caller_changes_nothing() -> None:
    with localcontext() as context:
        context.prec = 5
        assert Decimal("12345678901234567890") == canonical(Decimal("12345678901234567890.0"))
        assert number_key(LARGEST) == "2625" + "9" * 38
        assert size(LARGEST) == 20
        assert Decimal("-1.00000001") == number_from_key(number_key(Decimal("-1.00000001")))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", 0),
        ("a", 1),
        ("é", 2),
        ("中", 3),
        ("😀", 4),
        (b"", 0),
        (b"\x00\xff", 2),
        (True, 1),
        (None, 1),
        (0, 2),
        (1, 2),
        (12, 2),
        (123, 3),
        (-12, 2),
        (1000, 2),
        (MAX_INT, 11),
        (MIN_INT, 11),
        (Decimal("0"), 2),
        (Decimal("12"), 2),
        (Decimal("1.23"), 3),
        (Decimal("1E+100"), 2),
        (LARGEST, 20),
        (0.5, 2),
        (12.0, 2),
        ([], 3),
        ({}, 3),
        ([1, "ab"], 3 + 1 + 2 + 1 + 2),
        ({"ab": "c"}, 3 + 1 + 2 + 1),
        ({"é": [None]}, 3 + 1 + 2 + (3 + 1 + 1)),
        (frozenset({"a", "bc"}), 3 + 1 + 1 + 1 + 2),
    ],
)
def test_a_value_takes_so_many_bytes(value: Any, expected: int) -> None:
    assert expected == size(value)


@given(st.integers(MIN_INT, MAX_INT))
def test_a_number_takes_the_same_bytes_as_integer_and_as_decimal(number: int) -> None:
    assert size(Decimal(number)) == size(number)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_text_takes_its_utf8_bytes(text: str) -> None:
    assert len(text.encode()) == text_size(text, "it")


def test_every_naughty_text_is_storable(shared_data: Path) -> None:
    lines = (shared_data / "hostile" / "naughty-strings.jsonl").read_bytes().splitlines()
    for text in (json.loads(line)["text"] for line in lines):
        assert len(text.encode()) == text_size(text, "it")


def test_our_own_naughty_texts_are_storable() -> None:
    assert len(NAUGHTY) > 200
    assert all(len(text.encode()) == text_size(text, "it") for text in NAUGHTY)


@pytest.mark.parametrize("value", ["a\0b", "\ud800", "a\udc80b"])
def test_text_no_engine_keeps_is_refused_wherever_it_stands(value: str) -> None:
    holders: list[Any] = [value, [value], {"a": value}, {value: 1}, frozenset({value})]
    for holder in holders:
        with pytest.raises(Validation) as caught:
            size(holder, "Message.text")
        assert value not in str(caught.value)
        assert "Message.text" in str(caught.value)
    with pytest.raises(Validation):
        record_size({value: 1}, "Message")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e-131, 1e126, 10**38 + 1])
def test_numbers_no_engine_keeps_are_refused(value: Any) -> None:
    with pytest.raises(NumberRange):
        size({"a": [value]})


@pytest.mark.parametrize(
    "value",
    [
        frozenset(),
        frozenset({1, "a"}),
        frozenset({"a", b"a"}),
        frozenset({1.5}),
        frozenset({True}),
        frozenset({None}),
        frozenset({frozenset({"a"})}),
        (1,),
        {"a"},
        {1: 2},
        object(),
        1j,
    ],
)
def test_types_no_engine_keeps_are_refused(value: Any) -> None:
    for holder in (value, [value], {"a": value}):
        with pytest.raises(Validation):
            size(holder)


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def test_thirty_two_levels_are_held_and_one_more_is_refused() -> None:
    size(nested(32))
    with pytest.raises(Validation):
        size(nested(33))


def test_a_record_is_held_up_to_its_last_byte() -> None:
    for text in ("x", "é", "\\"):
        room = 409_600 - len("id") - len("1") - len("text")
        full = text * (room // len(text.encode()))
        full += "x" * (room - len(full.encode()))
        assert record_size({"id": "1", "text": full}, "Message") == 409_600
        assert record_size({"id": "1", "text": full[:-1]}, "Message") == 409_599
        with pytest.raises(ItemTooLarge) as caught:
            record_size({"id": "1", "text": full + "x"}, "Message")
        assert "409,601" in str(caught.value)


def test_names_count_as_bytes_too() -> None:
    assert record_size({"é": "x"}, "Message") == 3


@pytest.mark.parametrize("most", [1024, 2048])
def test_key_parts_are_held_up_to_their_last_byte(most: int) -> None:
    for part in ("x" * most, "é" * (most // 2), b"\xff" * most):
        assert most == key_part_size(part, "id", most)
    for part in ("x" * (most + 1), "é" * (most // 2) + "x", b"\xff" * (most + 1)):
        with pytest.raises(KeyTooLong):
            key_part_size(part, "id", most)


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ("", EmptyKey),
        (b"", EmptyKey),
        (None, EmptyKey),
        (True, KeyType),
        (1.5, KeyType),
        (Decimal(1), KeyType),
        ([], KeyType),
        ({}, KeyType),
        (("a",), KeyType),
        (MAX_INT + 1, NumberRange),
        (MIN_INT - 1, NumberRange),
        ("a\0", Validation),
        ("\ud800", Validation),
    ],
)
def test_what_is_no_key_part_is_refused(part: Any, error: type[PalaverError]) -> None:
    with pytest.raises(error):
        key_part_size(part, "id", 2048)


def test_integers_are_key_parts_to_the_last_bit() -> None:
    assert [8, 8, 8] == [key_part_size(part, "n", 1024) for part in (MIN_INT, 0, MAX_INT)]
