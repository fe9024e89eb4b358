"""How tables are made and what expires by itself: options, native expiry beside our own, an index remade."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from palaver.ops import CreateTable, SetExpiry, Table
from palaver.records.dynamo_keys import EXPIRY
from palaver.records.dynamo_tables import TableOptions
from palaver.records.dynamodb import DynamoRecords
from palaver.testing.records.base import COUNTERS, NOTES, NOW, NOW_S, SECOND, put, put_note, written
from tests.engines.dynamodb import drop, engine_of
from tests.servers import ministack

PLAIN = replace(NOTES, swept=False)


@pytest.fixture
async def prefix() -> AsyncIterator[str]:
    made = f"t{uuid4().hex[:12]}-"
    yield made
    await drop(ministack().endpoint, made)


async def made(prefix: str, options: TableOptions, *tables: Table) -> DynamoRecords:
    engine = await engine_of(ministack().endpoint, tables, prefix, options)
    for table in tables:
        await engine.apply(CreateTable(table))
    return engine


async def described(engine: DynamoRecords, table: Table) -> dict[str, Any]:
    answer = await engine.client.call("DescribeTable", {"TableName": engine.prefix + table.name})
    return answer["Table"]  # type: ignore[no-any-return]


async def expires_by_itself(engine: DynamoRecords, table: Table) -> bool:
    answer = await engine.client.call("DescribeTimeToLive", {"TableName": engine.prefix + table.name})
    return bool(answer["TimeToLiveDescription"]["TimeToLiveStatus"] == "ENABLED")


async def indexes(engine: DynamoRecords, table: Table) -> set[str]:
    return {index["IndexName"] for index in (await described(engine, table)).get("GlobalSecondaryIndexes", ())}


async def test_what_nothing_goes_with_dynamodb_expires_and_the_rest_is_found_by_index(prefix: str) -> None:
    other = replace(NOTES, name="suite-others")
    engine = await made(prefix, TableOptions(native_expiry=True), PLAIN, other)
    assert await expires_by_itself(engine, PLAIN)
    assert EXPIRY not in await indexes(engine, PLAIN)
    assert not await expires_by_itself(engine, other)
    assert EXPIRY in await indexes(engine, other)
    await written(engine, put_note("u", "1", expires=NOW_S - 1), put(other, {"owner": "u", "id": "1", "expires": NOW_S - 1}))
    assert [] == await engine.expired(PLAIN.name, NOW, 10)
    assert [("u", "1")] == [at.key for at in await engine.expired(other.name, NOW, 10)]
    await engine.aclose()


async def test_a_table_that_something_goes_with_from_now_on_asks_for_its_index(prefix: str) -> None:
    native = TableOptions(native_expiry=True)
    before = await made(prefix, native, PLAIN)
    # Far enough ahead that the emulator, which goes by the real clock, does not remove it first.
    expires = int(time.time()) + 3_600
    await written(before, put_note("u", "old", expires=expires))
    await before.aclose()
    after = await engine_of(ministack().endpoint, [NOTES], prefix, native)
    (found,) = (await after.describe()).tables
    # So that a migration sets the expiry anew.
    assert found.expires is None
    await after.apply(SetExpiry(NOTES, "expires"))
    assert not await expires_by_itself(after, NOTES)
    assert [("u", "old")] == [at.key for at in await after.expired(NOTES.name, (expires + 1) * SECOND, 10)]
    (found,) = (await after.describe()).tables
    assert "expires" == found.expires
    await after.aclose()


async def test_tables_are_made_as_the_options_say(prefix: str) -> None:
    options = TableOptions(point_in_time_recovery=True, encryption="kms", deletion_protection=True)
    engine = await made(prefix, options, COUNTERS)
    about = await described(engine, COUNTERS)
    assert about["DeletionProtectionEnabled"]
    assert "KMS" == about["SSEDescription"]["SSEType"]
    assert "NEW_AND_OLD_IMAGES" == about["StreamSpecification"]["StreamViewType"]
    assert "PAY_PER_REQUEST" == about["BillingModeSummary"]["BillingMode"]
    backups = await engine.client.call("DescribeContinuousBackups", {"TableName": prefix + COUNTERS.name})
    assert "ENABLED" == backups["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"]
    for name in (COUNTERS.name, "palaver_engine"):
        await engine.client.call("UpdateTable", {"TableName": prefix + name, "DeletionProtectionEnabled": False})
    await engine.aclose()


async def test_only_tables_of_the_prefix_are_seen(prefix: str) -> None:
    engine = await made(prefix, TableOptions(), COUNTERS)
    foreign = {
        "TableName": prefix + "foreign",
        "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        "BillingMode": "PAY_PER_REQUEST",
    }
    await engine.client.call("CreateTable", foreign)
    found = await engine.describe()
    assert [COUNTERS.name] == [table.name for table in found.tables]
    assert ("foreign",) == found.unknown
    other = await engine_of(ministack().endpoint, [], f"x{prefix}")
    nothing = await other.describe()
    assert ((), ()) == (nothing.tables, nothing.unknown)
    await engine.stamp(3, "abc")
    again = await engine.describe()
    assert (3, "abc") == (again.version, again.fingerprint)
    await other.aclose()
    await engine.aclose()
