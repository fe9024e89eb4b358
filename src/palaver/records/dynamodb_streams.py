"""The streams of a prefix's tables: which shards there are, what was read of each, and what is to be read next.

A shard is read after its parent, from the checkpoint the log holds for it. Nothing here decides what is kept: whoever takes
batches from here stores them with their checkpoints in one transaction, and says so or lets go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from palaver.connections.dynamodb import DynamoClient
from palaver.errors import NotProvisioned, Trimmed
from palaver.records.dynamo_values import Item

MOST = 1_000
CHECKPOINT = "shard"
_FORGOTTEN = 10
"""How many checkpoints that nobody needs any more are removed at once: shards come and go every few hours."""


class Batch(NamedTuple):
    """Records of one shard after `before` (None: from its beginning) up to `upto`; `done`: the shard has no more.

    `following` stands after them; `lost` says that records before these are gone from the stream without having been read.
    """

    table: str
    shard: str
    before: str | None
    upto: str | None
    done: bool
    records: list[dict[str, Any]]
    following: str | None = None
    lost: bool = False


@dataclass
class _Shard:
    """What is known of one shard: how far it was read, and an iterator that stands there."""

    parent: str | None
    sequence: str | None = None
    done: bool = False
    known: bool = False
    listed: bool = True
    iterator: str | None = None


@dataclass
class _Stream:
    arn: str
    shards: dict[str, _Shard] = field(default_factory=dict)
    fresh: bool = False
    replaced: bool = False
    """Whether the table had another stream, and nobody has read this one."""


class Streams:
    """Reads the streams of some tables, given by their physical names."""

    def __init__(self, client: DynamoClient, own: str) -> None:
        self._client = client
        self._own = own
        self._streams: dict[str, _Stream] = {}

    def forget(self, table: str | None = None) -> None:
        """Look anew at what exists and at what others have read."""
        if table is None:
            self._streams.clear()
        else:
            self._streams.pop(table, None)

    async def read(self, tables: Mapping[str, str]) -> list[Batch]:
        """Return what the streams hold that is not in the log yet, one answer of each shard; `tables`: physical name by table."""
        some = await asyncio.gather(*(self._read_table(table, name) for table, name in tables.items()))
        return [batch for batches in some for batch in batches]

    def took(self, batch: Batch) -> None:
        """Note that a batch is in the log."""
        stream = self._streams.get(batch.table)
        shard = stream.shards.get(batch.shard) if stream else None
        if stream is None or shard is None:
            return
        shard.sequence, shard.done, shard.known, shard.iterator = batch.upto, batch.done, True, batch.following
        if batch.done:
            # Its children are to be looked for.
            stream.fresh = False

    # --- shards -----------------------------------------------------------------------------------------------------

    async def _read_table(self, table: str, name: str) -> list[Batch]:
        stream = self._streams.get(table)
        if stream is None:
            arn = await self._arn(name)
            if arn is None:
                return []
            stream = self._streams[table] = _Stream(arn)
        if not stream.fresh:
            await self._refresh(table, stream)
            if stream.shards and all(shard.done for shard in stream.shards.values()):
                # It may have been switched off, and on again as another one.
                stream.fresh = False
                if await self._arn(name) != stream.arn:
                    self.forget(table)
                    return await self._read_table(table, name)
        ready = [(id, shard) for id, shard in stream.shards.items() if not shard.done and _is_ready(stream, shard)]
        found = await asyncio.gather(*(self._read_shard(table, stream, id, shard) for id, shard in ready))
        return [batch for batch in found if batch is not None]

    async def _arn(self, name: str) -> str | None:
        try:
            answer = await self._client.call("DescribeTable", {"TableName": name})
        except NotProvisioned:
            return None
        specification = answer["Table"].get("StreamSpecification") or {}
        return answer["Table"].get("LatestStreamArn") if specification.get("StreamEnabled") else None

    async def _refresh(self, table: str, stream: _Stream) -> None:
        """Bring shards and checkpoints up to date."""
        listed, earlier = await self._listed(stream.arn), await self._checkpoints(table)
        checkpoints = earlier.pop(stream.arn, {})
        stream.replaced = bool(earlier) and not checkpoints
        for id in {*listed, *checkpoints}:
            shard = stream.shards.setdefault(id, _Shard(listed.get(id)))
            shard.listed = id in listed
            shard.parent = listed.get(id, shard.parent)
            if id in checkpoints:
                sequence, done = checkpoints[id]
                if sequence != shard.sequence:
                    shard.iterator = None
                shard.sequence, shard.done, shard.known = sequence, done, True
        stream.fresh = True
        awaited = {parent for id, parent in listed.items() if id not in checkpoints}
        over = [(stream.arn, id) for id, (_, done) in checkpoints.items() if done and id not in listed and id not in awaited]
        if checkpoints:
            over += [(arn, id) for arn, shards in earlier.items() for id in shards]
        for arn, id in over[:_FORGOTTEN]:
            await self._client.call("DeleteItem", {"TableName": self._own, "Key": _place(table, arn, id)})

    async def _listed(self, arn: str) -> dict[str, str | None]:
        shards: dict[str, str | None] = {}
        body: dict[str, Any] = {"StreamArn": arn}
        while True:
            description = (await self._client.call("DescribeStream", body))["StreamDescription"]
            for shard in description.get("Shards", ()):
                shards[shard["ShardId"]] = shard.get("ParentShardId")
            if "LastEvaluatedShardId" not in description:
                return shards
            body["ExclusiveStartShardId"] = description["LastEvaluatedShardId"]

    async def _checkpoints(self, table: str) -> dict[str, dict[str, tuple[str | None, bool]]]:
        """Return how far each shard was read, of this stream and of those that the table had before, by ARN."""
        found: dict[str, dict[str, tuple[str | None, bool]]] = {}
        body: dict[str, Any] = {
            "TableName": self._own,
            "KeyConditionExpression": "pk = :0",
            "ExpressionAttributeValues": {":0": {"S": f"{CHECKPOINT}#{table}"}},
            "ConsistentRead": True,
        }
        while True:
            answer = await self._client.call("Query", body)
            for item in answer["Items"]:
                arn, _, id = item["sk"]["S"].rpartition("#")
                sequence = item.get("sequence")
                found.setdefault(arn, {})[id] = sequence["S"] if sequence else None, item["done"]["BOOL"]
            if "LastEvaluatedKey" not in answer:
                return found
            body["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def key(self, batch: Batch) -> Item:
        """Return where a shard's checkpoint lies in the engine's own table."""
        return _place(batch.table, self._streams[batch.table].arn, batch.shard)

    # --- records ----------------------------------------------------------------------------------------------------

    async def _read_shard(self, table: str, stream: _Stream, id: str, shard: _Shard) -> Batch | None:
        if _is_lost(stream, shard):
            # Its records went with it, or with a parent nobody read.
            return Batch(table, id, shard.sequence, None, not shard.listed, [], lost=True)
        for _ in range(2):
            try:
                if shard.iterator is None:
                    shard.iterator = await self._iterator(stream.arn, id, shard.sequence)
                answer = await self._client.call("GetRecords", {"ShardIterator": shard.iterator, "Limit": MOST})
                break
            except Trimmed as error:
                shard.iterator = None
                if error.context.get("service_code") == "TrimmedDataAccessException":
                    return Batch(table, id, shard.sequence, None, False, [], lost=True)
        else:
            return None
        records: list[dict[str, Any]] = answer.get("Records", [])
        following: str | None = answer.get("NextShardIterator")
        done = following is None
        if not records and not done:
            shard.iterator = following
            return None
        # With records it goes on only when they are in the log: whoever lets go of them reads them again.
        upto = records[-1]["dynamodb"]["SequenceNumber"] if records else shard.sequence
        return Batch(table, id, shard.sequence, upto, done, records, following)

    async def _iterator(self, arn: str, id: str, sequence: str | None) -> str:
        body = {"StreamArn": arn, "ShardId": id, "ShardIteratorType": "TRIM_HORIZON"}
        if sequence is not None:
            body |= {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": sequence}
        return str((await self._client.call("GetShardIterator", body))["ShardIterator"])


def _place(table: str, arn: str, shard: str) -> Item:
    return {"pk": {"S": f"{CHECKPOINT}#{table}"}, "sk": {"S": f"{arn}#{shard}"}}


def _is_ready(stream: _Stream, shard: _Shard) -> bool:
    """Say whether everything that comes before a shard was read."""
    parent = stream.shards.get(shard.parent) if shard.parent else None
    return parent is None or parent.done


def _is_lost(stream: _Stream, shard: _Shard) -> bool:
    """Say whether records were trimmed before anybody read them."""
    if not shard.listed:
        return True
    # What was written while the table had no stream is in none. A first shard has no parent; one whose parent nobody knows has
    # records before it that nobody saw.
    return not shard.known and (stream.replaced or (shard.parent is not None and shard.parent not in stream.shards))
