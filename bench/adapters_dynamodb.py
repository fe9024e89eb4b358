"""Palaver on DynamoDB as peers in W4 of the comparison harness: the client alone, and the record engine on top of it.

The client's methods are the hand-signed peer's with our client below them, so their ratio is what signing, connections,
deadlines, checksums and the retry loop cost. The engine's are what a store sends: guards, revisions, one table per entity.
`SameRequests` is the hand-signed peer with the engine's number of requests; `OnAiohttp` is the same signer over aiohttp, to
show what the connections of our own are worth.
"""

from __future__ import annotations

import time
from typing import Any

import orjson
import w4_dynamo as w4  # type: ignore[import-not-found]

from palaver.connections.dynamodb import Credentials, DynamoClient
from palaver.connections.dynamodb_endpoints import endpoints
from palaver.connections.dynamodb_signing import Signer
from palaver.expr import Path
from palaver.ops import Absent, Add, Address, Cause, Column, Guard, Origin, Put, Read, Table, Update, WriteSet, Written
from palaver.records.dynamodb import DynamoRecords

REGION = "eu-west-1"
KEYS = Credentials("local", "local")
ALIVE = Origin(0, "create")

MESSAGES = Table(
    w4.TABLE,
    "Message",
    columns=(
        Column("conversation_id", "text", required=True),
        Column("message_id", "text", required=True),
        Column("role", "text"),
        Column("content", "text"),
        Column("timestamp", "int"),
        Column("ttl", "int"),
        Column("metadata", "json"),
        Column("tags", "json"),
        Column("context_used", "bool"),
        Column("message_count", "int"),
    ),
    partition=("conversation_id",),
    sort=("message_id",),
)


class Client(w4.RawHttp):  # type: ignore[misc]
    name = "palaver-client"
    notes = "DynamoClient: signing, pool, deadlines, checksums, one retry loop; the harness's type mapping"

    async def open(self, url: str) -> None:
        self.client = await DynamoClient.open(REGION, endpoint=url, credentials=KEYS)

    async def call(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self.client.call(operation, body)

    async def close(self) -> None:
        await self.client.aclose()


class OnAiohttp(w4.RawHttp):  # type: ignore[misc]
    name = "signer-on-aiohttp"
    notes = "our signer and orjson over aiohttp; no deadlines, checksums or retries"

    async def open(self, url: str) -> None:
        import aiohttp  # type: ignore[import-not-found]
        import yarl  # type: ignore[import-not-found]

        quiet = ("User-Agent", "Accept", "Accept-Encoding")
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64), auto_decompress=False, skip_auto_headers=quiet)
        self.url = yarl.URL(url)
        self.signer = Signer(endpoints(REGION, url, {})[0], REGION, "DynamoDB_20120810")

    async def call(self, operation: str, body: dict[str, Any]) -> Any:
        payload = orjson.dumps(body)
        lines = self.signer.head(operation, payload, KEYS, int(time.time())).decode().split("\r\n")[1:-2]
        headers = dict(line.split(": ", 1) for line in lines if not line.startswith(("host", "content-length")))
        async with self.session.post(self.url, data=payload, headers=headers) as reply:
            return orjson.loads(await reply.read())

    async def close(self) -> None:
        await self.session.close()


class SameRequests(w4.RawHttp):  # type: ignore[misc]
    name = "raw-same-requests"
    notes = "raw-http sending what the engine sends: a load reads the revisions it replaces, a transaction the counter it changes"

    async def batch(self, items: list[dict[str, Any]]) -> None:
        keys = [{name: {"S": item[name]} for name in ("conversation_id", "message_id")} for item in items]
        await self.call("BatchGetItem", {"RequestItems": {w4.TABLE: {"Keys": keys, "ConsistentRead": True}}})
        await super().batch(items)

    async def transact(self, item: dict[str, Any]) -> None:
        await self.get(item["conversation_id"], "#meta")
        await super().transact(item)


class Engine:
    name, aio = "palaver-engine", True
    notes = "DynamoRecords: plain records in and out, guards, revisions; nobody asks what the transaction made of the counter"
    returning = False

    async def open(self, url: str) -> None:
        self.client = await DynamoClient.open(REGION, endpoint=url, credentials=KEYS)
        self.engine = DynamoRecords(self.client, [MESSAGES])

    async def put(self, item: dict[str, Any]) -> None:
        await self._write(_put(item))

    async def get(self, conversation: str, message: str) -> dict[str, Any]:
        (record,) = await self.engine.get([Address(w4.TABLE, (conversation, message))])
        assert record is not None
        return record

    async def query(self, conversation: str) -> list[dict[str, Any]]:
        page = await self.engine.query(Read(w4.TABLE, None, (conversation,), descending=True, limit=50))
        return list(page.records)

    async def batch(self, items: list[dict[str, Any]]) -> None:
        await self.engine.load(w4.TABLE, items, time.time_ns() // 1000, Cause())

    async def transact(self, item: dict[str, Any]) -> None:
        counter = Address(w4.TABLE, (item["conversation_id"], "#meta"))
        await self._write(_put(item, (Guard(Absent(), ALIVE),)), Update(counter, (Add(Path("message_count"), 1),)))

    async def _write(self, *ops: Put | Update) -> None:
        written = await self.engine.write(WriteSet(ops, time.time_ns() // 1000, Cause(), self.returning))
        assert isinstance(written, Written)

    async def close(self) -> None:
        await self.engine.aclose()


class Returning(Engine):
    name = "palaver-engine-returning"
    notes = "the same, and the transaction says what it made of the counter, for which it is read"
    returning = True


def _put(item: dict[str, Any], guards: tuple[Guard, ...] = ()) -> Put:
    return Put(Address(w4.TABLE, (item["conversation_id"], item["message_id"])), item, guards)
