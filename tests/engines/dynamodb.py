"""DynamoDB engines for tests: a prefix of their own on an emulator, and the raw client as a way round them."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from palaver.connections.dynamodb import Credentials, DynamoClient, Pace
from palaver.ops import Address, CreateTable, Table
from palaver.records.dynamo_tables import TableOptions
from palaver.records.dynamodb import DynamoRecords
from palaver.values import Record
from tests.servers import Endpoint

NATIVE = TableOptions()
BARE = TableOptions(feed=False)


async def client_of(endpoint: Endpoint, **options: Any) -> DynamoClient:
    credentials = Credentials(endpoint.access_key, endpoint.secret_key, endpoint.session_token or None)
    # An emulator may think for seconds about what AWS does in milliseconds.
    patient: dict[str, Any] = {"deadline_s": 120.0, "pace": Pace(attempt_s=60.0)}
    return await DynamoClient.open(endpoint.region, endpoint=endpoint.url, credentials=credentials, **(patient | options))


async def engine_of(
    endpoint: Endpoint, tables: Sequence[Table], prefix: str, options: TableOptions = NATIVE, **client: Any
) -> DynamoRecords:
    return DynamoRecords(await client_of(endpoint, **client), tables, prefix=prefix, options=options, pace_s=0.0)


OTHERS: list[DynamoRecords] = []
"""Engines a test opened beside its own; closed with it, however it ends."""


@asynccontextmanager
async def opened(endpoint: Endpoint, tables: Sequence[Table], options: TableOptions = NATIVE) -> AsyncIterator[DynamoRecords]:
    """Give an engine over new tables, which are dropped afterwards, whoever closed the engine."""
    engine = await engine_of(endpoint, tables, f"t{uuid4().hex[:12]}-", options)
    try:
        await asyncio.gather(*(engine.apply(CreateTable(table)) for table in tables))
        yield engine
    finally:
        for each in (*OTHERS, engine):
            await each.aclose()
        OTHERS.clear()
        await drop(endpoint, engine.prefix)


async def drop(endpoint: Endpoint, prefix: str) -> None:
    client = await client_of(endpoint)
    names = (await client.call("ListTables", {"ExclusiveStartTableName": prefix[:-1]}))["TableNames"]
    await asyncio.gather(*(client.call("DeleteTable", {"TableName": name}) for name in names if name.startswith(prefix)))
    await client.aclose()


def raw_value(attribute: Mapping[str, Any]) -> object:
    """Read an attribute without the engine's own code."""
    ((native, value),) = attribute.items()
    return {"N": int, "B": b64decode}.get(native, lambda value: value)(value)  # type: ignore[operator]


def raw_attribute(value: object) -> dict[str, Any]:
    return {"N": str(value)} if isinstance(value, int) else {"S": value}


async def raw_get(engine: DynamoRecords, table: Table, at: Address) -> Mapping[str, object] | None:
    key = {name: raw_attribute(part) for name, part in zip(table.key, at.key, strict=True)}
    answer = await engine.client.call("GetItem", {"TableName": engine.prefix + table.name, "Key": key, "ConsistentRead": True})
    item = answer.get("Item")
    return {name: raw_value(attribute) for name, attribute in item.items() if not isinstance(raw(attribute), dict)} if item else None


def raw(attribute: Mapping[str, Any]) -> object:
    return next(iter(attribute.values()))


async def raw_put(engine: DynamoRecords, table: Table, record: Record) -> None:
    item = {name: raw_attribute(value) for name, value in record.items()}
    await engine.client.call("PutItem", {"TableName": engine.prefix + table.name, "Item": item})
