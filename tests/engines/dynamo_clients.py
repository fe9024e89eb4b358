"""Clients of DynamoDB with something put in between: faults, and streams whose shards split."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any
from zlib import crc32

from palaver.connections.dynamodb import DynamoClient
from palaver.errors import Throttled, Trimmed


class Between:
    """The real client, with a test looking at every call: `before` may raise, `after` may change the answer or raise."""

    def __init__(self, client: DynamoClient) -> None:
        self.client = client
        self.before: Callable[[str, dict[str, Any]], None] = lambda operation, body: None
        self.after: Callable[[str, dict[str, Any], dict[str, Any]], dict[str, Any]] = lambda operation, body, answer: answer
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    async def call(self, operation: str, body: dict[str, Any], **options: Any) -> dict[str, Any]:
        self.calls.append(operation)
        self.before(operation, body)
        return self.after(operation, body, await self.client.call(operation, body, **options))


class Splitting(Between):
    """Shows the one shard an emulator has as a tree: whenever `split` is called, every shard ends and has two children.

    Those of the first `gone` levels are no longer listed, as happens to shards a day after they ended.
    """

    def __init__(self, client: DynamoClient) -> None:
        super().__init__(client)
        self.ends: list[int] = []
        self.gone = 0
        self.records: list[dict[str, Any]] = []

    async def split(self) -> None:
        await self._load()
        self.ends.append(len(self.records))

    async def call(self, operation: str, body: dict[str, Any], **options: Any) -> dict[str, Any]:
        match operation:
            case "DescribeStream":
                self.arn = body["StreamArn"]
                return {"StreamDescription": {"Shards": self._shards()}}
            case "GetShardIterator":
                return {"ShardIterator": f"{body['ShardId']} {body.get('SequenceNumber', '-')}"}
            case "GetRecords":
                await self._load()
                return self._page(*body["ShardIterator"].split())
        return await super().call(operation, body, **options)

    async def _load(self) -> None:
        started = {"StreamArn": self.arn, "ShardId": await self._real(), "ShardIteratorType": "TRIM_HORIZON"}
        iterator = (await self.client.call("GetShardIterator", started))["ShardIterator"]
        self.records = (await self.client.call("GetRecords", {"ShardIterator": iterator, "Limit": 1000}))["Records"]

    async def _real(self) -> str:
        answer = await self.client.call("DescribeStream", {"StreamArn": self.arn})
        return str(answer["StreamDescription"]["Shards"][0]["ShardId"])

    def _shards(self) -> list[dict[str, Any]]:
        shards = [{"ShardId": "0x"}]
        for level in range(1, len(self.ends) + 1):
            # The first shard has two children, each of those one: the other kind of a new shard.
            shards += [{"ShardId": f"{level}{half}", "ParentShardId": "0x" if level == 1 else f"{level - 1}{half}"} for half in "ab"]
        # DynamoDB promises no order of the list.
        return [shard for shard in shards[::-1] if int(shard["ShardId"][:-1]) >= self.gone]

    def _page(self, shard: str, after: str) -> dict[str, Any]:
        level, half = int(shard[:-1]), shard[-1]
        start = self.ends[level - 1] if level else 0
        end = self.ends[level] if level < len(self.ends) else len(self.records)
        mine = [record for record in self.records[start:end] if half in ("x", _half(record))]
        left = [record for record in mine if after == "-" or int(record["dynamodb"]["SequenceNumber"]) > int(after)]
        page = left[:3]
        place = page[-1]["dynamodb"]["SequenceNumber"] if page else after
        answer: dict[str, Any] = {"Records": page}
        if len(page) < len(left) or level == len(self.ends):
            answer["NextShardIterator"] = f"{shard} {place}"
        return answer


def _half(record: dict[str, Any]) -> str:
    return "ab"[crc32(repr(sorted(record["dynamodb"]["Keys"].items())).encode()) % 2]


class Moody(Between):
    """Does only a part of every batch, throttles, and refuses: what the real service does under load, at random."""

    def __init__(self, client: DynamoClient, seed: int) -> None:
        super().__init__(client)
        self.random = random.Random(seed)
        self.unprocessed = 0
        self.throttled = 0

    async def batch_write(self, requests: dict[str, list[dict[str, Any]]], **options: Any) -> None:
        """Send the batch in random pieces, as a service does that leaves items unprocessed."""
        left = [(table, request) for table, some in requests.items() for request in some]
        while left:
            taken = [each for each in left if self.random.random() < 0.5]
            self.unprocessed += len(left) - len(taken)
            some: dict[str, list[dict[str, Any]]] = {}
            for table, request in taken:
                some.setdefault(table, []).append(request)
            if some:
                await self.client.batch_write(some)
            left = [each for each in left if each not in taken]
            await asyncio.sleep(0)

    async def call(self, operation: str, body: dict[str, Any], **options: Any) -> dict[str, Any]:
        if self.random.random() < 0.1:
            self.throttled += 1
            raise Throttled(reason="hot key")
        return await super().call(operation, body, **options)


def trimmed() -> Trimmed:
    return Trimmed("GetShardIterator asked for changes older than the stream keeps.", service_code="TrimmedDataAccessException")
