"""Expressions: paths nobody can smuggle something through, comparisons by type, sums that are exact."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path as File
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from palaver.errors import Expression, NumberRange
from palaver.expr import MISSING, And, Compare, F, Not, Path, add_numbers, evaluate, map_paths, parse_path, paths, resolve, same
from palaver.testing.records.conditions import FALSE, FULL, TRUE
from palaver.testing.records.texts import NAUGHTY
from palaver.values import EXACT, MAX_INT, MIN_INT

NAME = st.text(st.characters(exclude_characters=".[]\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
STEP = NAME | st.integers(0, 999_999)


@pytest.mark.parametrize("fact", TRUE)
def test_a_condition_is_true(fact: str) -> None:
    assert evaluate(TRUE[fact], FULL)
    assert not evaluate(~TRUE[fact], FULL)


@pytest.mark.parametrize("fact", FALSE)
def test_a_condition_is_false(fact: str) -> None:
    assert not evaluate(FALSE[fact], FULL)
    assert evaluate(~FALSE[fact], FULL)


@given(NAME, st.lists(STEP, max_size=6))
def test_a_path_is_read_as_it_was_written(first: str, rest: list[str | int]) -> None:
    text = first + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in rest)
    assert (first, *rest) == parse_path(Path(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a.",
        ".a",
        "a..b",
        "[0]",
        "[0].a",
        "a[",
        "a]",
        "a[]",
        "a[-1]",
        "a[x]",
        "a[0",
        "a[0]b",
        "a.[0]",
        "a[ 0]",
        "a[1.5]",
        "a[0x1]",
        "a[٣]",
        "a[9999999]",
        "a[" + "9" * 5000 + "]",
        "a[0][",
        "a[[0]]",
    ],
)
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(Expression):
        F(text)


@given(st.text(max_size=30))
@example("a" * 10_000 + "[")
@example("a" + ".a" * 5_000)
@example("a" + "[0]" * 5_000)
def test_any_text_is_a_path_or_an_expression_error(text: str) -> None:
    try:
        steps = parse_path(Path(text))
    except Expression:
        return
    assert isinstance(steps[0], str)
    rebuilt = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)[1:]
    assert steps == parse_path(Path(rebuilt))


def test_foreign_texts_are_paths_or_expression_errors(shared_data: File) -> None:
    lines = (shared_data / "hostile" / "naughty-strings.jsonl").read_bytes().splitlines()
    for text in [json.loads(line)["text"] for line in lines] + list(NAUGHTY):
        try:
            assert isinstance(parse_path(Path(text))[0], str)
        except Expression as error:
            if len(text) > 3 and text in str(error):
                pytest.fail("the text is in the message")


def test_a_condition_has_no_truth_value() -> None:
    for value in (F("a"), F("a") == 1, F("a").exists(), ~(F("a") == 1), (F("a") == 1) & (F("b") == 2)):
        with pytest.raises(Expression):
            bool(value)
    with pytest.raises(Expression):
        assert 1 < F("a") < 2


def test_what_is_missing_is_told_from_null() -> None:
    record: dict[str, Any] = {"a": {"b": None, "c": [None]}}
    assert resolve(record, ("a", "b"), MISSING) is None
    assert resolve(record, ("a", "c", 0), MISSING) is None
    for steps in (("x",), ("a", "x"), ("a", "c", 1), ("a", "b", "x"), ("a", 0), ("a", "c", "x")):
        assert resolve(record, steps, MISSING) is MISSING


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(MIN_INT, MAX_INT)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.decimals(allow_nan=False, allow_infinity=False, places=3)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(VALUES, VALUES)
@example(1, True)
@example(0, False)
@example(1, 1.0)
@example(Decimal("0.1"), 0.1)
@example("1", 1)
@example([1], [True])
@example({"a": 1}, {"a": True})
def test_being_the_same_knows_types_and_both_directions(a: Any, b: Any) -> None:
    assert same(a, a)
    assert same(a, b) == same(b, a)
    if isinstance(a, bool) != isinstance(b, bool):
        assert not same(a, b)


@given(VALUES, VALUES)
def test_comparisons_agree_with_each_other(a: Any, b: Any) -> None:
    record = {"a": a} if a is not None else {}
    path = F("a")
    assert evaluate(path == b, record) != evaluate(path != b, record)
    less, more = evaluate(path < b, record), evaluate(path > b, record)
    assert not (less and more)
    assert evaluate(path <= b, record) == (less or (evaluate(path <= b, record) and evaluate(path == b, record)))
    assert evaluate(path.between(b, b), record) == (evaluate(path <= b, record) and evaluate(path >= b, record))
    assert evaluate(path.is_in([b]), record) == (evaluate(path == b, record) and bool(record))


@given(st.integers(MIN_INT, MAX_INT), st.integers(MIN_INT, MAX_INT))
@example(MAX_INT, 1)
@example(MIN_INT, -1)
def test_integers_are_added_in_64_bits_or_not_at_all(a: int, b: int) -> None:
    if MIN_INT <= a + b <= MAX_INT:
        assert a + b == add_numbers(a, b, "it")
    else:
        with pytest.raises(NumberRange):
            add_numbers(a, b, "it")


@given(st.decimals(allow_nan=False, allow_infinity=False, places=10), st.decimals(allow_nan=False, allow_infinity=False, places=10))
@example(Decimal("1E+50"), Decimal(1))
@example(Decimal("9" * 38), Decimal(1))
@example(Decimal("9" * 38), Decimal("0.1"))
@example(Decimal("1.1E-130"), Decimal("-1E-130"))
@example(Decimal("9.99E+125"), Decimal("1E+125"))
def test_decimals_are_added_exactly_or_not_at_all(a: Decimal, b: Decimal) -> None:
    wide = EXACT.copy()
    wide.prec, wide.Emin, wide.Emax = 400, -999, 999
    exact = wide.add(a, b)
    try:
        assert exact == add_numbers(a, b, "it")
    except NumberRange:
        digits = exact.normalize(wide)
        assert (
            len(digits.as_tuple().digits) > 38 or not Decimal("1E-130") <= abs(digits) < Decimal("1E+126") or len(b.as_tuple().digits) > 38
        )


def test_sums_keep_their_type() -> None:
    for a, b, expected in ((1, 2, 3), (1, Decimal("0.5"), Decimal("1.5")), (1.5, 1, 2.5), (Decimal("0.5"), 0.5, 1.0)):
        found = add_numbers(a, b, "it")
        assert (type(expected), expected) == (type(found), found)


def test_every_path_of_a_condition_is_found_and_replaced() -> None:
    condition = ((F("a") == 1) & ~F("b.c").exists()) | F("d[0]").is_in([1])
    assert ["a", "b.c", "d[0]"] == [path.name for path in paths(condition)]
    renamed = map_paths(condition, lambda leaf: Compare(Path("x." + leaf.path.name), "==", 1))
    assert ["x.a", "x.b.c", "x.d[0]"] == [path.name for path in paths(renamed)]


def test_conditions_combine_into_values() -> None:
    condition = F("a").between(1, 2)
    assert isinstance(condition, And)
    assert [">=", "<="] == [part.op for part in condition.conditions if isinstance(part, Compare)]
    assert isinstance(F("a").missing(), Not)
