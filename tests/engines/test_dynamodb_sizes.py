"""What spares the engine exact metering is never laxer than it: sizes from JSON, depths without a call per scalar."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
from hypothesis import given, strategies as st

from palaver.records.dynamo_values import is_surely_within, item_size, levels, nested, plain

SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.decimals(allow_nan=False, allow_infinity=False, places=4),
    st.text(),
    st.binary(),
    st.frozensets(st.text(), min_size=1),
    st.frozensets(st.integers(-(2**63), 2**63 - 1), min_size=1),
    st.frozensets(st.binary(), min_size=1),
)
NAMES = st.one_of(st.text(), st.sampled_from(["", "$", "$:", "$:map", "$:number", "a"]))
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=30)


def depth(attribute: dict[str, Any]) -> int:
    ((native, value),) = attribute.items()
    inner = value.values() if native == "M" else value if native == "L" else ()
    return 1 + max(map(depth, inner), default=0)


@given(st.dictionaries(st.text(min_size=1), VALUES))
def test_the_json_of_an_item_is_never_shorter_than_what_dynamodb_counts(record: dict[str, Any]) -> None:
    item = {name: nested(value) for name, value in record.items()}
    counted = item_size(item)
    assert counted <= len(orjson.dumps(item))
    assert not is_surely_within(counted - 1, item)


@given(VALUES)
def test_depth_is_counted_level_by_level_and_values_come_back(value: Any) -> None:
    attribute = nested(value)
    assert depth(attribute) == levels(attribute)
    back = plain(attribute)
    assert value == back
    assert type(value) is type(back)


def test_a_depth_just_at_the_limit_is_told_from_one_over_it() -> None:
    value: Any = Decimal(1)
    for expected in range(2, 40):
        assert expected == levels(nested(value))  # a Decimal is a map by itself
        value = [value]
