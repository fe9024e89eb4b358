"""Entity to record and back, exactly, for every annotation that is supported; and the meter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

import pytest
from hypothesis import given, settings, strategies as st
from pydantic import BaseModel, ConfigDict, Field, JsonValue, PrivateAttr
from pydantic.alias_generators import to_camel

from palaver import Blob, Entity, Expiry, Index, InstantMs, InstantText, Key, Schema, Snowflake
from palaver.codec import EntityCodec
from palaver.errors import ItemTooLarge, NumberRange, Validation
from palaver.ops import REVISION
from palaver.plan import Planner
from palaver.stored_json import dumps, loads, settled
from palaver.values import EXACT, MAX_RECORD, record_size

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Mixed(Enum):
    ONE = 1
    TWO = "two"


class Leaf(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
    long_name: str
    amount: Decimal = Decimal(0)
    raw: bytes = b""
    when_made: datetime | None = None
    labels: frozenset[str] = frozenset({"x"})


class Tree(BaseModel):
    leaf: Leaf
    branches: list[Tree] = Field(default_factory=list)
    named: dict[str, Leaf] = Field(default_factory=dict)
    color: Color | None = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    known: int
    _cached: list[int] = PrivateAttr(default_factory=lambda: [7])


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    tricks: list[str] = Field(default_factory=list)


class Everything(Entity, table="everything"):
    id: str
    text: str | None = None
    number: int | None = None
    amount: Decimal | None = None
    ratio: float | None = None
    flag: bool | None = None
    raw: bytes | None = None
    color: Color | None = None
    mixed: Mixed | None = None
    choice: Literal["a", "b"] | None = None
    mode: Literal[1, 2, "three"] | None = None
    moment: InstantMs | None = None
    stamp: InstantText | None = None
    second: Expiry | None = None
    plain: datetime | None = None
    day: date | None = None
    clock: time | None = None
    span: timedelta | None = None
    uuid: UUID | None = None
    snowflake: Snowflake | None = None
    words: list[str] | None = None
    pair: tuple[int, str] | None = None
    many: tuple[Decimal, ...] | None = None
    sequence: Sequence[int] | None = None
    tags: set[str] = Field(default_factory=set)
    numbers: frozenset[int] = frozenset()
    amounts: set[Decimal] = Field(default_factory=set)
    blobs: set[bytes] = Field(default_factory=set)
    colors: set[Color] = Field(default_factory=set)
    by_name: dict[str, Decimal] | None = None
    by_number: dict[int, str] | None = None
    anything: JsonValue = None
    optionals: list[Optional[int]] | None = None  # noqa: UP045 - both spellings are supported
    either: int | str | None = None
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None
    tree: Tree | None = None
    opened: Open | None = None
    large: Annotated[dict[str, JsonValue] | None, Blob("{id}/large", inline=10_000)] = None
    key = Key("id")
    by_leaf = Index("tree.leaf.long_name", sort="amount")


CODEC: EntityCodec = Planner(Schema("s", [Everything])).codec(Everything)


def stored(entity: Everything) -> dict[str, Any]:
    """Return the record as it comes back from an engine that keeps nested values as JSON."""
    record = CODEC.encode(entity, 1, None).record
    return {name: loads(dumps(value)) if isinstance(value, dict | list | frozenset) else value for name, value in record.items()} | {
        REVISION: 1
    }


def round_trip(entity: Everything) -> Everything:
    return CODEC.decode(stored(entity))  # type: ignore[no-any-return]


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
decimals = st.builds(
    lambda digits, exponent: Decimal(digits).scaleb(exponent, EXACT), st.integers(-(10**30), 10**30), st.integers(-100, 90)
)
integers = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False).filter(lambda f: not f or 1e-130 < abs(f) < 1e125)
instants = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC))


def leaf(name: str, amount: Decimal, raw: bytes, made: datetime | None, labels: frozenset[str]) -> Leaf:
    return Leaf(long_name=name, amount=amount, raw=raw, when_made=made, labels=labels)


some = texts.filter(bool)
leaves = st.builds(leaf, some, decimals, st.binary(max_size=20), st.none() | instants, st.frozensets(texts, min_size=1, max_size=3))
trees = st.recursive(
    st.builds(Tree, leaf=leaves, branches=st.just([])),
    lambda inner: st.builds(
        Tree,
        leaf=leaves,
        branches=st.lists(inner, max_size=2),
        named=st.dictionaries(texts, leaves, max_size=2),
        color=st.sampled_from(Color),
    ),
    max_leaves=3,
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | integers | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "text": texts,
    "number": integers,
    "amount": decimals,
    "ratio": floats,
    "flag": st.booleans(),
    "raw": st.binary(max_size=20),
    "color": st.sampled_from(Color),
    "mixed": st.sampled_from(Mixed),
    "choice": st.sampled_from(["a", "b"]),
    "mode": st.sampled_from([1, 2, "three"]),
    "moment": instants,
    "stamp": instants,
    "second": instants,
    "plain": instants,
    "day": st.dates(),
    "clock": st.times(),
    "span": st.timedeltas(timedelta(days=-(10**8)), timedelta(days=10**8)),
    "uuid": st.uuids(),
    "snowflake": st.integers(0, 10**20 - 1).map(str),
    "words": st.lists(texts, max_size=3),
    "pair": st.tuples(integers, texts),
    "many": st.lists(decimals, max_size=3).map(tuple),
    "sequence": st.lists(integers, max_size=3),
    "tags": st.sets(texts, max_size=3),
    "numbers": st.frozensets(integers, max_size=3),
    "amounts": st.sets(decimals, max_size=3),
    "blobs": st.sets(st.binary(max_size=5), max_size=3),
    "colors": st.sets(st.sampled_from(Color)),
    "by_name": st.dictionaries(texts, decimals, max_size=3),
    "by_number": st.dictionaries(integers, texts, max_size=3),
    "anything": json_values,
    "optionals": st.lists(st.none() | integers, max_size=3),
    "either": integers | texts,
    "pet": st.builds(Cat) | st.builds(Dog, tricks=st.lists(texts, max_size=2)),
    "tree": trees,
    "opened": st.builds(Open, known=integers, extra=json_values),
    "large": st.dictionaries(texts, json_values, max_size=3),
}


@pytest.mark.parametrize("field", FIELDS)
@settings(max_examples=40)
@given(data=st.data())
def test_every_annotation_comes_back_exactly(field: str, data: st.DataObject) -> None:
    entity = Everything(id="i", **{field: data.draw(FIELDS[field])})
    again = round_trip(entity)

    assert entity == again
    assert type(getattr(entity, field)) is type(getattr(again, field))


@settings(max_examples=30)
@given(st.fixed_dictionaries({}, optional=FIELDS))
def test_all_fields_together_come_back_exactly(fields: dict[str, Any]) -> None:
    entity = Everything(id="i", **fields)
    assert entity == round_trip(entity)


@settings(max_examples=40)
@given(st.fixed_dictionaries({}, optional=FIELDS))
def test_the_bound_of_a_record_is_never_below_its_size(fields: dict[str, Any]) -> None:
    encoded = CODEC.encode(Everything(id="i", **fields), 1, None)
    assert record_size(encoded.record, "Everything") <= encoded.size


def test_numbers_of_38_digits_are_exact() -> None:
    for text in ("1" * 38, "-" + "9" * 38, "0." + "1" * 38, "1E-130", "9.9999999999999999999999999999999999999E+125", "-0"):
        value = Decimal(text)
        found = round_trip(Everything(id="i", amount=value, by_name={"a": value}, amounts={value}))
        assert (value, value, {value}) == (found.amount, (found.by_name or {})["a"], found.amounts)
    for text in ("1" * 39, "1E-131", "1E+126"):
        for fields in (
            {"amount": Decimal(text)},
            {"by_name": {"a": Decimal(text)}},
            {"tree": Tree(leaf=Leaf(long_name="l", amount=Decimal(text)))},
        ):
            with pytest.raises(Validation):
                CODEC.encode(Everything(id="i", **fields), 1, None)


def test_attributes_nobody_declared_are_ignored() -> None:
    record = {**stored(Everything(id="i", tree=Tree(leaf=Leaf(long_name="l")))), "later": 5, "_other": {"a": 1}}
    record["tree"] = {**record["tree"], "later": True}

    assert Everything(id="i", tree=Tree(leaf=Leaf(long_name="l"))) == CODEC.decode(record)


def test_attributes_that_are_missing_read_as_defaults() -> None:
    entity = CODEC.decode({"id": "i", "tree": {"leaf": {"longName": "l"}}, REVISION: 3})

    assert Everything(id="i", tree=Tree(leaf=Leaf(long_name="l"))) == entity
    assert 3 == entity.revision


def test_defaults_are_not_shared_between_instances() -> None:
    first, second = (CODEC.decode({"id": "i", "tree": {"leaf": {"longName": "l"}}, REVISION: 1}) for _ in range(2))
    first.tree.branches.append(1)
    first.tags.add("x")

    assert [] == second.tree.branches
    assert set() == second.tags


def test_aliases_are_what_nested_values_are_stored_under() -> None:
    record = stored(Everything(id="i", tree=Tree(leaf=Leaf(long_name="l", when_made=NOON))))

    assert {"longName", "amount", "raw", "whenMade", "labels"} == set(record["tree"]["leaf"])
    assert "l" == record["_tree_leaf_longName"]


def test_open_models_keep_what_they_were_given_and_fresh_private_attributes() -> None:
    found = round_trip(Everything(id="i", opened=Open(known=1, other=[1, {"a": None}])))  # type: ignore[call-arg]

    assert found.opened is not None
    assert {"other": [1, {"a": None}]} == found.opened.model_extra
    assert [7] == found.opened._cached


def test_a_subclass_is_not_stored_as_its_base() -> None:
    class Longer(Leaf):
        more: str = "lost"

    with pytest.raises(Validation, match=r"Everything\.tree"):
        CODEC.encode(Everything(id="i", tree=Tree(leaf=Longer(long_name="l"))), 1, None)


def test_naive_datetimes_are_refused() -> None:
    with pytest.raises(Validation, match=r"Everything\.plain"):
        CODEC.encode(Everything(id="i", plain=NOON.replace(tzinfo=None)), 1, None)


def test_a_number_is_never_stored_as_a_lookalike() -> None:
    record = stored(Everything(id="i", flag=True, number=1, ratio=1.0, anything=[True, 1, 1.0]))

    assert [bool, int, float] == [type(value) for value in record["anything"]]
    assert [bool, int, float] == [type(record[name]) for name in ("flag", "number", "ratio")]


@pytest.mark.parametrize(
    "update",
    [
        {"text": 1},
        {"number": "1"},
        {"number": True},
        {"amount": 1.5},
        {"amount": "1.5"},
        {"ratio": "1"},
        {"flag": 1},
        {"raw": "x"},
        {"color": "red"},
        {"moment": NOON.replace(tzinfo=None)},
        {"moment": 5},
        {"uuid": 5},
        {"uuid": "x"},
        {"day": 5},
        {"span": 5},
        {"words": "abc"},
        {"words": {"a": 1}},
        {"pair": (1,)},
        {"pair": "ab"},
        {"many": "12"},
        {"tags": ["a"]},
        {"colors": {"red"}},
        {"by_name": []},
        {"by_name": {"a": "b"}},
        {"either": 1.5},
        {"pet": {"kind": "cow"}},
        {"tree": {"leaf": {}}},
        {"tree": Leaf(long_name="l")},
        {"opened": Leaf(long_name="l")},
    ],
    ids=str,
)
def test_a_copy_with_a_wrong_type_is_refused_and_names_the_field(update: dict[str, Any]) -> None:
    (field,) = update
    with pytest.raises(Validation, match=rf"Everything\.{field}"):
        CODEC.encode(Everything(id="i").model_copy(update=update), 1, None)


def test_a_blob_splits_at_its_threshold() -> None:
    def uploads(size: int) -> int:
        return len(CODEC.encode(Everything(id="i", large={"a": "x" * size}), 1, None).uploads)

    overhead = len(b'{"a":""}')
    assert (0, 1) == (uploads(10_000 - overhead), uploads(10_000 - overhead + 1))


def test_the_largest_record_is_measured_to_the_byte() -> None:
    fixed = record_size({"id": "i", "text": ""}, "Everything") + len(REVISION) + 8
    CODEC.encode(Everything(id="i", text="x" * (MAX_RECORD - fixed)), 1, None)
    with pytest.raises(ItemTooLarge):
        CODEC.encode(Everything(id="i", text="x" * (MAX_RECORD - fixed + 1)), 1, None)
    with pytest.raises(ItemTooLarge):
        CODEC.encode(Everything(id="i", anything=["x" * 1000] * 500), 1, None)


@pytest.mark.parametrize("number", [1e126, -1e300, 1e-131, -5e-300, math.inf, math.nan])
@pytest.mark.parametrize("inside", [lambda n: n, lambda n: {"a": n}, lambda n: [[n]], lambda n: {"a": {"b": "e-1", "c": n}}])
def test_a_float_no_engine_holds_is_refused_wherever_it_is(number: float, inside: Any) -> None:
    with pytest.raises(NumberRange):
        settled(inside(number), "a value")
