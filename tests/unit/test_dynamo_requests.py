"""What would be sent to DynamoDB: every shape of request as a golden file, and the limits emulators do not hold."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from hypothesis import given, strategies as st

from palaver.errors import BatchShape, ConfigError, EmptyKey, ItemTooLarge, KeyTooLong
from palaver.expr import Condition, F
from palaver.ops import (
    MARK,
    REVISION,
    Absent,
    Add,
    Address,
    Alive,
    Bound,
    Cause,
    Check,
    Delete,
    Put,
    Read,
    Remove,
    Set,
    Unchanged,
    Update,
    position,
)
from palaver.records import dynamo_read_requests as reading, dynamo_requests as requests, dynamo_tables as tables
from palaver.records.dynamo_conditions import NotNative, Terms, condition_text
from palaver.records.dynamo_items import cause_of, item_of, record_of
from palaver.records.dynamo_keys import Half, Layout, after_prefix, joined, sortable, span
from palaver.records.dynamo_requests import Action, Writing
from palaver.records.dynamo_tables import TableOptions, own_table
from palaver.records.dynamo_values import MAX_ITEM, attribute_size, item_size
from palaver.testing.records.base import BYTES, COUNTERS, INTS, NOTES, NOW, NOW_S, WIDE, guards, note, put, put_note
from palaver.values import KeyPart, Record

WRITING = Writing(NOW, Cause("actor", "token"), "app-palaver_engine", NOW_S + 172_800)
PLAIN = WRITING._replace(cause=Cause())
NOTE, COUNTER, WIDES, INT, BYTE = (Layout(table, "app-") for table in (NOTES, COUNTERS, WIDE, INTS, BYTES))
AT = Address(NOTES.name, ("u", "1"))
SEEN: Record = {**note("u", "1", stamp=1, data={"a": 1}), REVISION: NOW - 5}
FULL = note("u", "1", kind="k", stamp=-5, text="é", score=1.5, amount=Decimal("0.1"), done=True, raw=b"\0\xff", data={"n": [1, 1.0, None]})


def writes() -> dict[str, Callable[[], Action | list[Action]]]:
    """Return every way a write may be asked for."""
    changes = (Set(F("text"), "x"), Remove(F("kind")), Add(F("stamp"), 2))
    counts = (Add(F("hits"), 1), Set(F("other"), F("other").if_absent(5)), Set(F("tags"), F("tags").append("x")))
    at, wide = (
        Address(COUNTERS.name, ("a",)),
        dict(zip(WIDE.key, ("t", "g", -5, "é"), strict=True)) | {"select": "s", "from": 7, "where": "w"},
    )
    return {
        "put": lambda: requests.put(NOTE, put(NOTES, FULL), PLAIN),
        "put.create": lambda: requests.put(NOTE, put_note("u", "1", Absent()), WRITING),
        "put.create.table without expiry": lambda: requests.put(COUNTER, put(COUNTERS, {"name": "a"}, Absent()), PLAIN),
        "put.unchanged": lambda: requests.put(NOTE, put_note("u", "1", Unchanged(NOW - 5)), PLAIN),
        "put.nothing stored": lambda: requests.put(NOTE, put_note("u", "1", Unchanged(None)), PLAIN),
        "put.condition": lambda: requests.put(NOTE, put_note("u", "1", (F("stamp") > 1) & (F("text") != "x")), PLAIN),
        "put.seen": lambda: requests.put(NOTE, put_note("u", "1", F("data.a") == 1), PLAIN, SEEN),
        "put.released": lambda: requests.put(NOTE, Put(AT, note("u", "1"), (), ("a/b",)), WRITING),
        "put.composite": lambda: requests.put(WIDES, put(WIDE, wide), PLAIN),  # type: ignore[arg-type]
        "update": lambda: requests.update(NOTE, Update(AT, changes, guards(Alive())), WRITING),
        "update.ahead": lambda: requests.update(NOTE, Update(AT, changes, guards(Alive())), WRITING, ahead=True),
        "update.unchanged": lambda: requests.update(NOTE, Update(AT, changes, guards(Unchanged(7))), PLAIN),
        "update.counter": lambda: requests.update(COUNTER, Update(at, counts), PLAIN),
        "update.set": lambda: requests.update(COUNTER, Update(at, (Add(F("tags"), frozenset("ab")),)), PLAIN),
        "update.seen": lambda: requests.updated(NOTE, Update(AT, (Set(F("data.a"), 2),)), PLAIN, SEEN),
        "delete.seen": lambda: requests.delete(NOTE, Delete(AT, released=("a/b",)), WRITING, SEEN),
        "delete.unchanged.expired": lambda: requests.delete(NOTE, Delete(AT, guards(Unchanged(7)), expired=True), PLAIN),
        "delete.nothing": lambda: requests.delete(NOTE, Delete(AT), PLAIN, None),
        "check.alive": lambda: requests.check(NOTE, Check(AT, guards(Alive())), PLAIN),
    }


CONDITIONS: dict[str, Condition] = {
    "in": F("stamp").is_in([1, 2]),
    "not": ~(F("done") == True),  # noqa: E712
    "or": (F("text").starts_with("a")) | F("raw").contains(b"\0"),
    "exists": F("data").exists() & F("kind").missing(),
    "between": F("amount").between(1, Decimal("2.5")),
}


def reads() -> dict[str, Callable[[], dict[str, Any]]]:
    def query(layout: Layout, read: Read) -> Callable[[], dict[str, Any]]:
        def made() -> dict[str, Any]:
            way = layout.way(read.index)
            asked = reading.wanted(way, read)
            assert asked is not None
            start, _ = reading.start_of(way, asked, read)
            return reading.query(layout, way, read, asked, read.limit, start)

        return made

    key, kind = Read(NOTES.name, None, ("u",), limit=20), Read(NOTES.name, "by_kind", ("k",), limit=20)
    wide = Read(WIDE.name, None, ("t", "g"), limit=20)
    return {
        "query": query(NOTE, key),
        "query.eventual": query(NOTE, key._replace(consistent=False)),
        "query.newest": query(NOTE, key._replace(descending=True, after=("u", "7"))),
        "query.prefix": query(NOTE, key._replace(bounds=(Bound("prefix", "ab"),))),
        "query.between": query(NOTE, key._replace(bounds=(Bound(">", "a"), Bound("<=", "b")))),
        "query.after": query(NOTE, key._replace(bounds=(Bound(">", "a"),))),
        "query.one": query(NOTE, key._replace(fixed=("1",))),
        "query.index": query(NOTE, kind._replace(bounds=(Bound(">", -10), Bound("<", 10)), after=("k", 3, "u", "1"))),
        "query.composite": query(WIDES, wide),
        "query.composite.leading": query(WIDES, wide._replace(fixed=(-5,))),
        "query.composite.bound": query(WIDES, wide._replace(bounds=(Bound(">", -5),))),
        "query.composite.last": query(WIDES, wide._replace(fixed=(2,), bounds=(Bound("prefix", "é"),), after=("t", "g", 2, "é1"))),
        "query.composite.index": query(WIDES, Read(WIDE.name, "WideSelectIndex", ("t", "s"), (7,), limit=5)),
        "count": lambda: reading.count(NOTE, NOTE.way("by_kind"), kind, span_of(NOTE, kind), NOW, None),
        "expired": lambda: reading.expired(NOTE, "expires", 3, NOW_S, 10),
        "scan": lambda: reading.scan(NOTE, ("u", "1"), 100, (1, 4)),
        "get": lambda: reading.get(NOTE, ("u", "1"), True),
        "gets": lambda: reading.gets([(NOTE, ("u", "1")), (INT, (-5, 7))], False)[0],
        "gets.revisions": lambda: reading.gets([(WIDES, ("t", "g", 1, "x"))], True, (REVISION,))[0],
        "snapshot": lambda: reading.snapshot([(NOTE, ("u", "1")), (BYTE, (b"\0", b"\xff"))]),
    }


def span_of(layout: Layout, read: Read) -> Any:
    asked = reading.wanted(layout.way(read.index), read)
    assert asked is not None
    return asked


def shown(made: Any) -> Any:
    if isinstance(made, list):
        return list(map(shown, made))
    return {made.kind: made.body} if isinstance(made, Action) else made


def text(made: Any) -> str:
    return json.dumps(shown(made), indent=1, ensure_ascii=False) + "\n"


def file(name: str) -> str:
    return f"dynamodb/{name.replace(' ', '_')}.json"


@pytest.mark.parametrize("name", writes())
def test_a_write_is_this_request(name: str, golden: Callable[[str, str], None]) -> None:
    golden(file(name), text(writes()[name]()))


@pytest.mark.parametrize("name", reads())
def test_a_read_is_this_request(name: str, golden: Callable[[str, str], None]) -> None:
    golden(file(name), text(reads()[name]()))


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_is_this_expression(name: str, golden: Callable[[str, str], None]) -> None:
    golden(file(f"condition.{name}"), text(requests.check(NOTE, Check(AT, guards(CONDITIONS[name])), PLAIN)))


def test_a_table_is_this_request(golden: Callable[[str, str], None]) -> None:
    options = TableOptions(encryption="alias/app", deletion_protection=True, point_in_time_recovery=True)
    made = {
        "swept": tables.create(NOTE, options),
        "composite": tables.create(WIDES, TableOptions()),
        "expiring natively": tables.create(Layout(replace(NOTES, swept=False), "app-", expires_natively=True), TableOptions()),
        "own": own_table("app-", options),
        "new index": tables.create_index(WIDES, "WideSelectIndex"),
        "dropped index": tables.drop_index(NOTE, "by_kind"),
    }
    golden(file("tables"), text(made))


def test_a_batch_is_this_transaction_and_this_request_alone(golden: Callable[[str, str], None]) -> None:
    put_, update_ = (
        requests.put(NOTE, put_note("u", "1", Absent()), PLAIN),
        requests.update(COUNTER, Update(Address(COUNTERS.name, ("a",)), (Add(F("hits"), 1),)), PLAIN),
    )
    made = {
        "transaction": requests.transaction([put_, requests.check(NOTE, Check(AT, guards(Alive())), PLAIN)], "a token"),
        "alone": dict(map(requests.single, (put_, update_))),
        "batch": requests.batches(
            [(NOTE.name, {"PutRequest": {"Item": put_.body["Item"]}}), (INT.name, {"DeleteRequest": {"Key": INT.key((1, 2))}})]
        ),
    }
    golden(file("batches"), text(made))


def test_every_name_is_aliased() -> None:
    """Hundreds of words are reserved, and one emulator takes them all."""
    for make in (*writes().values(), *reads().values()):
        bodies = shown(make())
        for body in bodies if isinstance(bodies, list) else [bodies]:
            for expression in expressions(body):
                words = {word.strip("(),") for word in expression.split()}
                allowed = {"AND", "OR", "NOT", "IN", "BETWEEN", "SET", "REMOVE", "ADD", "=", "<", ">", "<=", ">=", "+", ""}
                functions = (
                    "attribute_exists",
                    "attribute_not_exists",
                    "attribute_type",
                    "begins_with",
                    "contains",
                    "if_not_exists",
                    "list_append",
                )
                bare = [word for word in words - allowed if not word.startswith(("#", ":", *functions))]
                assert not bare, expression


def expressions(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [text for name, text in value.items() if name.endswith("Expression") and isinstance(text, str)]
        return own + [found for inner in value.values() for found in expressions(inner)]
    return [found for inner in value for found in expressions(inner)] if isinstance(value, list) else []


def test_every_name_and_value_of_a_request_is_used() -> None:
    for make in (*writes().values(), *reads().values()):
        made = shown(make())
        for body in made if isinstance(made, list) else [made]:
            told = json.dumps(expressions(body))
            for part in body.values() if len(body) == 1 else [body]:
                if isinstance(part, dict):
                    for name in (*part.get("ExpressionAttributeNames", ()), *part.get("ExpressionAttributeValues", ())):
                        assert name in told


# --- limits ------------------------------------------------------------------------------------------------------------


def test_a_transaction_takes_a_hundred_actions_and_four_megabytes() -> None:
    small = [requests.put(NOTE, put_note("u", f"{n}"), PLAIN) for n in range(101)]
    assert 100 == len(requests.transaction(small[:100], "t")["TransactItems"])
    with pytest.raises(BatchShape, match="101 actions"):
        requests.transaction(small, "t")
    large = [requests.put(COUNTER, put(COUNTERS, {"name": f"{n}", "text": "x" * 400_000}), PLAIN) for n in range(11)]
    assert requests.transaction(large[:10], "t")
    with pytest.raises(BatchShape, match="bytes"):
        requests.transaction(large, "t")


def test_batches_take_25_writes_and_100_reads() -> None:
    assert [25, 25, 1] == [sum(map(len, batch.values())) for batch in requests.batches([("t", {})] * 51)]
    made = reading.gets(((INT, (1, n)) for n in range(201)), True)
    assert [100, 100, 1] == [len(body[INT.name]["Keys"]) for body in made]


def test_an_item_is_metered_as_dynamodb_counts() -> None:
    assert 3 + 1 == attribute_size({"L": [{"S": ""}]})
    assert 3 + 1 + 1 + 2 == attribute_size({"M": {"a": {"S": "é"}}})
    assert (2, 21, 3) == (attribute_size({"B": "AAE="}), attribute_size({"N": "1" * 38}), attribute_size({"N": "7"}))
    assert item_size({"é": {"BOOL": True}, "n": {"NULL": True}}) == 2 + 1 + 1 + 1


def test_a_record_too_large_with_its_revision_is_compressed_where_that_helps() -> None:
    item = item_of(COUNTER, {"name": "a", "text": "x" * 409_590}, NOW, None)
    assert {"name", "_revision", "_aside"} == set(item)
    assert item_size(item) < MAX_ITEM
    noise = random.Random(1).randbytes(409_590)
    with pytest.raises(ItemTooLarge, match="409,600"):
        item_of(NOTE, note("u", "1", raw=noise), NOW, None)


def test_keys_are_limited_as_dynamodb_limits_them() -> None:
    NOTE.check_key(("x" * 2048, "y" * 1024))
    for key in (("x" * 2049, "y"), ("x", "y" * 1025), ("é" * 1025, "y")):
        with pytest.raises(KeyTooLong):
            NOTE.check_key(key)
    with pytest.raises(EmptyKey):
        NOTE.check_key(("u", ""))
    WIDES.check_key(("t", "g", 1, "x" * (1024 - 21)))
    with pytest.raises(KeyTooLong, match="day#order"):
        WIDES.check_key(("t", "g", 1, "x" * (1024 - 20)))


@pytest.mark.parametrize("prefix", ["a b", "ä", "a/b", "x" * 201])
def test_a_prefix_no_table_may_have_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError):
        tables.table_name(prefix)


@pytest.mark.parametrize(
    "condition",
    [
        F("data.a") == 1,
        F("data") == {"a": 1},
        F("tags").contains("x"),
        F("stamp") == None,  # noqa: E711
        F("stamp") > "x",
        F("done") > True,
        F("text").contains(""),
        F("amount") < Decimal("1E+126"),
        F("stamp").is_in([]),
        F("raw").is_in([b"x", None]),
        F("stamp").contains(1),
    ],
)
def test_what_dynamodb_would_judge_otherwise_is_not_sent(condition: Condition) -> None:
    with pytest.raises(NotNative):
        condition_text(NOTE, Terms(), condition)


def test_expressions_are_limited() -> None:
    many = F("stamp") == 0
    for n in range(200):
        many = many | (F("stamp") == n)  # type: ignore[assignment]
    with pytest.raises(NotNative):
        requests.check(NOTE, Check(AT, guards(many)), PLAIN)


@pytest.mark.parametrize(
    "change",
    [
        Set(F("data.a"), 1),
        Set(F("text"), F("kind")),
        Set(F("kind"), ""),
        Add(F("score"), 0.1),
        Add(F("amount"), Decimal(1)),
        Add(F("tags"), frozenset({""})),
        Set(F("owner"), "x"),
        Set(F(REVISION), 1),
    ],
)
def test_what_dynamodb_would_do_otherwise_is_done_here(change: Any) -> None:
    with pytest.raises(NotNative):
        requests.update(NOTE, Update(AT, (change,)), PLAIN)
    with pytest.raises(NotNative):
        requests.update(WIDES, Update(Address(WIDE.name, ("t", "g", 1, "x")), (Set(F("select"), "s"),)), PLAIN)


# --- keys --------------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=4)
PARTS = st.tuples(TEXT, st.integers(-(2**63), 2**63 - 1), st.binary(min_size=1, max_size=3), TEXT)


@given(PARTS, PARTS)
def test_joined_parts_order_as_the_parts_do(a: tuple[KeyPart, ...], b: tuple[KeyPart, ...]) -> None:
    ours = (joined(a).encode(), joined(b).encode())
    theirs = (tuple(map(sortable, a)), tuple(map(sortable, b)))
    assert (ours[0] < ours[1], ours[0] == ours[1]) == (theirs[0] < theirs[1], theirs[0] == theirs[1])


@given(TEXT, TEXT)
def test_everything_with_a_prefix_is_below_what_comes_after_it(prefix: str, rest: str) -> None:
    after = after_prefix(prefix)
    assert after is None or sortable(prefix) < sortable(prefix + rest) < sortable(after)


SORT = Half("day#order", "S", ("day", "order"), 1024)
ENDS: list[Bound | None] = [None, *(Bound(op, n) for op, n in product((">", ">="), (-1, 0)))]  # type: ignore[arg-type]
TOPS: list[Bound | None] = [None, *(Bound(op, n) for op, n in product(("<", "<="), (0, 2)))]  # type: ignore[arg-type]


@pytest.mark.parametrize(("low", "high"), list(product(ENDS, TOPS)))
def test_a_range_over_a_leading_part_holds_exactly_what_is_asked(low: Bound | None, high: Bound | None) -> None:
    asked = span(SORT, (), [bound for bound in (low, high) if bound])
    for day, order in product(range(-3, 4), ("a", "\x01", "\U0010ffff")):
        wanted = all(
            {">": day > bound.value, ">=": day >= bound.value, "<": day < bound.value, "<=": day <= bound.value}[bound.op]  # type: ignore[operator]
            for bound in (low, high)
            if bound
        )
        value = joined((day, order))
        assert wanted == (asked is not None and asked.relation(value) == 0 and not asked.drops(value))


def test_a_record_comes_back_from_its_item() -> None:
    record: Record = {**FULL, "tags": frozenset({1, 2}), MARK: 5, "expires": NOW_S}
    item = item_of(NOTE, record, NOW, cause_of(Cause("a")))
    assert {**record, REVISION: NOW} == record_of(NOTE, item)
    assert position(NOTES, None, record_of(NOTE, item)) == ("u", "1")


def test_the_catalog_gives_a_table_back() -> None:
    for table in (NOTES, WIDE, INTS):
        assert table == tables.from_catalog(tables.catalog_entry(table))
