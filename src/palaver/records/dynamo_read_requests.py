"""Requests to DynamoDB that read, built purely, each with its key range."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from palaver.ops import Read
from palaver.records import dynamo_conditions as conditions
from palaver.records.dynamo_conditions import Terms
from palaver.records.dynamo_keys import DUE, EXPIRY, Layout, Span, Way, key_value, span
from palaver.records.dynamo_values import Item
from palaver.values import KeyPart

MAX_GETS = 100


def get(layout: Layout, key: Sequence[KeyPart], consistent: bool) -> dict[str, Any]:
    return {"TableName": layout.name, "Key": layout.key(key), "ConsistentRead": consistent}


def gets(asked: Iterable[tuple[Layout, Sequence[KeyPart]]], consistent: bool, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the reads of distinct records in requests of at most 100; with `names`, of the key and these attributes only."""
    out: list[dict[str, Any]] = []
    keys: dict[str, list[Item]] = {}
    count = MAX_GETS
    for layout, key in asked:
        if count == MAX_GETS:
            out.append({})
            keys, count = {}, 0
        mine = keys.get(layout.name)
        if mine is None:
            mine = keys[layout.name] = []
            out[-1][layout.name] = {"Keys": mine, "ConsistentRead": consistent, **_only(layout, names)}
        mine.append(layout.key(key))
        count += 1
    return out


def _only(layout: Layout, names: Sequence[str]) -> dict[str, Any]:
    """Return what has a read give the key and these attributes only."""
    if not names:
        return {}
    terms = Terms()
    wanted = [*(half.attribute for half in layout.halves), *layout.table.key, *names]
    return terms.into({"ProjectionExpression": ", ".join(dict.fromkeys(map(terms.name, wanted)))})


def snapshot(asked: Sequence[tuple[Layout, Sequence[KeyPart]]]) -> dict[str, Any]:
    """Return the read of distinct records as of one instant."""
    return {"TransactItems": [{"Get": {"TableName": layout.name, "Key": layout.key(key)}} for layout, key in asked]}


def query(layout: Layout, way: Way, read: Read, asked: Span, limit: int, start: Item | None) -> dict[str, Any]:
    """Return the request for one page."""
    terms = Terms()
    body: dict[str, Any] = {"TableName": layout.name}
    if way.index is not None:
        body["IndexName"] = way.index
    elif read.consistent:
        body["ConsistentRead"] = True
    body["KeyConditionExpression"] = _key_condition(terms, way, read.partition, asked)
    body["Limit"] = limit
    if read.descending:
        body["ScanIndexForward"] = False
    if start is not None:
        body["ExclusiveStartKey"] = start
    return terms.into(body)


def count(layout: Layout, way: Way, read: Read, asked: Span, now_us: int, start: Item | None) -> dict[str, Any]:
    """Return the request that counts live records of one page."""
    terms = Terms()
    body: dict[str, Any] = {"TableName": layout.name, "Select": "COUNT"}
    if way.index is not None:
        body["IndexName"] = way.index
    elif read.consistent:
        body["ConsistentRead"] = True
    body["KeyConditionExpression"] = _key_condition(terms, way, read.partition, asked)
    body["FilterExpression"] = conditions.conjunction(conditions.visible(layout, terms, now_us))
    if start is not None:
        body["ExclusiveStartKey"] = start
    return terms.into(body)


def _key_condition(terms: Terms, way: Way, partition: Sequence[KeyPart], asked: Span) -> str:
    text = f"{terms.name(way.partition.attribute)} = {terms.value(key_value(way.partition.whole(partition)))}"
    if way.sort is None or asked == Span():
        return text
    sort = terms.name(way.sort.attribute)
    if asked.prefix is not None:
        return f"{text} AND begins_with({sort}, {terms.value(key_value(asked.prefix))})"
    if asked.low is not None and asked.high is not None:
        low, high = terms.value(key_value(asked.low)), terms.value(key_value(asked.high))
        return f"{text} AND {sort} = {low}" if low == high else f"{text} AND {sort} BETWEEN {low} AND {high}"
    if asked.low is not None:
        return f"{text} AND {sort} {'>' if asked.low_open else '>='} {terms.value(key_value(asked.low))}"
    assert asked.high is not None
    return f"{text} AND {sort} {'<' if asked.high_open else '<='} {terms.value(key_value(asked.high))}"


def wanted(way: Way, read: Read) -> Span | None:
    """Return the range a read asks for; None where nothing can be there."""
    if not way.partition.fits(way.partition.whole(read.partition)):
        return None
    return Span() if way.sort is None else span(way.sort, read.fixed, read.bounds)


def start_of(way: Way, asked: Span, read: Read) -> tuple[Item | None, bool]:
    """Return the start key of a read, and whether its position is already past everything it asks for.

    DynamoDB refuses a start key outside the range; one before the range begins it, one after ends it.
    """
    if read.after is None:
        return None, False
    if way.sort is not None:
        at = len(way.partition.columns)
        relation = asked.relation(way.sort.whole(read.after[at : at + len(way.sort.columns)]))
        if relation:
            return None, (relation < 0) == read.descending
    return way.start(read.after), False


def scan(layout: Layout, after: Sequence[KeyPart] | None, limit: int, segment: tuple[int, int]) -> dict[str, Any]:
    body: dict[str, Any] = {"TableName": layout.name, "ConsistentRead": True, "Limit": limit}
    if segment[1] > 1:
        body["Segment"], body["TotalSegments"] = segment
    if after is not None:
        body["ExclusiveStartKey"] = layout.key(after)
    return body


def expired(layout: Layout, expires: str, shard: int, second: int, limit: int) -> dict[str, Any]:
    """Return the request for the oldest records of one partition of the expiry index that have expired by a second."""
    terms = Terms()
    condition = f"{terms.name(DUE)} = {terms.value({'N': str(shard)})} AND {terms.name(expires)} <= {terms.value({'N': str(second)})}"
    return terms.into({"TableName": layout.name, "IndexName": EXPIRY, "KeyConditionExpression": condition, "Limit": limit})
