"""Tables as requests: what is created, indexed, protected, and the catalog entry DynamoDB itself has no place for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any
from uuid import uuid4

from palaver.errors import ConfigError
from palaver.ops import REVISION, Column, IndexSpec, Table
from palaver.records.dynamo_conditions import Terms
from palaver.records.dynamo_items import quiet_cause
from palaver.records.dynamo_keys import CAUSE, DUE, EXPIRY, Half, Layout, Way
from palaver.records.dynamo_values import Attribute, Item
from palaver.stored_json import dumps, loads

OWN = "palaver_engine"
CATALOG = "catalog"


@dataclass(frozen=True, slots=True)
class TableOptions:
    """How tables are made. `encryption`: the key of KMS, or "kms" for the account's own; empty: the service's own key.

    `native_expiry` leaves it to DynamoDB to remove expired records that nothing goes with. `feed` False leaves streams and
    tombstones away: for servers that have neither.
    """

    point_in_time_recovery: bool = False
    encryption: str = ""
    deletion_protection: bool = False
    native_expiry: bool = False
    feed: bool = True


def own_table(prefix: str, options: TableOptions) -> dict[str, Any]:
    """Return the request for the engine's own table: the feed's log, checkpoints, tombstones and the catalog."""
    body: dict[str, Any] = {
        "TableName": prefix + OWN,
        "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
        "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        "BillingMode": "PAY_PER_REQUEST",
    }
    return body | _protected(options)


def create(layout: Layout, options: TableOptions) -> dict[str, Any]:
    """Return the request that makes a table with its indexes."""
    ways = [layout.base, *layout.ways.values()]
    body: dict[str, Any] = {
        "TableName": layout.name,
        "KeySchema": _schema(layout.base),
        "BillingMode": "PAY_PER_REQUEST",
    }
    indexes = [_index(way) for way in layout.ways.values()]
    defined = _definitions(half for way in ways for half in (way.partition, way.sort) if half is not None)
    if layout.sweeps and layout.table.expires is not None:
        indexes.append(_expiry(layout, layout.table.expires))
        defined |= _expiry_definitions(layout.table.expires)
    body["AttributeDefinitions"] = [{"AttributeName": name, "AttributeType": native} for name, native in sorted(defined.items())]
    if indexes:
        body["GlobalSecondaryIndexes"] = indexes
    if layout.table.feed and options.feed:
        body["StreamSpecification"] = {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}
    return body | _protected(options)


def _protected(options: TableOptions) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if options.encryption:
        body["SSESpecification"] = {"Enabled": True, "SSEType": "KMS"}
        if options.encryption != "kms":
            body["SSESpecification"]["KMSMasterKeyId"] = options.encryption
    if options.deletion_protection:
        body["DeletionProtectionEnabled"] = True
    return body


def _schema(way: Way) -> list[dict[str, str]]:
    schema = [{"AttributeName": way.partition.attribute, "KeyType": "HASH"}]
    if way.sort is not None:
        schema.append({"AttributeName": way.sort.attribute, "KeyType": "RANGE"})
    return schema


def _index(way: Way) -> dict[str, Any]:
    return {"IndexName": way.index, "KeySchema": _schema(way), "Projection": {"ProjectionType": "ALL"}}


def _expiry(layout: Layout, expires: str) -> dict[str, Any]:
    schema = [{"AttributeName": DUE, "KeyType": "HASH"}, {"AttributeName": expires, "KeyType": "RANGE"}]
    # A composite key attribute is in every index; the columns it is made of only where they are asked for.
    parts = [name for half in layout.halves if half.is_composite for name in half.columns]
    projection: dict[str, Any] = {"ProjectionType": "INCLUDE", "NonKeyAttributes": parts} if parts else {"ProjectionType": "KEYS_ONLY"}
    return {"IndexName": EXPIRY, "KeySchema": schema, "Projection": projection}


def _expiry_definitions(expires: str) -> dict[str, str]:
    return {DUE: "N", expires: "N"}


def _definitions(halves: Iterable[Half]) -> dict[str, str]:
    return {half.attribute: half.native for half in halves}


def create_index(layout: Layout, name: str) -> dict[str, Any]:
    """Return the request that begins to build one index; EXPIRY is the index over the expiry."""
    if name == EXPIRY:
        assert layout.table.expires is not None
        index, defined = _expiry(layout, layout.table.expires), _expiry_definitions(layout.table.expires)
    else:
        way = layout.way(name)
        index, defined = _index(way), _definitions(half for half in (way.partition, way.sort) if half is not None)
    defined |= _definitions(layout.halves)
    return {
        "TableName": layout.name,
        "AttributeDefinitions": [{"AttributeName": each, "AttributeType": native} for each, native in sorted(defined.items())],
        "GlobalSecondaryIndexUpdates": [{"Create": index}],
    }


def drop_index(layout: Layout, name: str) -> dict[str, Any]:
    return {"TableName": layout.name, "GlobalSecondaryIndexUpdates": [{"Delete": {"IndexName": name}}]}


def backups(name: str) -> dict[str, Any]:
    return {"TableName": name, "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True}}


def native_expiry(name: str, attribute: str, *, enabled: bool = True) -> dict[str, Any]:
    return {"TableName": name, "TimeToLiveSpecification": {"Enabled": enabled, "AttributeName": attribute}}


# --- the catalog -------------------------------------------------------------------------------------------------------


def catalog_entry(table: Table) -> str:
    """Return a table's declaration as text: what no DescribeTable says."""
    return dumps(_lists(asdict(table)))


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lists(inner) for name, inner in value.items()}
    return list(map(_lists, value)) if isinstance(value, tuple | list) else value


def from_catalog(text: str) -> Table:
    entry: dict[str, Any] = loads(text)
    return Table(
        entry["name"],
        entry["entity"],
        tuple(Column(**{**column, "check": _tuples(column["check"])}) for column in entry["columns"]),
        tuple(entry["partition"]),
        tuple(entry["sort"]),
        tuple(IndexSpec(each["name"], tuple(each["partition"]), tuple(each["sort"]), each["unique"]) for each in entry["indexes"]),
        entry["expires"],
        entry["feed"],
        swept=entry["swept"],
    )


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def table_name(prefix: str) -> None:
    """Raise ConfigError where no table could have such a prefix."""
    if not all(char.isascii() and (char.isalnum() or char in "_.-") for char in prefix) or len(prefix) > 200:
        raise ConfigError("A prefix of DynamoDB tables holds letters, digits, _, . and - only.", hint="Write dynamodb://eu-west-1/bot-.")


def rewriting(layout: Layout, key: Item, sets: Item, removes: list[str], revision: Attribute | None) -> dict[str, Any]:
    """Return the request that changes attributes of an unchanged item without a new revision, and without a change in the feed."""
    terms = Terms()
    held = f"{terms.name(REVISION)} = {terms.value(revision)}" if revision else f"attribute_not_exists({terms.name(REVISION)})"
    exists = f"attribute_exists({terms.name(layout.base.partition.attribute)})"
    if layout.table.feed:
        sets = {**sets, CAUSE: quiet_cause(uuid4().hex)}
    clauses = [f"SET {', '.join(f'{terms.name(name)} = {terms.value(value)}' for name, value in sets.items())}"] if sets else []
    clauses += [f"REMOVE {', '.join(map(terms.name, removes))}"] if removes else []
    body = {"TableName": layout.name, "Key": key, "UpdateExpression": " ".join(clauses), "ConditionExpression": f"{exists} AND {held}"}
    return terms.into(body)
